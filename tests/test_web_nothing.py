"""Addresses below ours that are none: a page for people, JSON for programs."""

from __future__ import annotations

import pytest

from tests.api_site import error_of

pytestmark = pytest.mark.asyncio

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/-/embed/nothing", "/data/-/embed/c/posts/map", "/x/-/embed/y"])
async def test_unknown_address_is_a_page_to_a_browser(api_site, path):
    """Whoever types an address reads a sentence, not JSON."""
    response = await api_site.get(path, headers=BROWSER)
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert "There is no page at this address" in response.text


async def test_unknown_address_is_json_to_a_program(api_site):
    """Also to a browser that asks for JSON by the address, or sends something."""
    assert "There is nothing" in error_of(await api_site.get("/data/-/embed/nothing"), 404)
    response = await api_site.get("/data/-/embed/nothing.json", headers=BROWSER)
    assert "There is nothing" in error_of(response, 404)
    response = await api_site.post("/data/-/embed/nothing", {}, headers=BROWSER)
    assert "There is nothing" in error_of(response, 404)
