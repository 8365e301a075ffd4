"""Names, texts and queries of strangers on every page: shown as text, never done."""

from __future__ import annotations

import json
from contextlib import closing
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio
from bs4 import BeautifulSoup
from datasette.utils import tilde_encode

from datasette_embed.database import quoted, sqlite3
from tests.api_site import ROOT, make_file
from tests.crawler import Crawl
from tests.storage import execute

pytestmark = [
    pytest.mark.asyncio,
    # Datasette has sqlite3 print what a function raises.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

#: An element with a handler, the end of a script and of an attribute, an end of SQL, what Jinja
#: and a line of JavaScript would compute, a text that runs from right to left, and a smiley.
MARKUP = (
    "</script></title></textarea><img src=x onerror=alert(1)>'\"`--;"
    "{{7919*104729*1299709}}${7919*104729*1299709}{% raw %}\u202e😀\u2028&lt;b&gt;"
)
#: The one handler in the markup of Datasette 1.0's own pages.
OF_DATASETTE = {"openColumnChooser()"}
#: What would be on a page if some of it were done.
DONE = "1077912295755259"
NAME = f"n {MARKUP}"
TABLE = f"t {MARKUP}"
COLUMN = f"c {MARKUP}"
TEXTS = [
    MARKUP,
    f"a dog {MARKUP}",
    "javascript:alert(1)",
    "https://evil.example/?a=<b>",
    "=cmd|'/c calc'!A1",
    "null \x00 inside",
    "..",
    "../../etc/passwd",
    "%2F%00",
    "long " * 4_000,
]
HERE = "/data/-/embed"
COLLECTION = f"{HERE}/c/{tilde_encode(NAME)}"
QUERIES = [
    MARKUP,
    "'; drop table embeddings; --",
    "\x00",
    "a\x00b",
    "\u202e",
    "😀",
    "{{ config }}{% include '/etc/passwd' %}",
    "%2F..%00",
    "\ud7ff\uffff",
    " ",
    "a" * 60_000,
]


@pytest_asyncio.fixture
async def site(make_api_site, tmp_path):
    """A site whose table, column, ids, texts and collection are all a stranger's."""
    path = make_file(tmp_path / "data.db")
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(f"create table {quoted(TABLE)} (id text primary key, {quoted(COLUMN)} text)")
        conn.executemany(
            f"insert into {quoted(TABLE)} values (?, ?)",
            [(f"{n} {MARKUP}" if n < 3 else str(n), text) for n, text in enumerate(TEXTS)],
        )
    site = make_api_site(config={"resume_jobs": False})
    await site.make(TABLE, NAME, store=True)
    execute(
        path,
        f"insert into _embed_failures values (1, '{as_literal('1 ' + MARKUP)}', null, "
        f"'{as_literal(MARKUP)}', 2)",
    )
    execute(
        path,
        f"update _embed_jobs set reason = '{as_literal(MARKUP)}', actor = "
        f"'{as_literal(MARKUP)}', status = 'failed'",
    )
    return site


def as_literal(text):
    return text.replace("'", "''")


def assert_is_text(path, response, *, shown=()):
    """Check that nothing of a stranger became part of the page but as text."""
    assert response.status_code < 500, (path, response.status_code, response.text[:2000])
    if "text/html" not in response.headers.get("content-type", ""):
        return
    assert DONE not in response.text, path
    soup = BeautifulSoup(response.text, "html.parser")
    assert soup.find_all("img", src="x") == [], path
    for element in soup.find_all(True):
        handlers = {name: each for name, each in element.attrs.items() if name.startswith("on")}
        assert set(handlers.values()) <= OF_DATASETTE, (path, element)
        for name in ("href", "src", "action", "formaction"):
            address = str(element.get(name) or "")
            assert not address.strip().lower().startswith(("javascript:", "data:")), (path, element)
    for script in soup.find_all("script"):
        assert "<img" not in script.get_text(), path
    for text in shown:
        assert text in " ".join([soup.get_text(), *values_of(soup)]), (path, text)


def values_of(soup):
    return [element["value"] for element in soup.find_all("input") if element.has_attr("value")]


async def test_every_page_shows_hostile_names_and_texts_as_text(site):
    """From each link that leads there; the names survive the way, so every page is found."""
    starts = {
        "/-/embed": [NAME],
        HERE: [NAME],
        f"{HERE}/new": [TABLE],
        f"{HERE}/new?{urlencode({'table': TABLE})}": [TABLE, COLUMN],
        f"{HERE}/jobs/1": [NAME, MARKUP],
        COLLECTION: [NAME, TABLE],
        f"{COLLECTION}?q=dog": [NAME, COLUMN, MARKUP],
        f"{COLLECTION}/about": [NAME, TABLE, COLUMN],
        f"{COLLECTION}/like/{tilde_encode(f'1 {MARKUP}')}": [NAME, MARKUP],
        f"/data/{tilde_encode(TABLE)}": [],
        f"/data/{tilde_encode(TABLE)}/{tilde_encode(f'1 {MARKUP}')}": [],
    }
    await site.datasette.invoke_startup()
    found = await Crawl(site.datasette.client, ROOT).walk(*starts)
    for visit in found.visits.values():
        assert_is_text(visit.path, visit.response, shown=starts.get(visit.path, ()))
    assert found.dead() == []
    related = [path for path in found.visits if path.startswith(f"{COLLECTION}/like/")]
    assert len({path.partition("?")[0] for path in related}) >= 3
    twins = [
        "/-/embed.json",
        f"{HERE}.json",
        f"{COLLECTION}.json?q=dog",
        f"{COLLECTION}/about.json",
        f"{HERE}/jobs/1.json",
    ]
    for twin in twins:
        response = await site.get(twin, ROOT)
        assert response.headers["content-type"].startswith("application/json")
        assert response.json()["ok"] is True


async def test_hostile_query_is_a_text_that_was_searched_for(site):
    """The words are in the box again, nothing else has become of them, and nothing is lost."""
    before = site.rows("select count(*) from embeddings")
    for q in QUERIES:
        for address in (COLLECTION, f"{COLLECTION}.json", f"{COLLECTION}.csv"):
            path = f"{address}?{urlencode({'q': q})}"
            response = await site.get(path)
            assert_is_text(path[:200], response)
            if address != COLLECTION:
                continue
            assert "text/html" in response.headers["content-type"]
            box = BeautifulSoup(response.text, "html.parser").find("input", attrs={"name": "q"})
            if "\x00" not in q and len(q) < 1_000:
                assert box is not None, path
                assert box["value"].strip() == q.strip(), path
    assert site.rows("select count(*) from embeddings") == before


async def test_megabyte_of_words_is_refused_in_words(site, counting_model):
    """On the page, in a form and in JSON; nothing is embedded and the server goes on."""
    calls = len(counting_model.calls)
    # No server reads a longer address.
    response = await site.get(f"{COLLECTION}?{urlencode({'q': 'a ' * 15_000})}")
    assert_is_text("a long address", response)
    assert response.status_code == 413
    response = await send_form(site, f"{COLLECTION}/rename", {"name": "a " * 500_000})
    assert 400 <= response.status_code < 500, response.text[:1000]
    assert_is_text("rename", response)
    assert len(counting_model.calls) == calls
    assert (await site.get(COLLECTION)).status_code == 200


async def send_form(site, path, fields):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return await site.ask("POST", path, ROOT, content=urlencode(fields), headers=headers)


@pytest.mark.parametrize(
    "name", ["", " ", "\x00", "a\x00b", "..", "a/b", "%2F", MARKUP, "x" * 10_000]
)
async def test_hostile_new_name_is_refused_beside_its_field_or_used_as_it_is(site, name):
    """Whatever is typed, the way leads to a page that shows the name as text."""
    response = await send_form(site, f"{COLLECTION}/rename", {"name": name})
    assert_is_text(name[:50], response)
    names = [each for (each,) in site.rows("select name from collections")]
    if response.status_code == 303:
        assert names == [name]
        page = await site.get(response.headers["location"], ROOT)
        assert page.status_code == 200
        assert_is_text(name[:50], page, shown=[name])
    else:
        assert 400 <= response.status_code < 500
        assert names == [NAME]


HOSTILE_PARTS = [
    "%2F",
    "a%2Fb",
    "%2E%2E",
    "%2E%2E%2Fetc",
    "%00",
    "~00",
    "~",
    "~2",
    "%",
    "%zz",
    "%ff",
    "~FF",
    "%F0%9F%98%80",
    "~2E~2E",
    quote(MARKUP, safe=""),
    tilde_encode(MARKUP + "?"),
    "x" * 3_000,
]


@pytest.mark.parametrize(
    "address",
    [
        "/{}/-/embed",
        "/{}/-/embed/new",
        f"{HERE}/c/{{}}",
        f"{HERE}/c/{{}}/about",
        f"{HERE}/c/{{}}/like/1",
        f"{HERE}/c/posts/like/{{}}",
        f"{HERE}/jobs/{{}}",
        f"{HERE}/new?table={{}}",
    ],
)
async def test_hostile_address_is_not_found(api_site, address):
    """What names nothing is a 404 that says so, for people as a page."""
    await api_site.make()
    for part in HOSTILE_PARTS:
        path = address.format(part)
        response = await api_site.get(path, ROOT)
        assert_is_text(path[:200], response)
        assert response.status_code in (302, 400, 404), (path, response.status_code)


async def test_csv_is_no_page(site):
    """A browser does not look for markup in it; a text that a spreadsheet computes is the row's."""
    response = await site.get(f"{COLLECTION}.csv?q=dog")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert "<img src=x" in response.text


async def test_refusal_repeats_no_markup(site):
    """Whoever may not see it reads what they asked for as text."""
    site.datasette.root_enabled = False
    for address in (f"{HERE}/new?table={quote(MARKUP)}", f"{HERE}/jobs/{quote(MARKUP, safe='')}"):
        response = await site.get(address)
        assert response.status_code in (403, 404)
        assert_is_text(address, response)


@pytest.mark.parametrize(
    "statement",
    [
        "update _embed_collections set created_at = x'ff'",
        "update _embed_collections set metric = x'ff'",
        "update _embed_collections set metric = 'x(1); drop table embeddings'",
        "update _embed_collections set fingerprint = x'ff'",
        'update _embed_collections set source = \'{"table": "no such"}\'',
        'update _embed_collections set source = \'{"table": "\\ud800"}\'',
        "update _embed_collections set source = 'no json'",
        "update _embed_collections set source = '[]'",
        "update _embed_collections set source = null",
        "update collections set model = '<img src=x onerror=alert(1)>'",
        "insert into collections values (9, x'ff', x'ff')",
        "insert into collections values (9, '', '')",
        "update embeddings set id = x'ff' where rowid = 1",
        "update embeddings set embedding = x'ff'",
        "update embeddings set embedding = 'a text'",
        "update embeddings set content = x'ff', metadata = x'ff'",
        "update _embed_jobs set action = x'ff', actor = x'ff', request = x'ff', owner = x'ff'",
        "update _embed_jobs set reason = x'ff', heartbeat_at = x'ff', started_at = x'ff'",
        "update _embed_jobs set rows_done = x'ff', tokens = 'y', rows_total = 1e999",
        "update _embed_jobs set status = 'asleep'",  # as a later version may call it
        "update _embed_jobs set created_at = 'tomorrow', finished_at = '0000'",
        "insert into _embed_failures values (1, x'ff', null, 'm', 1)",
    ],
)
async def test_strangers_file_takes_no_page_down(site, statement, caplog):
    """Whatever is in the rows of our tables, every page answers, in words."""
    execute(site.path, statement)
    for path in (
        "/-/embed",
        HERE,
        f"{HERE}/jobs/1",
        COLLECTION,
        f"{COLLECTION}?q=dog",
        f"{COLLECTION}/about",
        f"{COLLECTION}/like/4",
        "/data",
        f"/data/{tilde_encode(TABLE)}",
    ):
        response = await site.get(path, ROOT)
        assert_is_text((path, statement), response)
        if path in ("/-/embed", HERE, COLLECTION, "/data"):
            assert response.status_code == 200, (path, response.text[-3000:])
    assert "Traceback" not in caplog.text


async def test_value_in_a_script_cannot_end_it(site):
    """What a script of ours is given is in attributes, or in JSON that no markup is in."""
    for path in (f"{HERE}/new?{urlencode({'table': TABLE})}", f"{HERE}/jobs/1", COLLECTION):
        response = await site.get(path, ROOT)
        soup = BeautifulSoup(response.text, "html.parser")
        for script in soup.find_all("script", type="application/json"):
            json.loads(script.get_text())
            assert "<" not in script.get_text()
