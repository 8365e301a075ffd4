"""A site with public and private tables, and how to ask it as somebody."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasette import hookimpl
from datasette.app import Datasette
from datasette.database import QueryInterrupted

from datasette_embed.database import sqlite3
from datasette_embed.runner import get_runner
from tests.fakes import CountingModel

ANONYMOUS: Mapping[str, Any] | None = None
PLAIN = {"id": "plain"}
#: May make collections, and see the private table.
EDITOR = {"id": "editor"}
ROOT = {"id": "root"}

#: Awkward, all of it: for names of tables, of databases and of collections.
AWKWARD = "a b'\"/%~.json é"

SCRIPT = f"""
create table posts (id integer primary key, title text, body text);
insert into posts values (1, 'dogs', 'a dog chases a ball'), (2, 'cats', 'cats sleep all day'),
  (3, 'tax', 'the tax return is due');
create table secrets (id integer primary key, body text);
insert into secrets values (1, 'the private text'), (2, 'another private text');
create table pairs (a text, b text, body text, primary key (a, b));
insert into pairs values ('x/y', '1,2', 'a pair of texts'), ('z', '2', 'one more pair');
create table "{AWKWARD.replace('"', '""')}" (id text primary key, body text);
insert into "{AWKWARD.replace('"', '""')}" values ('{AWKWARD.replace("'", "''")}', 'a strange id');
create view recent as select id, body from posts;
"""

#: What is said to whoever may not do something, with the permission it takes.
MAY_NOT_MAKE = (
    "You may not make or change collections in the database 'data': "
    "that takes the permission embed-create"
)
MAY_NOT_SQL = (
    "You may not run SQL of your own on the database 'data': that takes the permission execute-sql"
)


def hidden_message(name: str) -> str:
    """Return what is said of a collection that is not for who asks."""
    return (
        f"You may not view the collection '{name}': that takes the right to see what it was made "
        "from (view-table or execute-sql)"
    )


def as_said_to(actor: Any, message: str) -> str:
    """Return a refusal as an actor reads it."""
    return message if actor else f"{message}. Signing in may help"


class HeaderActor:
    """A plugin that takes the actor from a header, so that no cookie is needed."""

    @hookimpl
    def actor_from_request(self, request: Any) -> Any:
        return json.loads(request.headers.get("x-actor", "null"))


class Site:
    """One Datasette over files, asked in JSON.

    Attributes:
        datasette: it.
        path: the file of the database ``data``.
    """

    def __init__(self, datasette: Datasette, path: Path) -> None:
        self.datasette = datasette
        self.path = path

    async def get(self, path: str, actor: Any = None, **options: Any) -> Any:
        """Return the response to a GET request of an actor."""
        return await self.ask("GET", path, actor, **options)

    async def post(self, path: str, body: Any = None, actor: Any = ROOT, **options: Any) -> Any:
        """Return the response to a POST request of an actor, with a JSON body."""
        headers = {"content-type": "application/json", **options.pop("headers", {})}
        content = json.dumps(body or {})  # in ASCII, so that it can hold half a character
        return await self.ask("POST", path, actor, content=content, headers=headers, **options)

    async def ask(self, method: str, path: str, actor: Any, **options: Any) -> Any:
        """Return the response to any request of an actor."""
        headers = dict(options.pop("headers", {}))
        if actor is not None:
            headers["x-actor"] = json.dumps(actor)
        return await self.datasette.client.request(method, path, headers=headers, **options)

    async def make(self, table: str = "posts", name: str | None = None, **body: Any) -> Any:
        """Make a collection as root, wait for its job, and return the answer."""
        wanted = {"table": table, "collection": name or table, "model": "counting", **body}
        response = await self.post("/data/-/embed/new", wanted)
        assert response.status_code == 201, response.text
        await self.settled()
        return response.json()

    async def settled(self) -> None:
        """Wait until no job runs or waits."""
        assert await asyncio.to_thread(get_runner(self.datasette).wait, 20)

    @contextmanager
    def running_job(self, model: CountingModel) -> Iterator[None]:
        """Hold a sync of ``posts`` in the middle of its only call of the model."""
        conn = sqlite3.connect(self.path)
        with conn:
            conn.execute("update posts set body = body || '!'")
        conn.close()
        model.started.clear()
        model.gate = threading.Event()
        try:
            get_runner(self.datasette).sync("data", "posts")
            assert model.started.wait(20)
            yield
        finally:
            model.gate.set()

    def rows(self, sql: str, *parameters: Any, path: Path | None = None) -> list[tuple[Any, ...]]:
        """Return rows of the file itself."""
        conn = sqlite3.connect(path or self.path)
        try:
            return [tuple(row) for row in conn.execute(sql, parameters)]
        finally:
            conn.close()

    def stop(self) -> None:
        """End its jobs."""
        get_runner(self.datasette).stop(10)


def make_file(path: Path, script: str = SCRIPT) -> Path:
    """Write a database and return its path."""
    conn = sqlite3.connect(path)
    conn.executescript(script)
    conn.close()
    return path


def site_config() -> dict[str, Any]:
    """Return what the site says of its tables: ``secrets`` is for two of them."""
    return {"databases": {"data": {"tables": {"secrets": {"allow": {"id": ["editor", "root"]}}}}}}


def error_of(response: Any, status: int) -> str:
    """Return the message of an answer that must be an error with this status."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["ok"] is False
    assert body["status"] == status
    assert body["errors"] == [body["error"]]
    return str(body["error"])


def interrupting(database: Any, part: str) -> Callable[..., Any]:
    """Return the ``execute`` of a database for which queries with this part take too long."""
    execute = database.execute

    async def interrupted(sql: str, params: Any = None, **options: Any) -> Any:
        if part in sql:
            raise QueryInterrupted(sqlite3.OperationalError("interrupted"), sql, params)
        return await execute(sql, params, **options)

    return interrupted
