"""``?_similar=`` and ``?_similar_to=`` on the pages of tables, in a real Datasette."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from contextlib import closing
from html import unescape
from urllib.parse import urlencode, urlsplit

import pytest
from datasette.app import Datasette

from datasette_embed.database import open_database, sqlite3
from datasette_embed.job_records import JobRecords
from datasette_embed.runner.site import Site
from datasette_embed.schema import ensure_schema
from datasette_embed.sources import SourceSpec
from datasette_embed.store import Store
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel, Kind, vector_of
from tests.storage import execute, make_docs, query, run_job

IS_ONE = hasattr(Datasette, "allowed")
WORDS = ["red", "green", "blue", "cat", "dog", "bird", "one", "two", "three", "four"]


def score(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def nearest(contents, text=None, entry_id=None, number=100):
    """Return the ids that must be found, by arithmetic of our own."""
    wanted = vector_of(text, Kind.QUERY) if text else vector_of(contents[entry_id])
    scores = {key: score(wanted, vector_of(value)) for key, value in contents.items()}
    scores.pop(entry_id, None)
    return set(sorted(scores, key=lambda key: -scores[key])[:number])


@pytest.fixture
def model(counting_model):
    return counting_model


@pytest.fixture
def path(tmp_path, model):
    """A table of ten words, its collection of the same name, and a column to facet by."""
    path = make_docs(tmp_path / "db.db", enumerate(WORDS, 1))
    execute(path, "alter table docs add column kind text")
    execute(path, "update docs set kind = case when id % 2 then 'odd' else 'even' end")
    run_job(path, model)
    model.calls.clear()
    return path


async def get(datasette, where, expect=200, **arguments):
    response = await datasette.client.get(f"{where}?{urlencode(arguments)}")
    assert response.status_code == expect, response.text
    return response


async def rows(datasette, table="db/docs", **arguments):
    """Return the rows of a table page as JSON has them."""
    options = {"_shape": "objects", "_size": "max", **arguments}
    return (await get(datasette, f"/{table}.json", **options)).json()["rows"]


async def refusal(datasette, status, table="db/docs", **arguments):
    """Return the message of a page that is refused, the same in JSON and HTML."""
    answer = await get(datasette, f"/{table}.json", status, **arguments)
    assert answer.json()["ok"] is False
    message = answer.json()["error"]
    page = await get(datasette, f"/{table}", status, **arguments)
    # Between the two requests the time to wait may become a second shorter.
    said = re.sub(r"again in \d+ s", "again in S s", unescape(page.text))
    assert re.sub(r"again in \d+ s", "again in S s", message) in said
    assert f'<a href="/{table}">All rows of {table.partition("/")[2]}</a>' in page.text
    return message


CONTENTS = {str(number): word for number, word in enumerate(WORDS, 1)}


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [1, 3, 10, 1000])
async def test_similar_text_leaves_the_nearest_rows(make_datasette, path, number):
    """As many as asked for, those that arithmetic finds too."""
    found = await rows(make_datasette([path]), _similar="a hen", _similar_number=number)
    assert {str(row["id"]) for row in found} == nearest(CONTENTS, "a hen", number=number)
    assert len(found) == min(number, 10)


@pytest.mark.asyncio
async def test_similar_to_row_leaves_its_neighbours_without_itself(make_datasette, path, model):
    """No model is asked: the vector is in the table."""
    found = await rows(make_datasette([path]), _similar_to=4, _similar_number=3)
    assert {str(row["id"]) for row in found} == nearest(CONTENTS, entry_id="4", number=3)
    assert model.calls == []


@pytest.mark.asyncio
async def test_similar_default_number_is_a_hundred(make_datasette, tmp_path, model):
    """Of more rows the nearest hundred are left."""
    contents = {str(number): f"word {number}" for number in range(1, 131)}
    path = make_docs(tmp_path / "db.db", [(int(key), text) for key, text in contents.items()])
    run_job(path, model)
    found = await rows(make_datasette([path]), _similar="x")
    assert {str(row["id"]) for row in found} == nearest(contents, "x")


@pytest.mark.asyncio
async def test_similar_with_filters_facets_and_counts_embeds_once(make_datasette, path, model):
    """Facets and counts run the filter again, and the text is embedded once all the same."""
    datasette = make_datasette([path])
    wanted = nearest(CONTENTS, "a hen", number=6)
    odd = {key for key in wanted if int(key) % 2}
    answer = await get(
        datasette,
        "/db/docs.json",
        _similar="a hen",
        _similar_number=6,
        _facet="kind",
        _shape="objects",
        _extra="count,facet_results",
    )
    body = answer.json()
    assert {str(row["id"]) for row in body["rows"]} == wanted
    facets = body["facet_results"]
    facets = facets["results"] if IS_ONE else facets
    counts = {result["value"]: result["count"] for result in facets["kind"]["results"]}
    assert counts == {"odd": len(odd), "even": 6 - len(odd)}
    assert body["count" if IS_ONE else "filtered_table_rows_count"] == 6
    assert model.calls == [["a hen"]]
    found = await rows(datasette, _similar="a hen", _similar_number=6, kind="odd")
    assert {str(row["id"]) for row in found} == odd
    assert model.calls == [["a hen"]]


@pytest.mark.asyncio
async def test_similar_pages_and_forms_keep_the_question(make_datasette, path, model):
    """The next page, the filter form and the CSV link ask for the same rows."""
    datasette = make_datasette([path])
    seen, url = [], "/db/docs.json?_similar=a+hen&_similar_number=5&_size=2&_shape=objects"
    while url:
        body = (await datasette.client.get(url)).json()
        seen += [str(row["id"]) for row in body["rows"]]
        parts = urlsplit(body["next_url"] or "")
        url = f"{parts.path}?{parts.query}" if parts.query else None
    assert len(seen) == 5
    assert set(seen) == nearest(CONTENTS, "a hen", number=5)
    page = (await get(datasette, "/db/docs", _similar="a hen", _similar_number=5)).text
    for name, value in (("_similar", "a hen"), ("_similar_number", "5")):
        assert f'<input type="hidden" name="{name}" value="{value}">' in page
    [link] = re.findall(r'href="([^"]+\.csv\?[^"]*)"', page)
    text = (await datasette.client.get(unescape(link))).text
    listed = list(csv.DictReader(io.StringIO(text)))
    assert {row["id"] for row in listed} == set(seen)
    assert model.calls == [["a hen"]]


@pytest.mark.asyncio
async def test_similar_csv_stream_has_every_row(make_datasette, path):
    """Streaming pages through the table, and finds each row once."""
    answer = await get(
        make_datasette([path], settings={"max_returned_rows": 3}),
        "/db/docs.csv",
        _similar="a hen",
        _similar_number=7,
        _stream="on",
        _size="max",
    )
    found = [row["id"] for row in csv.DictReader(io.StringIO(answer.text))]
    assert len(found) == 7
    assert set(found) == nearest(CONTENTS, "a hen", number=7)


@pytest.mark.asyncio
async def test_similar_page_says_what_it_shows(make_datasette, path):
    """In words, the text escaped and a long one cut."""
    page = (await get(make_datasette([path]), "/db/docs", _similar="<b>x</b>")).text
    assert "<b>x</b>" not in page
    assert 'one of the 10 most similar to "<b>x</b>" (collection docs)' in unescape(page)
    long = "y" * 200
    page = (await get(make_datasette([path]), "/db/docs", _similar=long)).text
    assert f'similar to "{"y" * 80}…"' in unescape(page)
    page = (await get(make_datasette([path]), "/db/docs", _similar_to="3")).text
    assert "one of the 9 most similar to row 3 (collection docs)" in unescape(page)


@pytest.mark.asyncio
@pytest.mark.parametrize("blank", ["", "  ", "\u200b"])
async def test_similar_blank_is_no_filter(make_datasette, path, blank, model):
    """A form sends fields that nobody filled in: every row is shown."""
    assert len(await rows(make_datasette([path]), _similar=blank, _similar_to="")) == 10
    assert model.calls == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ({"_similar_number": "0"}, 400, "_similar_number must be a whole number from 1 to 1,000"),
        ({"_similar_number": "1001"}, 400, "_similar_number must be"),
        ({"_similar_number": "٣"}, 400, "_similar_number must be"),
        ({"_similar_number": "9" * 5000}, 400, "_similar_number must be"),
        ({"_similar_number": "x"}, 400, "_similar_number must be"),
        ({"_similar_to": "1"}, 400, "Give _similar (a text) or _similar_to (a row's id), not both"),
        ({"_similar_collection": "none"}, 404, "No collection 'none' is made from 'docs'"),
    ],
)
async def test_similar_bad_argument_refused(
    make_datasette, path, arguments, status, message, model
):
    """A page with the message, never an empty one, and nothing is embedded."""
    said = await refusal(make_datasette([path]), status, _similar="x", **arguments)
    assert message in said
    assert model.calls == []


@pytest.mark.asyncio
@pytest.mark.parametrize("argument", [{"_similar_number": "5"}, {"_similar_collection": "docs"}])
async def test_similar_how_without_what_refused(make_datasette, path, argument):
    """A forgotten text shows no whole table; a form whose text is blank does."""
    said = await refusal(make_datasette([path]), 400, **argument)
    assert said == "Say which rows: _similar (a text) or _similar_to (a row's id)"
    assert len(await rows(make_datasette([path]), _similar="", **argument)) == 10


@pytest.mark.asyncio
async def test_similar_message_of_a_page_holds_no_html_of_the_visitor(make_datasette, path):
    """What was asked for is shown as text."""
    said = await refusal(make_datasette([path]), 404, _similar_to="<b>77</b>")
    assert said == "Collection 'docs' has no entry with the id '<b>77</b>'"
    page = await get(make_datasette([path]), "/db/docs", 404, _similar_to="<b>77</b>")
    assert "<b>77" not in page.text


@pytest.mark.asyncio
async def test_similar_twice_refused(make_datasette, path):
    """Which of two texts is meant nobody knows."""
    answer = await make_datasette([path]).client.get("/db/docs.json?_similar=a&_similar=b")
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "_similar is given 2 times: give it once",
    )


@pytest.mark.asyncio
async def test_similar_to_unknown_row_not_found(make_datasette, path):
    """The message names the row."""
    said = await refusal(make_datasette([path]), 404, _similar_to="77")
    assert said == "Collection 'docs' has no entry with the id '77'"


@pytest.mark.asyncio
async def test_similar_no_collection_refused(make_datasette, tmp_path, model):
    """A table that nobody embedded, and one whose name an LLM collection happens to have."""
    path = make_docs(tmp_path / "db.db", [(1, "x")])
    said = await refusal(make_datasette([path]), 400, _similar="x")
    assert said.startswith("The rows of 'docs' cannot be searched by meaning")
    with closing(open_database(path, writable=True)) as conn:
        ensure_schema(conn, str(path))
    execute(path, "insert into collections (name, model) values ('docs', 'counting')")
    said = await refusal(make_datasette([path]), 400, _similar="x")
    assert said.startswith("The rows of 'docs' cannot be searched by meaning")
    assert model.calls == []


@pytest.mark.asyncio
async def test_similar_text_too_long_refused(make_datasette, path, model):
    """A visitor's text has a limit; the page says so and nothing is embedded."""
    datasette = make_datasette([path], config={"query_characters": 10})
    said = await refusal(datasette, 413, _similar="x" * 11)
    assert "the text is 11 characters long, and may have at most 10 here" in said
    assert model.calls == []


@pytest.mark.asyncio
async def test_similar_model_closed_refused_but_row_is_not(make_datasette, tmp_path, add_plugin):
    """A paid model answers no visitor; rows like a row need no model."""
    paid = CountingModel("paid")
    paid.price_per_million_tokens, paid.is_local = 0.02, False
    add_plugin(ModelsPlugin((paid, ())))
    path = make_docs(tmp_path / "db.db", enumerate(WORDS, 1))
    run_job(path, paid)
    paid.calls.clear()
    datasette = make_datasette([path])
    assert "paid" in await refusal(datasette, 403, _similar="x")
    assert len(await rows(datasette, _similar_to="1")) == 9
    assert paid.calls == []


@pytest.mark.asyncio
async def test_similar_over_budget_refused(make_datasette, path, model):
    """What was embedded before still answers, the next text does not."""
    datasette = make_datasette([path], config={"calls_per_minute": 1})
    assert len(await rows(datasette, _similar="one text")) == 10
    await refusal(datasette, 429, _similar="another text")
    assert len(await rows(datasette, _similar="one text")) == 10
    assert model.calls == [["one text"]]


@pytest.mark.asyncio
async def test_similar_private_table_forbidden(make_datasette, tmp_path, model):
    """Who may not view the table gets no answer about its rows."""
    path = make_docs(tmp_path / "db.db", enumerate(WORDS, 1))
    run_job(path, model)
    site = {"databases": {"db": {"tables": {"docs": {"allow": {"id": "a"}}}}}}
    datasette = make_datasette([path], site=site)
    model.calls.clear()
    answer = await datasette.client.get("/db/docs.json?_similar=x")
    assert answer.status_code == 403
    assert model.calls == []


def add_collection(path, model, name, spec=None):
    run_job(path, model, name=name, spec=spec or SourceSpec(table="docs", columns=("body",)))
    model.calls.clear()


@pytest.mark.asyncio
async def test_similar_several_collections_choose_by_name(make_datasette, path, model):
    """The one named like the table answers unless another is named."""
    add_collection(path, model, "kinds", SourceSpec(table="docs", columns=("kind", "body")))
    datasette = make_datasette([path])
    contents = {
        key: f"{'odd' if int(key) % 2 else 'even'} {word}" for key, word in CONTENTS.items()
    }
    for name, expected in ((None, CONTENTS), ("docs", CONTENTS), ("kinds", contents)):
        named = {"_similar_collection": name} if name else {}
        found = await rows(datasette, _similar="a hen", _similar_number=4, **named)
        assert {str(row["id"]) for row in found} == nearest(expected, "a hen", number=4)


@pytest.mark.asyncio
async def test_similar_several_collections_none_like_the_table_refused(
    make_datasette, tmp_path, model
):
    """A choice is asked for, with what there is to choose from."""
    path = make_docs(tmp_path / "db.db", enumerate(WORDS, 1))
    add_collection(path, model, "b")
    datasette = make_datasette([path])
    assert len(await rows(datasette, _similar="x")) == 10
    add_collection(path, model, "a")
    said = await refusal(make_datasette([path]), 400, _similar="x")
    assert said.endswith("name one with _similar_collection. There are: a, b")
    assert model.calls == []


@pytest.mark.asyncio
async def test_similar_only_entries_whose_rows_are_gone_are_left_out(make_datasette, path):
    """A row deleted since: the rest is shown, and the new row, not embedded yet, is not."""
    execute(path, "delete from docs where id = 3", "insert into docs (id, body) values (99, 'new')")
    found = await rows(make_datasette([path]), _similar="x")
    assert {row["id"] for row in found} == {1, 2, 4, 5, 6, 7, 8, 9, 10}


KEYS = {
    "integer": ("id integer primary key, body text", [7, 8, 9]),
    "text": ("id text primary key, body text", ["1", "01", "1.0", "a,b", "ü'\"%_", "x/y"]),
    "real": ("id real primary key, body text", [0.1, 2.0, 1e20, -3.5]),
    "untyped": ("id primary key, body text", [1, "two", 2.5, 1e20, "01"]),
    "numeric": ("id numeric primary key, body text", [1, 2.5, "three"]),
    "blob typed": ("id blob primary key, body text", [12, "x"]),
    "without rowid": ("id text primary key, body text) without rowid --", ["p", "q"]),
    "large": ("id integer primary key, body text", [2**63 - 1, -(2**63) + 1, 2**53 + 1]),
}


def make_table(path, columns, rows):
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(f"create table docs ({columns}\n)")
        marks = ", ".join("?" * len(rows[0]))
        conn.executemany(f"insert into docs values ({marks})", rows)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KEYS)
async def test_similar_every_kind_of_key_meets_its_rows(make_datasette, tmp_path, model, kind):
    """Each row can be found alone, whatever its key looks like as text."""
    columns, ids = KEYS[kind]
    path = tmp_path / "db.db"
    if columns.endswith("--"):
        with closing(sqlite3.connect(path)) as conn, conn:
            conn.execute(f"create table docs ({columns[:-2]}")
            conn.executemany("insert into docs values (?, ?)", zip(ids, WORDS, strict=False))
    else:
        make_table(path, columns, list(zip(ids, WORDS, strict=False)))
    run_job(path, model)
    datasette = make_datasette([path])
    contents = {str(key): word for key, word in zip(ids, WORDS, strict=False)}
    for entry_id in contents:
        found = await rows(datasette, _similar_to=entry_id, _similar_number=1)
        assert {str(row["id"]) for row in found} == nearest(contents, entry_id=entry_id, number=1)
    found = await rows(datasette, _similar="everything")
    assert sorted(str(row["id"]) for row in found) == sorted(contents)


@pytest.mark.asyncio
async def test_similar_compound_key(make_datasette, tmp_path, model):
    """Datasette's own form of the key, separators and all."""
    path = tmp_path / "db.db"
    keys = [("a,b", 1), ("a", 1), ("a", 2), ("a b", 2), ("~2Cb", 1)]
    make_table(
        path,
        "name text, n integer, body text, primary key (n, name)",
        [(name, n, f"{name} {n}") for name, n in keys],
    )
    run_job(path, model)
    datasette = make_datasette([path])
    ids = [entry_id for (entry_id,) in query(path, "select id from embeddings order by id")]
    assert ids == ["1,a", "1,a~2Cb", "1,~7E2Cb", "2,a", "2,a+b"]
    found = await rows(datasette, _similar="everything")
    assert sorted((row["name"], row["n"]) for row in found) == sorted(keys)
    found = await rows(datasette, _similar_to="1,a~2Cb")
    assert sorted((row["name"], row["n"]) for row in found) == sorted(keys[1:])
    # As in the address of the row, where a + is no space.
    page = await datasette.client.get("/db/docs.json?_shape=objects&_similar_to=2,a+b")
    found = [(row["name"], row["n"]) for row in page.json()["rows"]]
    assert sorted(found) == sorted(key for key in keys if key != ("a b", 2))


@pytest.mark.asyncio
async def test_similar_table_without_a_key(make_datasette, tmp_path, model):
    """Rows without a primary key are known by their rowid."""
    path = tmp_path / "db.db"
    make_table(path, "body text", [(word,) for word in WORDS])
    run_job(path, model)
    found = await rows(make_datasette([path]), _similar="a hen", _similar_number=3)
    assert {str(row["rowid"]) for row in found} == nearest(CONTENTS, "a hen", number=3)


@pytest.mark.asyncio
async def test_similar_view(make_datasette, path, model):
    """A view is known by its first column, or the columns its collection names."""
    execute(path, "create view shouted as select id + 0 as n, upper(body) as body from docs")
    add_collection(path, model, "shouted", SourceSpec(table="shouted", columns=("body",)))
    contents = {key: word.upper() for key, word in CONTENTS.items()}
    found = await rows(make_datasette([path]), "db/shouted", _similar="A HEN", _similar_number=3)
    assert {str(row["n"]) for row in found} == nearest(contents, "A HEN", number=3)


@pytest.mark.asyncio
async def test_similar_id_columns_of_the_collection(make_datasette, tmp_path, model):
    """A collection may name rows by another column than the primary key."""
    path = tmp_path / "db.db"
    make_table(
        path, "id integer primary key, slug text, body text", [(1, "x", "one"), (2, "y", "two")]
    )
    spec = SourceSpec(table="docs", columns=("body",), id_columns=("slug",))
    run_job(path, model, spec=spec)
    found = await rows(make_datasette([path]), _similar_to="y")
    assert [row["slug"] for row in found] == ["x"]


@pytest.mark.asyncio
async def test_similar_source_of_a_stranger_names_no_column_refused(make_datasette, path):
    """A made-up column would be taken for a text by SQLite: it is refused by name."""
    spec = {"table": "docs", "columns": ["body"], "id_columns": ["1) or (1"]}
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("update _embed_collections set source = ?", (json.dumps(spec),))
    said = await refusal(make_datasette([path]), 400, _similar="x")
    assert said == "'docs': has no column '1) or (1' to tell its rows apart"


@pytest.mark.asyncio
async def test_similar_vectors_in_another_file(make_datasette, tmp_path, model):
    """Rows and vectors are joined by id, and the other file is named where that is needed."""
    path = make_docs(tmp_path / "rows.db", enumerate(WORDS, 1))
    vectors = make_docs(tmp_path / "vectors.db", enumerate(WORDS, 1))
    run_job(vectors, model)
    execute(
        vectors,
        "drop table docs",
        "update _embed_collections set source = json_set(source, '$.is_elsewhere', json('true'))",
    )
    datasette = make_datasette([path, vectors])
    say_rows_are_in(datasette, vectors, "rows")
    named = ({}, {"_similar_collection": "docs"}, {"_similar_collection": "vectors/docs"})
    for arguments in named:
        found = await rows(datasette, "rows/docs", _similar="x", _similar_number=4, **arguments)
        assert {str(row["id"]) for row in found} == nearest(CONTENTS, "x", number=4)


@pytest.mark.asyncio
@pytest.mark.parametrize("said", [None, "other"])
async def test_similar_vectors_in_another_file_nobody_asked_for(
    make_datasette, tmp_path, model, said
):
    """Any file can say that it is made of a table of this name: it has to be named itself."""
    path = make_docs(tmp_path / "rows.db", enumerate(WORDS, 1))
    vectors = make_docs(tmp_path / "vectors.db", enumerate(WORDS, 1))
    run_job(vectors, model)
    execute(
        vectors,
        "drop table docs",
        "update _embed_collections set source = json_set(source, '$.is_elsewhere', json('true'))",
        # As a stranger writes it.
        """update _embed_jobs set options = '{"rows_database": "rows"}', signature = 'x'""",
    )
    datasette = make_datasette([path, vectors])
    if said:
        say_rows_are_in(datasette, vectors, said)
    for arguments in ({}, {"_similar_collection": "docs"}):
        text = await refusal(datasette, 400, "rows/docs", _similar="x", **arguments)
        assert "no collection that you may see is made from this table" in text
    arguments = {"_similar_collection": "Vectors/Docs", "_similar_number": 4}
    found = await rows(datasette, "rows/docs", _similar="x", **arguments)
    assert {str(row["id"]) for row in found} == nearest(CONTENTS, "x", number=4)


def say_rows_are_in(datasette, path, database):
    """Write the job of a person who asked this site for a collection of another database."""
    with closing(open_database(path, writable=True)) as conn:
        record = Store(conn).get_collection(
            conn.execute("select name from collections").fetchone()[0]
        )
        options = {"rows_database": database}
        jobs = JobRecords(conn)
        job = jobs.create(record.id, record.name, record.model_id, options=options)
        jobs.set_signature(job, Site(datasette).sign(str(path), job, record))


@pytest.mark.asyncio
async def test_similar_vectors_in_a_private_file_not_offered(make_datasette, tmp_path, model):
    """A collection the visitor may not see answers nothing, and its name is not told."""
    path = make_docs(tmp_path / "rows.db", enumerate(WORDS, 1))
    vectors = make_docs(tmp_path / "vectors.db", enumerate(WORDS, 1))
    run_job(vectors, model, name="hush")
    execute(
        vectors,
        "drop table docs",
        "update _embed_collections set source = json_set(source, '$.is_elsewhere', json('true'))",
    )
    model.calls.clear()
    site = {"databases": {"vectors": {"allow": {"id": "a"}}}}
    datasette = make_datasette([path, vectors], site=site)
    for arguments in ({}, {"_similar_collection": "hush"}):
        said = await refusal(datasette, 400, "rows/docs", _similar="x", **arguments)
        assert "no collection that you may see is made from this table" in said
        assert "hush" not in said
    assert model.calls == []
    say_rows_are_in(datasette, vectors, "rows")
    cookies = {"ds_actor": datasette.sign({"a": {"id": "a"}}, "actor")}
    url = "/rows/docs.json?_similar=x&_shape=objects"
    answer = await datasette.client.get(url, cookies=cookies)
    assert len(answer.json()["rows"]) == 10


@pytest.mark.asyncio
async def test_similar_immutable_file(make_datasette, path):
    """A published site searches as well."""
    found = await rows(make_datasette((), immutables=[path]), _similar="a hen", _similar_number=4)
    assert {str(row["id"]) for row in found} == nearest(CONTENTS, "a hen", number=4)


@pytest.mark.asyncio
async def test_similar_model_of_another_version_refused(make_datasette, path):
    """Vectors of two versions of a model are not compared."""
    execute(path, "update _embed_collections set fingerprint = 'counting@old'")
    said = await refusal(make_datasette([path]), 400, _similar="x")
    assert "was embedded with another version of its model" in said


@pytest.mark.asyncio
async def test_similar_condition_uses_the_key(path):
    """A large table is not read from end to end for ten rows."""
    from datasette_embed.web.row_keys import RowKey

    with closing(open_database(path)) as conn:
        key = RowKey.of(conn, "docs")
        plan = conn.execute(
            f"explain query plan select * from docs where {key.condition('ids')}",
            {"ids": json.dumps(key.values(["1", "2"]))},
        ).fetchall()
    assert any("SEARCH docs USING INTEGER PRIMARY KEY" in step[3] for step in plan), plan
