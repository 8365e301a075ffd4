"""Trust: a file may hold anything in the rows of our tables, and its pages still answer."""

from __future__ import annotations

import asyncio

import pytest

from datasette_embed.web import lists_api
from tests.api_site import ROOT
from tests.storage import execute

pytestmark = pytest.mark.asyncio
HERE = "/data/-/embed"
ADDRESSES = (
    "/-/embed.json",
    f"{HERE}.json",
    f"{HERE}/jobs.json",
    f"{HERE}/jobs/1.json",
    f"{HERE}/c/posts.json",
    f"{HERE}/c/posts/similar.json?id=1",
)


@pytest.mark.parametrize(
    "statement",
    [
        "update _embed_collections set created_at = x'ff'",
        "update _embed_collections set metric = x'ff'",
        "update _embed_collections set fingerprint = x'ff'",
        'update _embed_collections set source = \'{"table": "\\ud800"}\'',
        'update _embed_collections set source = \'{"table": "posts", "columns": ["\\ud800"]}\'',
        "insert into collections values (9, x'ff', x'ff')",
        "insert into collections values (9, cast(x'ff' as text), x'ff')",
        "update _embed_jobs set action = x'ff', actor = x'ff', request = x'ff', owner = x'ff'",
        "update _embed_jobs set reason = x'ff', heartbeat_at = x'ff', started_at = x'ff'",
        "update _embed_jobs set rows_done = x'ff', tokens = 'y', rows_total = 1e999",
        "update _embed_jobs set embedded = 0.5, created_at = x'ff', epoch = x'ff'",
        "insert into _embed_failures values (1, x'ff', null, 'm', 1)",
        "insert into _embed_failures values (1, 'x', null, x'ff', 'many')",
    ],
)
async def test_row_of_a_strangers_file_takes_no_answer_down(api_site, statement):
    """What is no text where a text belongs is nothing, and the rest is shown."""
    await api_site.make()
    execute(api_site.path, statement)
    for address in ADDRESSES:
        response = await api_site.get(address, ROOT)
        status = 409 if "similar" in address and "fingerprint" in statement else 200
        if "similar" in address and "metric" in statement:
            assert response.status_code < 500, response.text
            continue
        assert response.status_code in (200, status), (address, response.text)
        assert response.json()["ok"] is True


async def test_id_that_is_no_text_is_searched_once(api_site):
    """Datasette reads the byte 0xFF as U+FFFD, which comes before it."""
    await api_site.make()
    execute(api_site.path, "update embeddings set id = cast(x'ff' as text) where id = '2'")
    url = f"{HERE}/c/posts/similar.json?id=1"
    response = await asyncio.wait_for(api_site.get(url), 20)
    assert response.status_code == 200, response.text
    assert [row["id"] for row in response.json()["rows"]] == ["3"]


async def test_failures_page_of_an_id_that_is_no_text_ends(api_site):
    """Nobody is sent to the same page again and again."""
    await api_site.make()
    execute(
        api_site.path,
        "insert into _embed_failures values (1, cast(x'fe' as text), null, 'm', 1),"
        " (1, cast(x'ff' as text), null, 'm', 1)",
    )
    url = f"{HERE}/jobs/1.json?number=1"
    answer = (await api_site.get(url, ROOT)).json()
    assert answer["next"] == "\ufffd"
    answer = (await api_site.get(f"{url}&after=%EF%BF%BD", ROOT)).json()
    assert answer["next"] is None


async def test_one_database_that_cannot_be_listed_leaves_the_others(api_site, monkeypatch, caplog):
    """Whatever is wrong with it: the list of the site says so."""
    await api_site.make()
    listed = lists_api._listed

    async def fail(request, datasette, database, *rest):
        if database.name == "data":
            raise ValueError("what nobody thought of")
        return await listed(request, datasette, database, *rest)

    monkeypatch.setattr(lists_api, "_listed", fail)
    response = await api_site.get("/-/embed.json", ROOT)
    assert response.status_code == 200
    assert response.json()["unreadable"] == ["data"]
    assert "the collections of data cannot be listed" in caplog.text
