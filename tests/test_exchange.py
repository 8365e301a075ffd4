"""Files of collections: what is written is read back, and what others wrote is checked."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import os
import struct
import tracemalloc
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datasette_embed.database import open_database, sqlite3
from datasette_embed.errors import (
    CollectionNotFoundError,
    MissingDependencyError,
    ModelMismatchError,
    OutdatedCollectionError,
    SourceError,
)
from datasette_embed.exchange import (
    FileFormat,
    TableRows,
    TableSpec,
    export_collection,
    format_of,
    import_rows,
    open_rows,
    replacing,
)
from datasette_embed.exchange import parquet as parquet_module
from datasette_embed.exchange.values import embedding_text
from datasette_embed.schema import ensure_schema
from tests.storage import execute, query

SELECT = (
    "select id, embedding, content, metadata, content_hash, content_blob from embeddings"
    " order by id"
)
#: Float32 numbers that a decimal text easily loses: the smallest, the largest, -0, neighbours
#: of 1, and one that needs nine digits.
HARD = [1e-45, 3.4028234663852886e38, -0.0, 1.0000001192092896, 0.99999994, 16777217.0, 0.1, -2.5]
FORMATS = [
    FileFormat.JSONL,
    FileFormat.CSV,
    FileFormat.NPY,
    pytest.param(FileFormat.PARQUET, marks=pytest.mark.parquet),
]


def packed(*numbers: float) -> bytes:
    """Return numbers as LLM stores them (struct, not our code)."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def md5(text: str) -> bytes:
    return hashlib.md5(text.encode()).digest()


ENTRIES = [
    ("1", packed(*HARD), "one", '{"a": 1, "b": ["x", null]}', md5("one"), None),
    ("a_%", packed(*range(8)), 'two\nlines, "quoted"\r\n', None, md5("two"), None),
    ("z", packed(*[0.5] * 8), None, None, None, None),
    ("zz blob", packed(*[2] * 8), None, None, md5("b"), b"\x00\xff\x01\n"),
    ("ü 雪 😀", packed(*[1] * 8), "ünï\u2028cødé 雪", '{"\\u00fc": "\\u96ea"}', md5("x"), None),
]


def make_collection(path: Path, entries=ENTRIES, *, name="docs", model="counting") -> Path:
    """Write a collection as LLM does, into a file with our tables."""
    with closing(open_database(path, writable=True, create=True)) as conn:
        ensure_schema(conn, str(path))
        conn.execute("begin")
        (collection_id,) = conn.execute(
            "insert into collections (name, model) values (?, ?) returning id", (name, model)
        ).fetchone()
        conn.executemany(
            "insert into embeddings (collection_id, id, embedding, content, metadata,"
            f" content_hash, content_blob) values ({collection_id}, ?, ?, ?, ?, ?, ?)",
            entries,
        )
        conn.execute("commit")
    return path


def export(db: Path, target, file_format=None, *, name="docs", **options):
    with closing(open_database(db)) as conn:
        return export_collection(
            conn, str(db), name, target, file_format or format_of(target), **options
        )


def load(db: Path, file: Path, model=None, *, name="docs", file_format=None, **options):
    with closing(open_rows(file, file_format or format_of(file))) as rows:
        return import_rows(str(db), name, rows, model, **options)


def load_table(db: Path, spec: TableSpec, model=None, *, source=None, name="docs", **options):
    with closing(open_database(source or db)) as conn:
        rows = TableRows(conn, str(source or db), spec)
        return import_rows(str(db), name, rows, model, **options)


def refused_import(tmp_path: Path, file: Path, match: str, model="m", error=SourceError) -> None:
    """Import a file that must be refused as a whole: nothing at all is made."""
    db = tmp_path / "refused.db"
    with pytest.raises(error, match=match):
        load(db, file, model)
    assert not db.exists()


def write_beside(matrix: Path, *objects) -> Path:
    """Write the lines that belong to a matrix."""
    return write_lines(matrix.with_name(f"{matrix.name}.jsonl"), *objects)


def read_beside(matrix: Path) -> list[dict]:
    """Return the objects of the lines that belong to a matrix."""
    lines = matrix.with_name(f"{matrix.name}.jsonl").read_text("utf-8").split("\n")
    assert lines.pop() == ""
    return [json.loads(line) for line in lines]


def write_lines(path: Path, *objects) -> Path:
    path.write_text("".join(json.dumps(fields) + "\n" for fields in objects), "utf-8")
    return path


def problems_of(db: Path, file: Path, model="m") -> list[str]:
    """Import a file; return what was said of the rows left out."""
    problems: list[str] = []
    counts = load(db, file, model, on_problem=lambda problem: problems.append(str(problem)))
    assert counts.bad == len(problems)
    return problems


# There and back


@pytest.mark.parametrize("file_format", FORMATS)
def test_round_trip_every_column_is_the_same(tmp_path, file_format):
    """Vectors to the bit, texts, metadata, hashes, blobs and ids of any script."""
    db = make_collection(tmp_path / "a.db")
    file = tmp_path / f"docs.{file_format}"
    assert export(db, file).entries == len(ENTRIES)
    other = tmp_path / "b.db"
    counts = load(other, file)
    assert (counts.written, counts.bad, counts.model_id) == (5, 0, "counting")
    assert query(other, SELECT) == query(db, SELECT) == ENTRIES
    assert query(other, "select name, model from collections") == [("docs", "counting")]
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("file_format", FORMATS)
def test_import_again_writes_nothing(tmp_path, file_format):
    """What is stored already is passed over, so that a killed import can be repeated."""
    db = make_collection(tmp_path / "a.db")
    file = tmp_path / f"docs.{file_format}"
    export(db, file)
    other = tmp_path / "b.db"
    load(other, file)
    before = query(other, "select * from _embed_generations")
    counts = load(other, file)
    assert (counts.written, counts.unchanged, counts.repeated) == (0, 5, 0)
    assert query(other, "select * from _embed_generations") == before


@pytest.mark.parametrize("file_format", FORMATS)
def test_round_trip_more_than_one_window(tmp_path, file_format):
    """Windows and row groups leave nothing out, and the progress reaches the end."""
    entries = [(f"{n:05}", packed(n, 1), None, None, None, None) for n in range(5_003)]
    db = make_collection(tmp_path / "a.db", entries)
    file = tmp_path / f"docs.{file_format}"
    done = []
    export(db, file, report=lambda count, total: done.append((count, total)))
    assert done[-1] == (5_003, 5_003)
    other = tmp_path / "b.db"
    with closing(open_rows(file, file_format)) as rows:
        counts = import_rows(str(other), "docs", rows)
        assert rows.position == rows.size
    assert counts.written == 5_003
    assert query(other, SELECT) == entries


@pytest.mark.parametrize("file_format", FORMATS)
def test_round_trip_empty_id(tmp_path, file_format):
    """LLM allows it, and so may a key of a table."""
    entries = [("", packed(1, 2), "x", None, md5("x"), None), ("a", packed(3, 4), *[None] * 4)]
    db = make_collection(tmp_path / "a.db", entries)
    file = tmp_path / f"docs.{file_format}"
    export(db, file)
    assert load(tmp_path / "b.db", file).written == 2
    assert query(tmp_path / "b.db", SELECT) == entries


def test_import_csv_of_another_tool_without_an_id_is_named(tmp_path):
    """An empty value is none there; rows without an id must not become one entry."""
    (tmp_path / "a.csv").write_text('id,embedding\n,"[1, 2]"\nb,"[1, 2]"\n')
    assert problems_of(tmp_path / "a.db", tmp_path / "a.csv") == ["line 2: has no id"]


@pytest.mark.parametrize("file_format", [FileFormat.JSONL, FileFormat.CSV, FileFormat.NPY])
def test_export_memory_does_not_grow_with_the_collection(tmp_path, file_format):
    """Four times the entries take the same memory."""
    blob = packed(*[0.25] * 64)
    peaks = []
    for count in (3_000, 12_000):
        entries = [(f"{n:05}", blob, "x" * 200, None, None, None) for n in range(count)]
        db = make_collection(tmp_path / f"{count}.db", entries)
        del entries
        tracemalloc.start()
        export(db, tmp_path / f"{count}.{file_format}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 9_000 * (len(blob) + 200) / 10


@pytest.mark.parametrize("file_format", [FileFormat.JSONL, FileFormat.CSV, FileFormat.NPY])
def test_reading_memory_does_not_grow_with_the_file(tmp_path, file_format):
    """Four times the rows take the same memory, texts and all."""
    blob, peaks = packed(*[0.25] * 8), []
    for count in (1_000, 4_000):
        entries = [(f"{n:05}", blob, "x" * 2_000, None, None, None) for n in range(count)]
        file = tmp_path / f"{count}.{file_format}"
        export(make_collection(tmp_path / f"{count}.db", entries), file)
        del entries
        tracemalloc.start()
        with closing(open_rows(file, file_format)) as rows:
            assert sum(len(row.content) for row in rows) == count * 2_000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Not a ratio: a peak of a few kilobytes is mostly what else ran meanwhile.
    assert peaks[1] - peaks[0] < 3_000 * 2_000 / 10


@pytest.mark.parquet
def test_parquet_memory_is_bounded_by_row_groups(tmp_path):
    """No row group has more rows than are exported at once, and none are read at once."""
    from pyarrow import parquet

    entries = [(f"{n:05}", packed(n, 1), None, None, None, None) for n in range(11_003)]
    file = tmp_path / "a.parquet"
    export(make_collection(tmp_path / "a.db", entries), file)
    with parquet.ParquetFile(file) as written:
        groups = [written.metadata.row_group(n) for n in range(written.num_row_groups)]
        assert [group.num_rows for group in groups] == [5_000, 5_000, 1_003]
    sizes = []
    with closing(open_rows(file, FileFormat.PARQUET)) as rows:
        batches = rows._file.iter_batches

        def counted(*arguments, **options):
            for batch in batches(*arguments, **options):
                sizes.append(batch.num_rows)
                yield batch

        rows._file = SimpleNamespace(iter_batches=counted, close=rows._file.close)
        assert sum(1 for _ in rows) == 11_003
    assert max(sizes) == 1_000


def test_embedding_text_gives_back_any_float32():
    """Random bit patterns, as decimals, become the same bits again."""
    patterns = np.random.default_rng(1).integers(0, 2**32, 20_000, dtype=np.uint32)
    numbers = patterns.view("<f4")
    blob = numbers[np.isfinite(numbers)].tobytes()
    parsed = json.loads(embedding_text(blob))
    assert struct.pack(f"<{len(parsed)}f", *parsed) == blob
    assert math.copysign(1, json.loads(embedding_text(packed(-0.0, 1)))[0]) == -1


def test_fingerprint_and_metric_travel_with_a_matrix(tmp_path):
    """Which version of the model it was is known afterwards too."""
    db = make_collection(tmp_path / "a.db")
    execute(
        db,
        "insert into _embed_collections (collection_id, name, model, fingerprint, dimensions,"
        " metric, created_at) values (1, 'docs', 'counting', 'counting@2', 8, 'dot', 'now')",
    )
    export(db, tmp_path / "docs.npy")
    load(tmp_path / "b.db", tmp_path / "docs.npy")
    rows = query(
        tmp_path / "b.db", "select name, fingerprint, dimensions, metric from _embed_collections"
    )
    assert rows == [("docs", "counting@2", 8, "dot")]
    execute(tmp_path / "b.db", "update _embed_collections set fingerprint = 'counting@3'")
    with pytest.raises(OutdatedCollectionError, match=r"counting@3, the file counting@2"):
        load(tmp_path / "b.db", tmp_path / "docs.npy")


# What is written, read by independent code


def test_export_jsonl_is_what_json_reads(tmp_path):
    """One object a line, with the names and values of the columns."""
    db = make_collection(tmp_path / "a.db")
    export(db, tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    found = [json.loads(line) for line in lines]
    assert [f["id"] for f in found] == [entry[0] for entry in ENTRIES]
    for fields, entry in zip(found, ENTRIES, strict=True):
        assert packed(*fields["embedding"]) == entry[1]
        assert fields["content"] == entry[2]
        assert fields["metadata"] == (json.loads(entry[3]) if entry[3] else None)
        assert fields["content_hash"] == (entry[4].hex() if entry[4] else None)
        assert fields["model"] == "counting"
    encoded = base64.b64encode(ENTRIES[3][5]).decode()
    assert found[3]["content_blob"] == {"$base64": True, "encoded": encoded}
    assert all("content_blob" not in fields for fields in found if fields["id"] != "zz blob")


def test_export_csv_is_what_csv_reads(tmp_path):
    """The same columns, the embedding as JSON."""
    db = make_collection(tmp_path / "a.db")
    export(db, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [packed(*json.loads(f["embedding"])) for f in found] == [e[1] for e in ENTRIES]
    assert [f["content"] for f in found] == [e[2] or "" for e in ENTRIES]
    assert [f["metadata"] for f in found] == [e[3] or "" for e in ENTRIES]
    assert base64.b64decode(found[3]["content_blob"]) == ENTRIES[3][5]


def test_export_npy_is_what_numpy_loads(tmp_path):
    """A float32 matrix without pickle, and its rows' names beside it."""
    db = make_collection(tmp_path / "a.db")
    export(db, tmp_path / "a.npy")
    matrix = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert (matrix.dtype, matrix.shape) == (np.dtype("<f4"), (5, 8))
    assert matrix.tobytes() == b"".join(entry[1] for entry in ENTRIES)
    said, *lines = read_beside(tmp_path / "a.npy")
    assert said == {
        "collection": "docs",
        "model": "counting",
        "dimensions": 8,
        "metric": "cosine",
        "fingerprint": None,
    }
    assert [line["id"] for line in lines] == [entry[0] for entry in ENTRIES]
    assert lines[0] == {
        "id": "1",
        "content": "one",
        "metadata": {"a": 1, "b": ["x", None]},
        "content_hash": md5("one").hex(),
    }
    assert lines[2] == {"id": "z"}


@pytest.mark.parquet
def test_export_parquet_is_what_pyarrow_reads(tmp_path):
    """Fixed lists of float32, and what is said of the whole in the schema."""
    import pyarrow as pa
    from pyarrow import parquet

    db = make_collection(tmp_path / "a.db")
    export(db, tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    assert [packed(*v) for v in table["embedding"].to_pylist()] == [e[1] for e in ENTRIES]
    assert table["content"].to_pylist() == [e[2] for e in ENTRIES]
    assert table["content_blob"].to_pylist() == [e[5] for e in ENTRIES]
    assert table.schema.metadata[b"model"] == b"counting"
    assert table.schema.metadata[b"dimensions"] == b"8"
    assert table.schema.metadata[b"metric"] == b"cosine"


# Exports that lack something, or cannot be


DAMAGED = [
    ("good", packed(1, 2), None, None, None, None),
    ("null", None, None, None, None, None),
    ("odd", b"12345", None, None, None, None),
    ("short", packed(1), None, None, None, None),
    ("text", "no vector", None, None, None, None),
    ("nan", packed(math.nan, 1), None, "no json", None, None),
    ("inf", packed(math.inf, 1), None, "[1]", None, None),
    ("good 2", packed(3, 4), None, None, None, None),
]


def test_export_unusable_vectors_are_null_and_counted(tmp_path):
    """What cannot be searched is in the file, without a vector, and said."""
    db = make_collection(tmp_path / "a.db", DAMAGED)
    counts = export(db, tmp_path / "a.jsonl")
    assert (counts.entries, counts.without_vector, counts.without_metadata) == (8, 6, 2)
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert {f["id"] for f in found if f["embedding"]} == {"good", "good 2"}
    assert problems_of(tmp_path / "b.db", tmp_path / "a.jsonl", None) == [
        f"line {n}: has no embedding" for n in (3, 4, 5, 6, 7, 8)
    ]
    export(db, tmp_path / "a.csv")
    assert len(problems_of(tmp_path / "c.db", tmp_path / "a.csv", "counting")) == 6


@pytest.mark.parquet
def test_export_parquet_unusable_vectors_are_null(tmp_path):
    """A list of fixed length can be missing."""
    db = make_collection(tmp_path / "a.db", DAMAGED)
    assert export(db, tmp_path / "a.parquet").without_vector == 6
    assert len(problems_of(tmp_path / "b.db", tmp_path / "a.parquet", None)) == 6


def test_export_npy_leaves_out_unusable_vectors(tmp_path):
    """A matrix has no gaps."""
    db = make_collection(tmp_path / "a.db", DAMAGED)
    counts = export(db, tmp_path / "a.npy")
    assert (counts.entries, counts.without_vector) == (2, 6)
    assert np.load(tmp_path / "a.npy").tolist() == [[1, 2], [3, 4]]
    assert [line["id"] for line in read_beside(tmp_path / "a.npy")[1:]] == ["good", "good 2"]


def test_export_file_of_an_old_llm(tmp_path):
    """Its table has no hash and no column for bytes; reading it changes nothing."""
    db = tmp_path / "a.db"
    execute(
        db,
        "create table collections (id integer primary key, name text, model text)",
        "create table embeddings (collection_id integer, id text, embedding blob, content text,"
        " metadata text, primary key (collection_id, id))",
        "insert into collections values (1, 'docs', 'm')",
        "insert into embeddings values (1, 'a', x'0000803f', 'text', null)",
    )
    before = db.read_bytes()
    export(db, tmp_path / "a.jsonl")
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {
        "id": "a",
        "embedding": [1],
        "content": "text",
        "metadata": None,
        "content_hash": None,
        "model": "m",
    }
    assert db.read_bytes() == before


def test_export_id_that_is_no_text_is_counted(tmp_path):
    """NULL and binary ids of a damaged file cannot be named in a text file."""
    entries = [("a", packed(1), *[None] * 4), (None, packed(1), *[None] * 4)]
    db = make_collection(tmp_path / "a.db", [*entries, (b"b", packed(1), *[None] * 4)])
    counts = export(db, tmp_path / "a.jsonl")
    assert (counts.entries, counts.without_id) == (1, 2)


def test_export_refused_nothing_is_written(tmp_path):
    """No such collection, no entries, two versions, no vector at all."""
    db = make_collection(tmp_path / "a.db", [])
    make_collection(db, [("x", None, *[None] * 4)], name="bare")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CollectionNotFoundError, match="Collections in this file: bare, docs"):
        export(db, tmp_path / "a.csv", name="nope")
    with pytest.raises(SourceError, match="collection 'docs' has no entries to export"):
        export(db, tmp_path / "a.csv")
    with pytest.raises(SourceError, match="no entry of 'bare' has a vector that can be used"):
        export(db, tmp_path / "a.npy", name="bare")
    with pytest.raises(SourceError, match="npy cannot be written to a pipe"):
        export(make_collection(tmp_path / "b.db"), io.BytesIO(), FileFormat.NPY)
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "b.db"]


def test_export_rebuilding_collection_refused(tmp_path):
    """Vectors of two versions are not mixed in a file."""
    db = make_collection(tmp_path / "a.db")
    execute(
        db,
        "insert into _embed_collections (collection_id, name, model, fingerprint, metric,"
        " rebuilding, created_at) values (1, 'docs', 'counting', 'c', 'cosine', 1, 'now')",
    )
    with pytest.raises(OutdatedCollectionError, match="only partly embedded"):
        export(db, tmp_path / "a.jsonl")
    export_file = write_lines(tmp_path / "b.jsonl", {"id": "1", "embedding": [1] * 8})
    with pytest.raises(OutdatedCollectionError, match="only partly embedded"):
        load(db, export_file, "counting")


def test_export_target_that_must_not_be_replaced(tmp_path):
    """A file that is there, a folder, a device and a missing folder are refused."""
    db = make_collection(tmp_path / "a.db")
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(SourceError, match=r"a\.csv: is there already: .* --overwrite"):
        export(db, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "mine"
    (tmp_path / "m.npy.jsonl").write_text("mine")
    with pytest.raises(SourceError, match=r"m\.npy\.jsonl: is there already"):
        export(db, tmp_path / "m.npy")
    assert not (tmp_path / "m.npy").exists()
    with pytest.raises(SourceError, match="is a directory, not a file"):
        export(db, tmp_path, FileFormat.CSV)
    with pytest.raises(SourceError, match="is no ordinary file"):
        export(db, Path(os.devnull), FileFormat.CSV, overwrite=True)
    with pytest.raises(SourceError, match="its folder does not exist"):
        export(db, tmp_path / "no" / "a.csv")
    export(db, tmp_path / "a.csv", overwrite=True)
    assert (tmp_path / "a.csv").read_text("utf-8").startswith("id,embedding,content,")


def test_export_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    """What is written first has another name, and goes when it is not finished."""
    db = make_collection(tmp_path / "a.db")
    (tmp_path / "a.npy").write_text("old")
    (tmp_path / "a.npy.jsonl").write_text("old")

    def stop(done, total):
        assert len([p for p in tmp_path.iterdir() if p.name.endswith(".part")]) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(db, tmp_path / "a.npy", overwrite=True, report=stop)
    full = OSError(28, "No space left on device")

    def fails(descriptor):
        raise full

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(SourceError, match="cannot be written: No space left on device"):
        export(db, tmp_path / "a.npy", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.db", "a.npy", "a.npy.jsonl"]
    assert (tmp_path / "a.npy").read_text() == (tmp_path / "a.npy.jsonl").read_text() == "old"


def test_export_stopped_between_two_files_mixes_no_names(tmp_path, monkeypatch):
    """A new matrix is never beside the names of an old one."""
    db = make_collection(tmp_path / "a.db")
    export(db, tmp_path / "a.npy")
    replace, replaced = os.replace, []

    def stops(source, target):
        if replaced:
            raise KeyboardInterrupt
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", stops)
    with pytest.raises(KeyboardInterrupt):
        export(db, tmp_path / "a.npy", overwrite=True)
    assert len(replaced) == 1
    refused_import(tmp_path, tmp_path / "a.npy", r"a\.npy\.jsonl: no such file")


CHANGES = {
    "deleted": ["delete from embeddings", "delete from collections"],
    "entry deleted": ["delete from embeddings where id = '00001'"],
    "entry added": ["insert into embeddings (collection_id, id) values (1, 'zz')"],
    "renamed": ["update collections set name = 'other'"],
    "another model": ["update collections set model = 'other'"],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("has_triggers", [True, False])
@pytest.mark.parametrize("file_format", FORMATS)
def test_export_collection_changed_meanwhile_refused(tmp_path, change, has_triggers, file_format):
    """Half of what was there is no collection: the old file stays."""
    entries = [(f"{n:05}", packed(n, 1), None, None, None, None) for n in range(1, 2_502)]
    db = make_collection(tmp_path / "a.db", entries)
    if not has_triggers:
        names = [n for (n,) in query(db, "select name from sqlite_master where type = 'trigger'")]
        execute(db, *(f"drop trigger {name}" for name in names))
        execute(db, "drop table _embed_generations")
    file = tmp_path / f"a.{file_format}"
    file.write_text("old")
    before = sorted(tmp_path.iterdir())
    done = []

    def change_it(count, total):
        if not done:
            execute(db, *change)
        done.append(count)

    with pytest.raises(SourceError, match="'docs' changed while it was exported: run it again"):
        export(db, file, overwrite=True, report=change_it)
    assert done
    assert sorted(tmp_path.iterdir()) == before
    assert file.read_text() == "old"


@pytest.mark.parametrize(
    "change",
    [
        ["update embeddings set embedding = x'0000803f00000000' where id = '00002'"],
        ["update _embed_collections set rebuilding = 1"],
    ],
)
def test_export_entries_embedded_anew_meanwhile_refused(tmp_path, change):
    """As many entries as before, of which some have a vector of another version."""
    entries = [(f"{n:05}", packed(n, 1), None, None, None, None) for n in range(1, 1_502)]
    db = make_collection(tmp_path / "a.db", entries)
    execute(
        db,
        "insert into _embed_collections (collection_id, name, model, fingerprint, metric,"
        " created_at) values (1, 'docs', 'counting', 'c', 'cosine', 'now')",
    )
    with pytest.raises(SourceError, match="changed while it was exported"):
        export(db, tmp_path / "a.csv", report=lambda done, total: execute(db, *change))
    assert not (tmp_path / "a.csv").exists()
    execute(db, "update _embed_collections set rebuilding = 0")
    assert export(db, tmp_path / "a.csv").entries == 1_501


def test_export_to_a_pipe_of_a_collection_changed_meanwhile_says_so(tmp_path):
    """What is written is written; whoever reads it must know."""
    db = make_collection(tmp_path / "a.db")
    with pytest.raises(SourceError, match="changed while it was exported"):
        export(
            db,
            io.BytesIO(),
            FileFormat.JSONL,
            report=lambda done, total: execute(db, "delete from embeddings where id = 'z'"),
        )


def test_export_other_collections_may_change_meanwhile(tmp_path):
    """Only the one that is exported counts."""
    db = make_collection(tmp_path / "a.db")
    change = "insert into embeddings (collection_id, id) values (2, 'x')"
    make_collection(db, ENTRIES, name="other")
    counts = export(db, tmp_path / "a.csv", report=lambda done, total: execute(db, change))
    assert counts.entries == len(ENTRIES)


def test_export_removes_what_a_killed_one_left(tmp_path, monkeypatch):
    """Of the same target and a process that is gone; everything else stays."""
    db = make_collection(tmp_path / "a.db")
    gone, alive, foreign = 4_000_001, 4_000_002, 4_000_003
    asked = []

    def kill(process_id, signal_number):
        assert signal_number == 0
        asked.append(process_id)
        if process_id == gone:
            raise ProcessLookupError
        if process_id == foreign:
            raise PermissionError
        if process_id > 2**31:
            raise OverflowError

    monkeypatch.setattr(os, "kill", kill)
    kept = [f".a+b.csv.{n}.part" for n in (alive, foreign, 10**30)]
    kept += [f".other.csv.{gone}.part", f".aab.csv.{gone}.part", f".a+b.csv.{gone}.partly"]
    kept += [f"a+b.csv.{gone}.part", ".a+b.csv.x.part"]
    left = tmp_path / f".a+b.csv.{gone}.part"
    for name in (*kept, left.name):
        (tmp_path / name).write_text("half")
    removed = []
    export(db, tmp_path / "a+b.csv", on_removed=removed.append)
    assert removed == [left]
    assert sorted(asked) == [gone, alive, foreign, 10**30]
    assert {p.name for p in tmp_path.iterdir()} == {*kept, "a.db", "a+b.csv"}


def test_export_on_windows_leaves_unfinished_files(tmp_path, monkeypatch):
    """``os.kill`` ends a process there, so that nobody can be asked."""
    monkeypatch.setattr(replacing, "_IS_WINDOWS", True)
    left = tmp_path / ".a.csv.4000001.part"
    left.write_text("half")
    export(make_collection(tmp_path / "a.db"), tmp_path / "a.csv")
    assert left.exists()


def test_export_zero_vectors_are_not_usable(tmp_path):
    """As a search and ``check`` see them."""
    entries = [("a", packed(0, 0), *[None] * 4), ("b", packed(-0.0, 1e-30), *[None] * 4)]
    db = make_collection(tmp_path / "a.db", entries)
    assert export(db, tmp_path / "a.jsonl").without_vector == 1
    export(db, tmp_path / "a.npy")
    assert [line["id"] for line in read_beside(tmp_path / "a.npy")[1:]] == ["b"]


def test_export_id_with_nul_keeps_what_is_stored_with_it(tmp_path):
    """SQLite's JSON functions would cut it; an export names it whole."""
    entries = [("a\0b", packed(1), "one", None, None, None), ("a", packed(2), "two", *[None] * 3)]
    db = make_collection(tmp_path / "a.db", entries)
    export(db, tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(f["id"], f["content"]) for f in lines] == [("a", "two"), ("a\0b", "one")]


def test_export_through_a_link_keeps_the_link(tmp_path):
    """The file it points to is replaced."""
    db = make_collection(tmp_path / "a.db")
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    export(db, tmp_path / "link.csv", overwrite=True)
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text("utf-8").startswith("id,")


# Files that others wrote


def test_import_minimal_files_of_other_tools(tmp_path):
    """An id and an embedding are enough, with the model said on the command line."""
    write_lines(tmp_path / "a.jsonl", {"id": 1, "embedding": [1, 2.5]})
    (tmp_path / "a.csv").write_text('id,embedding,title\n1,"[1, 2.5]",x\n')
    np.save(tmp_path / "a.npy", np.array([[1, 2.5]]))  # float64
    write_beside(tmp_path / "a.npy", {}, {"id": 1})
    for suffix in ("jsonl", "csv", "npy"):
        db = tmp_path / f"{suffix}.db"
        assert load(db, tmp_path / f"a.{suffix}", "their-model").written == 1
        assert query(db, SELECT) == [("1", packed(1, 2.5), None, None, None, None)]
        assert query(db, "select model from collections") == [("their-model",)]


def test_import_rows_of_llms_table_as_sqlite_utils_prints_them(tmp_path):
    """``sqlite-utils rows embeddings.db embeddings --nl``: bytes as base64 objects."""

    def printed(data: bytes) -> dict:
        return {"$base64": True, "encoded": base64.b64encode(data).decode()}

    file = write_lines(
        tmp_path / "a.jsonl",
        {
            "collection_id": 1,
            "id": "a",
            "embedding": printed(packed(1, 2)),
            "content": "x",
            "content_blob": None,
            "content_hash": printed(md5("y")),
            "metadata": '{"a":1}',
            "updated": 5,
        },
        {"id": "b", "embedding": printed(packed(1, 2, 3))},
        {"id": "c", "embedding": printed(packed(3, 4))},
    )
    db = tmp_path / "a.db"
    said = problems_of(db, file)
    assert said == ["line 2: has 3 dimensions where the collection has 2"]
    assert query(db, SELECT) == [
        ("a", packed(1, 2), "x", '{"a":1}', md5("y"), None),
        ("c", packed(3, 4), None, None, None, None),
    ]


def test_import_matrix_of_any_layout(tmp_path):
    """Big-endian, half precision and column by column are converted."""
    numbers = [[1, 2, 3], [4, 5, 6]]
    write_beside(tmp_path / "a.npy", {"model": "m"}, {"id": "a"}, {"id": "b"})
    for number, matrix in enumerate(
        (
            np.array(numbers, ">f4"),
            np.array(numbers, np.float16),
            np.asfortranarray(np.array(numbers, np.float32)),
        )
    ):
        np.save(tmp_path / "a.npy", matrix)
        load(tmp_path / f"{number}.db", tmp_path / "a.npy")
        stored = [row[1] for row in query(tmp_path / f"{number}.db", SELECT)]
        assert stored == [packed(1, 2, 3), packed(4, 5, 6)]


@pytest.mark.parquet
def test_import_parquet_of_other_tools(tmp_path):
    """Lists of doubles, whole numbers as ids, metadata as a struct, the model said."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(
        {
            "id": pa.array([1, 2]),
            "embedding": pa.array([[1.0, 2.0], [3.0, None]], pa.list_(pa.float64())),
            "metadata": pa.array([{"a": 1}, None]),
            "extra": pa.array([1, 2]),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    problems = problems_of(tmp_path / "a.db", tmp_path / "a.parquet")
    assert len(problems) == 1
    assert problems[0].startswith("row 2: its embedding cannot be used: NaN")
    assert query(tmp_path / "a.db", SELECT) == [("1", packed(1, 2), None, '{"a": 1}', None, None)]


@pytest.mark.parquet
def test_import_parquet_that_cannot_be_read(tmp_path):
    """No Parquet, cut short, or without the columns."""
    import pyarrow as pa
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    file.write_bytes(b"no parquet at all")
    refused_import(tmp_path, file, "is no Parquet file, or is cut short")
    parquet.write_table(pa.table({"id": [1], "vector": [[1.0]]}), file)
    refused_import(tmp_path, file, "has no column named 'embedding'. Columns: id, vector")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    """The message ends with the command that installs it; nothing is made."""

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(parquet_module.importlib, "import_module", absent)
    db = make_collection(tmp_path / "a.db")
    match = r"pyarrow is not installed. Run: pip install 'datasette-embed\[parquet\]'"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(MissingDependencyError, match=match):
        export(db, tmp_path / "a.parquet")
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    refused_import(tmp_path, tmp_path / "b.parquet", match, error=MissingDependencyError)


def test_import_content_without_hash_gets_the_hash_of_llm(tmp_path):
    """So that embedding the same content later costs nothing; a given hash is kept."""
    write_lines(
        tmp_path / "a.jsonl",
        {"id": "a", "embedding": [1], "content": "héllo"},
        {"id": "b", "embedding": [1], "content": "x", "content_hash": "00" * 16},
        {"id": "c", "embedding": [1], "content_blob": base64.b64encode(b"\xff").decode()},
    )
    load(tmp_path / "a.db", tmp_path / "a.jsonl", "m")
    assert query(tmp_path / "a.db", "select id, content_hash from embeddings") == [
        ("a", md5("héllo")),
        ("b", bytes(16)),
        ("c", hashlib.md5(b"\xff").digest()),
    ]


# Rows that cannot be imported


BAD_LINES = [
    (b"{", "is no JSON: "),
    (b"[1, 2]", "is no JSON object"),
    (b"\xff", "is not UTF-8"),
    (b"[" * 100_000, "is no JSON that can be read"),
    (b'{"embedding": [1, 2]}', "has no id"),
    (b'{"id": true, "embedding": [1, 2]}', "its id is neither text nor a number"),
    (b'{"id": ["a"], "embedding": [1, 2]}', "its id is neither text nor a number"),
    (b'{"id": "a\\u0000b", "embedding": [1, 2]}', "its id holds NUL or half a character"),
    (b'{"id": "\\ud800", "embedding": [1, 2]}', "its id holds NUL or half a character"),
    (b'{"id": "a"}', "has no embedding"),
    (b'{"id": "a", "embedding": []}', "its embedding cannot be used: "),
    (b'{"id": "a", "embedding": {"x": 1}}', "its embedding cannot be read as base64"),
    (b'{"id": "a", "embedding": ["1", "2"]}', "its embedding cannot be used: "),
    (b'{"id": "a", "embedding": [1, null]}', "its embedding cannot be used: "),
    (b'{"id": "a", "embedding": [NaN, 1]}', "its embedding cannot be used: NaN"),
    (b'{"id": "a", "embedding": [1e39, 1]}', "its embedding cannot be used: NaN"),
    (b'{"id": "a", "embedding": [0, 0]}', "its embedding cannot be used: it is zero"),
    (b'{"id": "a", "embedding": "x"}', "its embedding is no JSON array"),
    (b'{"id": "a", "embedding": [1, 2, 3]}', "has 3 dimensions where the collection has 2"),
    (b'{"id": "a", "embedding": [1, 2], "content": 5}', "its content is not text"),
    (b'{"id": "a", "embedding": [1, 2], "metadata": [1]}', "its metadata is no JSON object"),
    (b'{"id": "a", "embedding": [1, 2], "metadata": {"x": NaN}}', "its metadata is no JSON"),
    (b'{"id": "a", "embedding": [1, 2], "content_hash": "zz"}', "its content_hash is no hex"),
    (
        b'{"id": "a", "embedding": [1, 2], "content_hash": 5}',
        "its content_hash cannot be read as base64",
    ),
    (b'{"id": "a", "embedding": [1, 2], "content_hash": "00"}', "its content_hash has 1 bytes"),
    (
        b'{"id": "a", "embedding": [1, 2], "content_blob": "?"}',
        "its content_blob cannot be read as base64",
    ),
    (
        b'{"id": "a", "embedding": [1, 2], "content": "", "content_blob": "AA=="}',
        "has both content and content_blob",
    ),
    (b'{"id": "a", "embedding": [1, 2], "model": "n"}', "made with another model than m"),
]


def test_import_bad_lines_are_named_and_the_rest_goes_on(tmp_path):
    """Every line that is wrong has its number and reason, and quotes nothing of it."""
    good = b'{"id": "good %d", "embedding": [1, 2], "model": "m"}'
    lines = [line for n, (bad, _) in enumerate(BAD_LINES) for line in (bad, good % n)]
    # An odd first row does not decide how long the vectors are.
    lines.insert(0, b'\xef\xbb\xbf{"id": "first", "embedding": [1, 2, 3], "model": "m"}')
    (tmp_path / "a.jsonl").write_bytes(b"\r\n\n".join(lines))
    said = problems_of(tmp_path / "a.db", tmp_path / "a.jsonl", None)
    expected = ["has 3 dimensions where the collection has 2", *(why for _, why in BAD_LINES)]
    numbers = [1, *(3 + 4 * n for n in range(len(BAD_LINES)))]
    assert len(said) == len(expected)
    for problem, number, reason in zip(said, numbers, expected, strict=True):
        assert problem.startswith(f"line {number}: {reason}")
    rows = query(tmp_path / "a.db", "select count(*), min(length(embedding)) from embeddings")
    assert rows == [(len(BAD_LINES), 8)]


def test_import_bad_csv_rows_are_named(tmp_path):
    """The line where a row begins, though a value has several lines."""
    (tmp_path / "a.csv").write_bytes(
        b"\xef\xbb\xbfid,embedding,content\r\n"
        b'1,"[1, 2]","two\r\nlines"\r\n'
        b'2,"[1, 2]"\r\n'
        b'3,"[1, 2",x\r\n'
        b'4,"[1, 2]",\xff\r\n'
        b"\r\n"
        b'5,"[1, 2]",' + b"y" * 200_000 + b"\r\n"
    )
    assert problems_of(tmp_path / "a.db", tmp_path / "a.csv") == [
        "line 4: has 2 values where the header has 3 columns",
        "line 5: its embedding is no JSON array",
        "line 6: its content is not UTF-8",
    ]
    assert query(tmp_path / "a.db", "select id, content from embeddings") == [
        ("1", "two\r\nlines"),
        ("5", "y" * 200_000),
    ]
    assert csv.field_size_limit() == 131_072


def test_import_repeated_ids_the_last_one_counts(tmp_path):
    """In one window and across two, and 1 is the same id as '1'."""
    rows = [{"id": f"{n}", "embedding": [n, 1]} for n in range(1_500)]
    rows += [{"id": 5, "embedding": [7, 7]}, {"id": "1499", "embedding": [8, 8]}]
    counts = load(tmp_path / "a.db", write_lines(tmp_path / "a.jsonl", *rows), "m")
    assert (counts.repeated, counts.bad) == (2, 0)
    found = dict(query(tmp_path / "a.db", "select id, embedding from embeddings"))
    assert len(found) == 1_500
    assert (found["5"], found["1499"]) == (packed(7, 7), packed(8, 8))


# Files that cannot be imported as a whole


def test_import_file_without_any_good_row_makes_nothing(tmp_path):
    """Neither a collection nor tables nor a file."""
    file = write_lines(tmp_path / "a.jsonl", {"id": "a"}, {"id": "b"})
    refused_import(tmp_path, file, "no row can be imported: line 1: has no embedding")
    db = make_collection(tmp_path / "b.db", [])
    before = db.read_bytes()
    with pytest.raises(SourceError, match="no row can be imported"):
        load(db, file, "m", name="other")
    assert db.read_bytes() == before


def test_import_file_that_is_none(tmp_path):
    """Missing, a folder, empty, blank, of no known name."""
    refused_import(tmp_path, tmp_path / "no.jsonl", "no such file")
    (tmp_path / "dir.csv").mkdir()
    refused_import(tmp_path, tmp_path / "dir.csv", "is a directory, not a file")
    for suffix in ("jsonl", "csv", "npy", "parquet"):
        (tmp_path / f"empty.{suffix}").write_bytes(b"")
        refused_import(tmp_path, tmp_path / f"empty.{suffix}", "is empty")
    (tmp_path / "blank.jsonl").write_bytes(b"\n \n")
    refused_import(tmp_path, tmp_path / "blank.jsonl", "holds no rows")
    (tmp_path / "header.csv").write_text("id,embedding\n")
    refused_import(tmp_path, tmp_path / "header.csv", "holds no rows")
    match = "does not say its format: --format jsonl, csv, npy, parquet"
    with pytest.raises(SourceError, match=match):
        format_of(tmp_path / "a.json")


def test_import_csv_that_is_none(tmp_path):
    """Columns that are missing or there twice, and a quote that never ends."""
    file = tmp_path / "a.csv"
    file.write_text("id,vector\n1,2\n")
    refused_import(tmp_path, file, "has no column named 'embedding'. Columns: id, vector")
    file.write_text("id,embedding,id\n1,2,3\n")
    refused_import(tmp_path, file, "has two columns named 'id'")
    file.write_text("\n")
    refused_import(tmp_path, file, "is empty")


def test_import_matrix_that_is_none(tmp_path):
    """Another dtype, one dimension, no numpy, cut short, or a wrong file beside it."""
    file = tmp_path / "a.npy"
    beside = write_beside(file, {}, {"id": "a"}, {"id": "b"})
    for array, said in (
        (np.zeros(4, np.float32), r"holds float32 of shape \(4,\)"),
        (np.zeros((2, 2), np.int64), "holds int64"),
        (np.zeros((2, 2), np.complex64), "holds complex64"),
        (np.zeros((0, 2), np.float32), "holds no rows"),
        (np.zeros((2, 0), np.float32), "holds no rows"),
        (np.array([[1, "x"]], object), "is no numpy file of numbers"),
    ):
        np.save(file, array, allow_pickle=True)
        refused_import(tmp_path, file, said)
    file.write_bytes(b"no numpy")
    refused_import(tmp_path, file, "is no numpy file of numbers, or is cut short")
    np.save(file, np.ones((2, 3), np.float32))
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    refused_import(tmp_path, file, "is no numpy file of numbers, or is cut short")
    file.write_bytes(whole)
    for text, said in (
        ("", "its first line is no JSON"),
        ("{\n", "its first line is no JSON"),
        ("[]\n", "its first line is no JSON object"),
        ('{"id": "a"}\n{"id": "b"}\n', "begins with an entry: put a line .* before it"),
        ("{}\n", "has 0 lines below the first for 2 rows of vectors"),
        ('{}\n\n{"id": "a"}\n\n', "has 1 lines below the first for 2 rows of vectors"),
        ('{"dimensions": 4}\n{}\n{}\n', r"says 4 dimensions, and a\.npy has 3"),
    ):
        beside.write_text(text)
        refused_import(tmp_path, file, said)
    beside.unlink()
    refused_import(tmp_path, file, r"a\.npy\.jsonl: no such file: a matrix needs it")


def test_import_matrix_bad_rows_are_named(tmp_path):
    """Doubles beyond float32, NaN and an entry that is no object."""
    np.save(tmp_path / "a.npy", np.array([[1, 1], [1e39, 1], [math.nan, 1], [2, 2]]))
    lines = [{"id": "a", "content": "x"}, {"id": "b"}, {"id": "c"}, 5]
    write_beside(tmp_path / "a.npy", {}, *lines)
    assert problems_of(tmp_path / "a.db", tmp_path / "a.npy") == [
        "row 1: its embedding cannot be used: NaN, infinity or a number too large for float32",
        "row 2: its embedding cannot be used: NaN, infinity or a number too large for float32",
        "row 3: its line is no JSON object",
    ]


# Into which collection, of which model


def test_import_into_existing_collection_replaces_and_keeps(tmp_path):
    """The entry of the same id is replaced, the other one is kept."""
    entries = [(i, packed(1, 1), "old", None, md5("old"), None) for i in ("a", "b")]
    db = make_collection(tmp_path / "a.db", entries, model="m")
    file = write_lines(tmp_path / "a.jsonl", {"id": "a", "embedding": [2, 2], "model": "m"})
    assert load(db, file).written == 1
    assert query(db, SELECT) == [("a", packed(2, 2), None, None, None, None), entries[1]]


def test_import_model_must_be_said_and_be_the_same(tmp_path):
    """By the file, the option and the collection; nothing is changed when they differ."""
    db = make_collection(tmp_path / "a.db")
    before = db.read_bytes()
    unsaid = write_lines(tmp_path / "a.jsonl", {"id": "a", "embedding": [1] * 8})
    said = write_lines(tmp_path / "b.jsonl", {"id": "a", "embedding": [1] * 8, "model": "m"})
    with pytest.raises(SourceError, match="which model made its vectors: name it with --model"):
        load(db, unsaid)
    with pytest.raises(ModelMismatchError, match="made with counting, not other"):
        load(db, unsaid, "other")
    with pytest.raises(ModelMismatchError, match="made with counting, not m:"):
        load(db, said)
    with pytest.raises(ModelMismatchError, match="made with m, not counting"):
        load(db, said, "counting", name="new")
    np.save(tmp_path / "c.npy", np.ones((1, 3), np.float32))
    write_beside(tmp_path / "c.npy", {"model": "counting"}, {"id": "a"})
    match = "holds vectors of 3 dimensions, and collection 'docs' has 8"
    with pytest.raises(SourceError, match=match):
        load(db, tmp_path / "c.npy")
    assert db.read_bytes() == before


def test_import_model_alias_means_its_model(tmp_path, counting_model):
    """A registered alias is stored as the id, and agrees with a file that says the id."""
    file = write_lines(tmp_path / "a.jsonl", {"id": "a", "embedding": [1] * 8, "model": "counting"})
    assert load(tmp_path / "a.db", file, "count").model_id == "counting"
    assert query(tmp_path / "a.db", "select model from collections") == [("counting",)]


def test_import_somebody_elses_tables_are_left_alone(tmp_path):
    """The message says the way out that this command has."""
    db = tmp_path / "a.db"
    execute(db, "create table embeddings (id text primary key, embedding blob)")
    before = db.read_bytes()
    file = write_lines(tmp_path / "a.jsonl", {"id": "a", "embedding": [1]})
    with pytest.raises(SourceError, match="left alone: import into another file .* --from"):
        load(db, file, "m")
    with pytest.raises(SourceError, match="its folder does not exist"):
        load(tmp_path / "no" / "a.db", file, "m")
    assert db.read_bytes() == before


def test_import_stopped_half_way_goes_on(tmp_path):
    """Windows that are written stay, and are passed over the next time."""
    rows = [{"id": f"{n}", "embedding": [n, 1]} for n in range(2_500)]
    file = write_lines(tmp_path / "a.jsonl", *rows)

    def stop(counts):
        if counts.written == 2_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(tmp_path / "a.db", file, "m", report=stop)
    assert query(tmp_path / "a.db", "select count(*) from embeddings") == [(2_000,)]
    counts = load(tmp_path / "a.db", file, "m")
    assert (counts.written, counts.unchanged) == (500, 2_000)


def test_import_into_collection_deleted_meanwhile(tmp_path):
    """It is not made again with only the rest of the rows."""
    rows = [{"id": f"{n}", "embedding": [n, 1]} for n in range(1_001)]
    file = write_lines(tmp_path / "a.jsonl", *rows)
    db = tmp_path / "a.db"
    with pytest.raises(CollectionNotFoundError, match="'docs' does not exist"):
        load(db, file, "m", report=lambda counts: execute(db, "delete from collections"))


# Tables that hold vectors


def make_table(path: Path, create: str, rows) -> Path:
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(create)
        marks = ", ".join("?" * len(rows[0]))
        conn.executemany(f"insert into {create.split()[2]} values ({marks})", rows)
    return path


#: As long as the vectors of text-embedding-ada-002.
LARGE = range(1, 1537)


def test_table_id_and_embedding_is_recognised(tmp_path):
    """The table of openai-to-sqlite 0.4.2; which model it was it does not say."""
    # create table statement as that tool's sqlite-utils 4 writes it
    source = make_table(
        tmp_path / "s.db",
        'CREATE TABLE embeddings ("id" TEXT PRIMARY KEY, "embedding" BLOB)',
        [("a", packed(*LARGE)), ("b", packed(*LARGE[::-1]))],
    )
    before = source.read_bytes()
    db, spec = tmp_path / "a.db", TableSpec("embeddings")
    with pytest.raises(SourceError, match="--model .*text-embedding-ada-002"):
        load_table(db, spec, source=source)
    assert not db.exists()
    with pytest.raises(SourceError, match="left alone: import into another file .* --from"):
        load_table(source, spec, "m")
    assert load_table(db, spec, "text-embedding-ada-002", source=source).written == 2
    assert query(db, SELECT) == [
        ("a", packed(*LARGE), None, None, None, None),
        ("b", packed(*LARGE[::-1]), None, None, None, None),
    ]
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("column", "model_id", "dimensions"),
    [
        ("emb_text_embedding_3_small_512", "text-embedding-3-small-512", 512),
        ("emb_text_embedding_3_large", "text-embedding-3-large", 3072),
        ("emb_text_embedding_ada_002", "text-embedding-ada-002", 1536),
        ("emb_counting", "counting", 8),
    ],
)
def test_table_of_the_enrichment_says_its_model(
    tmp_path, counting_model, column, model_id, dimensions
):
    """datasette-embeddings 0.1a3: the source's keys and a column for the model, in place."""
    db = make_table(
        tmp_path / "a.db",
        f'CREATE TABLE _embeddings_docs ("a" TEXT, "b" INTEGER, "{column}" BLOB,'
        ' PRIMARY KEY ("a", "b"))',
        [("x y", 1, packed(*range(dimensions))), ("z", 2, None)],
    )
    problems = []
    counts = load_table(db, TableSpec("_embeddings_docs"), on_problem=problems.append)
    assert (counts.written, counts.model_id) == (1, model_id)
    assert [str(problem) for problem in problems] == ["id z,2: has no embedding"]
    assert query(db, "select id, embedding from embeddings") == [
        ("x+y,1", packed(*range(dimensions)))
    ]


def test_table_with_two_models_needs_the_column(tmp_path):
    """Neither is taken before the other."""
    db = make_table(
        tmp_path / "a.db",
        "create table _embeddings_docs (id integer primary key,"
        " emb_text_embedding_3_small blob, emb_text_embedding_3_large blob, emb_mine blob)",
        [(1, packed(1), packed(*range(3072)), packed(3))],
    )
    before = db.read_bytes()
    spec = TableSpec("_embeddings_docs")
    with pytest.raises(SourceError, match="several columns of vectors: name one with --vector"):
        load_table(db, spec)
    large = TableSpec("_embeddings_docs", vector="emb_text_embedding_3_large")
    with pytest.raises(ModelMismatchError, match="text-embedding-3-large, not other"):
        load_table(db, large, "other")
    with pytest.raises(SourceError, match="does not say which model"):
        load_table(db, TableSpec("_embeddings_docs", vector="emb_mine"))
    assert db.read_bytes() == before
    assert load_table(db, large).model_id == "text-embedding-3-large"
    assert query(db, "select id, embedding from embeddings") == [("1", packed(*range(3072)))]


def test_table_options_json_and_content(tmp_path):
    """Vectors as JSON text, a key of two columns, and a text to keep, from a view too."""
    db = make_table(
        tmp_path / "a.db",
        "create table t (a, b, v, words)",
        [("x", 1, "[1, 2]", "one"), ("y", 2, packed(3, 4), "two"), ("z", 3, 5.5, "three")],
    )
    execute(db, "create view seen as select * from t")
    for table in ("t", "seen"):
        spec = TableSpec(table, ("a", "b"), "v", "words")
        problems = []
        counts = load_table(db, spec, "m", name=table, on_problem=problems.append)
        assert counts.written == 2
        assert [str(p) for p in problems] == [
            "id z,3: its vector is neither a BLOB nor the text of a JSON array"
        ]
    assert query(db, SELECT.replace("order by", "where collection_id = 2 order by")) == [
        ("x,1", packed(1, 2), "one", None, md5("one"), None),
        ("y,2", packed(3, 4), "two", None, md5("two"), None),
    ]


@pytest.mark.parametrize(
    "create",
    [
        "create table t (id text primary key, embedding blob) without rowid",
        "create table t (id text, embedding blob)",
        "create table t (rowid text primary key, embedding blob)",
        "create table t (id integer primary key, embedding blob)",
    ],
)
def test_table_of_any_kind_more_rows_than_a_window(tmp_path, create):
    """In place: reading the table does not keep the same file from being written."""
    rows = [(f"{n}", packed(n, 1)) for n in range(1, 2_102)]
    db = make_table(tmp_path / "a.db", create, rows)
    assert load_table(db, TableSpec("t"), "m").written == 2_101
    found = query(db, "select id, embedding from embeddings")
    assert sorted(found) == sorted(rows)


def test_table_without_key_takes_the_rowid(tmp_path):
    """As Datasette names such rows."""
    db = make_table(tmp_path / "a.db", "create table t (v blob)", [(packed(1),), (packed(2),)])
    load_table(db, TableSpec("t"), "m")
    assert query(db, "select id from embeddings") == [("1",), ("2",)]


def test_table_rows_without_usable_id_are_named(tmp_path):
    """NULL, binary, and bytes that are no text."""
    db = make_table(
        tmp_path / "a.db",
        "create table t (id, embedding)",
        [("a", packed(1)), (None, packed(1)), (b"x", packed(1)), ("", packed(1)), ("b", b"123")],
    )
    execute(db, "insert into t values (cast(x'ff' as text), x'0000803f')")
    problems = []
    load_table(db, TableSpec("t"), "m", on_problem=problems.append)
    reasons = [str(problem) for problem in problems]
    assert reasons[:2] == [
        f"row {n}: has no usable id: NULL, binary or not text in its key" for n in (2, 3)
    ]
    assert reasons[2].startswith("id b: its embedding cannot be used: 3 bytes")
    assert reasons[3].endswith("its id holds NUL or half a character, which no id can")
    assert query(db, "select id from embeddings") == [("",), ("a",)]


def test_table_that_cannot_be_imported_says_what_there_is(tmp_path):
    """No such table or column, nothing that looks like vectors, and our own tables."""
    db = make_collection(tmp_path / "a.db", ENTRIES)
    execute(
        db,
        "create table t (name text, size integer)",
        "create table two (id integer primary key, a blob, b blob)",
        "create view v as select name as n, zeroblob(4) as embedding from t",
    )
    before = db.read_bytes()
    for spec, match in (
        (TableSpec("nope"), "no table named 'nope'. Tables and views: .*, t, two, v"),
        (TableSpec("t"), "no column that looks like vectors.* Columns: name, size"),
        (TableSpec("two"), r"several columns of vectors: name one with --vector \(a, b\)"),
        (TableSpec("two", vector="c"), "no column named 'c'. Columns: id, a, b"),
        (TableSpec("two", ("x",), "a"), "no column named 'x'. Columns: id, a, b"),
        (TableSpec("two", (), "a", "y"), "no column named 'y'. Columns: id, a, b"),
        (TableSpec("v"), "'v' has no primary key: name the column of the ids with --id"),
        (TableSpec("embeddings"), "'embeddings' is where collections are kept"),
        (TableSpec("_embed_jobs"), "'_embed_jobs' is where collections are kept"),
        (TableSpec("t", vector="size"), "no row can be imported|holds no rows"),
    ):
        with pytest.raises(SourceError, match=match):
            load_table(db, spec, "m", name="new")
    assert db.read_bytes() == before
