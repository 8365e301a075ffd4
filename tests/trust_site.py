"""One site with everything on it that somebody may or may not see, do or spend.

For the matrix of expectations: ``test_trust_matrix.py`` has what this package adds to a
site, ``test_trust_pages.py`` the pages of Datasette itself.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from datasette.app import Datasette

from datasette_embed.database import sqlite3
from datasette_embed.query_embeddings import PROCESS_QUERIES
from datasette_embed.runner import get_runner
from datasette_embed.schema_sql import OUR_TABLES
from datasette_embed.sources import SourceSpec
from tests.api_site import HeaderActor
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel
from tests.storage import execute, run_job

IS_ONE = hasattr(Datasette, "allowed")
#: The columns of every table of expectations, in this order. ``allowed`` is named wherever
#: config of the site can name somebody, and ``plain`` nowhere.
ACTORS: dict[str, dict[str, str] | None] = {
    "anonymous": None,
    "plain": {"id": "plain"},
    "allowed": {"id": "allowed"},
    "root": {"id": "root"},
}
TRUSTED = {"id": ["allowed", "root"]}
#: In every text of the private table, and in nothing else.
PRIVATE_WORD = "hush"
#: The name of that table, of its collections, or a text of it.
PRIVATE = f"{PRIVATE_WORD}|secrets"
#: Each is in every database of the site that has a collection.
OWN_TABLES = sorted(OUR_TABLES - {"_sqlite_migrations"})
#: What is made of them, by us or by the owner of the file.
DERIVED = ["similar_rows", "nearby", "nearby_again", "embeddings_fts"]


#: What a form has beside what its row names, by the end of its address.
_TYPED = {"/new": {"columns": "body", "start": "1"}}


@dataclass(frozen=True)
class Row:
    """One line of a table of expectations.

    Attributes:
        expected: what each actor gets, in the order of ``ACTORS``.
    """

    expected: tuple[str, ...]
    method: str
    path: str
    body: Any

    @property
    def database(self) -> str:
        """The database it is about; ``site`` for none."""
        name = re.split(r"[/.?]", self.path)[1]
        return name if name not in ("", "-") else "site"

    def __str__(self) -> str:
        body = "" if self.body is None else f" {json.dumps(self.body)}"
        return f"{self.method} {self.path}{body}"


def read_table(text: str) -> list[Row]:
    """Return the lines of a table: four expectations, a method, a path, a body.

    The method FORM is what a page of ours posts, POST what a program does.
    ``{own}`` in a path makes one line for every table that holds what was embedded.
    """
    found = []
    for line in text.strip().splitlines():
        if not line.strip() or line.strip().startswith("#"):
            continue
        *expected, method, path = line.split(maxsplit=6)[: len(ACTORS) + 2]
        body = line.split(maxsplit=6)[6:]
        for name in [*OWN_TABLES, *DERIVED] if "{own}" in path else [""]:
            found.append(
                Row(
                    tuple(expected),
                    method,
                    path.replace("{own}", name),
                    json.loads(body[0]) if body else None,
                )
            )
    return found


def table(text: str) -> Any:
    """Return the decorator that runs a test once for the lines about each database."""
    groups: dict[str, list[Row]] = {}
    for row in read_table(text):
        groups.setdefault(row.database, []).append(row)
    return pytest.mark.parametrize("rows", groups.values(), ids=groups)


def expectations(rows: list[Row]) -> dict[str, str]:
    """Return what to compare with what was found: a request, and what each actor gets."""
    return {str(row): " ".join(row.expected) for row in rows}


# -- files -------------------------------------------------------------------------

POSTS = ["a dog chases a ball", "cats sleep all day"]
SECRETS = ["hush, the first secret", "hush, the second secret"]
#: What each actor may have embedded, and by which of the models.
MODELS = ("free", "paid", "given", "shut")


def make_models() -> dict[str, CountingModel]:
    """Return one model that costs nothing, two that do, and one that is closed to all."""
    models = {name: CountingModel(name) for name in MODELS}
    for name in ("paid", "given"):
        models[name].price_per_million_tokens = 1.0
    return models


def site_config() -> dict[str, Any]:
    """Return what the owner of the site says of its tables and databases."""
    secrets = {"secrets": {"allow": TRUSTED}}
    queries = {
        "embedded": {"sql": "select llm_embed(:model, :q) as vector"},
        "plainly": {"sql": "select count(*) as n from posts"},
    }
    return {
        "databases": {
            "open": {"queries": queries},
            "mixed": {"allow_sql": TRUSTED, "tables": secrets},
            "closed": {"tables": secrets},
            "rows": {"allow_sql": TRUSTED, "tables": secrets},
        }
    }


def plugin_config() -> dict[str, Any]:
    """Return who may make collections, and use the models that somebody may use."""
    return {
        "allow_create": {"id": "allowed"},
        "allow": {"given": {"id": "allowed"}, "shut": False},
        "resume_jobs": False,
        "calls_per_minute": 1_000,  # of all who are unknown together
        "calls_per_minute_total": 10_000,
    }


def make_files(folder: Path) -> None:
    """Write the databases of the site.

    ``open`` has a public table, with a collection by each model; ``mixed`` a public and a
    private table with a collection of each; ``closed`` the private one alone; ``vectors``
    the collection of a private table that is in ``rows``.
    """
    _make(folder / "open.db", posts=POSTS)
    models = make_models()
    for name, model in models.items():
        _embed(folder / "open.db", model, "posts", f"by_{name}")
    _make(folder / "mixed.db", posts=POSTS, secrets=SECRETS)
    _embed(folder / "mixed.db", models["free"], "posts")
    _embed(folder / "mixed.db", models["free"], "secrets")
    # Of a public table, by a condition that only those may read who may run SQL.
    where = f"body not like '{PRIVATE_WORD}%'"
    _embed(folder / "mixed.db", models["free"], "posts", "chosen", where)
    for name in ("closed", "vectors"):
        _make(folder / f"{name}.db", secrets=SECRETS)
        _embed(folder / f"{name}.db", models["free"], "secrets")
    source = {"table": "secrets", "columns": ["body"], "is_elsewhere": True}
    execute(
        folder / "vectors.db",
        "drop table secrets",
        f"update _embed_collections set source = '{json.dumps(source)}'",
    )
    _make(folder / "rows.db", posts=POSTS, secrets=SECRETS)
    for name in ("open", "mixed", "closed", "vectors"):
        _derive(folder / f"{name}.db")
    _add_calls(folder / "open.db")


def _make(path: Path, **tables: list[str]) -> None:
    for name, texts in tables.items():
        execute(path, f"create table {name} (id integer primary key, body text)")
        with closing(sqlite3.connect(path)) as conn, conn:
            conn.executemany(f"insert into {name} (body) values (?)", [(t,) for t in texts])


def _embed(
    path: Path,
    model: CountingModel,
    table: str,
    name: str | None = None,
    where: str | None = None,
) -> None:
    spec = SourceSpec(table=table, columns=("body",), where=where)
    run_job(path, model, spec=spec, name=name or table, store=True)


def _derive(path: Path) -> None:
    """Add what shows collections under other names, and what only points at them."""
    collection, name = _one(path, "select id, name from collections order by name desc limit 1")
    execute(
        path,
        "create table similar_rows (id text, other_id text, score real)",
        "insert into similar_rows values ('1', '2', 0.5)",
        "insert into _embed_similarities values"
        f" ('similar_rows', {collection}, '{name}', 'free', null, 'cosine', 10)",
        "create view nearby as select id, content from embeddings",
        "create view nearby_again as select * from nearby",
        "create virtual table embeddings_fts using fts5(content, content='embeddings')",
        "insert into embeddings_fts (embeddings_fts) values ('rebuild')",
        "create table notes (id integer primary key, text text, collection integer"
        " references collections(id))",
        f"insert into notes values (1, 'a note', {collection})",
        "insert into _embed_failures"
        f" select max(id), '9', null, '{SECRETS[0] if name == 'secrets' else POSTS[0]}', 1"
        f" from _embed_jobs where collection_id = {collection}",
    )
    if name == "secrets":
        execute(path, "create view of_secrets as select id from embeddings")


def _add_calls(path: Path) -> None:
    """Let the file itself call each model: in a view, in a column and in a trigger."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.create_function("llm_embed", 2, lambda *_: None, deterministic=True)
        for name in MODELS:
            call = f"llm_embed('{name}', body)"
            # Datasette's page of a view fails on any value that is bytes.
            conn.execute(
                f"create view view_{name} as select id, length({call}) as vector from posts"
            )
            conn.execute(
                f"create table column_{name} (id integer primary key, body text,"
                f" vector blob generated always as ({call}) virtual)"
            )
            conn.execute(f"insert into column_{name} (body) values ('a text')")
            conn.execute(f"create table written_{name} (id integer primary key, body text)")
            conn.execute(
                f"create trigger on_{name} after insert on written_{name} begin"
                f" update posts set body = hex(llm_embed('{name}', new.body)) where id = 1; end"
            )


def _one(path: Path, sql: str) -> Any:
    with closing(sqlite3.connect(path)) as conn:
        return conn.execute(sql).fetchone()


# -- the site ----------------------------------------------------------------------


class TrustSite:
    """The site over files of its own.

    Attributes:
        models: by id.
    """

    def __init__(self, datasette: Datasette, folder: Path, models: Any) -> None:
        self.datasette = datasette
        self.folder = folder
        self.models = models

    async def ask(self, row: Row, actor: str) -> Any:
        """Return the response to the request of a line, sent by an actor."""
        headers = {} if ACTORS[actor] is None else {"x-actor": json.dumps(ACTORS[actor])}
        content = None
        if row.method == "POST":
            headers["content-type"] = "application/json"
            content = json.dumps({} if row.body is None else row.body)
        if row.method == "FORM":
            headers["content-type"] = "application/x-www-form-urlencoded"
            content = urlencode({**_TYPED.get(row.path[-4:], {}), **(row.body or {})}, doseq=True)
        method = "POST" if row.method == "FORM" else row.method
        return await self.datasette.client.request(
            method, row.path, headers=headers, content=content
        )

    async def settled(self) -> None:
        """Wait until no job runs or waits."""
        assert await asyncio.to_thread(get_runner(self.datasette).wait, 20)

    def bytes(self) -> dict[str, bytes]:
        """Return every file as it is now."""
        return {path.name: path.read_bytes() for path in sorted(self.folder.glob("*.db"))}

    def restore(self, trust_files: Path) -> None:
        """Write the files as they were, as another program would."""
        for path in self.folder.glob("*.db"):
            with closing(sqlite3.connect(path)) as conn:
                with closing(sqlite3.connect(trust_files / path.name)) as original:
                    original.backup(conn)

    def calls(self) -> dict[str, int]:
        """Return how often each model was called."""
        return {name: len(model.calls) for name, model in self.models.items()}


def outcome(response: Any, private: str = PRIVATE) -> str:
    """Return what a table of expectations says of a response.

    The status, with a ``+`` behind it where what is private is shown.
    """
    # A refusal may repeat the name that was asked for; never what is behind it.
    is_refusal = response.status_code in (401, 403)
    shows = re.search(PRIVATE_WORD if is_refusal else private, response.text.lower())
    return f"{response.status_code}{'+' if shows else ''}"


async def outcomes(site: TrustSite, rows: list[Row], private: str = PRIVATE) -> dict[str, str]:
    """Return what each actor gets; no model is called for those who are refused."""
    found = {}
    for row in rows:
        cells = []
        for actor, expected in zip(ACTORS, row.expected, strict=True):
            PROCESS_QUERIES.clear()
            calls = site.calls()
            response = await site.ask(row, actor)
            assert response.status_code < 400 or site.calls() == calls, (actor, row)
            cell = outcome(response, private)
            cells.append(f"{cell.removesuffix('+')}*" if expected.endswith("*") else cell)
        found[str(row)] = " ".join(cells)
    return found


@pytest.fixture(scope="module")
def trust_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, made once for a module and copied by every test."""
    folder = tmp_path_factory.mktemp("trust")
    make_files(folder)
    return folder


@pytest.fixture
def make_trust_site(
    trust_files: Path, tmp_path: Path, make_datasette: Any, add_plugin: Any
) -> Iterator[Any]:
    """Make the site over a fresh copy of the files, and end its jobs."""
    models = make_models()
    add_plugin(ModelsPlugin(*((model, (f"{name}-alias",)) for name, model in models.items())))
    add_plugin(HeaderActor())
    made: list[Datasette] = []

    def make(*, config: Any = None, site: Any = None, databases: Any = None) -> TrustSite:
        folder = tmp_path / f"site{len(made)}"
        shutil.copytree(trust_files, folder)
        configured = site_config() | (site or {})
        for name, more in (databases or {}).items():
            configured["databases"][name].update(more)
        datasette = make_datasette(
            sorted(map(str, folder.glob("*.db"))),
            config=plugin_config() | (config or {}),
            site=configured,
        )
        datasette.root_enabled = True  # as `--root` does on 1.0
        made.append(datasette)
        return TrustSite(datasette, folder, models)

    yield make
    for datasette in made:
        get_runner(datasette).stop(10)
