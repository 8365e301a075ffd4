"""The real corpus and the real model: what is near in meaning is near in SQL."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

import datasette_embed
from datasette_embed.database import sqlite3
from tests.storage import embed, query

CORPUS = Path(__file__).parent.parent / "benchmarks" / "data" / "til.db"
#: What a person would put beside the article on sqlite-tg: geography in SQLite.
RELATED = {
    "sqlite_geopoly.md",
    "gis_gdal-sql.md",
    "spatialite_knn.md",
    "spatialite_viewing-geopackage-data-with-spatialite-and-datasette.md",
    "spatialite_minimal-spatialite-database-in-python.md",
}


@pytest.fixture(scope="session")
def til(tmp_path_factory):
    """The corpus, embedded once by the command line, and what the command said."""
    path = tmp_path_factory.mktemp("til") / "til.db"
    shutil.copy(CORPUS, path)
    said = embed("create", path, "til", "--columns", "title,body")
    return path, said


def test_create_til_every_article_embedded(til):
    """577 rows, 384 numbers each, and the truncated ones are said."""
    path, said = til
    assert query(path, "select count(*), min(length(embedding)) from embeddings") == [(577, 1536)]
    assert query(path, "select max(length(embedding)) from embeddings") == [(1536,)]
    assert "577 rows: 577 to embed, 0 up to date" in said.stderr
    assert "longer than the 256 tokens this model reads" in said.stderr
    assert said.stdout == ""


def test_sql_nearest_articles_are_about_the_same_thing(til):
    """Plain SQL over the stored vectors, on a connection with our functions."""
    with closing(sqlite3.connect(til[0])) as conn:
        datasette_embed.register(conn)
        found = conn.execute(
            "select id from embeddings where id != :id order by llm_embed_cosine(embedding,"
            " (select embedding from embeddings where id = :id)) desc limit 5",
            {"id": "sqlite_sqlite-tg.md"},
        ).fetchall()
    assert len(RELATED & {entry_id for (entry_id,) in found}) >= 3


def test_search_words_find_the_article(til):
    """The command finds by meaning: no word of the query is in the title."""
    said = embed("search", til[0], "til", "undo my last commit", "-n", "3")
    assert "git_remove-commit-and-force-push.md" in said.stdout
    assert said.stderr == ""


def test_create_til_again_costs_nothing(til):
    """Nothing has changed, so nothing is embedded."""
    path, _ = til
    before = path.read_bytes()
    said = embed("create", path, "til", "--columns", "title,body")
    assert "577 rows: 0 to embed, 577 up to date" in said.stderr
    assert path.read_bytes() == before
