"""Who a request comes from: cookies with protection against other sites, and API tokens."""

from __future__ import annotations

import json

import pytest
from datasette.app import Datasette

from tests.api_site import MAY_NOT_MAKE, ROOT, as_said_to, error_of

IS_ONE = hasattr(Datasette, "allowed")
only_old = pytest.mark.skipif(IS_ONE, reason="Datasette 0.65 has tokens in forms and headers")
only_new = pytest.mark.skipif(not IS_ONE, reason="Datasette 1.0 looks at where a request is from")
pytestmark = pytest.mark.asyncio

NEW = "/data/-/embed/new"
BODY = json.dumps({"table": "posts", "model": "counting"})
JSON = {"content-type": "application/json"}


async def post(site, *, headers=JSON, content=BODY, cookies=None):
    """POST as the browser of somebody who is logged in as root."""
    signed = {"ds_actor": site.datasette.sign({"a": ROOT}, "actor"), **(cookies or {})}
    text = "; ".join(f"{name}={value}" for name, value in signed.items())
    return await site.datasette.client.post(
        NEW, content=content, headers={**headers, "cookie": text}
    )


def is_untouched(site):
    return site.rows("select name from sqlite_master where name like '%embed%'") == []


@only_old
async def test_cookie_without_csrf_token_refused(api_site):
    """A page of another site can make a browser send the cookie, but not the token."""
    response = await post(api_site)
    assert response.status_code == 403
    response = await post(api_site, headers={**JSON, "x-csrftoken": "wrong"})
    assert response.status_code == 403
    assert is_untouched(api_site)


@only_old
async def test_cookie_with_csrf_token_in_a_header_is_taken(api_site):
    """As the site's own pages send it."""
    token = api_site.datasette.sign("a token", "csrftoken")
    response = await post(
        api_site, headers={**JSON, "x-csrftoken": token}, cookies={"ds_csrftoken": token}
    )
    assert response.status_code == 201, response.text
    await api_site.settled()
    assert api_site.rows("select actor from _embed_jobs") == [("root",)]


@only_new
@pytest.mark.parametrize(
    "sent",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
    ids=str,
)
async def test_cookie_from_another_site_refused(api_site, sent):
    """The browser says where a request comes from."""
    response = await post(api_site, headers={**JSON, **sent})
    assert response.status_code == 403
    assert is_untouched(api_site)


@only_new
@pytest.mark.parametrize("sent", [{"sec-fetch-site": "same-origin"}, {}], ids=str)
async def test_cookie_from_the_same_site_is_taken(api_site, sent):
    """The site's own pages, and programs that are no browser."""
    response = await post(api_site, headers={**JSON, **sent})
    assert response.status_code == 201, response.text
    await api_site.settled()
    assert api_site.rows("select actor from _embed_jobs") == [("root",)]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("text/plain", BODY),
        ("multipart/form-data; boundary=x", "--x--"),
    ],
)
async def test_what_no_form_of_ours_sends_is_never_read(api_site, kind, content):
    """Even with everything else in order, of what a form can send only one kind is read."""
    token = api_site.datasette.sign("a token", "csrftoken")
    response = await post(
        api_site,
        headers={"content-type": kind, "x-csrftoken": token},
        content=content,
        cookies={"ds_csrftoken": token},
    )
    assert error_of(response, 400) == "The content type of the request must be application/json"
    assert is_untouched(api_site)


async def test_without_cookie_or_token_is_nobody(api_site):
    """Who may do nothing here."""
    response = await api_site.datasette.client.post(NEW, content=BODY, headers=JSON)
    assert error_of(response, 403) == as_said_to(None, MAY_NOT_MAKE)
    assert is_untouched(api_site)


async def test_token_that_nobody_knows_is_401(api_site):
    """On both versions, with JSON and without anything done."""
    response = await api_site.datasette.client.post(
        NEW, content=BODY, headers={**JSON, "authorization": "Bearer sk-unknown"}
    )
    assert error_of(response, 401).startswith("This API token is not known here")
    assert is_untouched(api_site)
    # Whoever shows a token that does not matter is not kept from what is public.
    response = await api_site.datasette.client.get(
        "/-/embed.json", headers={"authorization": "Bearer sk-unknown"}
    )
    assert response.status_code == 200


def bearer(token):
    return {**JSON, "authorization": f"Bearer {token}"}


@only_new
async def test_api_token_is_its_actor(api_site):
    """Datasette's own tokens; a damaged one is refused by Datasette."""
    await api_site.datasette.invoke_startup()
    token = await api_site.datasette.create_token("editor")
    client = api_site.datasette.client
    response = await client.post(NEW, content=BODY, headers=bearer(token))
    assert response.status_code == 201, response.text
    await api_site.settled()
    assert api_site.rows("select actor from _embed_jobs") == [("editor",)]
    response = await client.post(NEW, content=BODY, headers=bearer(token + "x"))
    assert response.status_code == 401


@only_new
async def test_api_token_may_be_narrower_than_its_actor(api_site):
    """A token for reading makes nothing; one for making does."""
    from datasette.tokens import TokenRestrictions

    await api_site.datasette.invoke_startup()
    client = api_site.datasette.client
    reading = TokenRestrictions().allow_all("view-instance").allow_all("view-database")
    reading = reading.allow_all("view-table")
    token = await api_site.datasette.create_token("editor", restrictions=reading)
    response = await client.get("/data/-/embed.json", headers=bearer(token))
    assert response.json()["may_create"] is False
    response = await client.post(NEW, content=BODY, headers=bearer(token))
    error_of(response, 403)
    assert is_untouched(api_site)
    making = reading.allow_database("data", "embed-create").allow_all("embed-use-model")
    token = await api_site.datasette.create_token("editor", restrictions=making)
    response = await client.post(NEW, content=BODY, headers=bearer(token))
    assert response.status_code == 201, response.text
    await api_site.settled()


async def test_another_site_may_ask_where_cors_is_on(make_api_site, counting_model):
    """A browser asks first; then the token, not a cookie, says who it is."""
    site = make_api_site()
    site.datasette.cors = True
    response = await site.ask("OPTIONS", NEW, None, headers={"origin": "https://other.example"})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["access-control-allow-headers"] == "Authorization, Content-Type"
    assert "access-control-allow-credentials" not in response.headers
    response = await site.get("/-/embed.json")
    assert response.headers["access-control-allow-origin"] == "*"


async def test_answers_for_an_actor_are_private(api_site):
    """Nobody keeps them; what anybody may see is left to Datasette."""
    await api_site.make()
    response = await api_site.get("/data/-/embed.json", ROOT)
    assert response.headers["cache-control"] == "private, no-store"
    response = await api_site.get("/data/-/embed.json")
    assert "no-store" not in response.headers.get("cache-control", "")
    response = await api_site.get("/data/-/embed/c/nope.json")
    assert response.headers["cache-control"] == "no-store"
