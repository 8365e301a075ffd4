"""Addresses of buttons, opened in a browser: a page that leads to the button."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup

from tests.api_site import ANONYMOUS, AWKWARD, ROOT, error_of

pytestmark = pytest.mark.asyncio

HERE = "/data/-/embed"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
BUTTONS = [(f"jobs/1/{action}", "jobs/1") for action in ("pause", "resume", "cancel", "retry")]
BUTTONS += [(f"c/posts/{action}", "c/posts/about") for action in ("sync", "rename", "delete")]


@pytest.mark.parametrize("actor", [ANONYMOUS, ROOT])
@pytest.mark.parametrize(("path", "back"), BUTTONS)
async def test_button_opened_in_a_browser_leads_to_its_page(api_site, path, back, actor):
    """In words, and without doing anything."""
    await api_site.make()
    before = api_site.path.read_bytes()
    response = await api_site.get(f"{HERE}/{path}", actor, headers=BROWSER)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.headers["content-type"].startswith("text/html")
    page = BeautifulSoup(response.text, "html.parser")
    assert "This is the address of a button" in page.get_text()
    (link,) = [a["href"] for a in page("a") if "where the button is" in a.get_text()]
    assert link == f"{HERE}/{back}"
    assert (await api_site.get(link, ROOT)).status_code == 200
    assert api_site.path.read_bytes() == before


@pytest.mark.parametrize(("path", "back"), BUTTONS)
async def test_button_asked_by_a_program_is_json(api_site, path, back):
    """As before: a program reads no page."""
    await api_site.make()
    for headers in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        response = await api_site.get(f"{HERE}/{path}", ROOT, headers=headers)
        assert error_of(response, 405) == "GET is not possible here, POST is"


async def test_button_of_an_awkward_collection_leads_to_it(make_api_site):
    """Names are encoded as everywhere, below any base_url; a wrong database is none."""
    site = make_api_site()
    await site.make(AWKWARD, AWKWARD)
    listed = (await site.get(f"{HERE}.json", ROOT)).json()["collections"][0]["url"]
    url = listed.removesuffix(".json")
    response = await site.get(f"{url}/sync", ROOT, headers=BROWSER)
    page = BeautifulSoup(response.text, "html.parser")
    (link,) = [a["href"] for a in page("a") if "where the button is" in a.get_text()]
    assert link == f"{url}/about"
    response = await site.get("/nosuch/-/embed/jobs/1/pause", ROOT, headers=BROWSER)
    assert response.status_code == 404
