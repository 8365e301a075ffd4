"""Collections estimated, made and brought up to date over HTTP: who may, and from what."""

from __future__ import annotations

import asyncio
import threading

import pytest

from datasette_embed.database import sqlite3
from datasette_embed.web import making_api
from tests.api_site import (
    ANONYMOUS,
    AWKWARD,
    EDITOR,
    MAY_NOT_MAKE,
    MAY_NOT_SQL,
    PLAIN,
    ROOT,
    as_said_to,
    error_of,
    hidden_message,
    make_file,
)
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel

pytestmark = pytest.mark.asyncio
NEW, ESTIMATE = "/data/-/embed/new", "/data/-/embed/estimate"
POSTS = {"table": "posts", "model": "counting"}


class MoreModels(ModelsPlugin):
    """Beside the plugin of the fixture, which has the other name."""


def embed_tables(site):
    return site.rows("select name from sqlite_master where name like '%embed%' or name = 'x'")


async def test_estimate_says_what_it_takes_and_writes_nothing(api_site, counting_model):
    """Rows, tokens and disk; no table is made, no model is called."""
    response = await api_site.post(ESTIMATE, POSTS)
    assert response.status_code == 200, response.text
    answer = response.json()
    plan = answer.pop("plan")
    assert answer == {"ok": True, "database": "data", "collection": "posts", "model": "counting"}
    assert (plan["rows"], plan["missing"], plan["unchanged"]) == (3, 3, 0)
    # Words and two special tokens of each text: 5 + 4 + 5 and 6.
    assert plan["tokens"] == 20
    assert plan["cost_usd"] is None
    assert plan["is_up_to_date"] is False
    assert embed_tables(api_site) == []
    assert counting_model.calls == []


async def test_new_embeds_every_row(api_site, counting_model):
    """201 at once; the rows follow, with the name of who asked in the job."""
    response = await api_site.post(NEW, POSTS, EDITOR)
    assert response.status_code == 201, response.text
    answer = response.json()
    assert answer["collection"] == {
        "name": "posts",
        "database": "data",
        "model": "counting",
        "url": "/data/-/embed/c/posts.json",
        "similar_url": "/data/-/embed/c/posts/similar.json",
    }
    assert answer["job"]["collection"] == "posts"
    assert answer["job"]["action"] == "create"
    await api_site.settled()
    assert api_site.rows("select id, length(embedding), content from embeddings order by id") == [
        ("1", 32, None),
        ("2", 32, None),
        ("3", 32, None),
    ]
    assert sorted(counting_model.calls[0]) == [
        "a dog chases a ball",
        "cats sleep all day",
        "the tax return is due",
    ]
    assert api_site.rows("select status, actor, action from _embed_jobs") == [
        ("finished", "editor", "create")
    ]


async def test_new_takes_every_option(api_site, counting_model):
    """A template, a condition, another id, another name, stored text."""
    response = await api_site.post(
        NEW,
        {
            "table": "posts",
            "template": "{{ title }}: {{ body }}",
            "where": "id > 1",
            "id_columns": ["title"],
            "collection": "by title",
            "model": "count",
            "store": True,
        },
    )
    assert response.status_code == 201, response.text
    assert response.json()["collection"]["model"] == "counting"
    await api_site.settled()
    assert api_site.rows("select id, content from embeddings order by id") == [
        ("cats", "cats: cats sleep all day"),
        ("tax", "tax: the tax return is due"),
    ]


async def test_new_from_a_query_and_from_a_view(api_site):
    """Whatever has rows."""
    body = {"sql": "select title, body from posts", "collection": "q", "model": "counting"}
    assert (await api_site.post(NEW, body)).status_code == 201
    await api_site.settled()
    await api_site.make("recent")
    rows = api_site.rows(
        "select c.name, e.id from embeddings e join collections c"
        " on c.id = e.collection_id order by 1, 2"
    )
    assert rows == [
        ("q", "cats"),
        ("q", "dogs"),
        ("q", "tax"),
        ("recent", "1"),
        ("recent", "2"),
        ("recent", "3"),
    ]


async def test_new_awkward_names(api_site):
    """Of a table, of its rows and so of the collection."""
    answer = await api_site.make(AWKWARD)
    assert answer["collection"]["name"] == AWKWARD
    assert api_site.rows("select name from collections") == [(AWKWARD,)]
    assert api_site.rows("select id from embeddings") == [(AWKWARD,)]


async def test_new_again_embeds_only_what_is_missing(api_site, counting_model):
    """With the model the collection has, when none is named."""
    await api_site.make()
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("insert into posts values (4, 'new', 'a new row')")
    conn.close()
    response = await api_site.post(NEW, {"table": "posts"})
    assert response.status_code == 201, response.text
    assert response.json()["collection"]["model"] == "counting"
    await api_site.settled()
    assert counting_model.calls[1:] == [["a new row"]]
    assert api_site.rows("select count(*) from embeddings") == [(4,)]


async def test_new_into_another_database(make_api_site, tmp_path):
    """The vectors go there; the rows stay where they are and are read from there again."""
    site = make_api_site()
    other = make_file(tmp_path / "vectors.db", "create table x (y)")
    site.datasette.add_database(
        type(site.datasette.databases["data"])(site.datasette, path=str(other), is_mutable=True)
    )
    response = await site.post(NEW, {**POSTS, "into": "vectors"})
    assert response.status_code == 201, response.text
    assert response.json()["collection"]["database"] == "vectors"
    await site.settled()
    assert site.rows("select id from embeddings order by 1", path=other) == [("1",), ("2",), ("3",)]
    assert embed_tables(site) == []
    shown = (await site.get("/vectors/-/embed/c/posts.json", ROOT)).json()["collection"]
    assert shown["source"]["is_elsewhere"] is True
    rows = (await site.get("/vectors/-/embed/c/posts/similar.json?id=1", ROOT)).json()["rows"]
    assert {row["url"] for row in rows} == {"/data/posts/2", "/data/posts/3"}
    message = error_of(await site.post(NEW, {**POSTS, "into": "nope"}), 404)
    assert message == "'into': there is no database 'nope' that you may view"


@pytest.mark.parametrize("path", [NEW, ESTIMATE])
@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "Name a table or give 'sql', one of them"),
        ({"table": "posts", "sql": "select 1"}, 400, "Name a table or give 'sql'"),
        ({"sql": "select id, body from posts"}, 400, "Name the collection of the query"),
        ({"table": ["posts"]}, 400, "'table' must be a text"),
        ({"table": " "}, 400, "'table' must not be blank"),
        ({"table": "posts", "columns": "body"}, 400, "'columns' must be a list of texts"),
        (
            {"table": "posts", "columns": ["body"], "template": "{{ body }}"},
            400,
            "Give 'columns' or 'template', not both",
        ),
        ({"table": "posts", "columns": ["nope"]}, 400, "'columns': no column named 'nope'. Col"),
        ({"table": "posts", "id_columns": ["x"]}, 400, "'id_columns': no column named 'x'. Col"),
        ({"table": "posts", "template": "{{ x }}"}, 400, "'template': no column named 'x'. Col"),
        ({"table": "posts", "template": "no column"}, 400, "'template': the template names no {{"),
        ({"table": "posts", "where": "nope = 1"}, 400, "'where': no such column: nope"),
        ({"table": "posts", "where": "1) or (1"}, 400, "syntax error"),
        ({"table": "posts", "store": "yes"}, 400, "'store' must be true or false"),
        ({"table": "posts", "collection": ""}, 400, "'collection' must not be blank"),
        ({"table": "posts", "colums": ["a"]}, 400, "Unknown field 'colums'. Fields: table, sql"),
        ({"table": "posts", "model": "nope"}, 404, "Unknown model: nope. Known models: "),
        ({"table": "posts", "model": 1}, 400, "'model' must be a text"),
        ({"table": "nope"}, 404, "There is no table 'nope'. Tables and views: "),
        ({"table": "sqlite_master"}, 404, "There is no table 'sqlite_master'."),
        ({"table": "posts", "where": "id > 99"}, 400, "has no rows to embed"),
        (
            {"sql": "select body from posts", "collection": "q"},
            400,
            "'sql': the query returns one column",
        ),
        ({"sql": "delete from posts", "collection": "q"}, 400, "syntax error"),
        ({"sql": "select 1, 2; drop table posts", "collection": "q"}, 400, ""),
        ({"table": "posts", "collection": "a\udc00b"}, 400, "half a character"),
    ],
)
async def test_wrong_wish_refused_and_nothing_made(api_site, path, body, status, message):
    """Each mistake in words, before anything is written."""
    response = await api_site.post(path, {"model": "counting", **body})
    assert message in error_of(response, status)
    assert str(api_site.path) not in response.text
    assert embed_tables(api_site) == []
    assert api_site.rows("select count(*) from posts") == [(3,)]


@pytest.mark.parametrize("path", [NEW, ESTIMATE])
async def test_wrong_wish_is_said_without_the_command_line(api_site, path):
    """Fields have other names than options, and nobody deletes by a command over HTTP."""
    await api_site.make()
    body = {**POSTS, "columns": ["title"]}
    assert error_of(await api_site.post(path, body), 400) == (
        "'collection': 'posts' was made from something else. Choose another name, or delete that "
        "collection first"
    )
    body = {
        "table": "recent",
        "columns": ["id"],
        "id_columns": ["body"],
        "collection": "x",
        "model": "counting",
    }
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("insert into posts select id + 10, title, body from posts")
    conn.close()
    message = error_of(await api_site.post(path, body), 400)
    assert message.startswith("'id_columns': the ids are not unique: ")
    assert message.endswith("Name columns that tell the rows apart")


async def test_sync_of_what_nobody_knows_the_source_of_refused(api_site):
    """It says what to do here, not in a shell."""
    await api_site.make()
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("update _embed_collections set source = null")
    conn.close()
    message = error_of(await api_site.post("/data/-/embed/c/posts/sync", {}), 400)
    assert message == (
        "What 'posts' was made from is not known here: POST it to …/new once more, under the same "
        "name"
    )


@pytest.mark.parametrize("path", [NEW, ESTIMATE])
async def test_body_of_whoever_may_make_nothing_is_not_read(make_api_site, path):
    """Nor do they learn which databases there are."""
    site = make_api_site(databases={"data": {}, "hidden": {"allow": {"id": "root"}}})
    site.datasette.add_memory_database("hidden")
    for actor in (ANONYMOUS, PLAIN):
        for body in ({"into": "nope"}, {"into": "hidden"}, {"nonsense": 1}):
            response = await site.post(path, {**POSTS, **body}, actor)
            assert error_of(response, 403) == as_said_to(actor, MAY_NOT_MAKE)
        response = await site.ask("POST", path, actor, content=b"no JSON")
        assert error_of(response, 403) == as_said_to(actor, MAY_NOT_MAKE)
    for name in ("nope", "hidden"):
        message = error_of(await site.post(path, {**POSTS, "into": name}, EDITOR), 404)
        assert message == f"'into': there is no database '{name}' that you may view"


@pytest.mark.parametrize("allowed", ["data", "vectors"])
async def test_permission_it_takes_is_that_on_the_database_of_the_vectors(
    make_api_site, tmp_path, allowed
):
    """Whoever may make collections in the other database makes none there, nor reverse."""
    databases = {"data": {}, "vectors": {}}
    databases[allowed] = {"permissions": {"embed-create": {"id": "plain"}}}
    site = make_api_site(databases=databases, config={"allow_create": None})
    if not hasattr(site.datasette, "allowed"):
        pytest.skip("Datasette 0.65 has no such config")
    other = make_file(tmp_path / "vectors.db", "create table x (y)")
    site.datasette.add_database(
        type(site.datasette.databases["data"])(site.datasette, path=str(other), is_mutable=True)
    )
    await site.datasette.refresh_schemas()
    for into in ("data", "vectors"):
        response = await site.post(NEW, {**POSTS, "into": into}, PLAIN)
        if into == allowed:
            assert response.status_code == 201, response.text
        else:
            message = MAY_NOT_MAKE.replace("'data'", f"'{into}'")
            assert error_of(response, 403) == message
        await site.settled()
    has_them = "select 1 from sqlite_master where name = 'embeddings'"
    holders = [path for path in (site.path, other) if site.rows(has_them, path=path)]
    assert holders == [site.path if allowed == "data" else other]


@pytest.mark.parametrize("path", [NEW, ESTIMATE])
@pytest.mark.parametrize(
    ("actor", "table", "message"),
    [
        (ANONYMOUS, "posts", MAY_NOT_MAKE),
        (PLAIN, "posts", MAY_NOT_MAKE),
        (EDITOR, "posts", None),
        (EDITOR, "secrets", None),
        (ROOT, "secrets", None),
    ],
)
async def test_who_may_make_a_collection(api_site, path, actor, table, message):
    """Those the site says, and root; nobody else, whatever they may see."""
    response = await api_site.post(path, {**POSTS, "table": table}, actor)
    if message is None:
        assert response.status_code in (200, 201), response.text
    else:
        assert error_of(response, 403) == as_said_to(actor, message)
        assert embed_tables(api_site) == []


@pytest.mark.parametrize("path", [NEW, ESTIMATE])
async def test_making_from_what_one_may_not_view_refused(make_api_site, path):
    """Who may make collections may still not read every table, nor be told their names."""
    site = make_api_site(config={"allow_create": {"id": ["editor", "plain"]}})
    message = error_of(await site.post(path, {**POSTS, "table": "secrets"}, PLAIN), 403)
    assert message == "You may not view the table 'secrets' (view-table)"
    message = error_of(await site.post(path, {**POSTS, "table": "nope"}, PLAIN), 404)
    assert "posts" in message
    assert "secrets" not in message
    assert embed_tables(site) == []


@pytest.mark.parametrize("path", [NEW, ESTIMATE])
@pytest.mark.parametrize(
    "body",
    [
        {"sql": "select id, body from secrets", "collection": "q"},
        {"table": "posts", "where": "id in (select id from secrets)"},
    ],
)
async def test_making_with_sql_needs_execute_sql(make_api_site, path, body):
    """Raw SQL reads every table: it is for those who may run it anyway."""
    site = make_api_site(allow_sql={"id": "root"})
    message = error_of(await site.post(path, {**body, "model": "counting"}, EDITOR), 403)
    assert message == MAY_NOT_SQL
    assert embed_tables(site) == []
    assert (await site.post(path, {**body, "model": "counting"}, ROOT)).status_code in (200, 201)


async def test_making_over_a_hidden_collection_refused(make_api_site):
    """A name that is taken by what one may not see stays taken."""
    site = make_api_site(config={"allow_create": {"id": ["editor", "plain"]}})
    await site.make("secrets")
    body = {**POSTS, "collection": "secrets"}
    assert error_of(await site.post(NEW, body, PLAIN), 403) == hidden_message("secrets")
    assert site.rows("select count(*) from embeddings") == [(2,)]


async def test_model_that_is_closed_refused(make_api_site, add_plugin):
    """Making a collection spends money: the model must be one the actor may use."""
    paid = CountingModel("paid")
    paid.price_per_million_tokens, paid.is_local = 1_000_000.0, False
    add_plugin(MoreModels((paid, ())))
    site = make_api_site()
    for path in (NEW, ESTIMATE):
        message = error_of(await site.post(path, {**POSTS, "model": "paid"}, EDITOR), 403)
        assert message.startswith("You may not use the model paid here. Sign in")
    assert paid.calls == []
    assert embed_tables(site) == []
    plan = (await site.post(ESTIMATE, {**POSTS, "model": "paid"})).json()["plan"]
    assert plan["cost_usd"] == 20.0
    assert paid.calls == []
    await site.make(model="paid")
    assert paid.batch_sizes == [3]
    message = error_of(await site.post("/data/-/embed/c/posts/sync", {}, EDITOR), 403)
    assert message.startswith("You may not use the model paid here. Sign in")


async def test_new_with_another_model_is_a_conflict(api_site, add_plugin):
    """Vectors of two models cannot be compared."""
    other = CountingModel("other")
    add_plugin(MoreModels((other, ())))
    await api_site.make()
    message = error_of(await api_site.post(NEW, {"table": "posts", "model": "other"}), 409)
    assert "was made with counting, not other" in message
    assert other.calls == []


async def test_two_at_once_make_one(api_site, counting_model):
    """The other is told that there is a job; every row is there once, paid for once."""
    responses = await asyncio.gather(*(api_site.post(NEW, POSTS) for _ in range(4)))
    await api_site.settled()
    statuses = sorted(response.status_code for response in responses)
    assert statuses[0] == 201
    assert set(statuses) <= {201, 409}
    assert api_site.rows("select count(*) from collections") == [(1,)]
    assert api_site.rows("select count(*) from embeddings") == [(3,)]
    assert sum(counting_model.batch_sizes) == 3
    assert api_site.rows("select count(*) from _embed_jobs") == [(statuses.count(201),)]


async def test_sync_follows_the_rows(api_site, counting_model):
    """What changed is embedded, what is gone goes, unless it is to be kept."""
    await api_site.make()
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("update posts set body = 'changed' where id = 1")
        conn.execute("delete from posts where id = 2")
    conn.close()
    path = "/data/-/embed/c/posts/sync"
    response = await api_site.post(path, {"keep_removed": True}, EDITOR)
    assert response.status_code == 202, response.text
    assert response.json()["job"]["action"] == "sync"
    await api_site.settled()
    assert counting_model.calls[1:] == [["changed"]]
    assert api_site.rows("select id from embeddings order by id") == [("1",), ("2",), ("3",)]
    assert (await api_site.post(path, {}, EDITOR)).status_code == 202
    await api_site.settled()
    assert api_site.rows("select id from embeddings order by id") == [("1",), ("3",)]
    assert len(counting_model.calls) == 2


async def test_sync_while_a_job_runs_is_a_conflict(api_site, counting_model):
    """One job at a time; the running one is not disturbed."""
    await api_site.make()
    with api_site.running_job(counting_model):
        message = error_of(await api_site.post("/data/-/embed/c/posts/sync", {}), 409)
        assert message.startswith("Job 2 is running")
    await api_site.settled()
    assert api_site.rows("select id, status from _embed_jobs") == [
        (1, "finished"),
        (2, "finished"),
    ]


async def test_sync_wrong_requests_refused(api_site):
    """Another type, another field, another collection."""
    await api_site.make()
    path = "/data/-/embed/c/posts/sync"
    assert error_of(await api_site.post(path, {"keep_removed": 1}), 400) == (
        "'keep_removed' must be true or false"
    )
    assert error_of(await api_site.post(path, {"remove": True}), 400).startswith("Unknown field")
    message = error_of(await api_site.post("/data/-/embed/c/nope/sync", {}), 404)
    assert message.startswith("Collection 'nope' does not exist")
    assert api_site.rows("select count(*) from _embed_jobs") == [(1,)]


async def test_sync_of_a_condition_needs_execute_sql(make_api_site):
    """The SQL is the file's; still it is somebody's request that runs it."""
    site = make_api_site(allow_sql={"id": "root"})
    await site.make(where="id < 3")
    path = "/data/-/embed/c/posts/sync"
    assert error_of(await site.post(path, {}, EDITOR), 403).startswith("You may not run SQL")
    assert (await site.post(path, {}, ROOT)).status_code == 202
    await site.settled()


async def test_full_disk_is_507_and_leaves_nothing(api_site, monkeypatch):
    """Simulated: SQLite says so when the collection is written."""

    def full(*args, **options):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("datasette_embed.store.Store.create_collection", full)
    message = error_of(await api_site.post(NEW, POSTS), 507)
    assert message == "data: cannot be written: the disk is full"
    if embed_tables(api_site):
        assert api_site.rows("select count(*) from _embed_jobs") == [(0,)]
        assert api_site.rows("select count(*) from collections") == [(0,)]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            'title__in=["\\ud800"]',
            "'filters': 'title__in': a value holds the character NUL, or half",
        ),
        ("id__gt=99999999999999999999", "'filters': 'id__gt': a whole number is too large"),
        ("id=1&" * 51, "'filters': at most 50 filters"),
    ],
)
async def test_filters_that_cannot_be_carried_are_400(api_site, filters, message):
    """To programs as to the page, and nothing is written."""
    for path in (ESTIMATE, NEW):
        response = await api_site.post(path, {**POSTS, "filters": filters})
        assert error_of(response, 400).startswith(message)
    query = f"{NEW}.json?table=posts&{filters}"
    response = await api_site.get(query, ROOT)
    assert response.status_code in (200, 400)
    assert message.removeprefix("'filters': ") in response.text
    response = await api_site.get(query.replace(".json", ""), ROOT)
    assert response.status_code in (200, 400)
    assert embed_tables(api_site) == []


async def test_too_many_estimates_at_once_are_429(api_site, monkeypatch):
    """Reading whole tables does not take every thread there is."""
    monkeypatch.setattr(making_api, "_estimates", threading.BoundedSemaphore(1))
    with making_api._estimates:
        response = await api_site.post(ESTIMATE, POSTS)
        assert error_of(response, 429) == "Other sources are being estimated, retry in a moment"
        assert response.headers["retry-after"] == "5"
    assert (await api_site.post(ESTIMATE, POSTS)).status_code == 200
    assert (await api_site.post(ESTIMATE, {**POSTS, "columns": ["x"]})).status_code == 400
    assert (await api_site.post(ESTIMATE, POSTS)).status_code == 200
