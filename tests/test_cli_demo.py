"""``demo``: a file made of what every Python has."""

from __future__ import annotations

import socket

import pytest
from datasette.cli import cli

from datasette_embed.cli import demo
from datasette_embed.registry import get_registry
from datasette_embed.stdlib_rows import StdlibRow
from tests.fakes import CountingModel
from tests.storage import embed, execute, expected, query, refused, stored

ROWS = [
    StdlibRow(f"m.f{n}", "m", f"f{n}", "function", "f()", f"Does {n}.", f"Does {n}.\n\nMore.")
    for n in range(30)
]
VECTORS = expected((row.id, f"{row.id} {row.doc}") for row in ROWS)


@pytest.fixture
def model(monkeypatch):
    """Thirty rows in place of thousands, and a counting model as the default one."""
    model = CountingModel()
    monkeypatch.setattr(demo, "iter_stdlib_rows", lambda: iter(ROWS))
    monkeypatch.setitem(get_registry()._names, "default", model)
    monkeypatch.setitem(get_registry()._names, "counting", model)
    return model


def test_demo_new_file_rows_and_vectors(tmp_path, model):
    """The table has what a person looks for, and every row a vector."""
    path = tmp_path / "demo.db"
    said = embed("demo", path, "--no-serve")
    assert said.stdout == ""
    assert f"Wrote 30 rows to {path}" in said.stderr
    assert query(path, "select * from functions") == [tuple(row) for row in ROWS]
    assert stored(path, "functions") == VECTORS


def test_demo_again_goes_on_where_it_was(tmp_path, model):
    """The rows are written once, the vectors that are missing are made."""
    path = tmp_path / "demo.db"
    embed("demo", path, "--no-serve")
    execute(path, "delete from embeddings where id in ('m.f1', 'm.f2')")
    said = embed("demo", path, "--no-serve")
    assert "Wrote" not in said.stderr
    assert sum(len(call) for call in model.calls) == 32
    assert stored(path, "functions") == VECTORS


def test_demo_interrupted_while_reading_goes_on(tmp_path, model, monkeypatch):
    """The empty file that an early Ctrl-C leaves is no reason to refuse."""

    def interrupt():
        raise KeyboardInterrupt
        yield

    path = tmp_path / "demo.db"
    with monkeypatch.context() as patch:
        patch.setattr(demo, "iter_stdlib_rows", interrupt)
        embed("demo", path, "--no-serve", expect=1)
    embed("demo", path, "--no-serve")
    assert stored(path, "functions") == VECTORS


@pytest.mark.parametrize(
    "statement",
    ["create table mine (x)", "create table functions (id text primary key, mine text)"],
)
def test_demo_other_file_refused_unchanged(tmp_path, model, statement):
    """A file of the user's is never written to."""
    path = tmp_path / "demo.db"
    execute(path, statement)
    error = refused("demo", path, "--no-serve", files=[path])
    assert error == f"{path}: exists and is not the demo: name another file"
    notes = tmp_path / "notes.txt"
    notes.write_text("not a database " * 100)
    assert "is not a SQLite database" in refused("demo", notes, "--no-serve", files=[notes])
    assert "is a directory" in refused("demo", tmp_path, "--no-serve")


def test_demo_python_without_sources_refused(tmp_path, model, monkeypatch):
    """Some Pythons come without the sources of their library."""
    monkeypatch.setattr(demo, "iter_stdlib_rows", lambda: iter(()))
    error = refused("demo", tmp_path / "demo.db", "--no-serve")
    assert "comes without the sources of its library" in error


def test_demo_port_taken_refused_before_any_work(tmp_path, model):
    """A minute of work for nothing, and a URL of somebody else's server, are avoided."""
    path = tmp_path / "demo.db"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = refused("demo", path, "--port", str(port))
    assert error == f"port {port}: is taken or not allowed: name another with --port"
    assert not path.exists()
    for wrong in ("0", "65536"):
        assert "Invalid value for '-p'" in refused("demo", path, "--port", wrong, code=2)


def test_demo_serves_the_file_and_names_its_url(tmp_path, model, monkeypatch):
    """The database's name is encoded as Datasette encodes it."""
    served = []
    monkeypatch.setattr(cli, "main", lambda args, standalone_mode: served.append(args))
    path = tmp_path / "my demo.v1.db"
    demo.demo.main([str(path)], standalone_mode=False)
    ((command, file, option, port, *_),) = served
    assert (command, file, option) == ("serve", str(path), "--port")
    assert demo._url(str(path), int(port)).startswith(
        f"http://127.0.0.1:{port}/my+demo~2Ev1/-/embed/c/functions?q=remove+a+folder"
    )


@pytest.mark.asyncio
async def test_demo_page_finds_rows_of_the_demo(tmp_path, model, counting_model, make_datasette):
    """The address that is opened is a page with the best of its rows."""
    path = tmp_path / "demo.db"
    embed("demo", path, "--no-serve")
    datasette = make_datasette([str(path)])
    response = await datasette.client.get(
        demo._url(str(path), 80).removeprefix("http://127.0.0.1:80")
    )
    assert response.status_code == 200
    assert response.text.count("/demo/functions/m~2Ef") >= 10
