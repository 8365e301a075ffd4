"""The related page: a row and the rows nearest to it."""

from __future__ import annotations

import pytest

from datasette_embed.database import sqlite3
from tests.api_site import ANONYMOUS, AWKWARD, EDITOR, PLAIN, ROOT, error_of
from tests.fakes import vector_of
from tests.test_pages_search import POSTS, PRIVATE, rows_of_link, shown, soup_of, table_of
from tests.test_web_search_api import cosine

pytestmark = pytest.mark.asyncio
LIKE = "/data/-/embed/c/posts/like"


def nearest(post):
    """The other posts by the oracle's cosine with one."""
    query = vector_of(POSTS[post][1])
    scores = {
        other: round(cosine(vector_of(body), query), 4)
        for other, (_, body) in POSTS.items()
        if other != post
    }
    return sorted(scores.items(), key=lambda pair: -pair[1])


def result_of(soup):
    """The table of the nearest rows, which is the last one."""
    for table in soup.select("table.embed-rows")[:-1]:
        table.extract()
    return table_of(soup)


async def test_related_shows_the_row_and_the_rows_of_its_sql(api_site, counting_model):
    """Scores are the oracle's, the link runs to the same rows, and no model is asked."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{LIKE}/1")
    assert table_of(soup) == (["id", "title", "body"], [["1", *POSTS[1]]])
    heading = soup.select_one("h2")
    assert heading.get_text(strip=True) == "Rows likedogs"
    assert heading.select_one("a")["href"] == "/data/posts/1"
    names, rows = result_of(soup)
    assert names == ["score", "id", "title", "body"]
    assert rows == [[f"{score:.4f}", str(post), *POSTS[post]] for post, score in nearest(1)]
    assert await rows_of_link(api_site, soup) == rows
    assert len(counting_model.calls) == 1


async def test_related_number_and_filters(api_site):
    """As on the search page."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{LIKE}/1?n=1")
    assert len(result_of(soup)[1]) == 1
    soup = await soup_of(api_site, f"{LIKE}/1?title=tax")
    assert [row[1] for row in result_of(soup)[1]] == ["3"]
    assert soup.select_one("form input[type=hidden]")["name"] == "title"
    soup = await soup_of(api_site, f"{LIKE}/1?n=x", status=400)
    assert "'n' must be a whole number" in soup.select_one("[role=alert]").get_text()
    assert table_of(soup)[1] == [["1", *POSTS[1]]]


@pytest.mark.parametrize(
    ("table", "rows"),
    [("pairs", ["/data/pairs/x~2Fy,1~2C2", "/data/pairs/z,2"]), ("recent", []), (AWKWARD, None)],
)
async def test_related_addresses_end_like_the_rows(api_site, table, rows):
    """Compound keys and awkward ones; a view's rows have no page."""
    answer = await api_site.make(table, columns=["body"])
    url = answer["job"]["collection_url"].removesuffix(".json")
    soup = await soup_of(api_site, url)
    likes = [link["href"] for link in soup.select("td.embed-more a")]
    assert len(likes) == len(table_of(soup)[1]) > 0
    for like in likes:
        page = await soup_of(api_site, like)
        if rows:
            assert page.select_one("h2 a")["href"] in rows
            assert like.removeprefix(f"{url}/like/") in [row.rpartition("/")[2] for row in rows]
        own = {tuple(row) for row in table_of(page)[1]}
        others = [tuple(row[1:]) for row in result_of(page)[1]]
        if len(likes) > 1:
            assert len(others) == len(likes) - 1
            assert not own & set(others)


async def test_related_row_not_embedded_says_so(api_site):
    """With the way to mend it for those who may, and 200: the row is there."""
    await api_site.make(columns=["body"])
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("insert into posts values (4, 'new', 'a new text')")
    conn.close()
    for actor, may in ((ANONYMOUS, False), (PLAIN, False), (EDITOR, True)):
        soup = await soup_of(api_site, f"{LIKE}/4", actor)
        said = soup.select_one(".embed-not-embedded")
        assert said.get_text().startswith("This row is not in the collection")
        assert [a["href"] for a in said.select("a")] == (
            ["/data/-/embed/c/posts/about"] if may else []
        )
        assert table_of(soup)[1] == [["4", "new", "a new text"]]
        assert len(soup.select("table")) == 1


async def test_related_row_that_failed_says_so(api_site):
    """The reason is for those who could do something about it."""
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("insert into posts values (4, 'new', x'00ff')")
    conn.close()
    await api_site.make(columns=["body"])
    for actor, reason in ((ANONYMOUS, ""), (EDITOR, " (column 'body' holds binary content")):
        soup = await soup_of(api_site, f"{LIKE}/4", actor)
        said = soup.select_one(".embed-not-embedded").get_text()
        assert said.startswith(
            f"This row is not in the collection: it could not be embedded{reason}"
        )
        assert ("binary" in said) is bool(reason)


async def test_related_immutable_has_no_update(make_api_site):
    """Nothing can be changed there, whoever asks."""
    site = make_api_site()
    await site.make(columns=["body"])
    conn = sqlite3.connect(site.path)
    with conn:
        conn.execute("insert into posts values (4, 'new', 'a new text')")
    conn.close()
    site = make_api_site(is_immutable=True)
    soup = await soup_of(site, f"{LIKE}/4", ROOT)
    assert soup.select(".embed-not-embedded a") == []
    assert len(result_of(await soup_of(site, f"{LIKE}/1", ROOT))[1]) == 2


@pytest.mark.parametrize("entry", ["9", "nope", "1~2E0", "01", "%27"])
async def test_related_unknown_row_is_404(api_site, entry):
    """Neither in the table nor in the collection; JSON says it as JSON."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{LIKE}/{entry}", status=404)
    assert "has no entry with the id" in soup.get_text()
    assert table_of(soup) == ([], [])
    assert "has no entry" in error_of(await api_site.get(f"{LIKE}/{entry}.json"), 404)


async def test_related_row_that_is_gone_still_has_neighbours(api_site):
    """Until the next update its vector is there."""
    await api_site.make(columns=["body"])
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("delete from posts where id = 1")
    conn.close()
    soup = await soup_of(api_site, f"{LIKE}/1")
    assert "The row itself is no longer there" in soup.get_text()
    assert [row[1] for row in table_of(soup)[1]] == [str(post) for post, _ in nearest(1)]


@pytest.mark.parametrize(
    ("actor", "is_seen"), [(ANONYMOUS, False), (PLAIN, False), (EDITOR, True), (ROOT, True)]
)
async def test_related_of_a_private_table_follows_it(api_site, actor, is_seen):
    """The page, its JSON and its CSV; whether there is such a row is not told either."""
    await api_site.make("secrets", columns=["body"])
    for entry in ("1", "99"):
        for end in ("", ".json", ".csv"):
            response = await api_site.get(f"/data/-/embed/c/secrets/like/{entry}{end}", actor)
            expected = (200 if entry == "1" else 404) if is_seen else 403
            assert response.status_code == expected, (entry, end)
            assert (PRIVATE in response.text) == (expected == 200)


async def test_related_as_json_and_csv_has_the_rows_of_the_page(api_site):
    """At the page's address, and linked."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, f"{LIKE}/1?n=5")
    links = [a["href"] for a in soup.select(".export-links a")]
    assert links == [f"{LIKE}/1.json?n=5", f"{LIKE}/1.csv?n=5"]
    names, rows = result_of(soup)
    answer = (await api_site.get(links[0])).json()
    assert [[shown(row[name]) for name in names] for row in answer["rows"]] == rows
    assert answer["params"] == {"collection": "posts", "id": "1", "n": "5"}
    text = (await api_site.get(links[1])).text
    assert text.splitlines()[0] == "score,id,title,body"
    assert len(text.splitlines()) == 1 + len(rows)


async def test_related_works_without_the_model(api_site):
    """No words are embedded for it."""
    await api_site.make(columns=["body"])
    conn = sqlite3.connect(api_site.path)
    with conn:
        for table in ("collections", "_embed_collections"):
            conn.execute(f"update {table} set model = 'gone' where name = 'posts'")
    conn.close()
    soup = await soup_of(api_site, f"{LIKE}/1")
    assert len(result_of(soup)[1]) == 2
