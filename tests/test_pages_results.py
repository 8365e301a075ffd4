"""Results of every kind: tables of odd names and keys, rows that are gone, and the twins."""

from __future__ import annotations

import csv
import io

import pytest
from bs4 import BeautifulSoup
from datasette import Request

from datasette_embed.database import quoted, sqlite3
from datasette_embed.store import Store
from datasette_embed.vectors import encode
from datasette_embed.web import nearest_rows
from datasette_embed.web.template_functions import template_functions
from tests.api_site import ROOT, interrupting
from tests.test_pages_search import PAGE, rows_of_link, shown, soup_of, table_of

pytestmark = pytest.mark.asyncio
#: Tables whose key SQLite does not call by the name that it was asked for, and that name.
ODD_KEYS = {
    "a column is called rowid": ("rowid text, body text", {}, "_rowid_"),
    "two are called so": ("rowid text, oid text, body text", {}, "_rowid_"),
    "the rowid is the id": (
        "id integer primary key, body text",
        {"id_columns": ["rowid"]},
        "rowid",
    ),
}


def change(site, script):
    """Change the file of a site, as any other program would."""
    conn = sqlite3.connect(site.path)
    conn.executescript(script)
    conn.close()


async def answers_of(site, path, query):
    """The rows of the page, of its JSON and of its CSV, as texts."""
    rows = table_of(await soup_of(site, f"{path}?{query}"))[1]
    answer = (await site.get(f"{path}.json?{query}")).json()
    text = (await site.get(f"{path}.csv?{query}")).text
    return rows, answer["rows"], list(csv.reader(io.StringIO(text)))[1:]


# -- tables and keys ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["input", "nearest", "newest", "entry"])
async def test_table_called_like_a_part_of_the_query_has_its_pages(api_site, name):
    """Each of them, in whatever order the query joins them."""
    name = quoted(name)
    change(
        api_site,
        f"create table {name} (id integer primary key, title text, body text);"
        f"insert into {name} select id, title || ' and more', body from posts;",
    )
    await api_site.make(name.strip('"'), "odd", columns=["body"])
    for end in ("", "?q=a+pet", "?q=a+pet&id__gt=0", "/like/1", "/like/1?id__gt=0"):
        soup = await soup_of(api_site, f"/data/-/embed/c/odd{end}")
        assert len(table_of(soup)[1]) >= 1, end
        assert await rows_of_link(api_site, soup), end


@pytest.mark.parametrize("kind", ODD_KEYS)
async def test_key_of_another_name_has_its_pages(api_site, kind):
    """The page, the JSON, the CSV, and the rows like one."""
    columns, options, key = ODD_KEYS[kind]
    change(
        api_site,
        f"create table odd ({columns}); insert into odd (body) values ('one text'), ('two texts')",
    )
    await api_site.make("odd", columns=["body"], **options)
    rows, answer, cells = await answers_of(api_site, "/data/-/embed/c/odd", "q=a+text")
    assert len(rows) == len(answer) == len(cells) == 2
    assert [list(row)[:2] for row in answer] == [["score", key]] * 2
    assert all(len(row) == len(rows[0]) for row in answer)
    soup = await soup_of(api_site, "/data/-/embed/c/odd?q=a+text")
    likes = [link["href"] for link in soup.select("td.embed-more a")]
    assert sorted(likes) == [f"/data/-/embed/c/odd/like/{n}" for n in (1, 2)]
    for like in likes:
        await soup_of(api_site, like)
    for link in soup.select("table.embed-rows a"):
        assert (await api_site.get(link["href"])).status_code == 200, link


@pytest.mark.parametrize("table", ["pragma_database_list", "sqlite_master", "embeddings"])
async def test_file_does_not_say_what_else_is_read(api_site, table):
    """Of a source that is no table of rows, what was embedded is shown."""
    await api_site.make(columns=["body"])
    change(
        api_site,
        "update _embed_collections set source = json_set(source, '$.table', '" + table + "')",
    )
    for end in ("", ".json?n=5", ".csv", "?q=a+pet", ".json?q=a+pet", "/like/1", "/like/1.json"):
        response = await api_site.get(f"{PAGE}{end}", ROOT)
        assert str(api_site.path) not in response.text
        assert "sqlite_autoindex" not in response.text
        if response.status_code == 200 and end.startswith(".json"):
            assert response.json()["columns"][-3:] == ["id", "content", "metadata"]


# -- what is said of rows that are gone -----------------------------------------------


async def test_newest_rows_that_are_gone_are_counted(api_site):
    """A collection that has rows is not said to have none."""
    await api_site.make(columns=["body"])
    change(api_site, "delete from posts where id = 3")
    soup = await soup_of(api_site, PAGE)
    assert len(table_of(soup)[1]) == 2
    said = soup.select_one(".embed-gone").get_text()
    assert said == "1 of the newest is not shown: its row is no longer there."
    change(api_site, "delete from posts")
    soup = await soup_of(api_site, PAGE)
    said = soup.select_one(".embed-gone").get_text()
    assert said == "3 of the newest are not shown: their rows are no longer there."
    assert "This collection has no rows" not in soup.get_text()


@pytest.mark.parametrize("end", ["", "?q=a+pet", "?q=a+pet&title=cats", "?title=cats", "/like/1"])
async def test_rows_that_are_there_are_not_said_to_be_gone(api_site, end):
    """Neither those that a filter leaves out nor the row itself."""
    await api_site.make(columns=["body"])
    assert (await soup_of(api_site, f"{PAGE}{end}")).select(".embed-gone") == []


# -- JSON and CSV ---------------------------------------------------------------------


@pytest.mark.parametrize("query", ["n=2", "title__contains=a", "n=1&title=cats"])
async def test_newest_rows_as_json_and_csv(api_site, query):
    """The twin that the page announces, and its links, have the rows of the page."""
    await api_site.make(columns=["body"])
    response = await api_site.get(f"{PAGE}?{query}")
    assert f"<{PAGE}.json?{query}>" in response.headers["link"]
    rows, answer, cells = await answers_of(api_site, PAGE, query)
    assert rows
    assert [[shown(value) for value in row.values()] for row in answer] == rows == cells


async def test_newest_rows_are_linked_as_json_and_csv(api_site):
    """Also where the page has no parameter, and the twin says what the collection is."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, PAGE)
    links = [a["href"] for a in soup.select(".export-links a")]
    assert links == [f"{PAGE}.json?n=5", f"{PAGE}.csv?n=5"]
    assert len((await api_site.get(links[0])).json()["rows"]) == 3
    assert len((await api_site.get(links[1])).text.splitlines()) == 4
    assert (await api_site.get(f"{PAGE}.json")).json()["collection"]["name"] == "posts"


@pytest.mark.parametrize("end", ["", ".json", ".json?n=2", ".csv", ".csv?q=a", "/like/1.json"])
async def test_results_can_be_asked_for_by_head(api_site, end):
    """As every page of Datasette."""
    await api_site.make(columns=["body"])
    assert (await api_site.ask("HEAD", f"{PAGE}{end}", None)).status_code == 200


async def test_values_without_a_form_in_json_or_csv(api_site):
    """Infinity is null, and bytes are not written to a CSV."""
    change(
        api_site,
        "create table odd (id integer primary key, x real, y, body text);"
        "insert into odd values (1, 9e999, x'0102', 'a text')",
    )
    await api_site.make("odd", columns=["body"])
    response = await api_site.get("/data/-/embed/c/odd.json?q=a")
    assert "Infinity" not in response.text
    (row,) = response.json()["rows"]
    assert row["x"] is None
    assert row["y"] == {"$base64": True, "encoded": "AQI="}
    text = (await api_site.get("/data/-/embed/c/odd.csv?q=a")).text
    (cells,) = list(csv.reader(io.StringIO(text)))[1:]
    assert cells[3:] == ["", "a text"]


async def test_no_more_rows_than_a_query_of_the_site_returns(make_api_site):
    """The page and the query that it links have the same."""
    site = make_api_site(settings={"max_returned_rows": 2})
    await site.make(columns=["body"])
    for query in ("?q=a+pet", "?q=a+pet&n=3", "?n=3"):
        soup = await soup_of(site, f"{PAGE}{query}")
        rows = table_of(soup)[1]
        assert len(rows) == 2
        assert await rows_of_link(site, soup) == rows


# -- scores ---------------------------------------------------------------------------


async def test_bar_of_a_dot_metric_is_of_the_best(api_site):
    """An inner product has no whole."""
    await api_site.make(columns=["body"])
    vectors = {1: [0.1] * 8, 2: [0.1] * 8, 3: [0.1] * 4 + [0.0] * 4}
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("update _embed_collections set metric = 'dot'")
        for post, vector in vectors.items():
            conn.execute("update embeddings set embedding = ? where id = ?", (encode(vector), post))
    conn.close()
    soup = await soup_of(api_site, f"{PAGE}/like/1")
    assert [float(cell.get_text()) for cell in soup.select("td.embed-score")] == [0.08, 0.04]
    assert [rect["width"] for rect in soup.select("svg.embed-bar rect")] == ["60", "30"]


# -- within other pages ---------------------------------------------------------------


async def test_samples_that_take_too_long_are_left_out(make_api_site, monkeypatch):
    """The page is there without them."""
    site = make_api_site()
    await site.make(columns=["body"])
    database = site.datasette.get_database("data")
    change(site, "update posts set title = title || ' and more'")
    assert (await soup_of(site, PAGE)).select(".embed-samples a")
    monkeypatch.setattr(database, "execute", interrupting(database, "as entry join"))
    soup = await soup_of(site, PAGE)
    assert soup.select(".embed-samples") == []
    assert len(table_of(soup)[1]) == 3


async def test_rows_of_a_view_have_labels_too(api_site):
    """Datasette 1.0 cannot say what a view's rows are called."""
    change(api_site, "create view v as select id, title, body from posts")
    await api_site.make("v", columns=["body"])
    functions = template_functions(api_site.datasette, Request.fake("/"))
    rows = await functions["embed_similar"]("data", "v", "a pet", 3)
    assert {row["label"] for row in rows} == {"dogs", "cats", "tax"}


@pytest.mark.parametrize(("number", "rows"), [(-1, 1), (0, 1), ("2", 2), ("x", 0), (None, 0)])
async def test_wrong_number_in_a_template(api_site, caplog, number, rows):
    """Not every row; and what is wrong is one line of the log."""
    await api_site.make(columns=["body"])
    functions = template_functions(api_site.datasette, Request.fake("/"))
    assert len(await functions["embed_similar"]("data", "posts", "a pet", number)) == rows
    said = [each for each in caplog.records if "a template asked" in each.getMessage()]
    assert len(said) == (0 if rows else 1)
    assert [each for each in said if each.exc_info] == []


async def test_refused_model_in_a_template_is_a_line(make_api_site, caplog):
    """It is said each time the page is seen."""
    site = make_api_site(config={"allow": {"counting": {"id": "root"}}})
    await site.make(columns=["body"])
    functions = template_functions(site.datasette, Request.fake("/"))
    assert await functions["embed_similar"]("data", "posts", "a pet") == []
    (said,) = [each for each in caplog.records if "a template asked" in each.getMessage()]
    assert said.exc_info is None


async def test_large_collection_is_not_quickly_searched(api_site, monkeypatch):
    """The page of a row does not wait for it."""
    await api_site.make(columns=["body"])
    database = api_site.datasette.get_database("data")
    conn = sqlite3.connect(api_site.path)
    record = Store(conn).get_collection("posts")
    conn.close()
    for most, is_quick in ((3, True), (2, False)):
        monkeypatch.setattr(nearest_rows, "_MOST_COMPARED", most)
        assert await nearest_rows.is_quickly_searched(database, record) is is_quick
        page = BeautifulSoup((await api_site.get("/data/posts/1")).text, "html.parser")
        assert is_quick or page.select(".embed-top-row") == []
