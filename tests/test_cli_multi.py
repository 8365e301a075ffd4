"""``datasette embed multi``: LLM's ``embed-multi``, with what it should have done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from datasette.cli import cli

from datasette_embed.models import Batch, Item, Kind
from tests.conftest import ModelsPlugin
from tests.engine_fakes import FailingModel
from tests.fakes import CountingModel
from tests.storage import blob_of, embed, execute, expected, query, refused, stored

CSV = "id,title,body\n1,One,first text\n2,Two,second text\n"
ROWS = {"1": "One first text", "2": "Two second text"}

#: Two lines that symbex 2.0 printed for ``symbex '*' '*:*' --nl`` over a file of two symbols.
SYMBEX = (
    r'{"id": "shop.py:1", "code": "def add(a, b):\n    \"Return a + b.\"\n    return a + b"}'
    "\n"
    r'{"id": "shop.py:6", "code": "class Shop:\n    def open(self):\n        return \"caf\u00e9'
    r' and more\"\n\n    async def close(self, when=1.5):\n        return {\"when\": when}"}'
    "\n"
)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """The path of a file that is not there yet."""
    return tmp_path / "v.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files, one of them not UTF-8."""
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes("a café".encode())
    (folder / "sub" / "b.txt").write_bytes("another café".encode("latin-1"))
    (folder / "c.md").write_bytes(b"some markdown")
    return folder


class KeyModel(CountingModel):
    """A counting model that remembers the keys it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str | None] = set()

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | list[list[float]]:
        self.keys.add(key)
        return super().embed_batch(items, kind=kind, key=key)


def multi(*arguments: str | Path, **options: Any) -> Any:
    """Run the command with the counting model."""
    return embed("multi", *arguments, "-m", "count", **options)


# -- what goes in ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "data"),
    [
        ("csv", CSV),
        ("tsv", CSV.replace(",", "\t")),
        (
            "json",
            '[{"id": 1, "title": "One", "body": "first text"},'
            ' {"id": 2, "title": "Two", "body": "second text"}]',
        ),
        (
            "nl",
            '{"id": 1, "title": "One", "body": "first text"}\n'
            '{"id": 2, "title": "Two", "body": "second text"}\n',
        ),
    ],
)
@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.usefixtures("counting_model")
def test_multi_reads_each_format_from_a_file_and_standard_input(
    db: Path, tmp_path: Path, format: str, data: str, is_named: bool
) -> None:
    """Named or found out (LLM finds out all but nl)."""
    options = ["--format", format] if is_named else []
    path = tmp_path / "data"
    path.write_text(data, "utf-8")
    multi("file", path, *options, "-d", db)
    said = multi("stdin", "-", *options, "-d", db, input=data)
    assert said.stdout == ""
    assert stored(db, "file") == stored(db, "stdin") == expected(ROWS.items())
    assert query(db, "select distinct content, metadata from embeddings") == [(None, None)]


def test_multi_and_text_never_ask(db: Path, counting_model: CountingModel) -> None:
    """They are LLM's commands, in scripts that have no terminal."""
    counting_model.is_local = False
    counting_model.price_per_million_tokens = 1.0
    embed("multi", "c", "-", "-d", db, "-m", "count", input='[{"id": 1, "text": "one"}]')
    embed("text", "c", "2", "-d", db, "-m", "count", "-c", "two")
    assert stored(db, "c").keys() == {"1", "2"}


@pytest.mark.usefixtures("counting_model")
def test_multi_symbex_lines_are_embedded(db: Path) -> None:
    """The recipe of the README: the code of functions and classes."""
    multi("functions", "-", "--format", "nl", "--store", "-d", db, input=SYMBEX)
    codes = {line["id"]: line["code"] for line in map(json.loads, SYMBEX.splitlines())}
    assert dict(query(db, "select id, content from embeddings")) == codes
    assert stored(db, "functions") == expected(codes.items())


@pytest.mark.usefixtures("counting_model")
def test_multi_values_that_are_no_text_are_embedded(db: Path) -> None:
    """Numbers, nested objects and NULL (LLM: TypeError)."""
    data = '[{"id": 7, "n": 1.5, "o": {"a": [1]}, "none": null, "t": "word"}]'
    multi("c", "-", "-d", db, input=data)
    assert stored(db, "c") == expected([(7, '1.5 {"a": [1]}  word')])


@pytest.mark.usefixtures("counting_model")
def test_multi_metadata_columns_are_stored_and_not_embedded(db: Path) -> None:
    """With their types; the text is what is left."""
    data = '[{"id": 1, "text": "a", "year": 2023, "tags": ["x"]}]'
    multi("c", "-", "-d", db, "--metadata-columns", "year, tags", input=data)
    assert query(db, "select metadata from embeddings") == [('{"year": 2023, "tags": ["x"]}',)]
    assert stored(db, "c") == expected([(1, "a")])


@pytest.mark.usefixtures("counting_model")
def test_multi_new_metadata_is_stored_without_the_model(
    db: Path, counting_model: CountingModel
) -> None:
    """And so is --store given later (LLM: no-ops)."""
    multi("c", "-", "-d", db, input='[{"id": 1, "text": "a", "n": null}]')
    calls = len(counting_model.calls)
    data = '[{"id": 1, "text": "a ", "n": 1}]'
    multi("c", "-", "-d", db, "--metadata-columns", "n", "--store", input=data)
    assert query(db, "select content, metadata from embeddings") == [("a ", '{"n": 1}')]
    assert len(counting_model.calls) == calls


@pytest.mark.usefixtures("counting_model")
def test_multi_prefix_and_prepend(db: Path) -> None:
    """Ids get the prefix; what is prepended is embedded, stored and hashed, as in LLM."""
    options = ("--prefix", "blog/", "--prepend", "passage: ", "--store")
    multi("c", "-", "-d", db, *options, input=CSV)
    content = "passage: One first text"
    assert query(db, "select content, content_hash from embeddings where id = 'blog/1'") == [
        (content, hashlib.md5(content.encode()).digest())
    ]
    assert stored(db, "c")["blog/1"] == blob_of(content)


@pytest.mark.usefixtures("counting_model")
def test_multi_sql_over_the_database_itself_and_attached_ones(db: Path, tmp_path: Path) -> None:
    """The database stays the one the vectors go to."""
    blog = tmp_path / "blog.db"
    execute(blog, "create table posts (id, body)", "insert into posts values (1, 'one post')")
    sql = "select id, body, 3 from blog.posts;"
    multi("attached", "-d", db, "--attach", "blog", blog, "--sql", sql)
    assert stored(db, "attached") == expected([(1, "one post 3")])
    execute(db, "create table docs (id, body)", "insert into docs values ('x', 'own doc')")
    multi("own", "-d", db, "--sql", "select id, body from docs")
    assert stored(db, "own") == expected([("x", "own doc")])


@pytest.mark.usefixtures("counting_model")
def test_multi_files_by_relative_path(db: Path, folder: Path) -> None:
    """UTF-8 stays UTF-8 (LLM: ``cafÃ©``), and latin-1 is read where it is not."""
    multi("c", "-d", db, "--files", folder, "**/*.txt", "--files", folder, "*.md", "--store")
    contents = {"a.txt": "a café", "c.md": "some markdown", "sub/b.txt": "another café"}
    assert dict(query(db, "select id, content from embeddings")) == contents
    assert stored(db, "c") == expected(contents.items())


@pytest.mark.usefixtures("counting_model")
def test_multi_files_undecodable_is_named_and_recorded(db: Path, folder: Path) -> None:
    """In LLM's words, once; exit code 0, and the others are embedded."""
    said = multi("c", "-d", db, "--files", folder, "**/*.txt", "--encoding", "utf-8")
    line = f"Could not decode text in file {folder / 'sub' / 'b.txt'}"
    assert said.stderr.splitlines().count(line) == 1
    assert list(stored(db, "c")) == ["a.txt"]
    assert query(db, "select entry_id, message from _embed_failures") == [("sub/b.txt", line)]


def test_multi_binary_files_are_embedded_as_bytes(
    db: Path, folder: Path, counting_model: CountingModel
) -> None:
    """Stored as content_blob; nothing is prepended to bytes."""
    (folder / "p.png").write_bytes(b"\x89PNG\xff")
    options = ("--binary", "--store", "--prepend", "x: ")
    multi("c", "-d", db, "--files", folder, "*.png", *options)
    assert counting_model.calls == [[b"\x89PNG\xff"]]
    assert query(db, "select id, content, content_blob from embeddings") == [
        ("p.png", None, b"\x89PNG\xff")
    ]


@pytest.mark.usefixtures("counting_model")
def test_multi_rows_without_an_id_or_a_text_are_named_and_left_out(db: Path) -> None:
    """The rest goes on; blank texts are counted, not embedded (LLM embeds '')."""
    data = "id,text\n1,good\n,lost\n3,\n"
    said = multi("c", "-", "-d", db, input=data)
    assert "line 3 has no usable id: it is empty" in said.stderr.splitlines()
    assert "1 empty" in said.stderr
    assert stored(db, "c") == expected([(1, "good")])


@pytest.mark.usefixtures("counting_model")
def test_multi_many_problems_are_named_up_to_a_number(db: Path) -> None:
    """The others are in the job."""
    data = "id,text\n1,good\n" + ",lost\n" * 103
    said = multi("c", "-", "-d", db, input=data)
    assert said.stderr.count("has no usable id") == 101  # 100, and the plan's example
    assert "… and 3 more that cannot be embedded" in said.stderr


@pytest.mark.usefixtures("counting_model")
def test_multi_repeated_id_the_last_one_counts_and_it_is_said(db: Path) -> None:
    """1 and "1" are one id."""
    said = multi("c", "-", "-d", db, input='[{"id": 1, "t": "a"}, {"id": "1", "t": "b"}]')
    assert "1 row replaced by a later one of the same id" in said.stderr
    assert stored(db, "c") == expected([(1, "b")])


@pytest.mark.usefixtures("counting_model")
def test_multi_encoding_of_the_input_can_be_named(db: Path) -> None:
    """LLM takes --encoding for --files only."""
    data = "id,text\n1,a café\n".encode("latin-1")
    arguments = ["embed", "multi", "c", "-", "-d", str(db), "-m", "count"]
    result = CliRunner().invoke(cli, arguments, input=data)
    assert result.exit_code == 1
    assert "(byte 15, on line 2). Say what it is, for example with --encoding" in result.stderr
    assert not db.exists()
    result = CliRunner().invoke(cli, [*arguments, "--encoding", "latin-1"], input=data)
    assert result.exit_code == 0
    assert stored(db, "c") == expected([(1, "a café")])


# -- running -----------------------------------------------------------------------


def test_multi_again_embeds_only_what_is_missing(db: Path, counting_model: CountingModel) -> None:
    """By content; two contents swapped in one batch both follow (LLM: both stay stale)."""
    multi("c", "-", "-d", db, input=CSV)
    calls = len(counting_model.calls)
    said = multi("c", "-", "-d", db, input=CSV)
    assert "2 up to date" in said.stderr
    multi("c", "-", "-d", db, input="id,t\n1,Two second text\n2,One first text\n")
    assert len(counting_model.calls) == calls
    assert stored(db, "c") == expected([(1, ROWS["2"]), (2, ROWS["1"])])
    multi("c", "-", "-d", db, input="id,t\n3,new\n")
    assert stored(db, "c") == expected([(1, ROWS["2"]), (2, ROWS["1"]), (3, "new")])


def test_multi_batch_size_is_that_of_the_calls(db: Path, counting_model: CountingModel) -> None:
    """And one below 1 is refused (LLM: silently nothing)."""
    data = "id,t\n" + "".join(f"{n},text {n}\n" for n in range(7))
    multi("c", "-", "-d", db, "--batch-size", "3", input=data)
    assert sorted(counting_model.batch_sizes) == [1, 3, 3]
    for size in ("0", "-1", "x"):
        said = multi("c", "-", "-d", db, "--batch-size", size, input=data, expect=2)
        assert "--batch-size" in said.stderr


def test_multi_key_reaches_the_model(db: Path, add_plugin: Callable[[Any], None]) -> None:
    """And is written nowhere."""
    model = KeyModel()
    add_plugin(ModelsPlugin((model, ("count",))))
    said = multi("c", "-", "-d", db, "--key", "s3cret-key", input=CSV)
    assert model.keys == {"s3cret-key"}
    assert b"s3cret-key" not in db.read_bytes()
    assert "s3cret-key" not in said.stdout + said.stderr


def test_multi_one_bad_text_does_not_keep_the_others_out(
    db: Path, add_plugin: Callable[[Any], None]
) -> None:
    """It is recorded and can be looked up; LLM loses the batch."""
    add_plugin(ModelsPlugin((FailingModel(["bad"]), ("count",))))
    said = multi("c", "-", "-d", db, input="id,t\n1,good\n2,bad\n3,fine\n")
    assert stored(db, "c") == expected([(1, "good"), (3, "fine")])
    assert "1 row could not be embedded. Which, and why: datasette embed jobs show" in said.stderr


@pytest.mark.usefixtures("counting_model")
def test_multi_default_database_is_llms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is made when something is written, and not otherwise."""
    assert "is empty" in multi("c", "-", input="", expect=1).error
    assert "nope" in embed("multi", "c", "-", "-m", "nope", input=CSV, expect=1).error
    assert "empty or NULL" in multi("c", "-", input="id,t\n1,\n", expect=1).error
    assert not (tmp_path / "llm").exists()
    multi("c", "-", input=CSV)
    assert stored(tmp_path / "llm" / "embeddings.db", "c") == expected(ROWS.items())
    monkeypatch.setenv("LLM_EMBEDDINGS_DB", str(tmp_path / "named.db"))
    multi("c", "-", input=CSV)
    assert stored(tmp_path / "named.db", "c") == expected(ROWS.items())


def test_multi_model_of_the_collection_stays(
    db: Path, add_plugin: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """-m that names another one is refused; the environment is only a default."""
    models = CountingModel(), CountingModel("other")
    add_plugin(ModelsPlugin((models[0], ("count",)), (models[1], ())))
    monkeypatch.setenv("LLM_EMBEDDING_MODEL", "other")
    embed("multi", "c", "-", "-d", db, input=CSV)
    assert query(db, "select model from collections") == [("other",)]
    before = db.read_bytes()
    said = multi("c", "-", "-d", db, input="id,t\n9,x\n", expect=1)
    assert said.error.startswith("Collection 'c' was made with other, not counting")
    assert db.read_bytes() == before
    monkeypatch.setenv("LLM_EMBEDDING_MODEL", "count")
    embed("multi", "c", "-", "-d", db, input="id,t\n9,x\n")
    assert list(stored(db, "c")) == ["1", "2", "9"]
    assert models[0].calls == []


# -- what is refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Either --sql or input path or --files is required"),
        (["-", "--binary"], "--binary must be used with --files"),
        (
            ["--files", ".", "*", "--binary", "--encoding", "utf-8"],
            "--binary cannot be used with --encoding",
        ),
        (["--files", ".", "*", "-"], "Cannot use --files with --sql, input path or --format"),
        (
            ["--files", ".", "*", "--sql", "select 1"],
            "Cannot use --files with --sql, input path or --format",
        ),
        (
            ["--files", ".", "*", "--format", "csv"],
            "Cannot use --files with --sql, input path or --format",
        ),
        (["--files", "nope", "*"], "Invalid directory: nope"),
        (["--files", __file__, "*"], "is a file"),
        (["nope.csv"], "'nope.csv' does not exist"),
        (["-", "--format", "xml"], "'xml' is not one of"),
        (["-", "--sql", "select 1"], "Cannot use --sql with input path, --format or --encoding"),
        (["-", "--attach", "a", "b.db"], "--attach must be used with --sql"),
        (["--sql", ""], "is empty"),
        (["-", "--prefix", ""], "is empty"),
        (
            ["--files", ".", "*", "--metadata-columns", "a"],
            "--metadata-columns cannot be used with --files",
        ),
    ],
)
@pytest.mark.usefixtures("counting_model")
def test_multi_usage_mistakes_are_refused_in_llms_words(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    """Exit code 2, nothing read and nothing made."""
    said = multi("c", *arguments, expect=2, input=CSV)
    assert message in said.stderr and said.stdout == ""
    assert not (tmp_path / "llm").exists()


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        (["-"], "", "standard input: is empty"),
        (["-"], "id,text\n", "the input has no rows to embed"),
        (["-"], "[]", "the input has no rows to embed"),
        (["-"], "id\n1\n", "has one column (id)"),
        (["-"], '{"id": 1, "t": "a"}\n{\n', "line 2 is not JSON"),
        (["-"], "id,t\n,a\n", "can be embedded: line 2 has no usable id: it is empty"),
        (["-", "--metadata-columns", "x"], CSV, "no column named 'x'. Columns: id, title, body"),
        (["-", "--encoding", "nope"], CSV, "no encoding of text is called 'nope'"),
        (["--sql", "select * from nope"], "", "--sql: no such table: nope"),
        (["--sql", "delete from x"], "", "--sql: near"),
        (["--sql", "select 1, 2", "--attach", "a", "no.db"], "", "no.db: no such file"),
        (["--sql", "select 1, x'00'"], "", "binary content"),
        (["--files", ".", "*.nope"], "", "no file matches '*.nope'"),
    ],
)
@pytest.mark.usefixtures("counting_model")
def test_multi_input_that_is_wrong_is_refused(
    db: Path, arguments: list[str], data: str, message: str
) -> None:
    """One line, exit code 1, and nothing is made (LLM leaves an empty collection)."""
    said = multi("c", *arguments, "-d", db, expect=1, input=data)
    assert message in said.error and said.stdout == ""
    assert "Traceback" not in said.stderr
    assert not db.exists()


@pytest.mark.usefixtures("counting_model")
def test_multi_file_that_is_no_database_is_refused(db: Path, tmp_path: Path) -> None:
    """Its bytes stay."""
    db.write_text("hello" * 100, "utf-8")
    data = tmp_path / "data.csv"
    data.write_text(CSV, "utf-8")
    assert refused("multi", "c", data, "-d", db, "-m", "count", files=[db]) == (
        f"{db}: is not a SQLite database"
    )


@pytest.mark.usefixtures("counting_model")
def test_multi_bad_row_text_cannot_move_the_cursor(db: Path) -> None:
    """What comes out of a file is shown with its control characters written out."""
    data = json.dumps([{"id": "1", "t": "ok"}, {"id": "2", "t": "\ud800"}])
    said = multi("c", "-", "-d", db, "--prefix", "x\x1b[2J", input=data)
    assert "\x1b" not in said.stderr
    assert "item 2: holds half a character" in said.stderr


@pytest.mark.usefixtures("counting_model")
def test_multi_file_name_that_is_not_utf8_is_named_and_the_others_embedded(
    db: Path, folder: Path
) -> None:
    """Such names come from old disks; exit code 0."""
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("x", "utf-8")
    said = multi("c", "-d", db, "--files", folder, "*.txt")
    assert stored(db, "c") == expected([("a.txt", "a café")])
    assert "caf\\udce9.txt has no usable name" in said.stderr
    [(message,)] = query(db, "select message from _embed_failures")
    assert "caf\\udce9.txt has no usable name" in message


def test_multi_other_input_keeps_the_failures_of_the_first(
    db: Path, add_plugin: Callable[[Any], None]
) -> None:
    """They go when their content has a vector at last."""
    model = FailingModel(["bad"])
    add_plugin(ModelsPlugin((model, ("count",))))
    failures = "select job_id, entry_id from _embed_failures"
    multi("c", "-", "-d", db, input="id,t\n1,good\n2,bad\n")
    assert query(db, failures) == [(1, "2")]
    multi("c", "-", "-d", db, input="id,t\n3,fine\n")
    assert query(db, failures) == [(1, "2")]
    model.bad = set()
    multi("c", "-", "-d", db, input="id,t\n2,bad\n")
    assert query(db, failures) == []
    assert stored(db, "c") == expected([(1, "good"), (2, "bad"), (3, "fine")])
