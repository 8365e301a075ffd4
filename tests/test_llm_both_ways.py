"""One file, two programs: what LLM writes works here, and what is written here works in LLM.

Each test runs the real ``llm``, the newest and one that keeps its migrations in the older
form (``sqlite-migrate``), in environments of their own, without anything of ours.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from datasette_embed.collection import Collection
from datasette_embed.errors import UnknownModelError
from datasette_embed.schema import TRIGGERS
from tests.conftest import ModelsPlugin
from tests.demo_model import DIMENSIONS, Demo, vector_of
from tests.llm_environment import Llm, make_llm
from tests.storage import embed, execute, query, stored

pytestmark = pytest.mark.llm

ROOT = Path(__file__).parent.parent
#: The primary key of ``_sqlite_migrations``, which each version of LLM turns into its own.
NEW_KEY = {"id"}
OLD_KEY = {"migration_set", "name"}
TEXTS = {
    "wheat": "the price of wheat fell again",
    "cats": "a cat and a kitten asleep",
    "corn": "the price of corn rose again",
    "café": "ein Kätzchen schläft im Café",
    "7": "seven cats",
}
QUESTION = "the price of cats"
MIGRATIONS = {
    "m001_create_tables",
    "m002_foreign_key",
    "m003_add_updated",
    "m004_store_content_hash",
    "m005_add_content_blob",
}


@pytest.fixture(scope="module")
def llm_new(tmp_path_factory) -> Llm:
    return make_llm(tmp_path_factory.mktemp("llm") / "new", "0.36")


@pytest.fixture(scope="module")
def llm_old(tmp_path_factory) -> Llm:
    # It imports httpx without asking for it: openai once did.
    older = ("sqlite-utils<4", "sqlite-migrate==0.1b0", "httpx")
    return make_llm(tmp_path_factory.mktemp("llm") / "old", "0.27.1", *older)


@pytest.fixture(params=["new", "old"])
def llm(request) -> Llm:
    """Each version of LLM in turn."""
    return request.getfixturevalue(f"llm_{request.param}")


@pytest.fixture(autouse=True)
def demo(add_plugin) -> Demo:
    """The model of LLM's plugin, registered on our side too."""
    model = Demo()
    add_plugin(ModelsPlugin((model, ("dm",))))
    return model


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "embeddings.db"


def oracle(question: str, texts: dict[str, str]) -> list[tuple[str, float]]:
    """Return (id, cosine), best first, in plain Python."""

    def cosine(a, b):
        product = sum(x * y for x, y in zip(a, b, strict=True))
        return product / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5

    scores = {key: cosine(vector_of(text), vector_of(question)) for key, text in texts.items()}
    assert len(set(scores.values())) == len(scores), "LLM leaves the order of ties open"
    return sorted(scores.items(), key=lambda found: -found[1])


def assert_same(found, expected) -> None:
    """Compare ids in order, and scores."""
    assert [key for key, _ in found] == [key for key, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])


def check_everywhere(path: Path, texts: dict[str, str], *versions: Llm) -> None:
    """Search with every program; all give the oracle's answer."""
    expected = oracle(QUESTION, texts)
    for llm in versions:
        assert_same(llm.similar(path, "docs", "-c", QUESTION), expected)
        assert llm.collections(path) == {"docs": len(texts)}
    with Collection("docs", path) as ours:
        assert_same([(entry.id, entry.score) for entry in ours.similar(QUESTION)], expected)
        assert ours.count() == len(texts)
    lines = embed("similar", path, "docs", "-c", QUESTION).stdout.splitlines()
    assert_same([(found["id"], found["score"]) for found in map(json.loads, lines)], expected)


def write_ours(path: Path, texts: dict[str, str], **options) -> None:
    with Collection("docs", path, model_id="dm") as ours:
        ours.embed_multi(texts.items(), **options)


def blobs(texts: dict[str, str]) -> dict[str, bytes]:
    return {k: struct.pack(f"<{DIMENSIONS}f", *vector_of(v)) for k, v in texts.items()}


def rows_of(path: Path) -> list[tuple]:
    """Return all that LLM stores but the time, with SQLite's types."""
    return query(
        path,
        "select c.name, c.model, e.id, typeof(e.id), e.embedding, e.content, e.content_blob,"
        " e.content_hash, typeof(e.content_hash), e.metadata, typeof(e.updated)"
        " from embeddings e join collections c on c.id = e.collection_id order by e.id",
    )


def migrations_key(path: Path) -> set[str]:
    sql = "select name from pragma_table_info('_sqlite_migrations') where pk"
    return {row[0] for row in query(path, sql)}


def recorded(path: Path, migration_set: str = "llm.embeddings") -> set[str]:
    sql = "select name from _sqlite_migrations where migration_set = ?"
    return {row[0] for row in query(path, sql, (migration_set,))}


def generation(path: Path) -> int:
    sql = "select generation from _embed_generations where collection_id = 1"
    return query(path, sql)[0][0]


def triggers(path: Path) -> set[str]:
    return {row[0] for row in query(path, "select name from sqlite_master where type = 'trigger'")}


# What LLM has made


def test_collection_of_llm_is_listed_and_searched(llm, path):
    """Same order and scores by id, by text and by our commands; nothing is written."""
    llm.multi(path, "docs", TEXTS, "--store")
    before = path.read_bytes()
    check_everywhere(path, TEXTS)
    by_id = [(key, score) for key, score in oracle(TEXTS["wheat"], TEXTS) if key != "wheat"]
    assert_same(llm.similar(path, "docs", "wheat"), by_id)
    with Collection("docs", path) as ours:
        assert_same([(e.id, e.score) for e in ours.similar_by_id("wheat")], by_id)
        assert ours.similar_by_id("wheat", number=1)[0].content == TEXTS[by_id[0][0]]
    [listed] = json.loads(embed("collections", "list", path, "--json").stdout)
    assert (listed["name"], listed["model"]) == ("docs", "demo")
    assert (listed["num_embeddings"], listed["dimensions"]) == (len(TEXTS), DIMENSIONS)
    found = json.loads(embed("search", path, "docs", QUESTION, "--json").stdout)
    assert_same([(row["id"], row["score"]) for row in found], oracle(QUESTION, TEXTS))
    assert path.read_bytes() == before


def test_collection_of_llm_is_read_only_readable(llm, path):
    """A connection that cannot write is enough, and the file keeps every byte."""
    llm.multi(path, "docs", TEXTS)
    path.chmod(0o444)
    before = path.read_bytes()
    uri = f"file:{path}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as conn:
        ours = Collection("docs", conn, create=False)
        assert_same([(e.id, e.score) for e in ours.similar(QUESTION)], oracle(QUESTION, TEXTS))
        assert ours.count() == len(TEXTS)
    check_everywhere(path, TEXTS)
    embed("check", path)
    assert path.read_bytes() == before


def test_collection_of_llm_is_extended_and_embedded_again(llm, path, demo):
    """Unchanged texts cost nothing, changed ones are replaced, and LLM sees all of it."""
    llm.multi(path, "docs", TEXTS)
    changed = {**TEXTS, "cats": "two cats awake", "new": "a new text about cats"}
    write_ours(path, changed)
    assert sorted(demo.embedded) == ["a new text about cats", "two cats awake"]
    assert stored(path) == blobs(changed)
    check_everywhere(path, changed, llm)
    demo.embedded.clear()
    embed("text", "docs", "cats", "-c", "three cats", "-d", path)
    file = path.with_name("more.json")
    file.write_text(json.dumps([{"id": "more", "text": "more of the price"}]), "utf-8")
    embed("multi", "docs", file, "-d", path)
    assert demo.embedded == ["three cats", "more of the price"]
    check_everywhere(path, {**changed, "cats": "three cats", "more": "more of the price"}, llm)


def test_collection_of_llm_is_deleted_by_us(llm, path):
    """Its entries go with it, and LLM can make one of the same name."""
    llm.multi(path, "docs", TEXTS)
    llm.embed(path, "other", "a", "stays")
    with Collection("docs", path) as ours:
        ours.delete()
    assert llm.collections(path) == {"other": 1}
    assert query(path, "select count(*) from embeddings") == [(1,)]
    embed("collections", "delete", path, "other", "--yes")
    assert llm.collections(path) == {}
    llm.multi(path, "docs", TEXTS)
    check_everywhere(path, TEXTS, llm)


# What we have made


def test_our_collection_is_listed_and_searched_by_llm(llm, path):
    """LLM finds its tables and migrations as it would have made them."""
    write_ours(path, TEXTS, store=True)
    assert recorded(path) == MIGRATIONS
    check_everywhere(path, TEXTS, llm)
    assert recorded(path) == MIGRATIONS
    assert stored(path) == blobs(TEXTS)


def test_our_collection_is_extended_replaced_and_deleted_by_llm(llm, path, demo):
    """Our triggers let LLM write, count each of its writes, and clean up after it."""
    write_ours(path, TEXTS)
    seen = [generation(path)]
    with Collection("docs", path) as open_before:
        assert open_before.similar(QUESTION)  # whatever it remembers must be forgotten
        llm.embed(path, "docs", "new", "a new text about cats")
        seen.append(generation(path))
        llm.embed(path, "docs", "cats", "two cats awake")
        seen.append(generation(path))
        changed = {**TEXTS, "cats": "two cats awake", "new": "a new text about cats"}
        found = [(entry.id, entry.score) for entry in open_before.similar(QUESTION)]
        assert_same(found, oracle(QUESTION, changed))
    assert len(set(seen)) == 3
    assert seen == sorted(seen)
    check_everywhere(path, changed, llm)
    demo.embedded.clear()
    write_ours(path, changed)
    assert demo.embedded == []
    llm.run("collections", "delete", "docs", "-d", path)
    assert query(path, "select count(*) from embeddings") == [(0,)]
    for table in ("_embed_collections", "_embed_generations", "_embed_warnings"):
        assert query(path, f"select count(*) from {table}") == [(0,)]


def test_id_of_a_deleted_collection_used_again_brings_nothing_of_ours(llm, path):
    """SQLite hands the number on; what we knew of the old collection stays behind."""
    write_ours(path, TEXTS)
    llm.run("collections", "delete", "docs", "-d", path)
    llm.embed(path, "docs", "a", "one text")
    assert query(path, "select id, name from collections") == [(1, "docs")]
    described = json.loads(embed("collections", "show", path, "docs", "--json").stdout)
    assert described["num_embeddings"] == 1
    check_everywhere(path, {"a": "one text"}, llm)


def test_rows_of_both_are_the_same_bytes(llm, path, tmp_path):
    """Ids, vectors, contents, hashes and metadata, each of the same SQLite type."""
    (tmp_path / "bytes").write_bytes(b"\x00\xff cats")
    theirs, ours = path, tmp_path / "ours.db"
    llm.embed(theirs, "docs", "plain", "a plain text")
    llm.embed(theirs, "docs", "stored", "a störed text", "--store")
    llm.embed(theirs, "docs", "described", "text", "--metadata", '{"a": [1, "é"], "b": null}')
    llm.embed(theirs, "docs", "empty", "other text", "--metadata", "{}")
    llm.embed(theirs, "docs", "7", "seven")
    binary = ("-i", tmp_path / "bytes", "--binary", "--store", "-m", "demo", "-d", theirs)
    llm.run("embed", "docs", "binary", *binary)
    with Collection("docs", ours, model_id="demo") as collection:
        collection.embed("plain", "a plain text")
        collection.embed("stored", "a störed text", store=True)
        collection.embed("described", "text", {"a": [1, "é"], "b": None})
        collection.embed("empty", "other text", {})
        collection.embed(7, "seven")
        collection.embed("binary", b"\x00\xff cats", store=True)
    assert rows_of(ours) == rows_of(theirs)


def test_our_file_opens_read_only_in_new_llm(llm_new, path):
    """New LLM migrates nothing in it, so a file that cannot be written is searched."""
    write_ours(path, TEXTS)
    before = path.read_bytes()
    code = """
import json, sqlite3, sys
import llm, sqlite_utils
conn = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)
collection = llm.Collection("docs", sqlite_utils.Database(conn), create=False)
print(json.dumps([(entry.id, entry.score) for entry in collection.similar(sys.argv[2])]))
"""
    found = json.loads(llm_new.python(code, path, QUESTION))
    assert_same(found, oracle(QUESTION, TEXTS))
    assert path.read_bytes() == before
    llm_new.similar(path, "docs", "-c", QUESTION)
    assert path.read_bytes() == before


def test_collection_of_an_unknown_model_can_be_read_by_either(llm, path):
    """Who lacks the model lists and searches by id; only new texts need it."""
    with Collection("docs", path, model=type("Mine", (Demo,), {"model_id": "mine"})()) as ours:
        ours.embed_multi(TEXTS.items())
    by_id = [found for found in oracle(TEXTS["wheat"], TEXTS) if found[0] != "wheat"]
    assert_same(llm.similar(path, "docs", "wheat"), by_id)
    assert llm.collections(path) == {"docs": len(TEXTS)}
    with Collection("docs", path) as ours:
        assert_same([(e.id, e.score) for e in ours.similar_by_id("wheat")], by_id)
        with pytest.raises(UnknownModelError, match="Unknown model: mine"):
            ours.similar(QUESTION)


# Migrations


def test_old_and_new_form_of_the_migrations_table_are_kept(llm, path):
    """We write into the form that is there; LLM goes on with it."""
    llm.multi(path, "docs", TEXTS)
    expected = NEW_KEY if llm.version == "0.36" else OLD_KEY
    assert migrations_key(path) == expected
    more = {**TEXTS, "new": "a new text"}
    write_ours(path, more)
    assert migrations_key(path) == expected
    assert recorded(path) == MIGRATIONS
    assert recorded(path, "datasette_embed")
    check_everywhere(path, more, llm)


def test_three_programs_take_turns_without_loss(llm_new, llm_old, path):
    """Three rounds, each program adding and changing; LLM turns its table back and forth."""
    texts: dict[str, str] = {}
    for number in range(3):
        for llm, expected in ((llm_new, NEW_KEY), (llm_old, OLD_KEY)):
            added = {f"{llm}-{number}": f"text {number} of {llm}", "common": f"{llm} {number}"}
            llm.multi(path, "docs", added)
            texts |= added
            assert migrations_key(path) == expected
        added = {f"ours-{number}": f"our text {number}", "common": f"ours {number}"}
        write_ours(path, added)
        texts |= added
        assert stored(path) == blobs(texts)
        assert recorded(path) == MIGRATIONS
        assert triggers(path) == set(TRIGGERS)
        check_everywhere(path, texts, llm_new, llm_old)
    assert query(path, "pragma integrity_check") == [("ok",)]
    assert query(path, "pragma foreign_key_check") == []


def test_file_of_the_third_migration_gets_hashes(llm_new, path, demo):
    """A file from before hashes: our first write finishes it, and knows its texts again."""
    code = """
import sqlite_utils, sys
from llm.embeddings_migrations import embeddings_migrations
db = sqlite_utils.Database(sys.argv[1])
embeddings_migrations.apply(db, stop_before="m004_store_content_hash")
"""
    llm_new.python(code, path)
    assert recorded(path) == {"m001_create_tables", "m002_foreign_key", "m003_add_updated"}
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("insert into collections values (1, 'docs', 'demo')")
        vectors = blobs(TEXTS)
        for entry_id, text in TEXTS.items():
            content = None if entry_id == "7" else text
            conn.execute(
                "insert into embeddings (collection_id, id, embedding, content, updated)"
                " values (1, ?, ?, ?, 1)",
                (entry_id, vectors[entry_id], content),
            )
    check_everywhere(path, TEXTS)
    write_ours(path, {"wheat": TEXTS["wheat"], "new": "a new text"})
    assert demo.embedded[-1:] == ["a new text"]
    assert TEXTS["wheat"] not in demo.embedded
    hashes = dict(query(path, "select id, content_hash from embeddings"))
    for entry_id, text in {**TEXTS, "new": "a new text"}.items():
        if entry_id != "7":
            assert hashes[entry_id] == hashlib.md5(text.encode()).digest()
    assert recorded(path) == MIGRATIONS
    check_everywhere(path, {**TEXTS, "new": "a new text"}, llm_new)


def test_later_migrations_and_columns_of_llm_are_tolerated(llm_new, path):
    """What a future LLM adds is left alone."""
    llm_new.multi(path, "docs", TEXTS)
    execute(
        path,
        "alter table embeddings add column m006_new text default 'kept'",
        "insert into _sqlite_migrations (migration_set, name, applied_at)"
        " values ('llm.embeddings', 'm006_new', '')",
    )
    more = {**TEXTS, "new": "a new text"}
    write_ours(path, more)
    assert recorded(path) == MIGRATIONS | {"m006_new"}
    assert query(path, "select distinct m006_new from embeddings") == [("kept",)]
    check_everywhere(path, more, llm_new)


def test_triggers_dropped_by_a_table_rebuild_come_back(llm, path):
    """LLM's migrations rebuild the table without them: our next write makes them again."""
    write_ours(path, TEXTS)
    before = generation(path)
    code = "import sqlite_utils, sys; sqlite_utils.Database(sys.argv[1])['embeddings'].transform()"
    llm.python(code, path)
    on_collections = {name for name, sql in TRIGGERS.items() if "on collections" in sql}
    assert triggers(path) == on_collections
    llm.embed(path, "docs", "cats", "two cats awake")  # unseen by any trigger
    changed = {**TEXTS, "cats": "two cats awake", "new": "a new text"}
    write_ours(path, {"new": "a new text"})
    assert triggers(path) == set(TRIGGERS)
    assert generation(path) > before
    check_everywhere(path, changed, llm)


def test_vacuum_and_writer_without_recursive_triggers_are_survived(llm, path):
    """Row numbers change, and a plain REPLACE fires no deletion; answers stay right."""
    write_ours(path, TEXTS)
    row = query(path, "select * from embeddings where id = 'cats'")[0]
    blob = struct.pack(f"<{DIMENSIONS}f", *vector_of("two cats awake"))
    with Collection("docs", path) as ours:
        ours.similar(QUESTION)
        with closing(sqlite3.connect(path)) as conn, conn:
            marks = ", ".join("?" * len(row))
            changed_row = (*row[:2], blob, *row[3:])
            conn.execute(f"insert or replace into embeddings values ({marks})", changed_row)
        changed = {**TEXTS, "cats": "two cats awake"}
        assert_same([(e.id, e.score) for e in ours.similar(QUESTION)], oracle(QUESTION, changed))
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("vacuum")
    check_everywhere(path, changed, llm)


# Several at once

WRITER = """
import sys
from datasette_embed.collection import Collection
from tests.demo_model import Demo

worker = sys.argv[1]
print("ready", flush=True)
for line in sys.stdin:
    with Collection("docs", line.strip(), model=Demo()) as collection:
        for number in range(5):
            collection.embed(f"{worker}-{number}", f"text {number} of {worker}")
    print("done", flush=True)
"""


def test_four_processes_open_a_new_file_at_once(llm_new, tmp_path):
    """Whoever comes first makes the tables; every row of every process is there."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(number)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    texts = {f"{w}-{n}": f"text {n} of {w}" for w in range(4) for n in range(5)}
    try:
        assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 4
        for attempt in range(5):
            path = tmp_path / f"new-{attempt}.db"
            for worker in workers:
                worker.stdin.write(f"{path}\n")
                worker.stdin.flush()
            assert [worker.stdout.readline() for worker in workers] == ["done\n"] * 4
            assert stored(path) == blobs(texts)
            assert recorded(path) == MIGRATIONS
            assert query(path, "select count(*) from collections") == [(1,)]
        assert llm_new.collections(path) == {"docs": 20}
    finally:
        for worker in workers:
            worker.communicate(timeout=30)
    assert [worker.returncode for worker in workers] == [0] * 4
