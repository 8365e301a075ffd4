"""How vectors are shown in tables, in a real Datasette."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from datasette.app import Datasette

from datasette_embed.web import cells
from tests.fakes import vector_of
from tests.storage import execute, make_docs, query, run_job

IS_ONE = hasattr(Datasette, "allowed")


@pytest.fixture
def path(tmp_path, counting_model):
    """A table of two rows and its collection."""
    path = make_docs(tmp_path / "db.db", [(1, "one"), (2, "two")])
    run_job(path, counting_model)
    return path


async def shown(datasette, where="/db/embeddings", column="embedding"):
    """Return the cells of a column of a page, as text."""
    page = await datasette.client.get(where)
    assert page.status_code == 200
    found = re.findall(rf'<td class="col-{column}[ "][^>]*>(.*?)</td>', page.text, re.S)
    return [unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in found]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "where",
    [
        "/db/embeddings",
        "/db/embeddings?_labels=off",
        "/db/embeddings?collection_id=1",
        "/db/embeddings?_nocol=content",
    ],
)
async def test_embeddings_table_shows_vectors(make_datasette, path, where):
    """Labels of the collection or not."""
    assert await shown(make_datasette([path]), where) == ["vector, 8 dimensions"] * 2


@pytest.mark.asyncio
async def test_row_page_shows_the_vector(make_datasette, path):
    """And links to its bytes, as Datasette does."""
    datasette = make_datasette([path])
    assert await shown(datasette, "/db/embeddings/1,2") == ["vector, 8 dimensions"]
    page = (await datasette.client.get("/db/embeddings/1,2")).text
    link = re.search(r'<a class="blob-download" href="([^"]+)">vector', page)
    answer = await datasette.client.get(unescape(link.group(1)))
    [(blob,)] = query(path, "select embedding from embeddings where id = '2'")
    assert (answer.status_code, answer.content) == (200, blob)


@pytest.mark.asyncio
async def test_collection_of_llm_shows_vectors(make_datasette, path):
    """A file without our tables: its collections have vectors of one length."""
    execute(path, "drop table _embed_collections")
    assert await shown(make_datasette([path])) == ["vector, 8 dimensions"] * 2


@pytest.mark.asyncio
async def test_blob_of_another_length_is_left_to_datasette(make_datasette, path):
    """Damaged, or of no known collection: what it is nobody knows."""
    execute(
        path,
        "update embeddings set embedding = x'00112233' where id = '1'",
        "insert into embeddings (collection_id, id, embedding)"
        " select 77, id, embedding from embeddings where id = '2'",
    )
    assert await shown(make_datasette([path])) == [
        "<Binary:\xa04\xa0bytes>",
        "vector, 8 dimensions",
        "<Binary:\xa032\xa0bytes>",
    ]


@pytest.mark.asyncio
async def test_page_without_the_collection_is_left_to_datasette(make_datasette, path):
    """A row that does not name its collection says nothing about its blob."""
    names = "_col=embedding&_col=id" if IS_ONE else "_col=embedding"
    found = await shown(make_datasette([path]), f"/db/embeddings?{names}")
    # Datasette always shows the key, and with it the collection.
    assert found == ["vector, 8 dimensions"] * 2
    assert cells.render_vector(None, "db", "embeddings", "embedding", b"1234", {"id": 1}) is None


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("table", "column"), [("docs", "embedding"), ("other", "embedding"), ("embeddings", "content")]
)
async def test_other_columns_are_left_to_datasette(make_datasette, path, table, column):
    """Thirty-two bytes are no vector by themselves."""
    execute(
        path,
        "alter table docs add column embedding blob",
        "create table other (id integer primary key, collection_id integer, embedding blob)",
        "insert into other select rowid, 1, embedding from embeddings",
        "update docs set embedding = (select embedding from embeddings where id = docs.id)",
        "update embeddings set content = embedding",
    )
    found = await shown(make_datasette([path]), f"/db/{table}", column)
    assert found == ["<Binary:\xa032\xa0bytes>"] * 2


@pytest.mark.asyncio
async def test_table_of_ones_own_is_left_to_datasette(make_datasette, tmp_path):
    """A table that happens to be called embeddings."""
    path = tmp_path / "db.db"
    execute(
        path,
        "create table embeddings (id integer primary key, collection_id integer, embedding blob)",
        "insert into embeddings values (1, 1, zeroblob(32))",
    )
    assert await shown(make_datasette([path])) == ["<Binary:\xa032\xa0bytes>"]


@pytest.mark.asyncio
async def test_query_json_and_csv_are_unchanged(make_datasette, path):
    """Only the pages of tables change; programs get the bytes they always got."""
    datasette = make_datasette([path])
    page = "/db/-/query" if IS_ONE else "/db"
    sql = "select+collection_id,+id,+embedding+from+embeddings"
    assert "vector, 8" not in (await datasette.client.get(f"{page}?sql={sql}")).text
    rows = (await datasette.client.get("/db/embeddings.json?_shape=objects")).json()["rows"]
    assert rows[0]["embedding"]["$base64"] is True
    text = (await datasette.client.get("/db/embeddings.csv")).text
    assert "vector" not in text


@pytest.mark.asyncio
async def test_many_cells_ask_the_file_once(make_datasette, tmp_path, counting_model, monkeypatch):
    """A page of a hundred vectors costs one look at the collection."""
    path = make_docs(tmp_path / "db.db", [(n, f"t{n}") for n in range(120)])
    run_job(path, counting_model)
    asked, now = [], 100.0
    read = cells._read
    monkeypatch.setattr(cells, "_read", lambda *a, **k: asked.append(1) or read(*a, **k))
    monkeypatch.setattr(cells, "monotonic", lambda: now)
    datasette = make_datasette([path])
    assert len(await shown(datasette)) == 100
    assert len(asked) == 1
    now += cells.REMEMBERED_SECONDS
    await shown(datasette)
    assert len(asked) == 2


NEEDS_ONE = pytest.mark.skipif(not IS_ONE, reason="Datasette 0.65 has no column types")
VECTOR = vector_of("x", dimensions=4)


@pytest.fixture
def typed(tmp_path, make_datasette):
    """A site of 1.0 with a column declared as a vector."""
    path = tmp_path / "db.db"
    execute(
        path,
        "create table t (id integer primary key, v blob, plain blob)",
        "insert into t values (1, x'0000803f00000040', x'0000803f'), (2, null, null),"
        " (3, x'00', null), (4, x'0000c07f', null)",
    )

    def make(**options):
        column = {"type": "embedding", "config": options} if options else "embedding"
        tables = {"t": {"column_types": {"v": column}}}
        permissions = {"insert-row": True, "update-row": True}
        site = {"databases": {"db": {"tables": tables, "permissions": permissions}}}
        return make_datasette([path], site=site), path

    return make


@NEEDS_ONE
@pytest.mark.asyncio
async def test_column_type_page_and_json(typed):
    """In words on the page, as numbers in JSON; what is no vector stays what it is."""
    datasette, _ = typed()
    await datasette.invoke_startup()
    assert await shown(datasette, "/db/t", "v") == [
        "vector, 2 dimensions",
        "",
        "<Binary:\xa01\xa0byte>",
        "<Binary:\xa04\xa0bytes>",
    ]
    answer = await datasette.client.get("/db/t.json")
    rows = json.loads(answer.text, parse_constant=pytest.fail)["rows"]
    assert [row["v"] for row in rows[:2]] == [[1.0, 2.0], None]
    assert rows[2]["v"] == {"$base64": True, "encoded": "AA=="}
    assert rows[3]["v"]["$base64"] is True
    assert rows[0]["plain"]["$base64"] is True
    assert (await datasette.client.get("/db/t.csv")).status_code == 200


@NEEDS_ONE
@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"$base64": True, "encoded": "AACAPwAAAEA="}, None),
        (None, None),
        ({"$base64": True, "encoded": "AAA="}, "2 bytes are no vector"),
        ({"$base64": True, "encoded": ""}, "0 bytes are no vector"),
        ({"$base64": True, "encoded": "AACAPw=="}, "1 dimensions, this column holds 2"),
        ({"$base64": True, "encoded": "AADAfwAAAEA="}, "NaN or infinity"),
        ({"$base64": True, "encoded": "AAAAAAAAAAA="}, "the vector is zero"),
        ("text", "a vector is a BLOB of float32"),
        (5, "a vector is a BLOB of float32"),
    ],
)
async def test_column_type_refuses_what_is_no_vector(typed, value, problem):
    """With the column's name and what is wrong; nothing is written then."""
    datasette, path = typed(dimensions=2)
    await datasette.invoke_startup()
    token = datasette.create_token("a")
    if hasattr(token, "__await__"):
        token = await token
    answer = await datasette.client.post(
        "/db/t/-/insert",
        json={"row": {"id": 9, "v": value}},
        headers={"Authorization": f"Bearer {token}"},
    )
    written = query(path, "select v from t where id = 9")
    if problem is None:
        assert answer.status_code == 201, answer.text
        assert written == [(None if value is None else b"\0\0\x80\x3f\0\0\0\x40",)]
    else:
        assert answer.status_code == 400, answer.text
        assert answer.json()["errors"][0].startswith("v: ")
        assert problem in answer.json()["errors"][0]
        assert written == []
