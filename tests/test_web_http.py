"""Requests read with care, errors as JSON: on requests made by hand and a site's own."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from datasette import Forbidden, NotFound, Request, hookimpl

from datasette_embed.database import sqlite3, translated
from datasette_embed.errors import (
    BudgetExceededError,
    BusyError,
    CallRefusedError,
    CollectionNotFoundError,
    ConfigError,
    EmbedTimeoutError,
    EntryNotFoundError,
    HiddenCollectionError,
    InvalidVectorError,
    JobNotFoundError,
    JobStateError,
    MissingKeyError,
    ModelMismatchError,
    ModelNotAllowedError,
    ProviderError,
    QuotaExceededError,
    ReadOnlyDatabaseError,
    SourceError,
    TextTooLongError,
    UnknownModelError,
    UnreadableTextError,
)
from datasette_embed.web.http import (
    RequestError,
    json_view,
    read_json,
    require_method,
    status_of,
)

JSON = {"content-type": "application/json"}


def request_of(*messages, headers=JSON, method="POST", then=None):
    """A request whose body comes in these messages; afterwards ``then`` is awaited."""
    waiting = list(messages)

    async def receive():
        if waiting:
            return waiting.pop(0)
        return await then()

    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/x", "headers": encoded}
    return Request(scope, receive)


def part(body, *, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


async def for_ever():
    await asyncio.sleep(60)


@pytest.mark.asyncio
async def test_read_json_object_in_parts_is_read(make_datasette):
    """The body may come in any pieces; the content type may name an encoding."""
    request = request_of(
        part(b'{"a": [1, 2.5, null', more=True),
        part(b'], "b": "\xc3', more=True),
        part(b'\xa9"}'),
        headers={"content-type": "Application/JSON; charset=utf-8"},
    )
    assert await read_json(request, make_datasette()) == {"a": [1, 2.5, None], "b": "é"}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
async def test_read_json_other_content_type_refused(make_datasette, kind):
    """What a form on another site can send is not read, whatever it holds."""
    request = request_of(part(b"{}"), headers={} if kind is None else {"content-type": kind})
    with pytest.raises(RequestError, match="must be application/json") as caught:
        await read_json(request, make_datasette())
    assert caught.value.status == 400


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is not JSON: Expecting value"),
        (b"{", "is not JSON: Expecting property name"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "a number is too large"),
        (b'{"a": 1, "b": 2, "a": 3}', '"a" is there twice'),
        (b'{"a": "\\ud800"}', "half a character"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "is not JSON"),
        (b"\xff{}", "is not UTF-8"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
    ],
)
async def test_read_json_malformed_body_refused(make_datasette, body, message):
    """Whatever is no JSON object, or means different things to different readers, is a 400."""
    with pytest.raises(RequestError, match=message) as caught:
        await read_json(request_of(part(body)), make_datasette())
    assert caught.value.status == 400


@pytest.mark.asyncio
async def test_read_json_too_long_is_413_before_it_is_read(make_datasette):
    """The length that is announced is enough; one that is a lie is met while reading."""
    datasette = make_datasette(config={"max_body_bytes": 20})
    announced = request_of(headers={**JSON, "content-length": "21"}, then=for_ever)
    with pytest.raises(RequestError, match="longer than 20 bytes") as caught:
        await read_json(announced, datasette)
    assert caught.value.status == 413
    endless = request_of(
        part(b" " * 15, more=True),
        part(b" " * 15, more=True),
        headers={**JSON, "content-length": "2"},
        then=for_ever,
    )
    with pytest.raises(RequestError, match="longer than 20 bytes"):
        await read_json(endless, datasette)
    assert await read_json(request_of(part(b'{"a": "0123456789a"}')), datasette)


@pytest.mark.asyncio
async def test_read_json_takes_one_long_text_and_nothing_else_that_long(make_datasette):
    """A list of as many bytes takes seconds to read, in which the site answers nobody."""
    datasette = make_datasette(config={"max_body_bytes": 100})
    text = "A+/" * 1_000
    for written in (text, text.replace("/", "\\/")):
        body = b'{"image": "%s"}' % written.encode()
        long_field = ("image", len(body))
        found = await read_json(request_of(part(body)), datasette, long_field=long_field)
        assert found == {"image": text}
    of_lists = b'{"image": [%s]}' % b",".join([b"[1]"] * 100)
    of_other = b'{"other": "%s"}' % text.encode()
    for body in (of_lists, of_other, of_lists[:-1] + b', "a": "%s"}' % text.encode()):
        with pytest.raises(RequestError, match="longer than 100 bytes") as caught:
            await read_json(request_of(part(body)), datasette, long_field=("image", 10_000))
        assert caught.value.status == 413


@pytest.mark.asyncio
async def test_read_json_body_without_end_refused(make_datasette):
    """Neither silence nor dripping keeps a request open."""
    datasette = make_datasette(config={"body_timeout_seconds": 0.02})
    with pytest.raises(RequestError, match="did not end within 0.02 seconds") as caught:
        await read_json(request_of(part(b"{", more=True), then=for_ever), datasette)
    assert caught.value.status == 400

    async def drip():
        await asyncio.sleep(0.005)
        return part(b" ", more=True)

    with pytest.raises(RequestError, match="did not end within 0.02 seconds"):
        await read_json(request_of(then=drip), datasette)


@pytest.mark.asyncio
async def test_read_json_caller_gone_refused(make_datasette):
    """A connection that is closed half-way leaves no half request."""
    request = request_of(part(b'{"a": 1', more=True), {"type": "http.disconnect"})
    with pytest.raises(RequestError, match="ended before its body"):
        await read_json(request, make_datasette())


def of_sqlite(message):
    """The error as which SQLite's own words reach a view."""
    with pytest.raises(SourceError) as caught, translated("db"):
        raise sqlite3.OperationalError(message)
    return caught.value


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CollectionNotFoundError("a"), 404),
        (EntryNotFoundError("a", "b"), 404),
        (JobNotFoundError(1), 404),
        (UnknownModelError("m"), 404),
        (ModelNotAllowedError("m"), 403),
        (HiddenCollectionError("a"), 403),
        (ReadOnlyDatabaseError("db", "is immutable"), 403),
        (TextTooLongError("m", 10, 11), 413),
        (UnreadableTextError("m", "no"), 400),
        (BudgetExceededError("calls", 1, 2), 429),
        (BusyError("m"), 429),
        (JobStateError(1, "finished", "no"), 409),
        (ModelMismatchError("a", "m", "n"), 409),
        (EmbedTimeoutError("m", 1), 504),
        (ProviderError("m", "no"), 502),
        (ProviderError("m", "busy", retryable=True), 503),
        (CallRefusedError("m", "no"), 502),
        (QuotaExceededError("m", "empty"), 502),
        (SourceError("t", "no such column"), 400),
        (InvalidVectorError("no"), 400),
        (MissingKeyError("m"), 400),
        (ConfigError("k", "no"), 400),
        (RequestError("no", 405), 405),
        (Forbidden("no"), 403),
        (NotFound("no"), 404),
        (of_sqlite("database is locked"), 503),
        (of_sqlite("database or disk is full"), 507),
        (of_sqlite("database disk image is malformed"), 500),
        (of_sqlite("unable to open database file"), 500),
        (of_sqlite("file is not a database"), 500),
        (of_sqlite("attempt to write a readonly database"), 403),
        (of_sqlite("no such column: x"), 400),
        (sqlite3.OperationalError("database is locked"), 503),
        (sqlite3.OperationalError("no such table: x"), 500),
        (PermissionError("/etc/shadow"), 500),
        (KeyError("x"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_status_of_each_error(error, status):
    """The first of our classes that fits decides; what is not ours is a failure of the server."""
    assert status_of(error) == status


class Routes:
    """Views of one test, below ``/-/t/``."""

    def __init__(self, **views):
        self.views = views

    @hookimpl
    def register_routes(self):
        return [(rf"^/-/t/{name}$", view) for name, view in self.views.items()]


def failing(error):
    async def view(request, datasette):
        """Fail."""
        raise error

    return json_view(view)


@pytest.mark.asyncio
async def test_json_view_answers_are_json(make_datasette, add_plugin):
    """An object, an object with a status; ``ok`` is said for them."""

    async def plain(request, datasette):
        return {"a": 1}

    async def made(request, datasette):
        return {"a": 2}, 201

    add_plugin(Routes(plain=json_view(plain), made=json_view(made)))
    client = make_datasette().client
    response = await client.get("/-/t/plain")
    assert (response.status_code, response.json()) == (200, {"ok": True, "a": 1})
    response = await client.get("/-/t/made")
    assert (response.status_code, response.json()) == (201, {"ok": True, "a": 2})
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.asyncio
async def test_json_view_error_in_the_shape_of_datasette(make_datasette, add_plugin):
    """The message, alone and in a list, with the status; nothing to cache."""
    add_plugin(Routes(x=failing(JobStateError(7, "finished", "there is nothing to pause"))))
    response = await make_datasette().client.get("/-/t/x")
    message = "Job 7 is finished: there is nothing to pause"
    assert response.status_code == 409
    assert response.json() == {"ok": False, "error": message, "errors": [message], "status": 409}
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"].startswith("application/json")


@pytest.mark.asyncio
async def test_json_view_retry_after_in_whole_seconds(make_datasette, add_plugin):
    """Who is to wait is told how long; what the provider said counts."""
    waits = BusyError("m")
    waits.retry_after_seconds = 1.2
    add_plugin(
        Routes(
            a=failing(BudgetExceededError("calls", 20, 21)),
            b=failing(waits),
            c=failing(BusyError("m")),
            d=failing(ProviderError("m", "busy", retryable=True, retry_after_seconds=6.1)),
            e=failing(ProviderError("m", "busy", retryable=True)),
        )
    )
    client = make_datasette().client
    response = await client.get("/-/t/a")  # waiting does not help
    assert response.status_code == 429
    assert "retry-after" not in response.headers
    assert response.headers["x-should-retry"] == "false"
    assert (
        response.json()["error"]
        == "calls: 21 is over the limit of 20. Send at most 20 texts a request"
    )
    assert (await client.get("/-/t/c")).headers["retry-after"] == "5"
    response = await client.get("/-/t/b")
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    response = await client.get("/-/t/d")
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    response = await client.get("/-/t/e")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


@pytest.mark.asyncio
async def test_json_view_failure_of_the_server_says_nothing_of_its_text(
    make_datasette, add_plugin, caplog
):
    """What another program said may hold anything: it goes into the log."""
    add_plugin(Routes(x=failing(RuntimeError("the key is sk-123"))))
    with caplog.at_level(logging.ERROR, "datasette_embed"):
        response = await make_datasette().client.get("/-/t/x")
    assert response.status_code == 500
    assert response.json()["error"] == "The server failed. Its log says why"
    assert "sk-123" in caplog.text


@pytest.mark.asyncio
async def test_json_view_path_of_a_database_is_not_shown(make_datasette, add_plugin, tmp_path):
    """Where on the server the files are is nobody's business; which database it is, is."""
    path = tmp_path / "data.db"
    sqlite3.connect(path).execute("create table t (id)")
    add_plugin(Routes(x=failing(SourceError(str(path), "has no rows"))))
    response = await make_datasette([str(path)]).client.get("/-/t/x")
    assert response.json()["error"] == "data: has no rows"


@pytest.mark.asyncio
async def test_json_view_denied_with_an_unknown_token_is_401(make_datasette, add_plugin):
    """Whoever shows a token that nobody knows is told so; who shows none is told no."""
    add_plugin(Routes(x=failing(ModelNotAllowedError("paid"))))
    client = make_datasette().client
    response = await client.get("/-/t/x")
    assert response.status_code == 403
    assert response.json()["error"].startswith("You may not use the model paid here. Sign in")
    response = await client.get("/-/t/x", headers={"authorization": "Bearer of-bad-news"})
    assert response.status_code == 401
    assert response.json()["status"] == 401
    assert response.json()["error"].startswith("This API token is not known here")
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
async def test_require_method_another_one_is_405(make_datasette, add_plugin, method):
    """With the methods there are."""

    async def view(request, datasette):
        require_method(request, "GET", "POST")
        return {}

    add_plugin(Routes(x=json_view(view)))
    response = await make_datasette().client.request(method, "/-/t/x")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST"
    if method != "HEAD":
        assert json.loads(response.text)["error"] == f"{method} is not possible here, GET, POST is"


@pytest.mark.asyncio
async def test_json_view_cors_as_datasette_when_it_is_on(make_datasette, add_plugin):
    """Another site may ask with a token, and post JSON; off, nobody is told so."""
    add_plugin(Routes(x=failing(JobNotFoundError(1))))
    client = make_datasette(cors=True).client
    response = await client.options("/-/t/x")
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    assert "Content-Type" in response.headers["access-control-allow-headers"]
    assert "POST" in response.headers["access-control-allow-methods"]
    response = await client.get("/-/t/x")
    assert response.status_code == 404
    assert response.headers["access-control-allow-origin"] == "*"
    response = await make_datasette().client.get("/-/t/x")
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.asyncio
async def test_json_view_of_an_actor_is_private(make_datasette, add_plugin):
    """What depends on who asks is kept by nobody."""

    async def view(request, datasette):
        return {"actor": request.actor}

    add_plugin(Routes(x=json_view(view)))
    datasette = make_datasette()
    response = await datasette.client.get(
        "/-/t/x", cookies={"ds_actor": datasette.sign({"a": {"id": "a"}}, "actor")}
    )
    assert response.json()["actor"] == {"id": "a"}
    assert response.headers["cache-control"] == "private, no-store"
