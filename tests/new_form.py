"""The form of a new collection, as tests ask for it, read it and send it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from bs4 import BeautifulSoup

from tests.api_site import ROOT
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel

NEW = "/data/-/embed/new"


class MoreModels(ModelsPlugin):
    """Beside those of the fixtures."""


class PaidModel(CountingModel):
    """A model that costs ten dollars for every token."""

    is_local = False
    price_per_million_tokens = 10e6


def soup_of(response: Any, status: int = 200) -> BeautifulSoup:
    """Return a page, which must have this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("text/html")
    return BeautifulSoup(response.text, "html.parser")


async def show(site: Any, query: str = "", actor: Any = ROOT, status: int = 200) -> BeautifulSoup:
    """Return the page of an address."""
    return soup_of(await site.get(NEW + query, actor), status)


async def send(site: Any, actor: Any = ROOT, **fields: Any) -> Any:
    """Return the answer to the form."""
    return await site.ask(
        "POST",
        NEW,
        actor,
        content=urlencode(fields, doseq=True),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )


def fields_of(page: BeautifulSoup) -> dict[str, Any]:
    """Return what a browser would send of the form, without a button."""
    sent: dict[str, Any] = {}
    for field in page.select("form#embed-new [name]"):
        kind = field.get("type")
        if kind == "submit" or (kind == "checkbox" and not field.has_attr("checked")):
            continue
        if field.name == "select":
            value = field.select_one("option[selected]")["value"]
        else:
            value = field.get_text() if field.name == "textarea" else field.get("value", "")
        sent.setdefault(field["name"], []).append(value)
    return sent


def ticked(page: BeautifulSoup) -> list[str]:
    """Return the columns that are chosen."""
    return [box["value"] for box in page.select("[name=columns][checked]")]


def plan_of(page: BeautifulSoup) -> dict[str, str]:
    """Return what it takes, by name."""
    names = [each.get_text() for each in page.select("#embed-plan dt")]
    texts = [each.get_text() for each in page.select("#embed-plan dd")]
    return dict(zip(names, texts, strict=True))


def act_of(page: BeautifulSoup) -> str:
    """Return what the button that starts says."""
    return str(page.select_one("[name=start]")["value"])


def errors_of(page: BeautifulSoup) -> dict[str, str]:
    """Return the errors beside the fields, by the field."""
    found = {}
    for error in page.select(".embed-field-error"):
        found[error["id"].removesuffix("-error")] = error.get_text()
    return found
