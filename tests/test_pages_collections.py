"""The pages of collections: of the site and of one database, and how to make one."""

from __future__ import annotations

from contextlib import closing

import pytest
from bs4 import BeautifulSoup
from datasette.database import Database

from datasette_embed.database import sqlite3
from tests.api_site import ANONYMOUS, AWKWARD, EDITOR, PLAIN, ROOT, error_of, make_file

pytestmark = pytest.mark.asyncio

SITE = "/-/embed"
HERE = "/data/-/embed"
EMPTY = "No collections yet. A collection lets you search rows by meaning."


async def page_of(site, path=HERE, actor=ROOT, status=200):
    """Return a page, parsed."""
    response = await site.get(path, actor)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return BeautifulSoup(response.text, "html.parser")


def text_of(element):
    """Return the text of an element on one line."""
    return " ".join(element.get_text().split())


def rows_of(page, name="embed-collections"):
    """Return the cells of the table of this class."""
    return [[text_of(cell) for cell in row("td")] for row in page.select(f".{name} tbody tr")]


def names_of(page):
    """Return the names of the listed collections."""
    return [text_of(cell) for cell in page.select("td.col-title")]


def headings_of(page):
    """Return the headings of the table."""
    return [text_of(cell) for cell in page.select(".embed-collections th")]


def links_of(page):
    """Return text -> address of the links of the content, the table aside."""
    aside = page.select("table a, .small-screen-only a")
    return {text_of(a): a["href"] for a in page.select("section.content a") if a not in aside}


def change(site, sql, *values):
    """Change the file of a site, as any other program would."""
    with closing(sqlite3.connect(site.path)) as conn, conn:
        conn.execute(sql, values)


@pytest.fixture
def make_two_databases(make_api_site, tmp_path):
    """Make a site over ``data`` and ``more``, which has a table ``notes``."""

    def make(**options):
        site = make_api_site(**options)
        path = tmp_path / "more.db"
        script = "create table notes (id integer primary key, body text, n integer);"
        make_file(path, script + "insert into notes values (1, 'a note', 1)")
        site.datasette.add_database(Database(site.datasette, path=str(path), is_mutable=True))
        return site

    return make


@pytest.mark.parametrize("path", [HERE, SITE])
async def test_collection_in_the_list_says_what_it_is(api_site, path):
    """And links its search and its table; nothing is loaded from elsewhere."""
    await api_site.make()
    change(api_site, "update _embed_collections set created_at = '2026-01-01T10:00:00+00:00'")
    page = await page_of(api_site, path)
    assert text_of(page.h1) == "Collections"
    assert headings_of(page) == ["Collection ▲", "Rows of", "Rows", "Model", "State", "Made (UTC)"]
    assert rows_of(page) == [["posts", "posts", "3", "counting", "ready", "2026-01-01 10:00:00"]]
    assert [a["href"] for a in page.select("td a")] == [f"{HERE}/c/posts", "/data/posts"]
    jobs = {"Jobs": f"{HERE}/jobs"} if path == HERE else {}
    links = {"Embed rows of a table": f"{HERE}/new", "json": f"{path}.json"}
    assert links_of(page) == links | jobs
    assert EMPTY not in page.get_text()


@pytest.mark.parametrize("path", [HERE, SITE])
@pytest.mark.parametrize(
    ("actor", "names", "may_make"),
    [
        (ANONYMOUS, ["posts"], False),
        (PLAIN, ["posts"], False),
        (EDITOR, ["posts", "secrets"], True),
    ],
)
async def test_list_follows_the_source_and_offers_only_what_is_allowed(
    api_site, path, actor, names, may_make
):
    """Whoever may make none sees no job of one either."""
    await api_site.make()
    await api_site.make("secrets")
    change(api_site, "update _embed_jobs set status = 'paused'")
    page = await page_of(api_site, path, actor)
    assert names_of(page) == names
    assert ("State" in headings_of(page)) is may_make
    assert ("jobs" in str(page.select_one("section.content"))) is may_make
    assert ("Embed rows of a table" in links_of(page)) is may_make
    assert ("secrets" in page.get_text()) is may_make


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ("status = 'paused', rows_done = 1", "paused, 33 %"),
        ("status = 'failed'", "failed"),
        ("status = 'pending'", "waiting"),
        ("status = 'pending', action = 'watch'", "ready, kept up to date"),
        ("status = 'running', owner = 'x', rows_done = 2", "interrupted, 66 %"),
        ("status = 'cancelled', rows_done = 1", "cancelled, 33 %"),
    ],
)
async def test_state_of_a_collection_is_that_of_its_job(api_site, values, state):
    """With a link to the page of the job."""
    await api_site.make()
    change(api_site, f"update _embed_jobs set {values}")
    page = await page_of(api_site)
    cell = page.select_one("td.col-state")
    assert text_of(cell) == state
    assert cell.a["href"] == f"{HERE}/jobs/1"


async def test_state_of_a_collection_being_embedded_is_its_share(api_site, counting_model):
    """In whole per cent."""
    await api_site.make()
    with api_site.running_job(counting_model):
        change(api_site, "update _embed_jobs set rows_done = 1 where id = 2")
        page = await page_of(api_site)
    assert text_of(page.select_one("td.col-state")) == "33 %"


async def test_table_that_is_gone_is_struck(api_site):
    """The row is kept, and says so in words."""
    await api_site.make()
    await api_site.make(table=None, sql="select id, body from posts", name="query")
    change(api_site, "drop table posts")
    for path in (HERE, SITE):
        page = await page_of(api_site, path)
        assert [row[:2] for row in rows_of(page)] == [
            ["posts", "posts no longer exists"],
            ["query", "a query"],
        ]
        assert text_of(page.select_one("td.col-source s")) == "posts"
        assert page.select("td.col-source a") == []


async def test_awkward_names_are_text_and_their_links_work(api_site):
    """Quotes, slashes, percent signs and markup."""
    await api_site.make(AWKWARD)
    await api_site.make(name="<b>{{ 7*7 }}</b>")
    page = await page_of(api_site)
    assert names_of(page) == ["<b>{{ 7*7 }}</b>", AWKWARD]
    assert [row[1] for row in rows_of(page)] == ["posts", AWKWARD]
    for link in page.select("td.col-source a, td.col-title a"):
        response = await api_site.get(link["href"], ROOT)
        assert response.status_code == 200, link


async def test_list_of_a_database_goes_on_behind_a_name(api_site):
    """The next page keeps how many there are on one, and how they are sorted."""
    for name in ("a", "b", "c"):
        await api_site.make(name=name)
    page = await page_of(api_site, f"{HERE}?number=2")
    assert names_of(page) == ["a", "b"]
    following = links_of(page)["Next page"]
    assert following == f"{HERE}?number=2&after=b"
    page = await page_of(api_site, following)
    assert names_of(page) == ["c"]
    assert "Next page" not in links_of(page)
    page = await page_of(api_site, f"{HERE}?number=2&sort_desc=name")
    assert names_of(page) == ["c", "b"]
    page = await page_of(api_site, links_of(page)["Next page"])
    assert names_of(page) == ["a"]
    page = await page_of(api_site, f"{HERE}?after=z")
    assert (names_of(page), EMPTY in page.get_text()) == ([], False)
    assert "There are no more collections." in page.get_text()


@pytest.mark.parametrize("path", [HERE, SITE])
async def test_list_is_sorted_by_a_click_on_a_heading(api_site, path):
    """Upwards, then downwards; equal ones by name; the twin is sorted alike."""
    await api_site.make(name="b")
    await api_site.make("secrets", name="c")
    await api_site.make(name="a")
    for query, names in (
        ("", "a b c"),
        ("?sort_desc=name", "c b a"),
        ("?sort=entries", "c a b"),
        ("?sort_desc=entries", "a b c"),
        ("?sort=table", "a b c"),
        ("?sort_desc=table", "c a b"),
    ):
        page = await page_of(api_site, path + query)
        assert names_of(page) == names.split(), query
        data = (await api_site.get(f"{path}.json{query}", ROOT)).json()
        assert [each["name"] for each in data["collections"]] == names.split()
        assert links_of(page)["json"] == f"{path}.json{query}"
    page = await page_of(api_site, f"{path}?sort=entries")
    heading = page.select_one("th.col-entries")
    assert (heading["aria-sort"], heading.a["href"]) == ("ascending", f"{path}?sort_desc=entries")
    assert [th.get("aria-sort") for th in page("th")].count(None) == len(page("th")) - 1
    heading = (await page_of(api_site, f"{path}?sort_desc=entries")).select_one("th.col-entries")
    assert (heading["aria-sort"], heading.a["href"]) == ("descending", f"{path}?sort=entries")
    phone = page.select_one(".small-screen-only")
    assert [text_of(a) for a in phone("a")] == [text_of(a) for a in page.select("th a")]


async def test_sorted_list_goes_on_behind_a_name(api_site):
    """Which must be there: to begin again unasked would repeat rows, for a program for ever."""
    await api_site.make(name="b")
    await api_site.make("secrets", name="c")
    await api_site.make(name="a")
    query = f"{HERE}?number=2&sort=entries"
    page = await page_of(api_site, query)
    assert names_of(page) == ["c", "a"]
    assert links_of(page)["Next page"] == f"{HERE}?sort=entries&number=2&after=a"
    assert names_of(await page_of(api_site, f"{query}&after=a")) == ["b"]
    api = query.replace("?", ".json?")
    for path in (f"{query}&after=nosuch", f"{api}&after=nosuch"):
        response = await api_site.get(path, ROOT)
        assert response.status_code == 400
        assert "there is no collection" in response.text
        assert "Begin again without it" in response.text
    error_of(await api_site.get(f"{api}&after=c", PLAIN), 400)  # hidden, and not told of


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("sort=x", "'sort' must be one of name, table, entries, model, created_at"),
        ("sort=name&sort_desc=name", "Give 'sort' or 'sort_desc', not both"),
        ("nosuch=1", "Unknown field 'nosuch'. Fields: "),
    ],
)
async def test_list_refuses_what_it_does_not_know(api_site, query, message):
    """On the page and in JSON alike."""
    for path in (HERE, SITE):
        page = await page_of(api_site, f"{path}?{query}", status=400)
        assert text_of(page.select_one(".embed-refusal")).startswith(message)
        response = await api_site.get(f"{path}.json?{query}", ROOT)
        assert (response.status_code, response.json()["error"].startswith(message)) == (400, True)


@pytest.mark.parametrize("path", [HERE, SITE])
async def test_no_collection_yet_offers_the_tables_with_text(api_site, path):
    """Those the actor may see; each with its columns and the page that embeds it."""
    page = await page_of(api_site, path, EDITOR)
    assert EMPTY in page.get_text()
    tables = {row[0]: row[1:] for row in rows_of(page, "embed-tables")}
    assert tables["posts"] == ["title, body", "Embed rows of posts"]
    assert {"posts", "secrets", "pairs", AWKWARD, "recent"} == set(tables)
    urls = {text_of(a): a["href"] for a in page.select(".embed-tables td.col-make a")}
    assert urls["Embed rows of posts"] == f"{HERE}/new?table=posts"
    for url in urls.values():
        assert (await api_site.get(url, EDITOR)).status_code == 200


@pytest.mark.parametrize("path", [HERE, SITE])
@pytest.mark.parametrize("actor", [ANONYMOUS, PLAIN])
async def test_no_collection_yet_names_no_table_to_others(api_site, path, actor):
    """There is nothing they could do with it; what they can do instead is said."""
    page = await page_of(api_site, path, actor)
    words = text_of(page.select_one("section.content"))
    assert ("sign in as somebody who may" in words) == (actor is ANONYMOUS)
    assert ("with the permission embed-create" in words) == (actor is PLAIN)
    content = page.select_one("section.content")
    assert EMPTY in content.get_text()
    assert "posts" not in content.get_text()
    assert list(links_of(page)) == ["json"]


async def test_database_without_text_offers_a_table_anyway(make_api_site):
    """Or a query: numbers can be embedded too."""
    site = make_api_site()
    with closing(sqlite3.connect(site.path)) as conn, conn:
        conn.executescript(
            "drop view recent; drop table secrets; drop table pairs; drop table posts;"
            f'drop table "{AWKWARD.replace(chr(34), chr(34) * 2)}"; create table n (n integer);'
        )
    page = await page_of(site)
    assert rows_of(page, "embed-tables") == []
    assert links_of(page)["Embed rows of a table or a query"] == f"{HERE}/new"


async def test_immutable_database_offers_nothing_that_writes(make_api_site):
    """Neither with collections nor without."""
    site = make_api_site()
    await site.make()
    site.stop()
    frozen = make_api_site(is_immutable=True)
    for path in (HERE, SITE):
        page = await page_of(frozen, path)
        assert names_of(page) == ["posts"]
        assert list(links_of(page)) == ["json"]


async def test_site_page_has_every_database(make_two_databases):
    """By name, each with the page of its database, and where to make another."""
    site = make_two_databases()
    await site.make(name="b")
    wanted = {"table": "notes", "collection": "a", "model": "counting"}
    assert (await site.post("/more/-/embed/new", wanted)).status_code == 201
    await site.settled()
    page = await page_of(site, SITE)
    assert [row[:3] for row in rows_of(page)] == [["a", "more", "notes"], ["b", "data", "posts"]]
    links = page.select("td.col-database a, td.col-source a")
    assert [a["href"] for a in links] == ["/more/-/embed", "/more/notes", HERE, "/data/posts"]
    links = links_of(page)
    assert (links["data"], links["more"]) == (f"{HERE}/new", "/more/-/embed/new")
    page = await page_of(site, "/more/-/embed")
    assert names_of(page) == ["a"]
    assert "Database" not in headings_of(page)


async def test_unreadable_database_is_named(make_two_databases, tmp_path):
    """The others are still there."""
    site = make_two_databases()
    await site.make()
    for file in tmp_path.glob("more.db*"):
        file.write_bytes(b"this is no database at all" * 100)
    page = await page_of(site, SITE)
    message = text_of(page.select_one(".message-warning"))
    assert message == "The collections of this database cannot be read: more"
    assert names_of(page) == ["posts"]


async def test_pages_that_cannot_be_say_why(make_api_site):
    """A database there is not, one that is private, a site that is."""
    site = make_api_site()
    page = await page_of(site, "/nosuch/-/embed", status=404)
    assert text_of(page.select_one(".embed-refusal")) == "There is no database 'nosuch'"
    private = make_api_site(allow={"id": "root"})
    for path in (HERE, SITE):
        await page_of(private, path, PLAIN, status=403)
        await page_of(private, path, ROOT)


async def test_error_page_leads_back_to_its_database(api_site):
    """Whoever took a wrong turn sees where they are."""
    page = await page_of(api_site, f"{HERE}/c/nothing", status=404)
    crumbs = [a["href"] for a in page.select("p.crumbs a")]
    assert crumbs == ["/", "/data"]


async def test_page_answers_head_and_writes_nothing(api_site):
    """It is only to be read."""
    before = api_site.rows("select name, sql from sqlite_master")
    for path in (HERE, SITE):
        response = await api_site.ask("HEAD", path, ROOT)
        assert response.status_code == 200
        assert response.headers["link"].startswith(f"<{path}.json>; ")
        assert (await api_site.ask("POST", path, ROOT)).status_code == 405
    assert api_site.rows("select name, sql from sqlite_master") == before
