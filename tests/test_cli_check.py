"""``check``: problems on stdout, exit code 1 when there is one."""

from __future__ import annotations

import json

import pytest

from tests.storage import embed, execute, make_docs, refused


@pytest.fixture
def db(tmp_path, counting_model):
    """A file whose table docs is embedded."""
    path = make_docs(tmp_path / "a.db", [(n, f"text {n}") for n in range(8)])
    embed("create", path, "docs", "--model", "count")
    return path


def test_check_sound_file_exit_code_0(db):
    """Nothing on stdout, the good news on stderr, no byte changed."""
    before = db.read_bytes()
    said = embed("check", db)
    assert (said.stdout, said.stderr) == ("", f"{db}: 1 collection(s), no problems\n")
    assert json.loads(embed("check", db, "--json").stdout) == []
    assert db.read_bytes() == before


def test_check_problems_listed_exit_code_1(db):
    """Where, how many, what, which."""
    execute(db, "update embeddings set embedding = null where id in ('1', '2')")
    before = db.read_bytes()
    said = embed("check", db, expect=1)
    assert said.stdout == "docs: 2 rows: no vector (NULL) (1, 2)\n"
    assert json.loads(embed("check", db, "--json", expect=1).stdout) == [
        {
            "collection": "docs",
            "message": "no vector (NULL)",
            "entries": 2,
            "examples": ["1", "2"],
        }
    ]
    assert db.read_bytes() == before


def test_check_file_without_collections_says_so(tmp_path):
    """Nothing to check is no problem; no file is one."""
    path = make_docs(tmp_path / "a.db", [])
    assert embed("check", path).stderr == f"{path} has no collections\n"
    gone = tmp_path / "gone.db"
    assert refused("check", gone) == f"{gone}: no such file"
    assert not gone.exists()
