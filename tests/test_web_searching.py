"""The search of a collection in a running Datasette: one matrix for all of its threads."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest
from datasette.database import Database

from datasette_embed.database import open_database, sqlite3
from datasette_embed.errors import CollectionNotFoundError, ModelMismatchError, SourceError
from datasette_embed.searching import shared as shared_module
from datasette_embed.store import Store
from datasette_embed.web.searching import find_file_key, matrices_of, nearest_in
from tests.storage import blob_of, execute, make_docs, query, run_job


@pytest.fixture
def path(tmp_path, counting_model):
    """Twenty rows and their collection."""
    path = make_docs(tmp_path / "db.db", [(n, f"t{n}") for n in range(20)])
    run_job(path, counting_model)
    return path


@pytest.fixture
def loads(monkeypatch):
    """Count how often vectors are read into memory."""
    counted = []
    load = shared_module.load
    monkeypatch.setattr(shared_module, "load", lambda *a: counted.append(1) or load(*a))
    return counted


def record_of(path, name="docs"):
    with closing(open_database(path)) as conn:
        return Store(conn).get_collection(name)


async def ids(datasette, path, content="t7", k=3, database="db", **options):
    """Return the ids found for the vector of a content."""
    found = await nearest_in(datasette, database, record_of(path), blob_of(content), k, **options)
    return [hit.entry_id for hit in found.hits]


@pytest.mark.asyncio
async def test_nearest_in_many_requests_read_once(make_datasette, path, loads):
    """Twelve at once on three threads: the vectors are read by the first."""
    datasette = make_datasette([path])
    found = await asyncio.gather(*(ids(datasette, path) for _ in range(12)))
    assert all(hits == found[0] for hits in found)
    assert found[0][0] == "7"
    assert (await ids(datasette, path, without="7"))[0] != "7"
    assert await ids(datasette, path, prefix="19") == ["19"]
    assert len(loads) == 1
    assert matrices_of(datasette).used_bytes > 20 * 32


@pytest.mark.asyncio
async def test_nearest_in_one_file_under_two_names_is_kept_once(make_datasette, path, loads):
    """A file is known by where it is, not by what Datasette calls it."""
    datasette = make_datasette([path])
    datasette.add_database(Database(datasette, path=str(path), is_mutable=True), name="again")
    assert await ids(datasette, path) == await ids(datasette, path, database="again")
    assert len(loads) == 1


@pytest.mark.asyncio
async def test_nearest_in_sees_what_another_program_writes(make_datasette, path, loads):
    """The next request finds it."""
    datasette = make_datasette([path])
    assert (await ids(datasette, path))[0] == "7"
    execute(path, "delete from embeddings where id = '7'")
    assert "7" not in await ids(datasette, path, k=20)
    assert len(loads) == 2


@pytest.mark.asyncio
async def test_nearest_in_setting_bounds_the_memory(make_datasette, path, loads):
    """With next to none the file is scanned."""
    datasette = make_datasette([path], config={"matrix_cache_bytes": 100})
    assert (await ids(datasette, path))[0] == "7"
    assert (len(loads), matrices_of(datasette).used_bytes) == (0, 0)


@pytest.mark.asyncio
async def test_nearest_in_immutable_file_is_kept(make_datasette, path, loads):
    """Without triggers too: the file cannot change."""
    names = [name for (name,) in query(path, "select name from sqlite_master where type='trigger'")]
    execute(path, *(f"drop trigger {name}" for name in names))
    datasette = make_datasette((), immutables=[path])
    for _ in range(2):
        assert (await ids(datasette, path))[0] == "7"
    assert len(loads) == 1


@pytest.mark.asyncio
async def test_nearest_in_database_in_memory(make_datasette, path, loads):
    """A named one is shared by all threads, and searched like a file."""
    datasette = make_datasette([path])
    memory = datasette.add_memory_database("nearest_in_test")
    with closing(sqlite3.connect(path)) as conn:
        script = "\n".join(conn.iterdump())
    await memory.execute_write_script(script)
    assert (await ids(datasette, path, database="nearest_in_test"))[0] == "7"
    assert len(loads) == 1
    unnamed = Database(datasette, is_memory=True)
    assert find_file_key(unnamed) is None


@pytest.mark.asyncio
async def test_nearest_in_collection_gone_or_remade(make_datasette, path, counting_model):
    """What was found a moment ago may be another collection by now."""
    datasette, record = make_datasette([path]), record_of(path)
    execute(path, "update collections set model = 'other'")
    with pytest.raises(ModelMismatchError, match="was made with other, not counting"):
        await nearest_in(datasette, "db", record, blob_of("x"), 3)
    execute(path, "delete from collections")
    with pytest.raises(CollectionNotFoundError, match="'docs' does not exist"):
        await nearest_in(datasette, "db", record, blob_of("x"), 3)


@pytest.mark.asyncio
async def test_nearest_in_damaged_file_says_so(make_datasette, path):
    """An error of ours, with the database's name and no path."""
    datasette, record = make_datasette([path]), record_of(path)
    content = bytearray(path.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match="^db: "):
        await nearest_in(datasette, "db", record, blob_of("x"), 3)
