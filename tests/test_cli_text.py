"""``datasette embed text``: LLM's ``embed``, with what it should have done."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from datasette.cli import cli

from datasette_embed.errors import ProviderError
from tests.conftest import ModelsPlugin
from tests.engine_fakes import FailingModel
from tests.fakes import CountingModel, vector_of
from tests.storage import blob_of, embed, execute, query, refused, stored


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """The path of a file that is not there yet."""
    return tmp_path / "v.db"


@pytest.fixture
def two_models(add_plugin: Callable[[Any], None]) -> tuple[CountingModel, CountingModel]:
    """Two models, ``counting`` and ``other`` (alias ``o``)."""
    models = CountingModel(), CountingModel("other", dimensions=4)
    add_plugin(ModelsPlugin((models[0], ("count",)), (models[1], ("o",))))
    return models


@pytest.fixture
def failing_model(add_plugin: Callable[[Any], None]) -> FailingModel:
    """A model that knows no good word."""
    model = FailingModel(["bad"])
    model.error = lambda: ProviderError("counting", "cannot")
    add_plugin(ModelsPlugin((model, ())))
    return model


def row(path: Path) -> tuple[Any, ...]:
    """Return the one entry of a file."""
    (found,) = query(path, "select id, content, content_blob, metadata from embeddings")
    return found


# -- printing ----------------------------------------------------------------------


@pytest.mark.usefixtures("counting_model")
def test_text_without_collection_prints_the_vector(tmp_path: Path) -> None:
    """JSON by default; no file is made, LLM's own neither."""
    said = embed("text", "-c", "hello", "-m", "counting")
    assert json.loads(said.stdout) == vector_of("hello")
    assert said.stderr == ""
    assert not (tmp_path / "llm").exists()


@pytest.mark.usefixtures("counting_model")
@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("json", (json.dumps(vector_of("hello")) + "\n").encode()),
        ("blob", blob_of("hello")),
        ("base64", base64.b64encode(blob_of("hello")) + b"\n"),
        ("hex", blob_of("hello").hex().encode() + b"\n"),
    ],
)
def test_text_formats_print_the_vector(format: str, expected: bytes) -> None:
    """A blob is its bytes and nothing else (LLM adds a line end)."""
    arguments = ["embed", "text", "-c", "hello", "-m", "counting", "-f", format]
    assert CliRunner().invoke(cli, arguments).stdout_bytes == expected


def test_text_json_numbers_are_those_of_the_blob() -> None:
    """What is printed becomes the same float32 again, with the bundled model."""
    numbers = json.loads(embed("text", "-c", "hello").stdout)
    runner = CliRunner().invoke(cli, ["embed", "text", "-c", "hello", "-f", "blob"])
    assert struct.pack(f"<{len(numbers)}f", *numbers) == runner.stdout_bytes
    assert len(numbers) == 384


@pytest.mark.parametrize("arguments", [[], ["-i", "-"]])
def test_text_is_read_from_standard_input(
    counting_model: CountingModel, arguments: list[str]
) -> None:
    """As it is, with its line end, which is one character on every system."""
    embed("text", "-m", "counting", *arguments, input="hello\r\n")
    assert counting_model.calls == [["hello\n"]]


def test_text_is_read_from_a_file_as_utf8(counting_model: CountingModel, tmp_path: Path) -> None:
    """Whatever the system's encoding is; a byte order mark is no text."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "a café".encode())
    embed("text", "-m", "counting", "-i", path)
    assert counting_model.calls == [["a café"]]
    path.write_bytes("café".encode("latin-1"))
    assert refused("text", "-m", "counting", "-i", path) == (
        f"{path}: is not UTF-8 text. To embed its bytes use --binary"
    )


def test_text_binary_is_bytes(counting_model: CountingModel, tmp_path: Path, db: Path) -> None:
    """From a file and from standard input; stored as content_blob."""
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\xff")
    embed("text", "-m", "counting", "--binary", "-i", path)
    result = CliRunner().invoke(
        cli,
        ["embed", "text", "c", "1", "-d", str(db), "-m", "count", "--binary", "--store"],
        input=b"\x00\xff",
    )
    assert result.exit_code == 0
    assert counting_model.calls == [[b"\x89PNG\xff"], [b"\x00\xff"]]
    assert row(db) == ("1", None, b"\x00\xff", None)


# -- storing -----------------------------------------------------------------------


@pytest.mark.usefixtures("counting_model")
def test_text_with_collection_stores_and_prints_nothing(db: Path) -> None:
    """The file and the collection are made on first mention, with the model's full id."""
    said = embed("text", "c", "1", "-c", "hello", "-m", "count", "-d", db)
    assert (said.stdout, said.stderr) == ("", "")
    assert stored(db, "c") == {"1": blob_of("hello")}
    assert query(db, "select name, model from collections") == [("c", "counting")]
    assert row(db) == ("1", None, None, None)


@pytest.mark.usefixtures("counting_model")
def test_text_store_and_metadata_are_kept(db: Path) -> None:
    """As LLM writes them."""
    embed(
        *("text", "c", "1", "-c", "a café", "-m", "count", "-d", db, "--store"),
        *("--metadata", '{"name": "é", "n": 1}'),
    )
    assert row(db) == ("1", "a café", None, json.dumps({"name": "é", "n": 1}))


def test_text_format_with_collection_stores_and_prints(
    counting_model: CountingModel, db: Path
) -> None:
    """For content that is known as well (LLM prints null, or crashes)."""
    command = ("text", "c", "1", "-c", "hello", "-m", "count", "-d", db, "-f")
    assert json.loads(embed(*command, "json").stdout) == vector_of("hello")
    assert embed(*command, "hex").stdout == blob_of("hello").hex() + "\n"
    assert stored(db, "c") == {"1": blob_of("hello")}
    assert len(counting_model.calls) == 1


def test_text_again_stores_what_is_new_without_the_model(
    counting_model: CountingModel, db: Path
) -> None:
    """--store and --metadata come later; another id has the same content (LLM: no-ops)."""
    command = ("-c", "hello", "-d", db)
    embed("text", "c", "1", *command, "-m", "count")
    embed("text", "c", "1", *command, "--store", "--metadata", '{"n": 1}')
    assert row(db) == ("1", "hello", None, '{"n": 1}')
    embed("text", "c", "2", *command)
    assert stored(db, "c") == {"1": blob_of("hello"), "2": blob_of("hello")}
    assert len(counting_model.calls) == 1
    embed("text", "c", "1", "-c", "changed", "-d", db)
    assert stored(db, "c")["1"] == blob_of("changed")


@pytest.mark.usefixtures("counting_model")
def test_text_default_database_is_llms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLM's embeddings.db, its folder made for it; or the file of LLM_EMBEDDINGS_DB."""
    embed("text", "c", "1", "-c", "hello", "-m", "count")
    assert stored(tmp_path / "llm" / "embeddings.db", "c") == {"1": blob_of("hello")}
    monkeypatch.setenv("LLM_EMBEDDINGS_DB", str(tmp_path / "named.db"))
    embed("text", "c", "2", "-c", "hello", "-m", "count")
    assert list(stored(tmp_path / "named.db", "c")) == ["2"]


def test_text_model_is_named_by_option_environment_or_default(
    two_models: tuple[CountingModel, CountingModel],
    db: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this order; without any of them it is the bundled one (LLM: an error)."""
    counting, other = two_models
    assert len(json.loads(embed("text", "-c", "x").stdout)) == 384
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "default_embedding_model.txt").write_text("o", "utf-8")
    embed("text", "-c", "by default")
    monkeypatch.setenv("LLM_EMBEDDING_MODEL", "count")
    embed("text", "-c", "by environment")
    embed("text", "-c", "by option", "-m", "o")
    assert other.calls == [["by default"], ["by option"]]
    assert counting.calls == [["by environment"]]


def test_text_existing_collection_keeps_its_model(
    two_models: tuple[CountingModel, CountingModel], db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one by -m is refused; in the environment it is only a default."""
    embed("text", "c", "1", "-c", "a", "-m", "o", "-d", db)
    message = refused("text", "c", "2", "-c", "b", "-m", "count", "-d", db, files=[db])
    assert message.startswith("Collection 'c' was made with other, not counting")
    assert "not nope" in refused("text", "c", "2", "-c", "b", "-m", "nope", "-d", db)
    monkeypatch.setenv("LLM_EMBEDDING_MODEL", "count")
    embed("text", "c", "2", "-c", "b", "-d", db)
    embed("text", "c", "3", "-c", "b", "-d", db, "-m", "other")
    assert two_models[1].calls == [["a"], ["b"]]
    assert two_models[0].calls == []
    assert list(stored(db, "c")) == ["1", "2", "3"]


def test_text_says_what_the_model_does_not_read(
    add_plugin: Callable[[Any], None], db: Path
) -> None:
    """On stderr, stored or not; and check finds it later."""
    add_plugin(ModelsPlugin((CountingModel(max_tokens=4), ())))
    said = embed("text", "-m", "counting", "-c", "one two three four")
    assert "6 tokens long and counting reads 4" in said.stderr
    assert len(json.loads(said.stdout)) == 8
    said = embed("text", "c", "1", "-m", "counting", "-c", "one two three four", "-d", db)
    assert "6 tokens long" in said.stderr and said.stdout == ""
    assert query(db, "select entry_id, warning, tokens_lost from _embed_warnings") == [
        ("1", "truncated", 2)
    ]


# -- what is refused ---------------------------------------------------------------


@pytest.mark.usefixtures("counting_model")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["c", "-c", "x"], 1, "Must provide both collection and id"),
        (["--store", "-c", "x"], 1, "Must provide collection when using --store"),
        (["--metadata", "{}", "-c", "x"], 0, None),
        (["--metadata", '{"a": 1}', "-c", "x"], 1, "Must provide collection when using --metadata"),
        (["-c", ""], 1, "No content provided"),
        (["-c", " \n"], 1, "No content provided"),
        ([], 1, "No content provided"),
        (["--binary"], 1, "No content provided"),
        (["", "1", "-c", "x"], 2, "'[COLLECTION]': is empty"),
        (["c", "1", "--metadata", "[1]"], 2, "metadata must be a JSON object"),
        (["c", "1", "--metadata", "{"], 2, "metadata must be valid JSON"),
        (["c", "1", "--metadata", '{"a": NaN}'], 2, "metadata must be valid JSON"),
        (["-c", "x", "-i", "-"], 2, "Cannot use --content with --input or --binary"),
        (["-c", "x", "--binary"], 2, "Cannot use --content with --input or --binary"),
        (["-i", "nope.txt"], 2, "'nope.txt' does not exist"),
        (["-c", "x", "-f", "csv"], 2, "'csv' is not one of"),
        (["-c", "x", "-m", "nope"], 1, "Unknown model: nope"),
        (["c", "1", "-c", "x", "-m", "nope"], 1, "Unknown model: nope"),
        (["c", "a\0b", "-c", "x"], 1, "the id: it holds the character NUL"),
        (["c", "1", "-c", "ÿ é", "-m", "counting"], 1, "does not know a single word"),
        (["c", "1", "-c", "x", "-d", "no/folder/v.db"], 1, "its folder does not exist"),
    ],
)
def test_text_mistakes_are_refused_in_llms_words(
    arguments: list[str],
    code: int,
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line, exit code 1, or 2 for usage; no file and no folder is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_EMBEDDING_MODEL", "counting")
    said = embed("text", *arguments, expect=code, input="")
    if message is None:
        assert json.loads(said.stdout) == vector_of("x")
    else:
        assert message in said.stderr and said.stdout == ""
        assert "Traceback" not in said.stderr
    assert not (tmp_path / "llm").exists()
    assert list(tmp_path.glob("*.db")) == []


def test_text_failing_model_leaves_nothing_behind(
    failing_model: FailingModel, db: Path, tmp_path: Path
) -> None:
    """No file and no folder; no collection in a file that is there; the entry as it was."""
    command = ("text", "c", "1", "-c", "bad", "-m", "counting")
    assert refused(*command, "-d", db) == "counting: cannot"
    assert not db.exists()
    assert refused(*command) == "counting: cannot"
    assert not (tmp_path / "llm").exists()
    embed("text", "other", "1", "-c", "good", "-m", "counting", "-d", db)
    assert refused(*command, "-d", db, files=[db]) == "counting: cannot"
    embed("text", "c", "1", "-c", "good", "-m", "counting", "-d", db)
    assert refused(*command, "-d", db, files=[db]) == "counting: cannot"
    failing_model.error = lambda: RuntimeError("boom")
    assert "boom" in refused(*command, "-d", db, files=[db])
    assert "boom" in refused("text", "-c", "bad", "-m", "counting")


def test_text_bytes_for_a_model_of_texts_are_refused(
    counting_model: CountingModel, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a line that says so, stored or not."""
    monkeypatch.setattr(counting_model, "supports_binary", False)
    for arguments in ([], ["c", "1", "-d", db]):
        message = refused("text", *arguments, "-m", "counting", "--binary", "-i", __file__)
        assert "binary data" in message
    assert not db.exists()


def test_text_into_a_file_that_is_none_is_refused(counting_model: CountingModel, db: Path) -> None:
    """Before the model is called."""
    db.write_text("hello" * 100, "utf-8")
    message = refused("text", "c", "1", "-c", "x", "-m", "count", "-d", db, files=[db])
    assert message == f"{db}: is not a SQLite database"
    db.unlink()
    execute(db, "create table collections (shells)")
    assert "collections" in refused(
        "text", "c", "1", "-c", "x", "-m", "count", "-d", db, files=[db]
    )
    assert counting_model.calls == []


@pytest.mark.usefixtures("counting_model")
def test_text_into_a_collection_of_a_table_is_refused(db: Path) -> None:
    """The next sync would take the entry away again."""
    execute(db, "create table docs (id integer primary key, body text)")
    execute(db, "insert into docs values (1, 'some words')")
    embed("create", db, "docs", "--columns", "body", "--model", "count")
    message = refused("text", "docs", "2", "-c", "x", "-d", db, files=[db])
    assert "was made from something else" in message


@pytest.mark.parametrize("arguments", [["-c", "x"], ["c", "1", "-c", "x"]])
@pytest.mark.usefixtures("counting_model")
def test_text_unknown_model_in_the_environment_names_the_variable(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody set it long ago, perhaps; -m is said as it was."""
    monkeypatch.setenv("LLM_EMBEDDING_MODEL", "nope")
    message = refused("text", *arguments)
    assert message.startswith("LLM_EMBEDDING_MODEL: unknown model: nope. Known models: ")
    assert "counting" in message
    assert "LLM_EMBEDDING_MODEL" not in refused("text", *arguments, "-m", "nope")
    assert not (tmp_path / "llm").exists()
