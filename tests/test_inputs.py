"""Rows from files, queries and folders: what comes out, and what is refused in which words."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from datasette_embed import input_files, input_rows
from datasette_embed.errors import SourceError
from datasette_embed.input_files import InputFormat
from datasette_embed.input_rows import Shape
from datasette_embed.inputs import FolderRows, RecordRows, open_file, open_query
from datasette_embed.records import Row
from tests.storage import execute


def rows_of(source: RecordRows | FolderRows, size: int = 1_000) -> list[Row]:
    """Return every row of a source, read twice with the same result."""
    first, second = ([r for w in source.iter_windows(size) for r in w] for _ in range(2))
    assert first == second
    source.close()
    return first


def contents(source: RecordRows | FolderRows) -> dict[str | None, Any]:
    """Return ``id -> content`` of a source none of whose rows has a problem."""
    rows = rows_of(source)
    assert [row.problem for row in rows] == [None] * len(rows)
    return {row.entry_id: row.content for row in rows}


def read(data: str | bytes, format: str | None = None, **options: Any) -> RecordRows:
    """Open data as the command line opens standard input."""
    data = data.encode() if isinstance(data, str) else data
    return open_file(
        "-", stdin=io.BytesIO(data), format=InputFormat(format) if format else None, **options
    )


def refusal(data: str | bytes, format: str | None = None, **options: Any) -> str:
    """Return why data is refused; the message is one line."""
    with pytest.raises(SourceError) as refused:
        read(data, format, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value).removeprefix("standard input: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("encodings", [(), ("utf-8", "latin-1")])
def test_open_file_pipe_is_read_like_a_file(tmp_path, encodings):
    """What ``<(cat a.csv)`` of a shell is: to be read once, and in one direction."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = "id,text\n1,caf\xe9\n".encode("latin-1" if encodings else "utf-8")
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    try:
        assert contents(open_file(str(pipe), encodings=encodings)) == {"1": "caf\xe9"}
    finally:
        writer.join(10)
    assert not writer.is_alive()


EXPECTED = {"1": "Hello world first", "2": " second"}
SAME = {
    "csv": 'id,title,body\n1,Hello world,first\n\n2,,"second"\n',
    "tsv": "id\ttitle\tbody\n1\tHello world\tfirst\n2\t\tsecond\n",
    "json": json.dumps(
        [
            {"id": 1, "title": "Hello world", "body": "first"},
            {"id": "2", "title": None, "body": "second"},
        ]
    ),
    "nl": '{"id": 1, "title": "Hello world", "body": "first"}\n\n'
    '{"id": 2, "title": null, "body": "second"}\n',
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("format", SAME)
def test_file_in_each_format_gives_the_same_rows(format: str, named: bool) -> None:
    """First column the id, the others joined with a space; the format is found out."""
    assert contents(read(SAME[format], format if named else None)) == EXPECTED
    bom = "\ufeff" + SAME[format]
    assert contents(read(bom, format if named else None)) == EXPECTED


def test_file_by_path_is_named_in_what_is_said(tmp_path: Path) -> None:
    """The path stands where a sentence is about the file."""
    path = tmp_path / "a.csv"
    path.write_text(SAME["csv"], "utf-8")
    source = open_file(str(path))
    assert source.path == str(path) and str(source) == str(path)
    assert source.definition is None
    assert contents(source) == EXPECTED


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("id;text\n1;a, b\n", {"1": "a, b"}),
        ("id|text\n1|a\n", {"1": "a"}),
        ('"a; b; c",text\n1,x\n', {"1": "x"}),
        ("id,text\n1,caf\u00e9\n", {"1": "café"}),
        (",text\n0,a\n", {"0": "a"}),
        ("id,text,more\n1,a\n", {"1": "a "}),
        ('id,text\n1,"two\r\nlines"\r\n', {"1": "two\nlines"}),
        ('id,text\n1,"say ""hi"""\n', {"1": 'say "hi"'}),
    ],
)
def test_csv_variants_are_read(data: str, expected: dict[str, str]) -> None:
    """Other separators, quotes, short rows and line ends."""
    assert contents(read(data)) == expected


def test_json_values_that_are_no_text_become_text() -> None:
    """Numbers as Python writes them, all else as JSON (LLM: TypeError)."""
    record = {"id": 1.5, "n": 2, "f": 0.25, "b": True, "none": None, "l": [1, "é"], "o": {"a": 1}}
    expected = {"1.5": '2 0.25 true  [1, "é"] {"a": 1}'}
    assert contents(read(json.dumps([record]))) == expected
    assert contents(read(json.dumps(record) + "\n" + json.dumps({**record, "id": 2}))) == {
        **expected,
        "2": expected["1.5"],
    }


def test_json_object_alone_is_one_row() -> None:
    """As sqlite-utils and LLM take it, on one line or on several."""
    record = {"id": "a", "text": "b"}
    for data in (json.dumps(record), json.dumps(record, indent=2)):
        assert contents(read(data)) == contents(read(data, "json")) == {"a": "b"}


def test_id_is_the_first_key_of_the_first_object() -> None:
    """An object with its keys in another order has the same id (LLM: the text becomes it)."""
    data = '[{"id": 1, "text": "a"}, {"text": "b", "id": 2}, {"text": "c"}]'
    rows = rows_of(read(data))
    assert rows[:2] == [Row("1", "a"), Row("2", "b")]
    assert rows[2] == Row(None, "", "item 3 has no usable id: it is NULL")


def test_long_field_is_read_and_the_limit_put_back() -> None:
    """The csv module stops at 131,072 characters unless told otherwise."""
    before = csv.field_size_limit()
    text = "x" * 200_000
    assert contents(read(f"id,text\n1,{text}\n")) == {"1": text}
    assert csv.field_size_limit() == before
    assert refusal(f"id,text\n1,{text},\n").startswith("line 2 has 3 fields")
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("data", "format", "message"),
    [
        ("", None, "is empty"),
        (" \n\n", "csv", "is empty"),
        ("\ufeff", "json", "is empty"),
        ("42", "json", "is one JSON value: expected a list of objects"),
        ('"text"', "json", "is one JSON value"),
        ("[1]", None, "item 1 of the list is no object"),
        ('[{"id": 1, "t": "a"}, 2]', None, "item 2 of the list is no object"),
        ('{"rows": [{"id": 1}], "n": 1}', None, "an object with a list in 'rows'.*jq"),
        ('[{"id": 1', None, "is not JSON: .*line 1 column"),
        ('{"id": 1', None, "is not JSON: .*line 1 column"),
        ('[{"id": NaN, "t": "a"}]', None, "NaN is not JSON"),
        ("[" * 100_000, None, "nested too deeply"),
        ('{"id": 1, "t": "a"}\nnope\n', None, "line 2 is not JSON"),
        ('{"id": 1, "t": "a"}\n\n[1]\n', "nl", "line 3 is no JSON object"),
        ('{"id": 1, "t": "a"}\n{"id": 2, "t": "b"}\n', "json", "is not JSON: Extra data: line 2"),
        ("id\n1\n", None, r"has one column \(id\): expected an id, and one or more of text"),
        ('[{"id": 1}]', None, r"has one column \(id\)"),
        ("42", None, None),
        ("id,text\n1,a\n2,b,c\n", None, "line 3 has 3 fields and the header 2"),
        ("id,text,text\n1,a,b\n", None, "two columns are called 'text'"),
        ('id,text\n1,"open\n2,b\n', None, "line 3: unexpected end of data"),
        ('id,text\n1,"a"b\n', "csv", "line 2: .* expected after"),
        (b"SQLite format 3\0abc", None, "is a SQLite database: attach it with --attach"),
    ],
)
def test_file_that_is_none_is_refused(
    data: str | bytes, format: str | None, message: str | None
) -> None:
    """One line that says what is wrong, with its line or item."""
    if message is None:  # a header without rows: nothing to refuse, nothing to embed
        assert rows_of(read(data)) == []
        return
    with pytest.raises(SourceError, match=message):
        read(data, format)
    assert refusal(data, format)


def test_file_ending_in_json_is_json(tmp_path: Path) -> None:
    """A lone value in it is no table of one column; its lines may be objects."""
    path = tmp_path / "a.json"
    path.write_text("42", "utf-8")
    with pytest.raises(SourceError, match="is one JSON value"):
        open_file(str(path))
    path.write_text(SAME["nl"], "utf-8")
    assert contents(open_file(str(path))) == EXPECTED
    lines = tmp_path / "a.jsonl"
    lines.write_text("nope", "utf-8")
    with pytest.raises(SourceError, match="line 1 is not JSON"):
        open_file(str(lines))


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """The reason of the system is said."""
    with pytest.raises(SourceError, match="cannot be read: Is a directory"):
        open_file(str(tmp_path))
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        open_file(str(tmp_path / "none"))


def test_encoding_first_that_reads_all_wins() -> None:
    """UTF-8 is expected; --encoding names others, in order."""
    latin = "id,text\n1,café\n".encode("latin-1")
    assert contents(read(latin, encodings=["utf-8", "latin-1"])) == {"1": "café"}
    assert contents(read("id,text\n1,é\n".encode("utf-16"), encodings=["utf-16"])) == {"1": "é"}
    utf8 = "id,text\n1,café\n".encode()
    assert contents(read(utf8, encodings=["utf-8", "latin-1"])) == {"1": "café"}


def test_encoding_that_reads_nothing_says_where() -> None:
    """The byte and the line of the first encoding's failure, and what to try."""
    latin = "id,text\n1,café\n".encode("latin-1")
    assert refusal(latin) == (
        "is not text in utf-8 (byte 13, on line 2). Say what it is, for example with "
        "--encoding latin-1"
    )
    assert "utf-8 or ascii (byte 13, on line 2)" in refusal(latin, encodings=["utf-8", "ascii"])
    assert refusal("é".encode("utf-16")).endswith("--encoding utf-16")
    assert refusal(b"id,t\n1,\xc3") == refusal(b"id,t\n1,\xff").replace("\xff", "")


def test_encoding_failure_across_chunks_is_counted_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """A character cut in two by a chunk does not move the position."""
    monkeypatch.setattr(input_files, "_CHUNK_BYTES", 3)
    good = "1,é\n2,ä\n".encode()
    assert f"(byte {len(good)}, on line 3)" in refusal(good + b"\xff")
    assert contents(read(b"id,t\n" + good)) == {"1": "é", "2": "ä"}


@pytest.mark.parametrize("encoding", ["nope", "hex", "rot13"])
def test_encoding_unknown_is_refused(encoding: str) -> None:
    """Nothing is read with a name that is no encoding of text."""
    with pytest.raises(SourceError, match=f"--encoding: no encoding of text .*'{encoding}'"):
        read("id,t\n1,a\n", encodings=[encoding])


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"id": None, "t": "a"}, " has no usable id: it is NULL"),
        ({"id": "", "t": "a"}, " has no usable id: it is empty"),
        ({"id": "a\0b", "t": "a"}, " has no usable id: it holds the character NUL"),
        ({"id": [1], "t": "a"}, " has no usable id: it is a list or an object"),
        ({"id": "\ud800", "t": "a"}, " has no usable id: holds half a character"),
        ({"id": 2, "t": "\ud800"}, ": holds half a character"),
    ],
)
def test_row_that_cannot_be_embedded_is_one_with_a_problem(record: Any, problem: str) -> None:
    """The others go on; where it stands is said."""
    data = json.dumps([{"id": 1, "t": "good"}, record, {"id": 3, "t": "too"}])
    first, bad, last = rows_of(read(data))
    assert (first, last) == (Row("1", "good"), Row("3", "too"))
    assert str(bad.problem).startswith(f"item 2{problem}")
    assert bad.entry_id == ("2" if record["id"] == 2 else None)


def test_repeated_id_the_last_one_counts() -> None:
    """1 and "1" are one id; how many were replaced is known."""
    source = read('[{"id": 1, "t": "a"}, {"id": 2, "t": "b"}, {"id": "1", "t": "c"}]')
    assert source.repeated == 1
    assert contents(source) == {"2": "b", "1": "c"}


def test_blank_text_stays_blank_with_something_prepended() -> None:
    """Else every empty row would have the vector of what is put before it."""
    shape = Shape(prefix="p/", prepend="passage: ")
    rows = rows_of(read("id,t\n1,a\n2,\n3, \n", shape=shape))
    assert rows == [Row("p/1", "passage: a"), Row("p/2", ""), Row("p/3", "")]
    assert [row.is_blank for row in rows] == [False, True, True]


def test_metadata_columns_keep_their_types_and_leave_the_text() -> None:
    """What is metadata is not embedded."""
    data = json.dumps([{"id": 1, "t": "a", "n": 2, "tags": ["é"], "no": None}, {"id": 2, "t": "b"}])
    shape = Shape(metadata_columns=("n", "tags", "no"))
    first, second = rows_of(read(data, shape=shape))
    assert (first.content, second.content) == ("a", "b")
    assert json.loads(first.metadata or "") == {"n": 2, "tags": ["é"], "no": None}
    assert second.metadata is None


def test_metadata_column_may_come_late_or_be_the_id() -> None:
    """It is looked for in every record."""
    data = '{"id": 1, "t": "a"}\n{"id": 2, "t": "b", "late": 1}\n'
    rows = rows_of(read(data, shape=Shape(metadata_columns=("id", "late"))))
    assert [json.loads(row.metadata or "") for row in rows] == [{"id": 1}, {"id": 2, "late": 1}]
    assert [row.content for row in rows] == ["a", "b"]


def test_metadata_column_unknown_is_refused() -> None:
    """It lists those there are."""
    assert refusal("id,t\n1,a\n", shape=Shape(metadata_columns=("x",))) == (
        "no column named 'x'. Columns: id, t"
    )
    assert refusal("id,t\n1,a\n", shape=Shape(metadata_columns=("t",))) == (
        "has no column of text but those kept as metadata"
    )


def test_windows_end_by_rows_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few long texts fill a window as well as many short ones."""
    source = read("id,t\n" + "".join(f"{n},abcd\n" for n in range(5)))
    assert [len(window) for window in source.iter_windows(2)] == [2, 2, 1]
    monkeypatch.setattr(input_rows, "WINDOW_BYTES", 10)
    assert [len(window) for window in source.iter_windows()] == [3, 2]
    source.close()


def test_many_rows_are_read_twice_in_their_order() -> None:
    """More rows than a window, in the order of the file."""
    rows = rows_of(read("id,t\n" + "".join(f"{n},text {n}\n" for n in range(2_500))))
    assert [row.entry_id for row in rows] == [str(n) for n in range(2_500)]


# -- queries -----------------------------------------------------------------------


@pytest.fixture
def blog(tmp_path: Path) -> Path:
    """A file with a table ``posts``."""
    path = tmp_path / "blog.db"
    execute(
        path,
        "create table posts (id integer primary key, title, body)",
        "insert into posts values (1, 'One', 'first'), (2, 'Two', null), (3, null, 4.5)",
        "insert into posts values (4, 'blob', x'00ff'), (5, cast(x'ff' as text), 'x')",
    )
    return path


@pytest.mark.parametrize("end", ["", ";", " -- a comment", ";\n"])
def test_query_over_the_database_gives_rows(blog: Path, end: str) -> None:
    """First column the id, the rest joined."""
    sql = "select id, title, body from posts where id < 4 order by id desc" + end
    source = open_query(sql, str(blog))
    assert str(source).startswith("query: select id")
    assert contents(source) == {"3": " 4.5", "2": "Two ", "1": "One first"}


def test_query_binary_values_are_problems(blog: Path) -> None:
    """The others go on."""
    rows = rows_of(open_query("select * from posts where id in (1, 4, 5)", str(blog)))
    assert rows[0] == Row("1", "One first")
    problem = "binary content, or text that is not UTF-8"
    assert rows[1:] == [Row("4", "", f"row 2: {problem}"), Row("5", "", f"row 3: {problem}")]
    assert rows_of(open_query("select x'00', 'a'", None)) == [
        Row(None, "", f"row 1 has no usable id: {problem}")
    ]
    shape = Shape(metadata_columns=("body",))
    rows = rows_of(open_query("select * from posts where id in (1, 4)", str(blog), shape=shape))
    assert [row.problem for row in rows] == [
        None,
        "row 2: binary content cannot be kept as metadata",
    ]


def test_query_over_attached_files_needs_no_database(blog: Path, tmp_path: Path) -> None:
    """Several aliases; a file whose name needs quoting in a URI."""
    odd = blog.rename(tmp_path / "a?b #c%20.db")
    more = tmp_path / "more.db"
    execute(more, "create table t (id, x)", "insert into t values (1, 'more')")
    source = open_query(
        "select p.id, p.title, t.x from my_blog.posts p join [x y].t on t.id = p.id",
        None,
        [("my_blog", str(odd)), ("x y", str(more))],
    )
    assert contents(source) == {"1": "One more"}


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select * from nope", "--sql: no such table: nope"),
        ("selec", "--sql: near"),
        ("", "--sql: "),
        ("select 1; select 2", "--sql: "),
        ("delete from posts", "--sql: near"),
        ("attach 'new.db' as n", "--sql: near"),
        ("select 1) ; delete from posts; --", "--sql: "),
        ("select id from posts", r"--sql: has one column \(id\)"),
        ("select id, :x from posts", "--sql: give one SELECT"),
    ],
)
def test_query_that_is_wrong_or_writes_is_refused(
    blog: Path, sql: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of any file changes."""
    monkeypatch.chdir(blog.parent)
    before = blog.read_bytes()
    with pytest.raises(SourceError, match=message):
        open_query(sql, str(blog))
    assert blog.read_bytes() == before
    assert sorted(os.listdir()) == ["blog.db"]


def test_query_attached_file_missing_or_none_is_refused(blog: Path, tmp_path: Path) -> None:
    """Nothing is made in its place."""
    text = tmp_path / "text.txt"
    text.write_text("hello" * 200, "utf-8")
    for path, message in (
        (tmp_path / "none.db", "no such file"),
        (text, "is not a SQLite database"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(SourceError, match=message):
            open_query("select 1, 2", str(blog), [("a", str(path))])
    with pytest.raises(SourceError, match="--attach main: database main is already in use"):
        open_query("select 1, 2", str(blog), [("main", str(blog))])
    assert not (tmp_path / "none.db").exists()


def test_query_does_not_hold_the_file(blog: Path) -> None:
    """Once it is read, others may write while the model computes."""
    source = open_query("select id, title from posts where id = 1", str(blog))
    with closing(sqlite3.connect(blog, timeout=0)) as conn, conn:
        conn.execute("delete from posts")
    assert contents(source) == {"1": "One"}


# -- folders -----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of texts, one of them below another folder."""
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_bytes(b"second\r\n")
    (folder / "a.txt").write_bytes("café".encode())
    (folder / "sub" / "c.txt").write_bytes("café".encode("latin-1"))
    (folder / "d.md").write_bytes(b"\xef\xbb\xbfmarkdown")
    return folder


def test_folder_relative_paths_are_ids_in_order(folder: Path) -> None:
    """UTF-8 first, latin-1 for what is not (LLM: the last encoding wins, ``cafÃ©``)."""
    source = FolderRows([(str(folder), "**/*")])
    assert str(source) == f"{folder}: **/*" and source.definition is None
    assert list(contents(source).items()) == [
        ("a.txt", "café"),
        ("b.txt", "second\n"),
        ("d.md", "markdown"),
        ("sub/c.txt", "café"),
    ]


def test_folder_prefix_and_prepend(folder: Path) -> None:
    """The prefix goes to ids, what is prepended to texts and not to bytes."""
    shape = Shape(prefix="x/", prepend="passage: ")
    assert contents(FolderRows([(str(folder), "a.*")], shape=shape)) == {"x/a.txt": "passage: café"}
    assert contents(FolderRows([(str(folder), "a.*")], shape=shape, binary=True)) == {
        "x/a.txt": "café".encode()
    }


def test_folder_binary_files_are_bytes(folder: Path) -> None:
    """An empty file has nothing to embed."""
    (folder / "e.bin").write_bytes(b"")
    (folder / "f.bin").write_bytes(b"\0\xff")
    rows = rows_of(FolderRows([(str(folder), "*.bin")], binary=True))
    assert [(row.entry_id, row.content, row.is_blank) for row in rows] == [
        ("e.bin", b"", True),
        ("f.bin", b"\0\xff", False),
    ]


def test_folder_several_pairs_the_last_of_one_id_wins(folder: Path, tmp_path: Path) -> None:
    """A file that two patterns match is no repetition."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("other", "utf-8")
    source = FolderRows([(str(folder), "*.txt"), (str(folder), "a.*"), (str(other), "*")])
    assert source.repeated == 1
    assert contents(source) == {"a.txt": "other", "b.txt": "second\n"}


def test_folder_undecodable_file_is_a_problem(folder: Path) -> None:
    """In LLM's words; the rest goes on."""
    rows = rows_of(FolderRows([(str(folder), "**/*.txt")], encodings=["utf-8"]))
    assert [row.problem for row in rows] == [
        None,
        None,
        f"Could not decode text in file {folder / 'sub' / 'c.txt'}",
    ]


def test_folder_files_that_cannot_be_read_are_problems(folder: Path) -> None:
    """A loop of links, a pipe that would never end, a file that is gone since."""
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    os.mkfifo(folder / "pipe.txt")
    source = FolderRows([(str(folder), "*.txt")])
    (folder / "b.txt").unlink()
    problems = {row.entry_id: row.problem for row in rows_of(source)}
    assert problems.pop("a.txt") is None
    assert problems == {
        "b.txt": f"Could not read file {folder / 'b.txt'}: No such file or directory",
        "loop.txt": f"Could not read file {folder / 'loop.txt'}: Too many levels of symbolic links",
        "pipe.txt": f"Not a regular file: {folder / 'pipe.txt'}",
    }


def test_folder_file_name_that_is_no_text_is_a_problem(folder: Path) -> None:
    """The name cannot be an id."""
    Path(os.fsdecode(os.fsencode(folder) + b"/x\xff.txt")).write_text("x", "utf-8")
    rows = rows_of(FolderRows([(str(folder), "x*.txt")]))
    assert rows[0].entry_id is None
    assert "has no usable name: holds half a character" in str(rows[0].problem)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.nope", r"no file matches '\*\.nope'"),
        ("sub", "no file matches 'sub'"),
        ("", "'' is no pattern"),
        ("/abs*", "is no pattern"),
    ],
)
def test_folder_pattern_that_matches_nothing_is_refused(
    folder: Path, pattern: str, message: str
) -> None:
    """Folders are no files, and a pattern is relative."""
    with pytest.raises(SourceError, match=message):
        FolderRows([(str(folder), pattern)])


def test_folder_windows_read_files_only_when_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first window is there before the last file has been opened."""
    opened: list[str] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or real(path))
    monkeypatch.setattr(input_rows, "WINDOW_BYTES", 4)
    windows = FolderRows([(str(folder), "*.txt")]).iter_windows()
    assert [row.entry_id for row in next(windows)] == ["a.txt"]
    assert opened == ["a.txt"]
    assert [row.entry_id for row in next(windows)] == ["b.txt"]


def test_folder_below_that_cannot_be_read_is_a_problem(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern passes over it in silence; it is named where the pattern goes down there."""
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(os.fsdecode(path)).name == "sub":
            raise PermissionError(13, "Permission denied", os.fsdecode(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    rows = rows_of(FolderRows([(str(folder), "**/*.txt")]))
    assert [(row.entry_id, row.problem) for row in rows] == [
        (None, f"Could not read folder {folder / 'sub'}: Permission denied"),
        ("a.txt", None),
        ("b.txt", None),
    ]
    assert list(contents(FolderRows([(str(folder), "*.txt")]))) == ["a.txt", "b.txt"]


def test_open_file_line_that_is_no_json_names_one_place() -> None:
    """Its number in the file, not that inside of the one line."""
    message = refusal('{"id": 1, "t": "a"}\n\n{"id": 2, "t":\n', "nl")
    assert message == "line 3 is not JSON: Expecting value"
