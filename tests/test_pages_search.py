"""The search page: the rows of its SQL, what was typed, and what is said when it cannot search."""

from __future__ import annotations

import csv
import io
import urllib.parse

import pytest
from bs4 import BeautifulSoup

from datasette_embed import compat
from datasette_embed.database import quoted, sqlite3
from datasette_embed.errors import ProviderError
from datasette_embed.models import Kind
from tests.api_site import (
    ANONYMOUS,
    AWKWARD,
    EDITOR,
    PLAIN,
    ROOT,
    error_of,
    hidden_message,
    interrupting,
)
from tests.fakes import vector_of
from tests.test_web_search_api import cosine

pytestmark = pytest.mark.asyncio
PAGE = "/data/-/embed/c/posts"
#: What is not there for people shall not be in the page in another form either.
PRIVATE = "private text"
POSTS = {
    1: ("dogs", "a dog chases a ball"),
    2: ("cats", "cats sleep all day"),
    3: ("tax", "the tax return is due"),
}


def nearest(text):
    """The posts by their cosine with a text, the oracle's, rounded as in the SQL."""
    query = vector_of(text, Kind.QUERY)
    scores = {post: round(cosine(vector_of(body), query), 4) for post, (_, body) in POSTS.items()}
    return sorted(scores.items(), key=lambda pair: -pair[1])


async def soup_of(site, path, actor=None, status=200):
    response = await site.get(path, actor)
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("text/html")
    return BeautifulSoup(response.text, "html.parser")


def table_of(soup):
    """The names of the columns, and the rows as lists of texts; without "more like this"."""
    table = soup.select_one("table.embed-rows")
    if table is None:
        return [], []
    names = [cell.get_text(strip=True) for cell in table.select("thead th")]
    rows = [
        [cell.get_text(strip=True) for cell in row.select("td")] for row in table.select("tbody tr")
    ]
    place = names.index("Related rows") if "Related rows" in names else None
    if place is not None:
        for row in (names, *rows):
            del row[place]
    return names, rows


async def rows_of_link(site, soup, actor=None):
    """The columns and rows that the page's own link to its SQL leads to, as JSON."""
    link = next(a for a in soup.select("a") if "View and edit SQL" in a.get_text())
    url = link["href"].replace("?", ".json?", 1) + "&_shape=arrays"
    response = await site.get(url, actor)
    assert response.status_code == 200, response.text
    return [list(map(shown, row)) for row in response.json()["rows"]]


def shown(value):
    """A value as it stands in a cell."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


async def test_search_shows_the_rows_of_its_own_sql_nearest_first(api_site, counting_model):
    """Scores are the oracle's, the link runs to the same rows, and the model is asked once."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{PAGE}?q=a+pet")
    names, rows = table_of(soup)
    assert names == ["score", "id", "title", "body"]
    assert rows == [[f"{score:.4f}", str(post), *POSTS[post]] for post, score in nearest("a pet")]
    assert await rows_of_link(api_site, soup) == rows
    assert [heading.get_text() for heading in soup.select("h2")] == ["3 closest rows"]
    assert counting_model.calls[1:] == [["a pet"]]
    assert soup.select_one("input[name=q]")["value"] == "a pet"


async def test_search_links_label_row_and_the_rows_like_it(api_site):
    """By the title, which is the label; and each address is one."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{PAGE}?q=a+pet")
    links = {a.get_text(): a["href"] for a in soup.select("table.embed-rows td a")}
    for _, (title, _) in POSTS.items():
        assert title in links
    assert {(await api_site.get(url)).status_code for url in links.values()} == {200}
    likes = [a["href"] for a in soup.select("td.embed-more a")]
    assert likes == [f"{PAGE}/like/{post}" for post, _ in nearest("a pet")]


async def test_search_bar_follows_the_score(api_site):
    """Sixty pixels are the score 1; less than nothing has no bar."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{PAGE}?q=a+pet")
    widths = [int(rect["width"]) for rect in soup.select("svg.embed-bar rect")]
    assert widths == [
        max(1, round(60 * score)) if score > 0 else 0 for _, score in nearest("a pet")
    ]


async def test_search_without_words_shows_the_newest_and_calls_nothing(api_site, counting_model):
    """A form, the rows embedded last, the searches of real titles, and no score."""
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.executemany(
            "insert into posts (title, body) values (?, ?)",
            [(f"title number {n}", f"text {n}") for n in range(20)],
        )
    conn.close()
    await api_site.make(columns=["body"])
    calls = len(counting_model.calls)
    soup = await soup_of(api_site, PAGE)
    names, rows = table_of(soup)
    assert names == ["id", "title", "body"]
    last = api_site.rows("select id from embeddings order by rowid desc limit 5")
    assert [row[0] for row in rows] == [entry_id for (entry_id,) in last]
    assert await rows_of_link(api_site, soup) == rows
    samples = soup.select(".embed-samples a")
    assert [a.get_text() for a in samples] == ["title number 10", "title number 0"]
    for sample in samples:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(sample["href"]).query)
        assert query == {"q": [sample.get_text()]}
    assert len(counting_model.calls) == calls
    assert soup.select_one("form[role=search] input[name=q]").get("value") == ""


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("title=cats", {"2"}),
        ("title__contains=a", {"2", "3"}),
        ("id__gt=1", {"2", "3"}),
        ("id__in=1,3", {"1", "3"}),
        ("title__in=%5B%22dogs%22%5D", {"1"}),
        ("title__notblank=1&id__lt=3", {"1", "2"}),
        ("title=o'+or+1--", set()),
    ],
)
async def test_search_filters_of_the_table_page_are_carried(api_site, query, ids):
    """As the table page finds them; they stay in the form, and each can be removed."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{PAGE}?q=a+pet&{query}")
    rows = table_of(soup)[1]
    table = (await api_site.get(f"/data/posts.json?{query}&_shape=array")).json()
    assert {row[1] for row in rows} == ids == {str(row["id"]) for row in table}
    assert await rows_of_link(api_site, soup) == rows
    hidden = [
        (tag["name"], tag["value"]) for tag in soup.select("form[method=get] input[type=hidden]")
    ]
    assert hidden == urllib.parse.parse_qsl(query)
    for link in soup.select(".embed-filters a"):
        assert "q=a+pet" in link["href"]
    assert len(soup.select(".embed-filters a")) == len(hidden)


async def test_search_filter_on_an_untyped_column_compares_numbers(api_site):
    """There 5 is no '5': the query's parameters are texts, and must not change what is found."""
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("create table loose (id integer primary key, size, body text)")
        conn.executemany("insert into loose values (?, ?, 'text')", [(1, 4), (2, 5), (3, "x")])
    conn.close()
    await api_site.make("loose", columns=["body"])
    soup = await soup_of(api_site, "/data/-/embed/c/loose?q=a&size__gt=4")
    table = (await api_site.get("/data/loose.json?size__gt=4&_shape=array")).json()
    rows = table_of(soup)[1]
    assert {row[1] for row in rows} == {str(row["id"]) for row in table} == {"2", "3"}
    assert sorted(await rows_of_link(api_site, soup)) == sorted(rows)


async def test_search_list_of_values_holds_what_the_table_page_takes(api_site):
    """Numbers, null and true of a list are no texts that look like them."""
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("create table loose (id integer primary key, size, body text)")
        rows = [(1, 4), (2, 2.5), (3, "None"), (4, "4"), (5, 1)]
        conn.executemany("insert into loose values (?, ?, 'text')", rows)
    conn.close()
    await api_site.make("loose", columns=["body"])
    filters = urllib.parse.urlencode({"size__in": '[4, 2.5, null, true, "x"]'})
    soup = await soup_of(api_site, f"/data/-/embed/c/loose?q=a&{filters}")
    table = (await api_site.get(f"/data/loose.json?{filters}&_shape=array")).json()
    rows = table_of(soup)[1]
    assert {row[1] for row in rows} == {str(row["id"]) for row in table} == {"1", "2", "5"}
    assert {row[1] for row in await rows_of_link(api_site, soup)} == {"1", "2", "5"}


async def test_search_number_of_rows(api_site):
    """As many as asked; a number that the list lacks is kept in it."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{PAGE}?q=a+pet&n=2")
    assert len(table_of(soup)[1]) == 2
    options = [
        option.get_text() for option in soup.select("form[role=search] select[name=n] option")
    ]
    assert options == ["2", "10", "25", "50", "100"]
    assert {o.get_text() for o in soup.select("option[selected]")} == {"2"}


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("q=", 400, "Write what to search for: 'q' must not be blank"),
        ("q=+%0A", 400, "Write what to search for: 'q' must not be blank"),
        ("q=a%00b", 400, "'q' must not hold the character NUL"),
        ("q=pet&n=0", 400, "'n' must be a whole number from 1 to 1000"),
        ("q=pet&n=1001", 400, "'n' must be a whole number from 1 to 1000"),
        ("q=pet&nope=1", 400, "'posts' has no column 'nope' to filter by"),
        ("q=pet&title__nope=1", 400, "'title__nope' is no filter"),
        ("q=pet&title__in=%5B", 400, "'title__in': the value cannot be read"),
        ("q=pet&title=a%00", 400, "'title' must not hold the character NUL"),
        ("q=pet&title__in=%5B%22%5Cud800%22%5D", 400, "half a character"),
        ("q=pet" + "&id=1" * 51, 400, "At most 50 filters can be used at once"),
        ("q=" + "long+" * 500, 413, "2,500 characters"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_search_wrong_question_keeps_the_form(
    api_site, counting_model, query, status, message
):
    """What is wrong is said beside the field, in words, and what was typed stays."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{PAGE}?{query}", status=status)
    field = soup.select_one("input[name=q]")
    said = soup.select_one(f"#{field['aria-describedby']}").get_text()
    assert message in said
    assert field["aria-invalid"] == "true"
    typed = urllib.parse.parse_qs(query, keep_blank_values=True)["q"][0]
    assert field["value"].replace("\ufffd", "\0") == typed
    assert table_of(soup) == ([], [])
    assert len(counting_model.calls) == 1
    twin = await api_site.get(f"{PAGE}.json?{query}")
    assert message in error_of(twin, status)


async def test_search_failing_model_keeps_the_form(api_site, counting_model):
    """A message and the status, never a blank page, and no words of the model's."""
    await api_site.make(columns=["body"])
    counting_model.fails_with = RuntimeError("the secret reason")
    soup = await soup_of(api_site, f"{PAGE}?q=a+pet", status=502)
    assert soup.select_one("input[name=q]")["value"] == "a pet"
    assert "counting" in soup.select_one("[role=alert]").get_text()
    assert "the secret reason" not in soup.get_text()
    counting_model.fails_with = None
    assert len(table_of(await soup_of(api_site, f"{PAGE}?q=a+pet"))[1]) == 3


async def test_search_busy_service_says_when_to_ask_again(api_site, counting_model):
    """What a service asked for is passed on to the visitor, as page and as JSON."""
    await api_site.make(columns=["body"])
    counting_model.fails_with = ProviderError(
        "counting", "the server is busy", retryable=True, retry_after_seconds=20.5
    )
    for path in (f"{PAGE}?q=a+pet", f"{PAGE}.json?q=a+pet"):
        response = await api_site.get(path)
        assert (response.status_code, response.headers["retry-after"]) == (503, "21")
        assert "the server is busy" in response.text


async def test_search_closed_to_visitors_says_so_and_leads_on(make_api_site, counting_model):
    """No search box for whoever may not use the model; the rows like one another are there."""
    site = make_api_site(config={"allow": {"counting": {"id": "root"}}})
    await site.make(columns=["body"])
    for path, status in ((PAGE, 200), (f"{PAGE}?q=a+pet", 403)):
        soup = await soup_of(site, path, status=status)
        said = soup.select_one(".embed-words-off").get_text()
        assert said.startswith("Search by words is off on this site; browse rows like one another.")
        assert soup.select("form") == [] == soup.select(".embed-samples")
        likes = [a["href"] for a in soup.select("td.embed-more a")]
        assert len(likes) == 3
        assert (await site.get(likes[0])).status_code == 200
    assert len(counting_model.calls) == 1
    assert (await soup_of(site, PAGE, ROOT)).select_one("input[name=q]")


async def test_search_model_not_installed_leads_to_related_rows(api_site):
    """As on a site that was published without it."""
    await api_site.make(columns=["body"])
    conn = sqlite3.connect(api_site.path)
    with conn:
        for table in ("collections", "_embed_collections"):
            conn.execute(f"update {table} set model = 'gone' where name = 'posts'")
    conn.close()
    soup = await soup_of(api_site, PAGE)
    assert "Unknown model: gone" in soup.select_one(".embed-words-off").get_text()
    assert soup.select("form[role=search]") == []
    assert (await api_site.get(f"{PAGE}/like/1")).status_code == 200


@pytest.mark.parametrize(
    ("actor", "is_seen"), [(ANONYMOUS, False), (PLAIN, False), (EDITOR, True), (ROOT, True)]
)
async def test_search_of_a_private_table_follows_it(api_site, counting_model, actor, is_seen):
    """The page, its JSON and its CSV; nothing is embedded for whoever may not see."""
    await api_site.make("secrets", columns=["body"])
    for end in ("", "?q=text", ".json?q=text", ".csv?q=text"):
        response = await api_site.get(f"/data/-/embed/c/secrets{end}", actor)
        assert response.status_code == (200 if is_seen else 403), end
        assert (PRIVATE in response.text) == is_seen
        if not is_seen:
            assert hidden_message("secrets").split(":")[0].split("'")[0] in response.text
    assert (len(counting_model.calls) > 1) == is_seen


async def test_search_of_no_collection_is_404(api_site):
    """A page for people, JSON for programs."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, "/data/-/embed/c/nope?q=a", status=404)
    assert "nope" in soup.get_text()
    error_of(await api_site.get("/data/-/embed/c/nope.json?q=a"), 404)
    assert (await api_site.ask("POST", PAGE, ROOT)).status_code in (403, 405)


async def test_search_texts_of_strangers_are_text(api_site):
    """HTML, templates and CSS in content, names and words."""
    evil = '<script>alert(1)</script>{{ 7*7 }}"><img src=x onerror=alert(2)>'
    conn = sqlite3.connect(api_site.path)
    with conn:
        name = quoted('a"></style><script>alert(3)</script>')
        conn.execute(f"create table evil (id text primary key, {name} text)")
        conn.execute("insert into evil values (?, ?)", (evil, evil))
    conn.close()
    await api_site.make("evil")
    quoted_words = urllib.parse.quote(evil)
    for path in ("", f"?q={quoted_words}", "/like/" + urllib.parse.quote(evil, safe="")):
        soup = await soup_of(api_site, f"/data/-/embed/c/evil{path}")
        assert not [s for s in soup.select("script") if "alert(" in s.get_text()]
        assert soup.select("img") == []
        assert evil in soup.get_text()
        assert not [tag for tag in soup.select("*") if any(a.startswith("on") for a in tag.attrs)]


async def test_search_long_texts_are_cut_and_blobs_are_not_shown(api_site):
    """The rest is behind a click; the whole is on the row's page."""
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("create table long (id integer primary key, body text, v blob, odd)")
        conn.execute(
            "insert into long values (1, ?, x'00000000', x'0102')",
            ("start " + "middle " * 100 + "x" * 5_000,),
        )
    conn.close()
    await api_site.make("long", columns=["body"])
    soup = await soup_of(api_site, "/data/-/embed/c/long")
    names, rows = table_of(soup)
    assert names == ["id", "body", "odd"]
    assert rows[0][2] == "Binary: 2 bytes"
    body = soup.select_one("td[data-column=body] details")
    assert len(body.select_one("summary").get_text()) == 201
    assert 1_990 < len(body.get_text()) < 2_010


async def test_search_row_that_is_gone_is_counted(api_site):
    """Until the next update its vector is still there."""
    await api_site.make(columns=["body"])
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("delete from posts where id = 2")
    conn.close()
    soup = await soup_of(api_site, f"{PAGE}?q=a+pet")
    assert {row[1] for row in table_of(soup)[1]} == {"1", "3"}
    said = soup.select_one(".embed-gone").get_text()
    assert said.startswith("1 of the closest is not shown")


async def test_search_table_that_is_gone_shows_entries(api_site):
    """Their ids are what is left."""
    await api_site.make(columns=["body"])
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("drop table posts")
    conn.close()
    for path in (PAGE, f"{PAGE}?q=a+pet"):
        response = await api_site.get(path, ROOT)
        if response.status_code == 200:
            names, rows = table_of(BeautifulSoup(response.text, "html.parser"))
            assert names[-3:] == ["id", "content", "metadata"]
            assert {row[-3] for row in rows} == {"1", "2", "3"}
        else:  # who may see what came from a table that is gone is not decided here
            assert response.status_code == 403


async def test_search_without_execute_sql_shows_the_query_without_a_link(make_api_site):
    """The text of the SQL is there for everybody; the link only for those who may run it."""
    site = make_api_site()
    await site.make(columns=["body"])
    site = make_api_site(
        databases={
            "data": {
                "allow_sql": {"id": "root"},
                "tables": {"secrets": {"allow": {"id": ["editor", "root"]}}},
            }
        }
    )
    soup = await soup_of(site, f"{PAGE}?q=a+pet", PLAIN)
    assert "View and edit SQL" not in soup.get_text()
    sql = soup.select_one("details.embed-sql pre").get_text()
    assert "llm_embed_cosine(embeddings.embedding" in sql
    assert len(table_of(soup)[1]) == 3
    assert compat.sql_url(site.datasette, "data", sql) not in str(soup)
    soup = await soup_of(site, f"{PAGE}?q=a+pet", ROOT)
    assert await rows_of_link(site, soup, ROOT) == table_of(soup)[1]


async def test_search_immutable_database_works(make_api_site):
    """Nothing is written by looking."""
    await make_api_site().make(columns=["body"])
    site = make_api_site(is_immutable=True)
    before = site.path.read_bytes()
    for actor in (ANONYMOUS, ROOT):
        assert len(table_of(await soup_of(site, f"{PAGE}?q=a+pet", actor))[1]) == 3
        assert len(table_of(await soup_of(site, PAGE, actor))[1]) == 3
    assert site.path.read_bytes() == before


async def test_search_views_compound_keys_and_awkward_names(api_site):
    """Each page shows the rows of its link; a view's rows have no page of their own."""
    for table, ids in (("pairs", 2), (AWKWARD, 1), ("recent", 3)):
        answer = await api_site.make(table, columns=["body"])
        url = answer["job"]["collection_url"].removesuffix(".json")
        soup = await soup_of(api_site, f"{url}?q=a+pet")
        rows = table_of(soup)[1]
        assert len(rows) == ids
        assert await rows_of_link(api_site, soup) == rows
        for link in soup.select("table.embed-rows a"):
            assert (await api_site.get(link["href"])).status_code == 200, link


async def test_search_as_json_and_csv_has_the_rows_of_the_page(api_site):
    """Each is linked, and has the query."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{PAGE}?q=a+pet&title__contains=a")
    names, rows = table_of(soup)
    links = [a["href"] for a in soup.select(".export-links a")]
    assert links == [f"{PAGE}.{kind}?q=a+pet&title__contains=a" for kind in ("json", "csv")]
    answer = (await api_site.get(links[0])).json()
    assert answer["ok"] is True
    assert answer["next"] is None
    assert [[shown(row[name]) for name in names] for row in answer["rows"]] == rows
    assert answer["columns"] == names
    assert answer["urls"] == [f"/data/posts/{row[1]}" for row in rows]
    assert answer["params"] == {
        "collection": "posts",
        "model": "counting",
        "q": "a pet",
        "n": "10",
        "p0": "%a%",
    }
    conn_rows = (
        await api_site.get(
            compat.sql_url(api_site.datasette, "data", answer["sql"], answer["params"]).replace(
                "?", ".json?", 1
            )
            + "&_shape=array"
        )
    ).json()
    assert conn_rows == answer["rows"]
    response = await api_site.get(links[1])
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    found = list(csv.reader(io.StringIO(response.text)))
    assert [found[0], *([shown(float(row[0])), *row[1:]] for row in found[1:])] == [names, *rows]


async def test_search_has_the_address_of_its_twin(api_site):
    """For programs that come by the page."""
    await api_site.make(columns=["body"])
    response = await api_site.get(f"{PAGE}?q=a+pet")
    assert f"<{PAGE}.json?q=a+pet>" in response.headers["link"]


async def test_search_empty_collection_says_so(api_site):
    """Nothing to search is no error."""
    await api_site.make(columns=["body"])
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("delete from embeddings")
    conn.close()
    soup = await soup_of(api_site, PAGE)
    assert "This collection has no rows." in soup.get_text()
    soup = await soup_of(api_site, f"{PAGE}?q=a")
    assert soup.select_one(".zero-results").get_text() == "0 results"
    assert table_of(soup) == ([], [])


async def test_search_that_takes_too_long_says_what_to_do(make_api_site, monkeypatch):
    """The setting is named, and the form is still there."""
    site = make_api_site()
    await site.make(columns=["body"])
    database = site.datasette.get_database("data")
    monkeypatch.setattr(database, "execute", interrupting(database, "llm_embed_cosine"))
    soup = await soup_of(site, f"{PAGE}?q=a+pet", status=400)
    assert "sql_time_limit_ms" in soup.select_one("[role=alert]").get_text()
    assert soup.select_one("input[name=q]")["value"] == "a pet"
