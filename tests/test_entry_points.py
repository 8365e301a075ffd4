"""Links from Datasette's own pages: for whom they are there, and where they lead."""

from __future__ import annotations

import html
import json
import re
from contextlib import closing

import pytest
from bs4 import BeautifulSoup
from datasette.app import Datasette

from datasette_embed.database import sqlite3
from datasette_embed.web import entry_points
from tests.api_site import ANONYMOUS, AWKWARD, EDITOR, PLAIN, ROOT

pytestmark = pytest.mark.asyncio

IS_ONE = hasattr(Datasette, "allowed")
only_one = pytest.mark.skipif(not IS_ONE, reason="a hook of Datasette 1.0")
only_zero = pytest.mark.skipif(IS_ONE, reason="1.0 has a hook of its own for it")
SITE, DATABASE = "/-/embed", "/data/-/embed"
SEARCH = "/data/-/embed/c/posts"
LIKE = f"{SEARCH}/like/1"
#: A name that would end a script, and begin another.
MARKUP = "</script><script>alert(1)</script> {{ 7*7 }} '\"&"


async def links_of(site, path, actor):
    """Return the links to our pages on one of Datasette's, those of a script included."""
    response = await site.get(path, actor)
    assert response.status_code == 200, response.text
    page = BeautifulSoup(response.text, "html.parser")
    found = [a["href"] for a in page.select("a[href]")]
    for script in page.select("script"):
        for links in re.findall(r"const link of (\[.*\])\)", script.get_text()):
            found += [link["href"] for link in json.loads(links)]
    return {href for href in found if "/-/embed" in href}


def change(site, sql, *values):
    """Change the file of a site, as any other program would."""
    with closing(sqlite3.connect(site.path)) as conn, conn:
        conn.execute(sql, values)


# -- for whom -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/data", "/data/posts", "/data/posts/1", "/data/pairs"])
@pytest.mark.parametrize("actor", [ANONYMOUS, PLAIN])
async def test_no_collection_visitor_is_linked_nothing(api_site, path, actor):
    """Where there is nothing, and nothing can be made, no page changes."""
    response = await api_site.get(path, actor)
    assert response.status_code == 200
    assert "/-/embed" not in response.text


async def test_no_collection_editor_is_offered_to_make_one(api_site):
    """From the menu, the database and the table."""
    assert await links_of(api_site, "/", EDITOR) == {SITE}
    assert await links_of(api_site, "/data", EDITOR) == {SITE, DATABASE}
    new = f"{DATABASE}/new?table=posts"
    assert await links_of(api_site, "/data/posts", EDITOR) == {SITE, new}
    assert await links_of(api_site, "/data/posts/1", EDITOR) == {SITE}


async def test_collection_visitor_is_linked_what_may_be_read(api_site):
    """Search and related rows, but nothing that makes."""
    await api_site.make()
    assert await links_of(api_site, "/", ANONYMOUS) == {SITE}
    assert await links_of(api_site, "/data", ANONYMOUS) == {SITE, DATABASE}
    assert await links_of(api_site, "/data/posts", ANONYMOUS) == {SITE, SEARCH}
    assert await links_of(api_site, "/data/posts/1", ANONYMOUS) == {SITE, LIKE}
    assert await links_of(api_site, "/data/pairs", ANONYMOUS) == {SITE}


async def test_private_collection_is_linked_only_for_those_who_see_its_table(api_site):
    """Others do not even learn that there is something."""
    await api_site.make("secrets")
    for path in ("/", "/data", "/data/posts"):
        for actor in (ANONYMOUS, PLAIN):
            assert await links_of(api_site, path, actor) == set()
    assert await links_of(api_site, "/data/secrets/1", EDITOR) == {
        SITE,
        "/data/-/embed/c/secrets/like/1",
    }
    assert "/data/-/embed/c/secrets" in await links_of(api_site, "/data/secrets", EDITOR)


async def test_immutable_database_offers_nothing_that_makes(make_api_site):
    """Not even to root; what is there can be searched."""
    site = make_api_site()
    await site.make()
    immutable = make_api_site(is_immutable=True)
    assert await links_of(immutable, "/data/posts", ROOT) == {SITE, SEARCH}
    assert await links_of(immutable, "/data/posts/1", ROOT) == {SITE, LIKE}
    assert await links_of(immutable, "/data/pairs", ROOT) == {SITE}


async def test_links_lead_to_pages_that_answer(api_site):
    """No link is dead."""
    await api_site.make()
    await api_site.make("pairs")
    await api_site.make(AWKWARD, "awkward")
    paths = ["/", "/data", "/data/posts", "/data/posts/1", "/data/pairs/x~2Fy,1~2C2"]
    found = set().union(*[await links_of(api_site, path, EDITOR) for path in paths])
    assert "/data/-/embed/c/pairs/like/x~2Fy,1~2C2" in found
    for href in found:
        response = await api_site.get(html.unescape(href), EDITOR)
        assert response.status_code == 200, href


async def test_broken_collections_leave_datasettes_pages_as_they_are(api_site, monkeypatch):
    """Whatever goes wrong with us is not the reader's problem."""
    await api_site.make()
    change(api_site, "update _embed_collections set source = '{broken'")
    for path in ("/", "/data", "/data/posts", "/data/posts/1"):
        assert SEARCH not in await links_of(api_site, path, ROOT)

    async def fail(*args, **kwargs):
        raise RuntimeError("broken")

    for name in ("collections_of_table", "entries_of_row"):
        monkeypatch.setattr(entry_points, name, fail)
    monkeypatch.setattr(entry_points.access, "may_create_somewhere", fail)
    for path in ("/", "/data", "/data/posts", "/data/posts/1"):
        assert SITE not in await links_of(api_site, path, ROOT)


# -- tables ---------------------------------------------------------------------------


async def test_table_filters_are_carried_to_the_new_page(api_site):
    """The rows that are shown are those that are embedded; how they are shown is not said."""
    path = "/data/posts?title__contains=do%26g&_where=id<3&_sort=title&_facet=title&_size=5"
    (new,) = [href for href in await links_of(api_site, path, ROOT) if "/new?" in href]
    assert new == f"{DATABASE}/new?table=posts&title__contains=do%26g&_where=id%3C3"


async def test_table_filter_on_a_column_named_like_ours_is_spelled_out(api_site):
    """A column may be called "table"."""
    change(api_site, 'create table odd (id integer primary key, "table" text)')
    (new,) = [h for h in await links_of(api_site, "/data/odd?table=x", ROOT) if "/new?" in h]
    assert new.endswith("/new?table=odd&table__exact=x")


async def test_table_filter_on_a_column_of_datasettes_is_carried(api_site):
    """``_lang=en`` would be a word to Datasette, ``_lang__exact=en`` is a filter."""
    change(api_site, "create table odd (id integer primary key, _lang text, body text)")
    path = "/data/odd?_lang__exact=en&_sort=id"
    (new,) = [h for h in await links_of(api_site, path, ROOT) if "/new?" in h]
    assert new == f"{DATABASE}/new?table=odd&_lang__exact=en"
    page = (await api_site.get(new, ROOT)).text
    assert "where _lang = &#34;en&#34;" in page


async def test_rows_by_meaning_or_words_are_said_not_to_be_carried(api_site):
    """Rather than that more rows are embedded than were on the page."""
    await api_site.make()
    path = "/data/posts?_similar=pets&_similar_number=2&_search=&id__gt=1"
    (new,) = [h for h in await links_of(api_site, path, EDITOR) if "/new?" in h]
    assert new == f"{DATABASE}/new?table=posts&_similar=pets&_similar_number=2&id__gt=1"
    page = (await api_site.get(new, EDITOR)).text
    assert "Not carried over from the table's page: _similar, _similar_number" in html.unescape(
        page
    )


async def test_filters_too_long_to_be_carried_offer_no_rows(api_site):
    """The whole table would be offered in place of those on the page."""
    path = "/data/posts?title__contains="
    assert any("/new?" in h for h in await links_of(api_site, path + "a" * 3_000, ROOT))
    assert not any("/new?" in h for h in await links_of(api_site, path + "a" * 4_000, ROOT))


async def test_our_own_tables_are_not_offered(api_site):
    """Vectors are no rows to embed."""
    await api_site.make()
    assert await links_of(api_site, "/data/embeddings", ROOT) == {SITE}


async def test_deleted_collection_is_linked_no_more(api_site):
    """Also where another tool deleted it, which leaves our row behind."""
    await api_site.make()
    change(api_site, "drop trigger _embed_collection_deleted")
    change(api_site, "delete from collections")
    assert SEARCH not in await links_of(api_site, "/data/posts", ROOT)


# -- rows -----------------------------------------------------------------------------


async def test_row_that_is_not_embedded_has_no_link(api_site):
    """Blank, filtered or newer than the collection."""
    await api_site.make(where="id < 3")
    assert await links_of(api_site, "/data/posts/1", ANONYMOUS) == {SITE, LIKE}
    assert await links_of(api_site, "/data/posts/3", ANONYMOUS) == {SITE}


async def test_row_named_by_another_column_is_found(api_site):
    """The collection's id is not the key of the row's page."""
    await api_site.make(id_columns=["title"], columns=["body"])
    found = await links_of(api_site, "/data/posts/1", ANONYMOUS)
    assert found == {SITE, f"{SEARCH}/like/dogs"}


async def test_row_script_keeps_names_in_their_strings(api_site):
    """A name of a collection is a stranger's."""
    await api_site.make(name=MARKUP)
    response = await api_site.get("/data/posts/1", ANONYMOUS)
    assert "<script>alert" not in response.text
    assert "alert(1)" in html.unescape(response.text)


@only_zero
async def test_other_pages_get_no_script(api_site):
    """Not even an empty one."""
    await api_site.make()
    for path in ("/", "/data", "/data/posts"):
        assert "<script></script>" not in (await api_site.get(path)).text


@only_one
async def test_top_row_shows_the_nearest_three_with_their_labels(api_site):
    """In the page itself, without JavaScript."""
    await api_site.make()
    page = BeautifulSoup((await api_site.get("/data/posts/1")).text, "html.parser")
    links = page.select(".embed-top-row a")
    assert {a.get_text() for a in links} == {"cats", "tax", "more"}
    assert {a["href"] for a in links} == {"/data/posts/2", "/data/posts/3", LIKE}


@only_one
async def test_top_row_shows_nothing_of_private_rows(api_site):
    """A collection that may not be seen is not there."""
    await api_site.make("secrets")
    page = await api_site.get("/data/posts/1", PLAIN)
    assert "embed-top-row" not in page.text


# -- queries and the jump menu ---------------------------------------------------------


@only_one
@pytest.mark.parametrize(
    "sql, is_offered",
    [
        ("select id, body from posts", True),
        ("select id, body from posts where id = :id", False),
        ("", False),
    ],
)
async def test_query_that_has_rows_of_its_own_can_be_embedded(api_site, sql, is_offered):
    """One that asks for values each time cannot."""
    path = f"/data/-/query?sql={sql}&id=1"
    found = [href for href in await links_of(api_site, path, ROOT) if "/new?" in href]
    assert bool(found) is is_offered
    assert all("new?sql=select+id%2C+body+from+posts" in href for href in found)
    assert not [href for href in await links_of(api_site, path, PLAIN) if "/new?" in href]


@only_one
async def test_jump_menu_finds_the_collections_that_may_be_seen(api_site):
    """By name, for whoever may see them."""
    await api_site.make()
    await api_site.make("secrets", "hidden one")

    async def urls(q, actor):
        matches = (await api_site.get(f"/-/jump.json?q={q}", actor)).json()["matches"]
        return {match["url"] for match in matches if "/-/embed/c/" in match["url"]}

    assert await urls("posts", ROOT) == {SEARCH}
    assert await urls("hidden", ROOT) == {"/data/-/embed/c/hidden+one"}
    assert await urls("hidden", PLAIN) == set()
