"""What every page says beside its words: methods, who may keep it, who else may ask."""

from __future__ import annotations

import pytest
import pytest_asyncio
from bs4 import BeautifulSoup

from tests.api_site import PLAIN, ROOT

pytestmark = pytest.mark.asyncio

HERE = "/data/-/embed"
PUBLIC = (
    "/-/embed",
    HERE,
    f"{HERE}/c/posts",
    f"{HERE}/c/posts?q=dog",
    f"{HERE}/c/posts/about",
    f"{HERE}/c/posts/like/1",
)
FOR_MAKERS = (f"{HERE}/new", f"{HERE}/new?table=posts", f"{HERE}/jobs/1")


@pytest_asyncio.fixture
async def site(make_api_site):
    """A site with one collection."""
    site = make_api_site(config={"resume_jobs": False})
    await site.make()
    return site


@pytest.mark.parametrize("path", PUBLIC + FOR_MAKERS)
async def test_page_for_an_actor_is_kept_by_nobody(site, path):
    """Nor is one that was asked for with a cookie or a token that nobody knows."""
    response = await site.get(path, ROOT)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "private, no-store"
    for headers in ({"cookie": "ds_csrftoken=x"}, {"authorization": "Bearer x"}):
        response = await site.get(path, headers=headers)
        assert response.headers["cache-control"] == "private, no-store", headers


@pytest.mark.parametrize("path", PUBLIC)
async def test_page_that_anybody_may_see_sets_no_cookie(site, path):
    """It is the same for all who are nobody, so that a cache in between may keep it."""
    response = await site.get(path)
    assert response.status_code == 200
    assert "no-store" not in response.headers.get("cache-control", "")
    assert "set-cookie" not in response.headers
    again = await site.get(path)
    assert again.text == response.text


async def test_error_page_is_kept_by_nobody(site):
    """It may be there tomorrow."""
    for path in (f"{HERE}/c/nope", f"{HERE}/c/posts/like/9", f"{HERE}/c/posts?n=many"):
        response = await site.get(path)
        assert 400 <= response.status_code < 500, path
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["content-type"].startswith("text/html")
        assert BeautifulSoup(response.text, "html.parser").find("h1") is not None


@pytest.mark.parametrize("path", PUBLIC + FOR_MAKERS)
async def test_head_is_get_without_the_words(site, path):
    """Programs that look whether a link is dead ask so."""
    response, head = await site.get(path, ROOT), await site.ask("HEAD", path, ROOT)
    assert head.status_code == response.status_code == 200
    for name in ("content-type", "cache-control"):
        assert head.headers[name] == response.headers[name]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_method_changes_nothing_and_says_which_there_are(site, method):
    """Nobody is signed out of anything by it either."""
    before = site.path.read_bytes()
    for path in (*PUBLIC, *FOR_MAKERS, f"{HERE}/c/posts/delete", f"{HERE}/jobs/1/cancel"):
        response = await site.ask(method, path, ROOT)
        assert response.status_code == 405, (path, response.text[-500:])
        assert "GET" in response.headers["allow"] or "POST" in response.headers["allow"]
    assert site.path.read_bytes() == before


async def test_post_to_a_page_that_takes_none_is_405(site):
    """With a form or without."""
    before = site.path.read_bytes()
    form = {"content-type": "application/x-www-form-urlencoded"}
    for path in ("/-/embed", HERE, f"{HERE}/c/posts", f"{HERE}/c/posts/like/1", f"{HERE}/jobs/1"):
        for headers in ({}, form):
            response = await site.ask("POST", path, ROOT, headers=headers, content="q=dog")
            assert response.status_code == 405, path
    assert site.path.read_bytes() == before


async def test_get_of_what_only_forms_ask_changes_nothing(site):
    """A link to it, or a browser that looks ahead, deletes nothing."""
    before = site.path.read_bytes()
    for path in ("c/posts/sync", "c/posts/rename?name=x", "c/posts/delete?confirm=posts"):
        response = await site.get(f"{HERE}/{path}", ROOT)
        assert response.status_code in (302, 303, 405), path
    for action in ("pause", "resume", "cancel", "retry"):
        response = await site.get(f"{HERE}/jobs/1/{action}", ROOT)
        assert response.status_code in (302, 303, 405), action
    assert site.path.read_bytes() == before


async def test_pages_of_a_site_with_cors_may_be_read_by_others(site):
    """As Datasette's own pages there; never with a cookie."""
    response = await site.get(f"{HERE}/c/posts?q=dog")
    assert "access-control-allow-origin" not in response.headers
    site.datasette.cors = True
    for method, path in (("GET", f"{HERE}/c/posts?q=dog"), ("OPTIONS", f"{HERE}/c/posts")):
        response = await site.ask(method, path, None, headers={"origin": "https://a.example"})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers
    # What a form asks is asked by our own pages alone, whatever others may read.
    before = site.path.read_bytes()
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "origin": "https://a.example",
        "sec-fetch-site": "cross-site",
    }
    response = await site.ask("POST", f"{HERE}/c/posts/sync", ROOT, headers=headers)
    assert response.status_code == 403
    assert site.path.read_bytes() == before


async def test_refusal_of_a_page_is_a_page_that_datasette_makes(site):
    """So that a plugin which knows a way to sign in shows it; it names no more than was asked."""
    for path in FOR_MAKERS:
        for actor in (None, PLAIN):
            response = await site.get(path, actor)
            assert response.status_code == 403
            assert response.headers["content-type"].startswith("text/html")
            assert "a dog chases a ball" not in response.text


@pytest.mark.parametrize("path", PUBLIC + FOR_MAKERS)
async def test_page_needs_no_script_and_no_other_server(site, path):
    """No handler in the markup, and what it loads comes from this site."""
    response = await site.get(path, ROOT)
    soup = BeautifulSoup(response.text, "html.parser")
    for element in soup.find_all(True):
        assert not [name for name in element.attrs if name.startswith("on")], element
        source = str(element.get("src") or "")
        assert not source.startswith(("http", "//")), element
    for link in soup.find_all("link", rel="stylesheet"):
        assert link["href"].startswith("/-/static")
    assert soup.find("h1") is not None
    assert soup.title.get_text().strip()
