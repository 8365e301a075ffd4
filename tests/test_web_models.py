"""The page of models and its JSON twin, in a real Datasette."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import urlsplit

import pytest
from datasette import hookimpl
from datasette.app import Datasette

from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel

BUNDLED = "sentence-transformers/all-MiniLM-L6-v2"
#: OpenAI's models, which every registry has, sorted.
OPENAI = [
    "text-embedding-3-large",
    "text-embedding-3-large-1024",
    "text-embedding-3-large-256",
    "text-embedding-3-small",
    "text-embedding-3-small-512",
    "text-embedding-ada-002",
]
IS_ONE = hasattr(Datasette, "allowed")
SECRET = "/secret/path is gone"


@pytest.fixture
def broken_plugin(add_plugin):
    """A plugin that fails with a reason no visitor should read."""

    class Broken:
        @hookimpl
        def register_embedding_models(self, register):
            raise RuntimeError(SECRET)

    add_plugin(Broken())


def cookies(datasette, actor):
    return {"ds_actor": datasette.sign({"a": actor}, "actor")}


def rows_of(page):
    """The cells of each row of the table, as text."""
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    return [
        [
            unescape(re.sub(r"<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)
    ]


@pytest.mark.asyncio
async def test_json_lists_what_sql_can_call(make_datasette, counting_model):
    """Everything a program needs to choose a model."""
    response = await make_datasette().client.get("/-/embed/models.json")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/json")
    answer = response.json()
    shown = {**answer, "models": [m for m in answer["models"] if m["id"] not in OPENAI]}
    assert [m["id"] for m in answer["models"] if m["state"] == "closed"] == OPENAI
    assert shown == {
        "ok": True,
        "models": [
            {
                "id": "counting",
                "aliases": ["count"],
                "dimensions": 8,
                "max_tokens": None,
                "accepts": ["text", "binary"],
                "runs": "on this server",
                "price_per_million_tokens": None,
                "state": "available",
                "reason": None,
            },
            {
                "id": BUNDLED,
                "aliases": ["minilm", "default"],
                "dimensions": 384,
                "max_tokens": 256,
                "accepts": ["text"],
                "runs": "on this server",
                "price_per_million_tokens": None,
                "state": "available",
                "reason": None,
            },
        ],
    }


@pytest.mark.asyncio
async def test_page_lists_the_models_and_links_to_json(make_datasette, counting_model):
    """One row a model, in words."""
    response = await make_datasette().client.get("/-/embed/models")
    assert response.status_code == 200
    rows = rows_of(response.text)
    assert [row for row in rows if row[0] not in OPENAI] == [
        [
            "counting",
            "count",
            "text and images",
            "8",
            "",
            "on this server",
            "",
            "available, try it in SQL",
        ],
        [
            BUNDLED,
            "minilm, default",
            "text",
            "384",
            "256 tokens",
            "on this server",
            "",
            "available, try it in SQL",
        ],
    ]
    assert [row[:7] for row in rows if row[0] == "text-embedding-3-small-512"] == [
        [
            "text-embedding-3-small-512",
            "3-small-512",
            "text",
            "512",
            "8191 tokens",
            "at its provider",
            "$0.02 per million tokens",
        ]
    ]
    assert 'href="/-/embed/models.json"' in response.text
    assert "<title>Embedding models</title>" in response.text
    # Each cell names itself on a phone, where the headings are hidden.
    classes = set(re.findall(r'<td class="([a-z-]+)', response.text))
    assert classes == set(re.findall(r"td\.([a-z-]+):before", response.text))


@pytest.mark.asyncio
async def test_page_example_runs(make_datasette, counting_model):
    """The link runs the example with that model, and it answers a number."""
    datasette = make_datasette()
    page = (await datasette.client.get("/-/embed/models")).text
    link = unescape(re.findall(r'<a href="([^"]+)">try it in SQL', page)[1])
    assert "model=minilm" in link
    answer = await datasette.client.get(link)
    assert answer.status_code == 200
    similarity = re.search(r"<td[^>]*>\s*(0\.\d+)\s*</td>", answer.text)
    assert similarity
    assert 0.2 < float(similarity.group(1)) < 1


@pytest.mark.asyncio
async def test_page_base_url_is_in_every_link(make_datasette):
    """A site may live below a path."""
    datasette = make_datasette(settings={"base_url": "/below/"})
    page = (await datasette.client.get("/-/embed/models")).text
    links = re.findall(r'href="([^"]*(?:models\.json|sql=)[^"]*)"', page)
    assert len(links) == 3  # the alternate link of the head, the example, the JSON twin
    assert all(urlsplit(link).path.startswith("/below/") for link in links)
    assert not any("/below/below/" in link for link in links)


@pytest.mark.asyncio
async def test_page_no_sql_allowed_no_link_to_try(make_datasette):
    """What would be refused is not offered."""
    page = (await make_datasette(site={"allow_sql": False}).client.get("/-/embed/models")).text
    assert "try it in SQL" not in page
    assert "available" in page


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/-/embed/models", "/-/embed/models.json"])
async def test_page_private_site_forbidden(make_datasette, path):
    """Nobody sees it who may not see the site."""
    datasette = make_datasette(site={"allow": {"id": "a"}})
    assert (await datasette.client.get(path)).status_code == 403
    allowed = await datasette.client.get(path, cookies=cookies(datasette, {"id": "a"}))
    assert allowed.status_code == 200


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/-/embed/models", "/-/embed/models.json"])
@pytest.mark.parametrize(
    ("actor", "sees"), [(None, False), ({"id": "a"}, False), ({"id": "root"}, True)]
)
async def test_page_reason_for_those_who_run_the_site(
    make_datasette, broken_plugin, path, actor, sees
):
    """Others read "unavailable": a reason may name a path."""
    datasette = make_datasette()
    datasette.root_enabled = True
    sent = {"cookies": cookies(datasette, actor)} if actor else {}
    response = await datasette.client.get(path, **sent)
    assert response.status_code == 200
    assert "unavailable" in response.text
    assert (SECRET in response.text) is sees
    assert ("Broken" in response.text) is True


@pytest.mark.asyncio
async def test_page_price_column_when_a_model_costs(make_datasette, add_plugin):
    """And where a model runs is said: text leaves this machine."""
    paid = CountingModel("paid")
    paid.price_per_million_tokens, paid.is_local = 0.02, False
    add_plugin(ModelsPlugin((paid, ())))
    page = (await make_datasette().client.get("/-/embed/models")).text
    assert rows_of(page)[0][5:7] == ["at its provider", "$0.02 per million tokens"]
    assert rows_of(page)[1][6] == ""


@pytest.mark.asyncio
async def test_page_names_are_escaped(make_datasette, add_plugin):
    """A model's id is data."""
    add_plugin(ModelsPlugin((CountingModel("<b>x</b>"), ("<i>",))))
    page = (await make_datasette().client.get("/-/embed/models")).text
    assert "<b>x</b>" not in page
    assert "<i>" not in page
    assert rows_of(page)[0][:2] == ["<b>x</b>", "<i>"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("actor", "root_enabled", "state", "says"),
    [
        (None, True, "closed", "closed to you"),
        ({"id": "anna"}, True, "unavailable", "unavailable"),
        ({"id": "root"}, True, "unavailable", "unavailable: The model paid needs an API key"),
        pytest.param(
            {"id": "root"},
            False,
            "closed",
            "closed to you",
            marks=pytest.mark.skipif(not IS_ONE, reason="0.65 always has a root user"),
        ),
    ],
)
async def test_page_state_is_that_of_whoever_asks(
    make_datasette, add_plugin, monkeypatch, tmp_path, actor, root_enabled, state, says
):
    """What is closed is not offered; why there is no key is for those who run the site."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    paid = CountingModel("paid")
    paid.needs_key, paid.is_local = "service", False
    add_plugin(ModelsPlugin((paid, ())))
    config = {"allow": {"paid": {"id": "anna"}}}
    for keys in ({}, {"keys": {"service": "a-key-that-is-there"}}):
        datasette = make_datasette(config={**config, **keys})
        datasette.root_enabled = root_enabled
        sent = {"cookies": cookies(datasette, actor)} if actor else {}
        [found] = [
            model
            for model in (await datasette.client.get("/-/embed/models.json", **sent)).json()[
                "models"
            ]
            if model["id"] == "paid"
        ]
        cell = rows_of((await datasette.client.get("/-/embed/models", **sent)).text)[0][-1]
        if keys and state != "closed":
            assert (found["state"], cell) == ("available", "available, try it in SQL")
        else:
            assert found["state"] == state
            assert cell.startswith(says) and "try it" not in cell
            assert (found["reason"] is not None) is ("needs an API key" in says)
