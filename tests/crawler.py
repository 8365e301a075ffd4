"""A visitor who follows every link of ours, and looks at what each page is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from bs4 import BeautifulSoup

#: More pages than any site of the tests has: whoever is led in circles is to notice.
MOST_PAGES = 600
#: What an element loads or leads to.
_ADDRESSES = ("href", "src", "action", "formaction", "poster", "data")
#: Datasette's own links to its home, and the ways out and in, which change a cookie.
_OUTSIDE = ("https://datasette.io/", "https://datasette.io")


@dataclass
class Visit:
    """One page and what it was made of.

    Attributes:
        path: what was asked for, without the prefix of the site.
        found_on: the page that linked it, None for a first one.
        soup: the page as a browser reads it; None of what is no page, or not ours.
    """

    path: str
    response: Any
    found_on: str | None
    soup: BeautifulSoup | None


@dataclass
class Form:
    """A form of a page, with what a browser would send if nobody touched it."""

    page: str
    action: str
    fields: dict[str, Any]


@dataclass
class Crawl:
    """Every page there is a way to.

    Attributes:
        client: Datasette's.
        actor: who looks, as ``HeaderActor`` reads it.
        prefix: the site's ``base_url`` without its last slash.
        visits: what was asked for, with what came.
        forms: the forms that change something.
        outside: addresses of other servers.
        linked: paths that a page linked.
    """

    client: Any
    actor: Any = None
    prefix: str = ""
    visits: dict[str, Visit] = field(default_factory=dict)
    forms: list[Form] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)
    linked: set[str] = field(default_factory=set)

    async def ask(self, path: str) -> Any:
        """Return the response to one GET."""
        headers = {} if self.actor is None else {"x-actor": json.dumps(self.actor)}
        return await self.client.get(path, headers=headers)

    async def walk(self, *starts: str) -> Crawl:
        """Follow every link of ours from these pages; ask once for what else they link."""
        waiting: list[tuple[str, str | None]] = [(start, None) for start in starts]
        while waiting:
            path, found_on = waiting.pop(0)
            if path in self.visits:
                continue
            assert len(self.visits) < MOST_PAGES, "too many pages"
            response = await self.ask(path)
            is_page = "text/html" in response.headers.get("content-type", "")
            is_read = is_page and (found_on is None or "/-/embed" in path)
            soup = BeautifulSoup(response.text, "html.parser") if is_read else None
            self.visits[path] = Visit(path, response, found_on, soup)
            if soup is not None:
                links = self._links(soup, path)
                waiting += [(link, path) for link in links if link not in self.visits]
        return self

    def _links(self, soup: BeautifulSoup, page: str) -> list[str]:
        found = []
        for form in soup.find_all("form", method="post"):
            self.forms.append(_form(form, page))
        for element in soup.find_all(True):
            for name in _ADDRESSES:
                address = element.get(name)
                if address is None or element.name == "form" or address.startswith("#"):
                    continue
                target = urljoin(f"http://localhost{self.prefix}{page}", address)
                parts = urlsplit(target)
                if (parts.scheme, parts.netloc) != ("http", "localhost"):
                    self.outside.add(address)
                    continue
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                assert path.startswith(f"{self.prefix}/"), (page, address)
                path = path.removeprefix(self.prefix)
                if not path.startswith(("/-/log", "/-/static/")):
                    found.append(path)
        self.linked.update(found)
        return found

    def ours(self) -> list[Visit]:
        """Return the pages of this package."""
        return [visit for visit in self.visits.values() if visit.soup and "/-/embed" in visit.path]

    def dead(self) -> list[tuple[str, int, str | None]]:
        """Return what is not there, of what our pages link and of what links our pages."""
        return [
            (visit.path, visit.response.status_code, visit.found_on)
            for visit in self.visits.values()
            if visit.response.status_code >= 400 and "/-/embed" in f"{visit.path} {visit.found_on}"
        ]

    def leaving(self) -> set[str]:
        """Return the addresses of other servers but for Datasette's own."""
        return {address for address in self.outside if not address.startswith(_OUTSIDE)}


def _form(form: Any, page: str) -> Form:
    fields: dict[str, Any] = {}
    for element in form.find_all(["input", "textarea", "select"]):
        name, kind = element.get("name"), element.get("type", "text")
        if name is None or (kind in ("checkbox", "radio") and not element.has_attr("checked")):
            continue
        if element.name == "select":
            chosen = element.find("option", selected=True) or element.find("option")
            value = "" if chosen is None else chosen.get("value", chosen.get_text())
        else:
            value = element.get_text() if element.name == "textarea" else element.get("value", "")
        fields.setdefault(name, []).append(value)
    return Form(page, form.get("action") or page, fields)
