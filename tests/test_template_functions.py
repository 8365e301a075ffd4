"""What templates of a site can show of the nearest rows."""

from __future__ import annotations

import pytest

from datasette_embed.web.template_functions import template_functions
from tests.api_site import ANONYMOUS, PLAIN, ROOT, Site, site_config

pytestmark = pytest.mark.asyncio

WORDS = (
    "{% for row in embed_similar('data', 'posts', request.args.q, 2) %}"
    '<a href="{{ row.url }}">{{ row.label }}</a> {{ row.score }} {{ row.row.body }};{% endfor %}'
)
ROW = (
    "{% for row in embed_similar_to('data', name, 1) %}"
    '<a href="{{ row.like_url }}">{{ row.label }}</a>;{% endfor %}'
)


@pytest.fixture
def show(make_api_site, make_datasette, tmp_path):
    """A site whose first page is a template of its own, and a way to read it."""

    made = []

    async def read(template, path="/", actor=ANONYMOUS, name="posts"):
        folder = tmp_path / "templates"
        folder.mkdir(exist_ok=True)
        text = template.replace("name", repr(name))
        (folder / "index.html").write_text(f"[{text}]", "utf-8")
        if not made:
            site = make_api_site()
            await site.make()
            await site.make("secrets")
            options = {"site": site_config(), "template_dir": str(folder)}
            made.append(Site(make_datasette([str(site.path)], **options), site.path))
            made[0].datasette.root_enabled = True  # as `--root` does on 1.0
        response = await made[0].get(path, actor)
        assert response.status_code == 200, response.text
        return response.text.strip("[]\n")

    return read


async def test_similar_in_a_template_shows_the_nearest_rows(show):
    """With their labels, pages and columns, best first."""
    text = await show(WORDS, "/?q=a+dog")
    rows = text.rstrip(";").split(";")
    assert len(rows) == 2
    assert all(row.startswith('<a href="/data/posts/') for row in rows)
    scores = [float(row.split("</a> ")[1].split()[0]) for row in rows]
    assert scores == sorted(scores, reverse=True)


async def test_similar_to_in_a_template_shows_the_others(show):
    """A key may be a number."""
    text = await show(ROW)
    assert sorted(row.split(">")[1].split("<")[0] for row in text.rstrip(";").split(";")) == [
        "cats",
        "tax",
    ]
    assert 'href="/data/-/embed/c/posts/like/2"' in text


@pytest.mark.parametrize("actor", [ANONYMOUS, PLAIN])
async def test_private_collection_shows_nothing_to_others(show, actor):
    """A template shows no more than its reader may see."""
    assert await show(ROW, actor=actor, name="secrets") == ""


async def test_private_collection_is_shown_to_those_who_may_see_it(show):
    """The same template, another reader."""
    assert "/data/-/embed/c/secrets/like/2" in await show(ROW, actor=ROOT, name="secrets")


@pytest.mark.parametrize("query", ["", "?q=", "?q=+"])
async def test_blank_words_find_nothing(show, query):
    """Before anything was typed."""
    assert await show(WORDS, f"/{query}") == ""


@pytest.mark.parametrize("template", [ROW.replace("data", "other"), ROW])
async def test_unknown_names_leave_the_page_as_it_is(show, template, caplog):
    """The log says what is wrong; the page is still there."""
    assert await show(template, name="nothing") == ""
    assert "a template asked for rows of nothing" in caplog.text


async def test_failing_model_leaves_the_page_as_it_is(show, counting_model, caplog):
    """A provider that is down takes no page of the site with it."""
    assert await show(WORDS, "/?q=first")
    counting_model.fails_with = RuntimeError("down")
    assert await show(WORDS, "/?q=second") == ""
    assert "a template asked for rows of posts" in caplog.text


async def test_without_a_request_there_are_no_rows(api_site):
    """A page that is made for nobody."""
    await api_site.make()
    functions = template_functions(api_site.datasette, None)
    assert await functions["embed_similar_to"]("data", "posts", 1) == []
    assert await functions["embed_similar"]("data", "posts", "a dog") == []


async def test_number_of_rows_is_bounded(api_site, monkeypatch):
    """A template that passes on what a reader asks for cannot be made to read everything."""
    asked = []

    async def count(searched, entry_id, number):
        asked.append(number)
        return []

    monkeypatch.setattr("datasette_embed.web.template_functions.nearest_to", count)
    await api_site.make()

    class Asked:
        actor = None

    functions = template_functions(api_site.datasette, Asked())
    await functions["embed_similar_to"]("data", "posts", 1, "1000000")
    await functions["embed_similar_to"]("data", "posts", 1)
    assert asked == [100, 5]
