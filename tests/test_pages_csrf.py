"""Forms of our pages: taken from our own pages, refused from other sites."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
import pytest_asyncio
from bs4 import BeautifulSoup
from datasette.app import Datasette

from tests.api_site import ROOT
from tests.storage import execute

IS_ONE = hasattr(Datasette, "allowed")
only_old = pytest.mark.skipif(IS_ONE, reason="Datasette 0.65 has tokens in forms and headers")
only_new = pytest.mark.skipif(not IS_ONE, reason="Datasette 1.0 looks at where a request is from")
pytestmark = pytest.mark.asyncio

HERE = "/data/-/embed"
FORM = {"content-type": "application/x-www-form-urlencoded"}
#: What each form sends, and what the file must be like before, so that there is something to do.
FORMS = {
    f"{HERE}/new": ({"table": "pairs", "columns": "body", "model": "counting"}, None),
    f"{HERE}/c/posts/sync": ({}, None),
    f"{HERE}/c/posts/rename": ({"name": "other"}, None),
    f"{HERE}/c/posts/delete": ({"confirm": "posts"}, None),
    f"{HERE}/jobs/1/pause": ({}, "update _embed_jobs set status = 'pending'"),
    f"{HERE}/jobs/1/cancel": ({}, "update _embed_jobs set status = 'pending'"),
    f"{HERE}/jobs/1/resume": ({}, "update _embed_jobs set status = 'paused'"),
    f"{HERE}/jobs/1/retry": ({}, "insert into _embed_failures values (1, '1', null, 'why', 1)"),
}
#: What a browser says of a form that another site made it send: the first two over HTTPS,
#: the others over HTTP.
ELSEWHERE = [
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    {"sec-fetch-site": "same-site", "origin": "https://other.localhost"},
    {"origin": "https://evil.example"},
    {"origin": "http://localhost:8002"},
    {"origin": "null"},
]


@pytest_asyncio.fixture
async def site(make_api_site):
    """A site with a collection, whose own jobs do not go on by themselves."""
    site = make_api_site(config={"resume_jobs": False})
    await site.make()
    return site


async def send(site, path, fields, *, headers=None, actor=None):
    """Send a form."""
    content = urlencode(fields)
    return await site.ask("POST", path, actor, content=content, headers={**FORM, **(headers or {})})


def signed_in(site, **more):
    """Return the header that a signed-in browser sends with everything."""
    cookies = {"ds_actor": site.datasette.sign({"a": ROOT}, "actor"), **more}
    return {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}


@pytest.mark.parametrize("path", FORMS)
async def test_form_of_another_site_without_cookies_changes_nothing(site, path):
    """Where the address or a proxy says who somebody is: Datasette 0.65 asks for no token then."""
    fields, state = FORMS[path]
    if state:
        execute(site.path, state)
    before = site.path.read_bytes()
    for sent in ELSEWHERE:
        response = await send(site, path, fields, headers=sent, actor=ROOT)
        assert response.status_code == 403, (sent, response.text)
    await site.settled()
    assert site.path.read_bytes() == before


@pytest.mark.parametrize("path", FORMS)
async def test_form_of_another_site_with_cookies_changes_nothing(site, path):
    """A browser may send the cookie, but neither the token nor another name for where it is."""
    fields, state = FORMS[path]
    if state:
        execute(site.path, state)
    before = site.path.read_bytes()
    elsewhere = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    for token in ({}, {"csrftoken": "wrong"}):
        headers = {**signed_in(site), **elsewhere}
        response = await send(site, path, fields | token, headers=headers)
        assert response.status_code == 403, response.text
    await site.settled()
    assert site.path.read_bytes() == before


@only_old
@pytest.mark.parametrize("path", FORMS)
async def test_form_without_the_token_changes_nothing(site, path):
    """Nor does a token without the cookie that it belongs to."""
    fields, state = FORMS[path]
    if state:
        execute(site.path, state)
    before = site.path.read_bytes()
    token = site.datasette.sign("a token", "csrftoken")
    for sent, headers in (
        ({}, signed_in(site)),
        ({"csrftoken": token}, signed_in(site)),
        ({}, signed_in(site, ds_csrftoken=token)),
    ):
        response = await send(site, path, fields | sent, headers=headers)
        assert response.status_code == 403, response.text
    await site.settled()
    assert site.path.read_bytes() == before


@pytest.mark.parametrize("path", FORMS)
async def test_own_form_is_taken_and_leads_to_a_page(site, path):
    """With the token, as a browser sends it from a page of the same site; the page is there."""
    fields, state = FORMS[path]
    if state:
        execute(site.path, state)
    before = site.path.read_bytes()
    token = site.datasette.sign("a token", "csrftoken")
    headers = {
        **signed_in(site, ds_csrftoken=token),
        "sec-fetch-site": "same-origin",
        "origin": "http://localhost",
    }
    more = {"columns": "body", "start": "1"} if path.endswith("/new") else {}
    response = await send(site, path, fields | more | {"csrftoken": token}, headers=headers)
    assert response.status_code == 303, response.text
    await site.settled()
    assert site.path.read_bytes() != before
    page = await site.get(response.headers["location"], ROOT)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")


async def test_every_form_of_ours_has_its_token(site):
    """Every page of ours with a form that changes something, as somebody who may use it."""
    execute(site.path, "update _embed_jobs set status = 'paused'")
    found = []
    for path in ("/-/embed", HERE, f"{HERE}/new?table=posts", f"{HERE}/jobs/1", f"{HERE}/c/posts"):
        response = await site.get(path, ROOT)
        assert response.status_code == 200, path
        found += post_forms(response)
    found += post_forms(await site.get(f"{HERE}/c/posts/about", ROOT))
    actions = {form["action"].partition("?")[0] for form in found}
    assert {
        f"{HERE}/new",
        f"{HERE}/c/posts/sync",
        f"{HERE}/c/posts/rename",
        f"{HERE}/c/posts/delete",
        f"{HERE}/jobs/1/resume",
    } <= actions
    for form in found:
        (token,) = form.find_all("input", attrs={"name": "csrftoken", "type": "hidden"})
        assert token["value"] or IS_ONE, form


def post_forms(response):
    """Return the forms of a page that change something; a search by an image does not."""
    soup = BeautifulSoup(response.text, "html.parser")
    forms = soup.find_all("form", action=True, enctype=False)
    return [form for form in forms if form.get("method") == "post"]


async def test_password_that_a_browser_sends_is_no_token(site):
    """Another site makes the browser send it, too; a form of ours is read with it."""
    path = f"{HERE}/c/posts/rename"
    password = {"authorization": "Basic eDp5"}
    before = site.path.read_bytes()
    elsewhere = {"sec-fetch-site": "cross-site", **password}
    response = await send(site, path, {"name": "other"}, headers=elsewhere, actor=ROOT)
    assert response.status_code == 403
    # The kind of form that needs no body, and that says nothing of what it is.
    for kind in ("text/plain", "multipart/form-data; boundary=x"):
        response = await site.ask(
            "POST", f"{HERE}/c/posts/sync", ROOT, headers={**password, "content-type": kind}
        )
        assert response.status_code == 400, response.text
    assert site.path.read_bytes() == before
    response = await send(site, path, {"name": "other"}, headers=password, actor=ROOT)
    assert response.status_code == 303, response.text
    assert site.rows("select name from collections") == [("other",)]
