"""Access: whoever may not see a source sees nothing that was made from it, on any page."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import closing

import pytest
from datasette import hookimpl
from datasette.app import Datasette

from datasette_embed import access, compat, holdings, visibility
from datasette_embed.database import sqlite3
from datasette_embed.errors import CollectionNotFoundError, HiddenCollectionError
from datasette_embed.holdings import Need, Rule, read_holdings
from datasette_embed.sources import SourceSpec
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel
from tests.storage import execute, make_docs, query, run_job

IS_ONE = compat.is_version_one(Datasette)
if IS_ONE:
    from datasette.resources import TableResource
ROWS = [(1, "SECRET one"), (2, "SECRET two")]
ANONYMOUS, PLAIN, ALLOWED, ROOT = None, {"id": "bob"}, {"id": "alice"}, {"id": "root"}
ACTORS = pytest.mark.parametrize(
    "actor", [ANONYMOUS, PLAIN, ALLOWED, ROOT], ids=["anonymous", "plain", "allowed", "root"]
)
#: Only alice and root may see the table.
PRIVATE = {"allow": {"id": ["alice", "root"]}}


def private(database="data", table="docs"):
    """Return config that lets alice and root alone see a table."""
    return {"databases": {database: {"tables": {table: PRIVATE}}}}


def is_trusted(actor):
    return (actor or {}).get("id") in ("alice", "root")


@pytest.fixture
def data(tmp_path):
    """A table, a collection of it with its texts, and everything that is made of that."""
    path = make_docs(tmp_path / "data.db", ROWS)
    run_job(path, CountingModel(), store=True)
    derive(path)
    return path


def derive(path):
    execute(
        path,
        "create table Similar_Docs (id text, other_id text, score real)",
        "insert into Similar_Docs values ('1', '2', 0.5)",
        "insert into _embed_similarities values"
        " ('similar_docs', 1, 'docs', 'counting', null, 'cosine', 10)",
        "create view nearby as select id, content as body from EMBEDDINGS",
        "create view nearby_again as select * from [nearby]",
        "create virtual table embeddings_fts using fts5(content, content='embeddings')",
        "insert into embeddings_fts (embeddings_fts) values ('rebuild')",
        "create table notes (id integer primary key, collection integer references"
        " collections(id), text text)",
        "insert into notes values (1, 1, 'a note')",
        "create view harmless as select text from notes",
    )


#: What shows the collection, by its name.
OURS = [
    "collections",
    "embeddings",
    "_embed_collections",
    "_embed_generations",
    "_embed_failures",
    "_embed_jobs",
    "Similar_Docs",
    "nearby",
    "nearby_again",
    "embeddings_fts",
]


async def get(datasette, path, actor=None):
    """Ask as an actor; 1.0's root is root only where that is enabled."""
    if IS_ONE:
        datasette.root_enabled = True
    await datasette.invoke_startup()
    cookies = {"ds_actor": datasette.sign({"a": actor}, "actor")} if actor else {}
    return await datasette.client.get(path, cookies=cookies)


@pytest.mark.asyncio
@pytest.mark.parametrize("table", OURS)
@ACTORS
async def test_pages_of_a_private_source_follow_the_source(make_datasette, data, table, actor):
    """Page, JSON, CSV and facets of each table answer as the source's own page does."""
    datasette = make_datasette([str(data)], site=private())
    expected = 200 if is_trusted(actor) else 403
    assert (await get(datasette, "/data/docs", actor)).status_code == expected
    column = query(data, "select name from pragma_table_info(?) limit 1", (table,))[0][0]
    for rest in ("", ".json", ".csv", f".json?_facet={column}"):
        response = await get(datasette, f"/data/{table}{rest}", actor)
        assert response.status_code == expected, rest
        if expected == 403:
            assert "SECRET" not in response.text
    # In another spelling core knows no such page.
    assert (await get(datasette, f"/data/{table.upper()}.json", actor)).status_code in (
        (404, expected)
    )


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    [
        "/data/embeddings/1,1",
        "/data/embeddings/1,1.json",
        "/data/embeddings/1,1.blob?_blob_column=embedding",
        pytest.param(
            "/data/EMBEDDINGS/1,1.json", marks=pytest.mark.skipif(IS_ONE, reason="is a 404")
        ),
        "/data/collections/1",
        "/data/collections/1.json?_extras=foreign_key_tables",
        "/data/Similar_Docs/1.json",
    ],
)
@ACTORS
async def test_rows_of_a_private_source_follow_the_source(make_datasette, data, path, actor):
    """A row, as a page and as JSON, and a blob of it."""
    response = await get(make_datasette([str(data)], site=private()), path, actor)
    assert response.status_code == (200 if is_trusted(actor) else 403)
    assert is_trusted(actor) or "SECRET" not in response.text
    assert ("SECRET" in response.text) == (
        is_trusted(actor) and "embeddings/1,1" in path.lower() and "blob" not in path
    )


LISTINGS = ["/data", "/data.json", "/", "/.json", "/data/notes", "/data/notes.json"]
if IS_ONE:
    LISTINGS += [
        "/-/jump.json?q=",
        "/-/schema.json",
        "/data/-/schema.json",
        "/-/allowed.json?action=view-table",
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("path", LISTINGS)
@ACTORS
async def test_listings_of_a_private_source_name_nothing(make_datasette, data, path, actor):
    """What may not be opened is not listed, counted or searchable either."""
    response = await get(make_datasette([str(data)], site=private()), path, actor)
    assert response.status_code == 200
    names = [name for name in OURS if name in named_in(response, path)]
    if "notes" in path:
        assert "a note" in response.text
    elif is_trusted(actor) and path not in ("/", "/.json"):
        assert "embeddings" in names
    elif not is_trusted(actor):
        assert names == []
    assert is_trusted(actor) or "SECRET" not in response.text


def named_in(response, path):
    """Return the text in which the names of tables are looked for."""
    if "notes" in path:
        return ""
    if path == "/data.json":
        # A foreign key of a visible table names its target, as the table's own page does.
        return json.dumps([table["name"] for table in response.json()["tables"]])
    if path == "/data":
        # To those who may run SQL 1.0's editor suggests the names of all tables.
        return re.sub("<script>.*?</script>", "", response.text, flags=re.DOTALL)
    return response.text.replace("references collections(id)", "")


@pytest.mark.asyncio
@ACTORS
async def test_pages_of_a_public_source_are_open(make_datasette, data, actor):
    """Nothing is hidden where the source is not."""
    datasette = make_datasette([str(data)])
    for table in OURS:
        assert (await get(datasette, f"/data/{table}.json", actor)).status_code == 200
    assert (await get(datasette, "/data/embeddings/1,1", actor)).status_code == 200
    assert await access.hidden_tables_of(datasette, actor, "data") == set()


@pytest.mark.asyncio
@ACTORS
async def test_pages_one_of_two_sources_private_are_hidden(make_datasette, data, actor):
    """The tables hold both collections: who may not see one of them sees neither's rows."""
    execute(data, "create table open (id integer primary key, body text)")
    execute(data, "insert into open values (1, 'public')")
    spec = SourceSpec(table="open", columns=("body",))
    run_job(data, CountingModel(), spec=spec, name="open")
    datasette = make_datasette([str(data)], site=private())
    response = await get(datasette, "/data/embeddings.json", actor)
    assert response.status_code == (200 if is_trusted(actor) else 403)
    visible = await access.visible_collections(datasette, actor, "data")
    names = [record.name for record in visible]
    assert names == (["docs", "open"] if is_trusted(actor) else ["open"])


# -- sources that are not a table of the same file ---------------------------------


async def statuses(datasette, actor, *paths):
    """Return the status of each path."""
    return [(await get(datasette, path, actor)).status_code for path in paths]


SQL = "/data/-/query.json?sql=select+1" if IS_ONE else "/data.json?sql=select+1"
ELSEWHERE = SQL.replace("data", "vectors", 1)


def set_source(path, source):
    """Write what a collection says it was made from, as any stranger might."""
    text = source if source is None or isinstance(source, str) else json.dumps(source)
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("update _embed_collections set source = ?", (text,))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "source",
    [
        {"sql": "select id, body from docs"},
        {"table": "gone", "columns": ["body"]},
        {"table": "embeddings", "columns": ["content"]},
        {"table": "nearby", "columns": ["body"]},
        {"table": ["docs"]},
        {"table": "docs", "sql": "select 1"},
        {},
        "no json at all",
        "[1]",
        "\u0000",
    ],
    ids=str,
)
@ACTORS
async def test_source_that_is_no_table_needs_sql(make_datasette, data, source, actor):
    """Whoever may run SQL could read all of it anyway; nobody else sees it."""
    set_source(data, source)
    site = {"databases": {"data": {"allow_sql": {"id": ["alice", "root"]}}}}
    datasette = make_datasette([str(data)], site=site)
    expected = 200 if is_trusted(actor) else 403
    paths = ("/data/embeddings.json", "/data/nearby.json", SQL, "/data/docs.json")
    assert await statuses(datasette, actor, *paths) == [expected, expected, expected, 200]
    visible = await access.visible_collections(datasette, actor, "data")
    assert [record.name for record in visible] == (["docs"] if is_trusted(actor) else [])


@pytest.mark.asyncio
@pytest.mark.parametrize("source", [None, "no row at all"])
@ACTORS
async def test_source_nobody_named_follows_the_table_embeddings(
    make_datasette, data, source, actor
):
    """A collection of LLM's: the owner of the site says who may see its table."""
    set_source(data, source)
    if source:
        execute(data, "delete from _embed_collections")
    datasette = make_datasette([str(data)], site=private(table="embeddings"))
    expected = 200 if is_trusted(actor) else 403
    paths = [f"/data/{name}.json" for name in ("embeddings", "collections", "nearby")]
    assert await statuses(datasette, actor, *paths) == [expected] * 3
    visible = await access.visible_collections(datasette, actor, "data")
    assert [record.name for record in visible] == (["docs"] if is_trusted(actor) else [])


@pytest.fixture
def two_files(tmp_path):
    """A table in one file, its vectors and texts in another."""
    docs = make_docs(tmp_path / "data.db", ROWS)
    vectors = make_docs(tmp_path / "vectors.db", ROWS)
    run_job(vectors, CountingModel(), store=True)
    execute(vectors, "drop table docs")
    set_source(vectors, {"table": "Docs", "columns": ["body"], "is_elsewhere": True})
    return docs, vectors


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "source", [{"table": "DOCS"}, {"sql": "select id, body from Docs"}], ids=["table", "sql"]
)
@ACTORS
async def test_source_elsewhere_private_closes_sql_and_download(
    make_datasette, two_files, source, actor
):
    """SQL on the vectors' own database would show what that on the source's does not."""
    docs, vectors = two_files
    set_source(vectors, {**source, "is_elsewhere": True})
    site = private()
    site["databases"]["data"]["allow_sql"] = {"id": ["alice", "root"]}
    datasette = make_datasette([str(docs)], immutables=[str(vectors)], site=site)
    expected = 200 if is_trusted(actor) else 403
    paths = ("/vectors/embeddings.json", ELSEWHERE, "/vectors.db", SQL, "/vectors.json")
    assert await statuses(datasette, actor, *paths) == [expected] * 4 + [200]
    visible = await access.visible_collections(datasette, actor, "vectors")
    assert [record.name for record in visible] == (["docs"] if is_trusted(actor) else [])


@pytest.mark.asyncio
@ACTORS
async def test_source_elsewhere_joined_database_is_closed_too(make_datasette, two_files, actor):
    """--crossdb lets SQL on _memory read every file."""
    docs, vectors = two_files
    datasette = make_datasette([str(docs), str(vectors)], site=private(), crossdb=True)
    sql = SQL.replace("data", "_memory", 1)
    assert await statuses(datasette, actor, sql) == [200 if is_trusted(actor) else 403]


@pytest.mark.asyncio
@ACTORS
async def test_source_elsewhere_public_is_open(make_datasette, two_files, actor):
    """The same files, and nothing private."""
    docs, vectors = two_files
    datasette = make_datasette([str(docs)], immutables=[str(vectors)])
    paths = ("/vectors/embeddings.json", ELSEWHERE, "/vectors.db")
    assert await statuses(datasette, actor, *paths) == [200] * 3


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "source", [{"table": "DOCS"}, {"sql": "select id, body from Docs"}], ids=["table", "sql"]
)
@pytest.mark.parametrize("is_renamed", [False, True], ids=["not served", "renamed"])
@ACTORS
async def test_source_elsewhere_that_is_nowhere_is_for_root(
    make_datasette, two_files, caplog, source, is_renamed, actor
):
    """Nothing here says who may see it: nobody, until the site says that it is public."""
    docs, vectors = two_files
    set_source(vectors, {**source, "is_elsewhere": True})
    if is_renamed:
        execute(docs, "alter table docs rename to papers")
    files = [str(path) for path in ((docs, vectors) if is_renamed else (vectors,))]
    datasette = make_datasette(files, site=private(table="papers"))
    expected = 200 if actor == ROOT else 403
    paths = ("/vectors/embeddings.json", ELSEWHERE)
    assert await statuses(datasette, actor, *paths) == [expected] * 2
    assert caplog.text.count("in the setting public_collections") == 1
    settings = {"public_collections": ["vectors/docs", "vectors/other"]}
    datasette = make_datasette(files, config=settings, site=private(table="papers"))
    assert await statuses(datasette, actor, *paths) == [200] * 2
    settings = {"public_collections": ["data/docs"]}
    datasette = make_datasette(files, config=settings, site=private(table="papers"))
    assert await statuses(datasette, actor, *paths) == [expected] * 2


@pytest.mark.asyncio
async def test_public_collections_open_nothing_that_is_served(make_datasette, two_files):
    """A private table that is there decides."""
    settings = {"public_collections": ["vectors/docs"]}
    files = [str(path) for path in two_files]
    datasette = make_datasette(files, config=settings, site=private())
    assert await statuses(datasette, None, "/vectors/embeddings.json", ELSEWHERE) == [403] * 2


@pytest.mark.asyncio
@ACTORS
async def test_collection_of_a_collection_follows_the_first_source(
    make_datasette, two_files, tmp_path, actor
):
    """A view of vectors from a private file, embedded again: beside them, or in a third file."""
    docs, vectors = two_files
    execute(vectors, "create view nearby as select id, content from embeddings")
    spec = SourceSpec(table="nearby", columns=("content",), id_columns=("id",))
    run_job(vectors, CountingModel(), spec=spec, name="again", store=True)
    third = make_docs(tmp_path / "third.db", ROWS)
    run_job(third, CountingModel(), store=True)
    set_source(third, {"table": "nearby", "is_elsewhere": True})
    site = {"databases": {"data": PRIVATE}}
    datasette = make_datasette([str(path) for path in (docs, vectors, third)], site=site)
    sql = SQL.replace("data", "third", 1)
    expected = 200 if is_trusted(actor) else 403
    paths = ("/vectors/nearby.json", ELSEWHERE, "/third/embeddings.json", sql)
    assert await statuses(datasette, actor, *paths) == [expected] * 4
    for database, names in (("vectors", ["again", "docs"]), ("third", ["docs"])):
        visible = await access.visible_collections(datasette, actor, database)
        assert [record.name for record in visible] == (names if is_trusted(actor) else [])


# -- files that are made to keep us busy ------------------------------------------

ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n)"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "statement",
    [
        f"create view _embed_collections as {ENDLESS} select i as source, i as name from n"
        " where i < 0",
        f"create view _embed_similarities as {ENDLESS} select i as table_name from n where i < 0",
        f"create view _embed_jobs as {ENDLESS} select i as id, i as collection_id from n"
        " where i < 0",
        f"create view collections as {ENDLESS} select i as id, i as name, i as model from n"
        " where i < 0",
    ],
    ids=["collections", "similarities", "jobs", "llm"],
)
async def test_endless_view_in_the_place_of_our_table_is_not_run(
    make_datasette, tmp_path, monkeypatch, statement
):
    """A stranger's file must not hold up the pages of the others, nor its own."""
    monkeypatch.setattr(holdings, "_SECONDS", 3600.0)
    other = make_docs(tmp_path / "other.db", ROWS)
    path = make_docs(tmp_path / "data.db", ROWS)
    names = "id, name, model, collection_id, embedding, content, metadata, x"
    execute(path, f"create table embeddings ({names})", statement)
    datasette = make_datasette([str(path), str(other)])
    paths = ("/", "/other/docs.json", "/data/docs.json", "/-/embed.json", "/data/-/embed.json")
    assert await asyncio.wait_for(statuses(datasette, None, *paths), 20) == [200] * 5


@pytest.mark.asyncio
async def test_file_that_takes_too_long_is_hidden(make_datasette, data, monkeypatch, caplog):
    """Of what nobody had time to read, nobody sees anything; it is not read again at once."""
    reads = []

    def slow(conn, names, public):
        reads.append(names)
        conn.execute(f"{ENDLESS} select count(*) from n").fetchone()

    monkeypatch.setattr(holdings, "_SECONDS", 0.05)
    monkeypatch.setattr(holdings, "_read", slow)
    datasette = make_datasette([str(data)])
    paths = ("/data/embeddings.json", "/data/notes.json", SQL)
    assert await statuses(datasette, None, *paths) == [403] * 3
    assert len(reads) == 1
    assert "takes too long" in caplog.text
    # Datasette's own limit is in its place again, and ours is gone.
    assert (await get(datasette, "/data.json")).status_code == 200


# -- allow blocks above the table --------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "site",
    [{"databases": {"data": PRIVATE}}, PRIVATE],
    ids=["database", "instance"],
)
@ACTORS
async def test_visible_collections_follow_allow_blocks_above(make_datasette, data, site, actor):
    """A database or a site that is closed closes its collections."""
    datasette = make_datasette([str(data)], site=site)
    (status,) = await statuses(datasette, actor, "/data/docs.json")
    (theirs,) = await statuses(datasette, actor, "/data/embeddings.json")
    assert theirs == status
    visible = await access.visible_collections(datasette, actor, "data")
    assert [record.name for record in visible] == (["docs"] if status == 200 else [])
    if "databases" in site or not IS_ONE:
        assert (status == 200) is is_trusted(actor)


@pytest.mark.asyncio
async def test_get_visible_collection_says_hidden_or_unknown(make_datasette, data):
    """A name that exists is refused, one that does not is unknown; neither tells others."""
    datasette = make_datasette([str(data)], site=private())
    await get(datasette, "/")
    record = await access.get_visible_collection(datasette, ALLOWED, "data", "docs")
    assert (record.name, record.model_id) == ("docs", "counting")
    with pytest.raises(HiddenCollectionError, match="You may not view the collection 'docs'"):
        await access.get_visible_collection(datasette, PLAIN, "data", "docs")
    with pytest.raises(CollectionNotFoundError) as caught:
        await access.get_visible_collection(datasette, PLAIN, "data", "other")
    assert caught.value.known == []
    with pytest.raises(CollectionNotFoundError) as caught:
        await access.get_visible_collection(datasette, ALLOWED, "data", "other")
    assert caught.value.known == ["docs"]


# -- foreign keys ------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    [
        "/data/notes.json?_labels=on&_shape=objects",
        "/data/notes.json?_label=collection&_shape=objects",
        "/data/notes.json?_facet=collection&_extra=facet_results",
        "/data/notes",
        "/data/notes.csv?_labels=on",
        "/data/notes/1.json",
    ],
)
@ACTORS
async def test_labels_of_a_hidden_table_are_not_expanded(make_datasette, data, path, actor):
    """The name of a collection is shown to those who may see the table it is in."""
    execute(data, "update collections set name = 'SECRETNAME'")
    execute(data, "update _embed_collections set name = 'SECRETNAME'")
    response = await get(make_datasette([str(data)], site=private()), path, actor)
    assert response.status_code == 200
    assert "a note" in response.text
    may_show = is_trusted(actor) and "notes/1" not in path
    assert ("SECRETNAME" in response.text) is may_show


@pytest.mark.asyncio
@ACTORS
async def test_search_in_a_hidden_table_is_refused(make_datasette, data, actor):
    """?_fts_table= of a visible table's page must not tell which words a hidden one has."""
    datasette = make_datasette([str(data)], site=private())
    path = "/data/notes.json?_search=SECRET&_fts_table=Embeddings_FTS"
    response = await get(datasette, path, actor)
    # 1.0 takes no such table at all.
    assert response.status_code == (400 if IS_ONE else 200 if is_trusted(actor) else 403)
    assert ("a note" in response.text) is (response.status_code == 200)


@pytest.mark.asyncio
@pytest.mark.skipif(not IS_ONE, reason="these actions are of 1.0")
@pytest.mark.parametrize("action", ["insert-row", "update-row", "delete-row", "drop-table"])
async def test_writing_to_a_hidden_table_is_refused(make_datasette, data, action):
    """Whoever may write to tables may not write to those they may not see."""
    site = {**private(), "permissions": {action: {"id": ["bob", "alice"]}}}
    datasette = make_datasette([str(data)], site=site)
    await datasette.invoke_startup()

    async def may_write(actor, table):
        resource = TableResource("data", table)
        return await datasette.allowed(action=action, resource=resource, actor=actor)

    assert await may_write(PLAIN, "notes") is True
    assert await may_write(PLAIN, "Embeddings") is False
    assert await may_write(ALLOWED, "Embeddings") is True


@pytest.mark.asyncio
async def test_source_is_asked_about_once_in_a_request(make_datasette, data, monkeypatch):
    """A page asks for every table it lists, and for its padlocks; the answer is kept."""
    asked = []
    may_view_table = compat.may_view_table

    async def counted(datasette, actor, database, table):
        asked.append((actor, table))
        return await may_view_table(datasette, actor, database, table)

    monkeypatch.setattr(compat, "may_view_table", counted)
    datasette = make_datasette([str(data)], site=private())
    await get(datasette, "/data", ALLOWED)
    # Of alice, and of nobody for the padlocks.
    assert sorted(asked, key=str) == sorted([(ALLOWED, "docs"), (None, "docs")], key=str)


@pytest.mark.asyncio
@pytest.mark.skipif(not IS_ONE, reason="0.65 keeps no answers")
async def test_questions_about_sources_leave_no_answers_behind(make_datasette, data):
    """1.0 keeps answers during a request; those without our rules must not be among them."""
    from datasette.permissions import _permission_check_cache

    execute(data, "insert into collections values (7, 'of LLM', 'counting')")
    datasette = make_datasette([str(data)], site=private())
    await datasette.invoke_startup()
    token = _permission_check_cache.set({})
    try:
        await access.visible_collections(datasette, PLAIN, "data")
        assert "embeddings" in await access.hidden_tables_of(datasette, PLAIN, "data")
        assert not await compat.may_view_table(datasette, PLAIN, "data", "embeddings")
        assert await compat.may_view_table(datasette, ALLOWED, "data", "embeddings")
    finally:
        _permission_check_cache.reset(token)


@pytest.mark.asyncio
async def test_hidden_tables_without_sql_threads(make_datasette, data):
    """With num_sql_threads 0 everything runs on the event loop."""
    datasette = make_datasette([str(data)], site=private(), settings={"num_sql_threads": 0})
    assert await statuses(datasette, PLAIN, "/data/embeddings.json", "/data.json") == [403, 200]
    assert await statuses(datasette, ALLOWED, "/data/embeddings.json") == [200]


@pytest.mark.asyncio
async def test_hidden_tables_of_a_database_in_memory(make_datasette, data):
    """A named database in memory has no file whose times could be looked at."""
    datasette = make_datasette([], site=private("kept"))
    kept = datasette.add_memory_database("kept")
    with closing(sqlite3.connect(data)) as conn:
        statements = "\n".join(
            line for line in conn.iterdump() if "fts" not in line and "sqlite_master" not in line
        )
    await kept.execute_write_fn(lambda conn: conn.executescript(statements))
    assert await statuses(datasette, PLAIN, "/kept/embeddings.json") == [403]
    assert await statuses(datasette, ALLOWED, "/kept/embeddings.json") == [200]


# -- files that change, and files that cannot be read ------------------------------


@pytest.mark.asyncio
async def test_hidden_tables_follow_the_file(make_datasette, tmp_path):
    """A collection made while the site runs is hidden at once, and open when deleted."""
    path = make_docs(tmp_path / "data.db", ROWS)
    datasette = make_datasette([str(path)], site=private())
    assert await statuses(datasette, PLAIN, "/data/docs.json", "/data.json") == [403, 200]
    run_job(path, CountingModel(), store=True)
    assert await statuses(datasette, PLAIN, "/data/embeddings.json") == [403]
    execute(path, "delete from collections", "delete from _embed_jobs")
    assert await statuses(datasette, PLAIN, "/data/embeddings.json") == [200]
    execute(path, "drop table embeddings", "drop table collections")
    assert await statuses(datasette, PLAIN, "/data/embeddings.json") == [404]


@pytest.mark.asyncio
async def test_holdings_of_a_settled_file_are_read_once(make_datasette, data, monkeypatch):
    """A file that has not changed is not read again; one that has is, at once."""
    datasette = make_datasette([str(data)], site=private())
    reads = []
    monkeypatch.setattr(
        visibility, "read_holdings", lambda conn, _: reads.append(1) or read_holdings(conn)
    )
    await visibility.holdings_of(datasette, "data")
    await visibility.holdings_of(datasette, "data")
    assert len(reads) == 2  # it was written a moment ago
    monkeypatch.setattr(visibility, "_SETTLED_SECONDS", -1.0)
    for _ in range(3):
        await visibility.holdings_of(datasette, "data")
    assert len(reads) == 3
    execute(data, "create view more as select content from embeddings")
    holdings = await visibility.holdings_of(datasette, "data")
    assert holdings.is_hidden("MORE")
    assert len(reads) == 4
    monkeypatch.setattr(visibility, "_KEPT_SECONDS", 0.0)
    await visibility.holdings_of(datasette, "data")
    assert len(reads) == 5


@pytest.mark.asyncio
async def test_holdings_of_an_immutable_file_are_read_once(make_datasette, data, monkeypatch):
    """Nobody promises more than that it does not change."""
    datasette = make_datasette([], immutables=[str(data)])
    first = await visibility.holdings_of(datasette, "data")
    monkeypatch.setattr(visibility, "read_holdings", None)
    assert await visibility.holdings_of(datasette, "data") is first
    assert first.rules == {Rule(Need.TABLE, "docs")}


@pytest.mark.asyncio
async def test_database_that_cannot_be_read_hides_everything(make_datasette, data, monkeypatch):
    """Locked, damaged, gone: nobody is shown what may be private, and SQL is closed."""
    datasette = make_datasette([str(data)])
    await get(datasette, "/data/nearby.json", ALLOWED)

    def fail(conn, public):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(visibility, "read_holdings", fail)
    hidden = await access.hidden_tables_of(datasette, ALLOWED, "data")
    assert hidden >= set(OURS)
    assert "docs" not in hidden
    assert await statuses(datasette, ALLOWED, "/data/nearby.json", SQL) == [403, 403]
    other = make_datasette([str(data)])
    assert "embeddings" in await access.hidden_tables_of(other, ROOT, "data")


# -- what costs money --------------------------------------------------------------


async def may(datasette, actor):
    """Return whether an actor may create, use the free model, use the paid one."""
    if IS_ONE:
        datasette.root_enabled = True
    await datasette.invoke_startup()
    return (
        await access.may_create(datasette, actor, "data"),
        await access.may_use_model(datasette, actor, "free"),
        await access.may_use_model(datasette, actor, "paid's"),
    )


@pytest.fixture
def two_models(add_plugin):
    """One model that costs nothing and one that does, with a quote in its id."""
    free, paid = CountingModel("free"), CountingModel("paid's")
    paid.price_per_million_tokens = 1.0
    add_plugin(ModelsPlugin((free, ()), (paid, ("alias",))))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"anonymous": "-f-", "bob": "-f-", "alice": "-f-", "root": "cfp"}),
        (
            {"allow_create": {"id": "alice"}, "allow": {"alias": {"id": "bob"}}},
            {"anonymous": "-f-", "bob": "-fp", "alice": "cf-", "root": "cfp"},
        ),
        (
            {"allow_create": True, "allow": {"paid's": False, "free": {"id": "alice"}}},
            {"anonymous": "c--", "bob": "c--", "alice": "cf-", "root": "cf-"},
        ),
    ],
)
async def test_actions_defaults(make_datasette, data, two_models, config, expected):
    """Create: root or allow_create. Use: what costs nothing, or as plugin config says."""
    datasette = make_datasette([str(data)], config=config)
    actors = {"anonymous": ANONYMOUS, "bob": PLAIN, "alice": ALLOWED, "root": ROOT}
    for name, actor in actors.items():
        answers = "".join(
            letter if is_yes else "-"
            for letter, is_yes in zip("cfp", await may(datasette, actor), strict=True)
        )
        assert answers == expected[name], name


@pytest.mark.asyncio
async def test_may_create_needs_to_view_the_database(make_datasette, data):
    """Nobody makes anything in a database that they may not see."""
    site = {"databases": {"data": {"allow": {"id": "alice"}}}}
    datasette = make_datasette([str(data)], config={"allow_create": True}, site=site)
    await datasette.invoke_startup()
    assert await access.may_create(datasette, ALLOWED, "data") is True
    assert await access.may_create(datasette, PLAIN, "data") is False


@pytest.mark.asyncio
@pytest.mark.skipif(IS_ONE, reason="a hook of 0.65")
async def test_actions_another_plugin_decides(make_datasette, data, two_models, add_plugin):
    """Our answer is only what counts when nobody else says anything."""

    class Decides:
        @hookimpl
        def permission_allowed(self, actor, action, resource):
            if action in ("embed-create", "embed-use-model"):
                return (actor or {}).get("id") == "bob"

    add_plugin(Decides())
    datasette = make_datasette([str(data)], config={"allow_create": {"id": "alice"}})
    assert await may(datasette, PLAIN) == (True, True, True)
    assert await may(datasette, ALLOWED) == (False, False, False)


@pytest.mark.asyncio
@pytest.mark.skipif(not IS_ONE, reason="permissions: is of 1.0")
async def test_actions_permissions_in_datasette_yaml_decide(make_datasette, data, two_models):
    """What the owner says in permissions: counts instead of plugin config."""
    permissions = {"embed-create": {"id": "bob"}, "embed-use-model": {"id": "bob"}}
    datasette = make_datasette(
        [str(data)], config={"allow_create": {"id": "alice"}}, site={"permissions": permissions}
    )
    assert await may(datasette, PLAIN) == (True, True, True)
    assert await may(datasette, ALLOWED) == (False, False, False)
    of_one = {"databases": {"data": {"permissions": {"embed-create": {"id": "bob"}}}}}
    datasette = make_datasette([str(data)], site=of_one)
    assert await may(datasette, PLAIN) == (True, True, False)


@pytest.mark.asyncio
@pytest.mark.skipif(not IS_ONE, reason="--default-deny and _r are of 1.0")
async def test_actions_default_deny_and_restricted_actors(make_datasette, data, two_models):
    """Under --default-deny only what config names is open; a token narrows what it has."""
    datasette = make_datasette(
        [str(data)], config={"allow": {"alias": {"id": "bob"}}}, default_deny=True
    )
    assert await may(datasette, PLAIN) == (False, False, True)
    datasette = make_datasette([str(data)])
    only_viewing = {**ROOT, "_r": {"a": ["view-database", "view-table", "view-instance"]}}
    assert await may(datasette, only_viewing) == (False, False, False)
    creating = {**ROOT, "_r": {"a": ["view-database", "embed-create"]}}
    assert await may(datasette, creating) == (True, False, False)


@pytest.mark.asyncio
@pytest.mark.skipif(not IS_ONE, reason="these pages are of 1.0")
@pytest.mark.parametrize(
    "path",
    [
        "/-/actions.json",
        "/-/permissions",
        "/-/allowed.json?action=embed-use-model",
        "/-/allowed.json?action=embed-create",
        "/-/allowed.json?action=view-table",
        "/-/rules.json?action=embed-use-model",
        "/-/rules.json?action=view-table",
        "/-/rules.json?action=execute-sql",
        "/-/check.json?action=embed-use-model&parent=free",
    ],
)
async def test_debug_pages_of_permissions_work(make_datasette, data, two_models, path):
    """Pages that list actions, resources and rules take ours like core's."""
    datasette = make_datasette([str(data)], config={"allow_create": True}, site=private())
    response = await get(datasette, path, ROOT)
    assert response.status_code == 200, response.text
    if path == "/-/actions.json":
        assert '"embed-create"' in response.text
        assert '"embed-use-model"' in response.text
    if "allowed" in path and "use-model" in path:
        parents = {item["parent"] for item in response.json()["items"]}
        assert {"free", "paid's"} <= parents


@pytest.mark.asyncio
@pytest.mark.skipif(IS_ONE, reason="the page of 0.65")
async def test_permissions_page_lists_ours(make_datasette, data, two_models):
    """/-/permissions of 0.65 shows checks on a model beside those on a table."""
    datasette = make_datasette([str(data)], site=private())
    await may(datasette, PLAIN)
    response = await get(datasette, "/-/permissions", ROOT)
    assert response.status_code == 200
    assert "embed-use-model" in response.text


@pytest.mark.asyncio
@pytest.mark.skipif(not IS_ONE, reason="0.65 cannot be asked about many tables at once")
@ACTORS
async def test_many_sources_are_asked_about_at_once(make_datasette, tmp_path, monkeypatch, actor):
    """With the same answer as one by one, and not one question for each of them."""
    path = tmp_path / "data.db"
    for name in ("docs", "Open", "shut", "odd_name"):
        make_docs(path, ROWS, name)
        run_job(path, CountingModel(), spec=SourceSpec(table=name, columns=("body",)), name=name)
    execute(path, "create view seen as select * from shut")
    rules = {Rule(Need.TABLE, name) for name in ("docs", "Open", "shut", "odd_name", "seen")}
    rules |= {Rule(Need.TABLE, "OPEN"), Rule(Need.TABLE, "gone"), Rule(Need.SQL)}
    tables = {"SHUT": PRIVATE, "odd_name": {"allow": False}, "docs": PRIVATE, "Open": {}}
    datasette = make_datasette([str(path)], site={"databases": {"data": {"tables": tables}}})
    await get(datasette, "/data")
    each = {rule for rule in rules if await visibility.meets(datasette, actor, "data", rule)}
    seen = [record.name for record in await access.visible_collections(datasette, actor, "data")]
    assert await visibility.met_at_once(datasette, actor, "data", rules) == set()
    monkeypatch.setattr(visibility, "_MANY_TABLES", 1)
    met = await visibility.met_at_once(datasette, actor, "data", rules)
    assert met <= each
    assert {rule.name for rule in each - met} <= {"", "OPEN", "gone"}  # in no catalog

    asked = []
    may_view_table = compat.may_view_table

    async def counted(datasette, actor, database, table):
        asked.append(table)
        return await may_view_table(datasette, actor, database, table)

    monkeypatch.setattr(compat, "may_view_table", counted)
    again = [record.name for record in await access.visible_collections(datasette, actor, "data")]
    assert again == seen == (["Open", *(["docs", "shut"] if is_trusted(actor) else [])])
    refused = {"docs", "shut", "odd_name"} - set(seen)
    assert set(asked) == refused
    verdict = await visibility.judge(datasette, actor, "data")
    assert verdict.is_hidden("embeddings")
