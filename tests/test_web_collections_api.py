"""The collections of a site over HTTP: listed, shown, renamed, deleted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from datasette.database import Database
from datasette.utils import tilde_encode

from datasette_embed.database import open_database, sqlite3
from datasette_embed.store import Store
from datasette_embed.watches import Watches, WatchRecord
from tests.api_site import (
    ANONYMOUS,
    AWKWARD,
    EDITOR,
    MAY_NOT_MAKE,
    PLAIN,
    ROOT,
    as_said_to,
    error_of,
    hidden_message,
    make_file,
)

pytestmark = pytest.mark.asyncio
AWKWARD_URL = "a+b~27~22~2F~25~7E~2Ejson+~C3~A9"


def names_of(response):
    assert response.status_code == 200, response.text
    return [collection["name"] for collection in response.json()["collections"]]


async def test_list_says_what_each_collection_is(api_site):
    """Numbers of the file, and where to go on."""
    await api_site.make(store=True)
    response = await api_site.get("/data/-/embed.json")
    assert response.status_code == 200
    (collection,) = response.json()["collections"]
    assert collection.pop("created_at").startswith("20")
    assert collection == {
        "name": "posts",
        "database": "data",
        "model": "counting",
        "dimensions": 8,
        "metric": "cosine",
        "entries": 3,
        "stores_content": True,
        "is_rebuilding": False,
        "is_incomplete": False,
        "is_watched": False,
        "url": "/data/-/embed/c/posts.json",
        "similar_url": "/data/-/embed/c/posts/similar.json",
        "source": {
            "table": "posts",
            "sql": None,
            "has_sql": False,
            "columns": ["body"],
            "template": None,
            "image": None,
            "where": None,
            "has_where": False,
            "id_columns": [],
            "is_elsewhere": False,
        },
    }


@pytest.mark.parametrize(
    ("actor", "names"),
    [
        (ANONYMOUS, ["posts"]),
        (PLAIN, ["posts"]),
        (EDITOR, ["posts", "secrets"]),
        (ROOT, ["posts", "secrets"]),
    ],
)
async def test_list_follows_the_source(api_site, actor, names):
    """A collection of a private table is not named to whoever may not see the table."""
    await api_site.make()
    await api_site.make("secrets")
    assert names_of(await api_site.get("/data/-/embed.json", actor)) == names
    response = await api_site.get("/-/embed.json", actor)
    assert names_of(response) == names
    assert response.json()["unreadable"] == []
    may_create = (await api_site.get("/data/-/embed.json", actor)).json()["may_create"]
    assert may_create is (actor in (EDITOR, ROOT))


async def test_list_in_pages(api_site):
    """``next`` is what to ask for as ``after``; pages do not tell of hidden collections."""
    for table in ("posts", "secrets", "recent"):
        await api_site.make(table)
    page = (await api_site.get("/data/-/embed.json?number=1", PLAIN)).json()
    assert ([found["name"] for found in page["collections"]], page["next"]) == (["posts"], "posts")
    page = (await api_site.get("/data/-/embed.json?number=1&after=posts", PLAIN)).json()
    assert ([found["name"] for found in page["collections"]], page["next"]) == (["recent"], None)
    message = error_of(await api_site.get("/data/-/embed.json?number=0"), 400)
    assert message == "'number' must be a whole number from 1 to 1000"


async def test_list_says_what_is_watched(api_site):
    """Only what was set up on this machine: a watch that came with the file does nothing."""
    await api_site.make()
    conn = open_database(api_site.path, writable=True)
    try:
        watch = WatchRecord(1, "posts", "id", False, None, "2026-01-01")
        record = Store(conn).get_collection("posts")
        Watches(conn).write_watch(watch, record)
        (listed,) = (await api_site.get("/data/-/embed.json")).json()["collections"]
        assert listed["is_watched"] is True
        conn.execute("update _embed_watches set signature = 'made up'")
        (listed,) = (await api_site.get("/data/-/embed.json")).json()["collections"]
        assert listed["is_watched"] is False
    finally:
        conn.close()


async def test_list_of_a_file_without_collections_is_empty(api_site):
    """Nothing is made by looking."""
    assert names_of(await api_site.get("/data/-/embed.json")) == []
    assert names_of(await api_site.get("/-/embed.json")) == []
    tables = api_site.rows("select name from sqlite_master where name like '%embed%'")
    assert tables == []


async def test_list_of_an_unknown_or_private_database_refused(make_api_site):
    """As Datasette does: 404 and 403."""
    site = make_api_site(databases={"data": {"allow": {"id": "root"}}})
    assert error_of(await site.get("/nope/-/embed.json"), 404) == "There is no database 'nope'"
    assert error_of(await site.get("/data/-/embed.json"), 403) == (
        "You may not view the database 'data' (view-database). Signing in may help"
    )
    assert names_of(await site.get("/data/-/embed.json", ROOT)) == []
    assert names_of(await site.get("/-/embed.json")) == []


async def test_list_of_a_private_site_refused(make_api_site):
    """Nobody is told anything who may not see the site."""
    site = make_api_site(allow={"id": "root"})
    for path in ("/-/embed.json", "/data/-/embed.json", "/nope/-/embed.json", "/nope/-/embed/new"):
        assert error_of(
            await site.get(path) if "json" in path else await site.post(path, {}, None), 403
        ) == ("You may not view this site (view-instance). Signing in may help")
    assert (await site.get("/-/embed.json", ROOT)).status_code == 200


async def test_list_base_url_is_in_every_address(make_api_site):
    """A site may live below a path, and the addresses it gives work."""
    site = make_api_site(settings={"base_url": "/below/"})
    await site.make()
    # Datasette's own client puts the path before every address it is given.
    (collection,) = (await site.get("/-/embed.json")).json()["collections"]
    assert collection["url"] == "/below/data/-/embed/c/posts.json"
    similar = (await site.get("/data/-/embed/c/posts/similar.json?id=1&number=1")).json()
    assert similar["rows"][0]["url"].startswith("/below/data/posts/")


async def test_show_says_what_made_it(api_site):
    """The source as it was asked for; what is under way for those who may change it."""
    await api_site.make("posts", where="id < 3", template="{{ title }}: {{ body }}")
    shown = (await api_site.get("/data/-/embed/c/posts.json", ROOT)).json()
    assert shown["collection"]["entries"] == 2
    assert shown["collection"]["source"] == {
        "table": "posts",
        "sql": None,
        "has_sql": False,
        "columns": [],
        "template": "{{ title }}: {{ body }}",
        "image": None,
        "where": "id < 3",
        "has_where": True,
        "id_columns": [],
        "is_elsewhere": False,
    }
    assert shown["unfinished_job"] is None
    assert shown["urls"]["sync"] == "/data/-/embed/c/posts/sync"
    plain = (await api_site.get("/data/-/embed/c/posts.json", PLAIN)).json()
    assert "unfinished_job" not in plain
    listed = [
        (await api_site.get("/data/-/embed.json", actor)).json()["collections"]
        for actor in (ROOT, PLAIN)
    ]
    assert [each["newest_job"]["status"] for each in listed[0]] == ["finished"]
    assert [each for each in listed[1] if "newest_job" in each] == []
    assert "urls" not in plain


async def test_show_sql_only_to_those_who_may_execute_it(make_api_site):
    """A condition may say what nobody should read."""
    site = make_api_site(allow_sql={"id": "root"})
    await site.make("posts", where="id < 3")
    source = (await site.get("/data/-/embed/c/posts.json", PLAIN)).json()["collection"]["source"]
    assert (source["where"], source["has_where"]) == (None, True)
    source = (await site.get("/data/-/embed/c/posts.json", ROOT)).json()["collection"]["source"]
    assert (source["where"], source["has_where"]) == ("id < 3", True)


async def test_show_a_collection_of_a_query_needs_execute_sql(make_api_site):
    """Its rows are those of SQL."""
    site = make_api_site(allow_sql={"id": "root"})
    response = await site.post(
        "/data/-/embed/new",
        {"sql": "select id, body from posts", "collection": "q", "model": "counting"},
    )
    assert response.status_code == 201, response.text
    await site.settled()
    assert error_of(await site.get("/data/-/embed/c/q.json", PLAIN), 403) == hidden_message("q")
    source = (await site.get("/data/-/embed/c/q.json", ROOT)).json()["collection"]["source"]
    assert source["sql"] == "select id, body from posts"


async def test_show_unknown_lists_those_that_may_be_seen(api_site):
    """And no others."""
    await api_site.make()
    await api_site.make("secrets")
    message = error_of(await api_site.get("/data/-/embed/c/nope.json", PLAIN), 404)
    assert message == "Collection 'nope' does not exist. Collections in this file: posts"
    message = error_of(await api_site.get("/data/-/embed/c/nope.json", ROOT), 404)
    assert message.endswith(": posts, secrets")


async def test_show_hidden_is_403_and_says_nothing(api_site):
    """Neither its model nor its size."""
    await api_site.make("secrets")
    response = await api_site.get("/data/-/embed/c/secrets.json", PLAIN)
    assert error_of(response, 403) == hidden_message("secrets")
    assert "counting" not in response.text
    response = await api_site.get(
        "/data/-/embed/c/secrets.json", headers={"authorization": "Bearer x"}
    )
    assert error_of(response, 401).endswith(hidden_message("secrets"))


async def test_show_awkward_name_by_its_address(api_site):
    """Quotes, slashes, percent signs, '.json' and letters with accents: encoded both ways."""
    await api_site.make(AWKWARD)
    (listed,) = (await api_site.get("/data/-/embed.json")).json()["collections"]
    assert listed["url"] == f"/data/-/embed/c/{AWKWARD_URL}.json"
    shown = (await api_site.get(listed["url"])).json()["collection"]
    assert shown["name"] == AWKWARD
    percent = "a%20b%27%22%2F%25~.json%20%C3%A9"
    for dot in (".", "%2E"):
        response = await api_site.get(f"/data/-/embed/c/{percent.replace('.', dot)}.json")
        assert response.status_code == 200, response.text
    assert (await api_site.get("/data/-/embed/c/.json")).status_code == 404
    assert error_of(await api_site.get("/data/-/embed/c/~00.json"), 404).startswith("Collection")


async def test_rename_moves_the_collection(api_site):
    """Everywhere its name is kept, and nowhere twice."""
    await api_site.make()
    response = await api_site.post("/data/-/embed/c/posts/rename", {"name": AWKWARD})
    assert response.status_code == 200, response.text
    assert response.json()["collection"]["url"] == f"/data/-/embed/c/{AWKWARD_URL}.json"
    assert api_site.rows("select name from collections") == [(AWKWARD,)]
    assert api_site.rows("select name from _embed_collections") == [(AWKWARD,)]
    assert api_site.rows("select collection from _embed_jobs") == [(AWKWARD,)]
    assert (await api_site.get("/data/-/embed/c/posts.json")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "Give the new name as 'name'"),
        ({"name": " "}, 400, "'name' must not be blank"),
        ({"name": 5}, 400, "'name' must be a text"),
        ({"name": "a\0b"}, 400, "'name' must not hold the character NUL"),
        (
            {"name": "secrets"},
            400,
            "'name': there is a collection 'secrets' already, choose",
        ),
        ({"name": "a", "confirm": "posts"}, 400, "Unknown field 'confirm'. Fields: name"),
    ],
)
async def test_rename_to_what_cannot_be_refused(api_site, body, status, message):
    """And the name stays."""
    await api_site.make()
    await api_site.make("secrets")
    response = await api_site.post("/data/-/embed/c/posts/rename", body)
    assert message in error_of(response, status)
    assert api_site.rows("select name from collections order by 1") == [("posts",), ("secrets",)]


@pytest.mark.parametrize("name", ["a+b~7Ec", "a+b~c", "a~c", "50%", "a.b"])
async def test_show_name_by_both_ways_to_write_it(api_site, name):
    """What holds a % is decoded as a browser encodes it, what holds none as Datasette does."""
    await api_site.make(name=name)
    for encoded in {tilde_encode(name), quote(name)} - {"a~c"}:
        response = await api_site.get(f"/data/-/embed/c/{encoded}.json")
        assert response.status_code == 200, response.text
        assert response.json()["collection"]["name"] == name


async def test_rename_to_the_name_of_a_hidden_collection_refused(make_api_site):
    """Without a word about what has it."""
    site = make_api_site(config={"allow_create": {"id": ["editor", "plain"]}})
    await site.make()
    await site.make("secrets")
    response = await site.post("/data/-/embed/c/posts/rename", {"name": "secrets"}, PLAIN)
    message = "'name': this name cannot be used, choose another"
    assert error_of(response, 400) == message
    assert site.rows("select name from collections order by 1") == [("posts",), ("secrets",)]


async def test_unknown_parameter_refused(api_site):
    """A slip that nobody would notice; what begins with _ is somebody else's."""
    await api_site.make()
    for path, known in (
        ("/-/embed.json", "sort, sort_desc"),
        ("/data/-/embed.json", "number, after, sort, sort_desc"),
        ("/data/-/embed/jobs.json", "number, before, collection"),
        ("/data/-/embed/jobs/1.json", "number, after"),
    ):
        message = error_of(await api_site.get(f"{path}?limit=1", ROOT), 400)
        assert message == f"Unknown field 'limit'. Fields: {known}"
        assert (await api_site.get(f"{path}?_extra=1", ROOT)).status_code == 200
    path = "/data/-/embed/c/posts.json"  # where what is no parameter is a filter
    assert (await api_site.get(f"{path}?_extra=1", ROOT)).status_code == 200
    message = error_of(await api_site.get(f"{path}?limit=1", ROOT), 400)
    assert message == "'posts' has no column 'limit' to filter by"
    message = error_of(await api_site.get("/data/-/embed/c/posts/similar.json?id=1&k=5"), 400)
    assert message == "Unknown field 'k'. Fields: q, id, vector, image, number, prefix, min_score"


@pytest.mark.parametrize(
    "path", ["/-/embed/x", "/data/-/embed/c", "/data/-/embed/c/posts/x", "/nope/-/embed/x"]
)
async def test_unknown_address_is_json_404(api_site, path):
    """Not a page about a table named "-"; behind a slash Datasette goes on from there."""
    for method in ("GET", "POST"):
        response = await api_site.ask(method, path, None)
        assert error_of(response, 404).startswith("There is nothing at this address. /-/embed.json")
    response = await api_site.get(f"{path}/")
    assert (response.status_code, response.headers["location"]) == (302, path)


async def test_rename_while_its_job_runs_refused(api_site, counting_model):
    """The process that embeds knows it by its name."""
    await api_site.make()
    with api_site.running_job(counting_model):
        response = await api_site.post("/data/-/embed/c/posts/rename", {"name": "b"})
        assert "is running: rename the collection when it has ended" in error_of(response, 409)
    await api_site.settled()
    assert api_site.rows("select name from collections") == [("posts",)]


async def test_delete_needs_the_name_once_more(api_site):
    """A slip of the finger deletes nothing."""
    await api_site.make()
    for body in ({}, {"confirm": "post"}, {"confirm": None}):
        response = await api_site.post("/data/-/embed/c/posts/delete", body)
        assert error_of(response, 400) == "To delete the collection, give its name as 'confirm'"
    assert api_site.rows("select count(*) from embeddings") == [(3,)]
    response = await api_site.post("/data/-/embed/c/posts/delete", {"confirm": "posts"})
    assert response.status_code == 200
    assert response.json() == {"ok": True, "deleted": "posts", "entries": 3}
    assert api_site.rows("select count(*) from embeddings") == [(0,)]
    assert api_site.rows("select count(*) from collections") == [(0,)]
    assert api_site.rows("select count(*) from posts") == [(3,)]


@pytest.mark.parametrize("action", ["delete", "rename", "sync"])
@pytest.mark.parametrize(
    ("actor", "name", "message"),
    [
        (ANONYMOUS, "posts", MAY_NOT_MAKE),
        (PLAIN, "posts", MAY_NOT_MAKE),
        (PLAIN, "secrets", MAY_NOT_MAKE),
    ],
)
async def test_change_without_permission_refused(api_site, action, actor, name, message):
    """Before the body is even looked at, and nothing changes."""
    await api_site.make(name)
    before = api_site.rows("select count(*) from _embed_jobs")
    body = {"confirm": name, "name": "other"}
    response = await api_site.post(f"/data/-/embed/c/{name}/{action}", body, actor)
    assert error_of(response, 403) == as_said_to(actor, message)
    assert api_site.rows("select name from collections") == [(name,)]
    assert api_site.rows("select count(*) from _embed_jobs") == before


@pytest.mark.parametrize("action", ["delete", "rename", "sync"])
async def test_change_with_another_method_refused(api_site, action):
    """A link that somebody clicks changes nothing."""
    await api_site.make()
    for method in ("GET", "PUT"):
        response = await api_site.ask(method, f"/data/-/embed/c/posts/{action}", ROOT)
        assert error_of(response, 405) == f"{method} is not possible here, POST is"
    assert api_site.rows("select name from collections") == [("posts",)]


async def test_immutable_database_is_read_but_not_changed(make_api_site):
    """Its collections are there for everybody; every change is a 403 that says why."""
    writer = make_api_site()
    await writer.make()
    writer.stop()
    site = make_api_site(is_immutable=True)
    assert names_of(await site.get("/data/-/embed.json")) == ["posts"]
    for path, body in (
        ("c/posts/rename", {"name": "b"}),
        ("c/posts/delete", {"confirm": "posts"}),
        ("c/posts/sync", {}),
        ("new", {"table": "posts", "model": "counting"}),
    ):
        message = error_of(await site.post(f"/data/-/embed/{path}", body), 403)
        assert "immutable" in message
    assert site.rows("select name from collections") == [("posts",)]


async def test_database_that_vanishes_is_an_error_of_the_server(api_site):
    """The file is gone, or no database any more: said in words, without its path."""
    await api_site.make()
    api_site.path.unlink()
    response = await api_site.post("/data/-/embed/c/posts/delete", {"confirm": "posts"})
    # By a thread that had it open, or by one that had not.
    assert error_of(response, 500) in (
        "data: no such file",
        "data: cannot be opened: check the path and its permissions",
    )
    api_site.path.write_bytes(b"this is no database at all" * 100)
    response = await api_site.post("/data/-/embed/c/posts/delete", {"confirm": "posts"})
    assert error_of(response, 500) == "data: is not a SQLite database"


async def test_database_that_cannot_be_opened_hides_no_other(make_api_site, tmp_path):
    """The list of the site says which database it could not read."""
    site = make_api_site()
    await site.make()
    broken = site.datasette.add_database(
        Database(site.datasette, path=str(make_file(tmp_path / "broken.db", "create table t (x)")))
    )
    Path(broken.path).unlink()
    response = await site.get("/-/embed.json")
    assert names_of(response) == ["posts"]
    assert response.json()["unreadable"] == ["broken"]
    assert error_of(await site.get("/broken/-/embed.json"), 500).startswith("broken: ")


async def test_database_removed_from_the_site_is_404(api_site):
    """Whatever is left of it on the disk."""
    await api_site.make()
    api_site.datasette.remove_database("data")
    response = await api_site.get("/data/-/embed/c/posts.json")
    assert error_of(response, 404) == "There is no database 'data'"


async def test_database_that_is_locked_is_503(api_site, monkeypatch):
    """With the seconds to wait; nothing is half done."""
    monkeypatch.setattr("datasette_embed.database.BUSY_TIMEOUT_SECONDS", 0.01)
    await api_site.make()
    conn = sqlite3.connect(api_site.path, isolation_level=None)
    conn.execute("begin immediate")
    try:
        response = await api_site.post("/data/-/embed/c/posts/delete", {"confirm": "posts"})
        assert "is locked by another program" in error_of(response, 503)
        assert response.headers["retry-after"] == "5"
    finally:
        conn.close()
    assert api_site.rows("select count(*) from embeddings") == [(3,)]


async def test_requests_at_once_do_not_wait_for_each_other(api_site):
    """Nothing blocks the event loop: fifty lists come back, each right."""
    await api_site.make()
    responses = await asyncio.gather(
        *(api_site.get("/data/-/embed.json") for _ in range(50)),
    )
    assert {json.dumps(names_of(response)) for response in responses} == {'["posts"]'}
