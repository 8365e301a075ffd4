"""The page of a new collection: what it shows, what it refuses, and what it starts."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import pytest

from datasette_embed.database import sqlite3
from datasette_embed.runner import get_runner
from tests.api_site import AWKWARD, EDITOR, PLAIN, ROOT, error_of
from tests.fakes import CountingModel
from tests.new_form import (
    NEW,
    MoreModels,
    act_of,
    errors_of,
    fields_of,
    plan_of,
    send,
    show,
    soup_of,
    ticked,
)

pytestmark = pytest.mark.asyncio
NO_SQL = {"allow_sql": {"id": "root"}}


class KeyedModel(CountingModel):
    """A model whose key nobody has set."""

    needs_key = "nobodys"
    key_env_var = "NOBODYS_KEY"


async def test_new_without_a_table_lists_those_one_may_see(api_site):
    """Private ones only for whom they are, none of ours, each with its link."""
    await api_site.make()
    for actor, has_secrets in ((EDITOR, True), (ROOT, True)):
        page = await show(api_site, actor=actor)
        names = [cell.get_text() for cell in page.select("td.col-table")]
        assert ("secrets" in names) is has_secrets
        assert {"posts", "pairs", "recent", AWKWARD} <= set(names)
        assert "embeddings" not in names
    link = page.select("td.col-next a")[names.index(AWKWARD)]
    await show_link(api_site, link["href"])


async def show_link(site: Any, path: str) -> None:
    page = soup_of(await site.get(path, ROOT))
    assert page.h1.get_text() == f"Embed rows of {AWKWARD}"
    assert "a strange id" in page.select_one("#embed-preview").get_text()


async def test_new_table_shows_text_columns_and_what_it_takes(api_site):
    """Everything is chosen already, the button says what it does, and nothing is written."""
    before = api_site.path.read_bytes()
    page = await show(api_site, "?table=posts")
    assert page.h1.get_text() == "Embed rows of posts"
    assert ticked(page) == ["body"]
    rows = [pre.get_text() for pre in page.select("#embed-preview pre")]
    assert rows == ["a dog chases a ball", "cats sleep all day", "the tax return is due"]
    ids = [name.get_text() for name in page.select(".embed-preview-id")]
    assert ids == ["1", "2", "3"]
    assert page.select_one("[name=collection]")["value"] == "posts"
    plan = plan_of(page)
    assert plan["Rows"] == "3 rows: 3 to embed, 0 already done"
    assert plan["Text"] == "20 tokens"
    assert plan["Cost"] == "free: the model runs on this server" or "free" in plan["Cost"]
    assert act_of(page) == "Embed 3 rows, free"
    assert errors_of(page) == {}
    assert api_site.path.read_bytes() == before
    assert api_site.rows("select name from sqlite_master where name = 'collections'") == []


async def test_new_form_as_it_opens_starts_the_job(api_site, counting_model):
    """What a browser sends of it makes the collection, and leads to the job."""
    page = await show(api_site, "?table=posts", EDITOR)
    sent = {**fields_of(page), "model": "counting", "start": "Embed 3 rows, free"}
    response = await send(api_site, EDITOR, **sent)
    assert response.status_code == 303, response.text
    assert response.headers["location"] == "/data/-/embed/jobs/1"
    await api_site.settled()
    assert api_site.rows("select count(*) from embeddings") == [(3,)]
    assert api_site.rows("select actor from _embed_jobs") == [("editor",)]
    [(source,)] = api_site.rows("select source from _embed_collections")
    assert json.loads(source) == {"table": "posts", "columns": ["body"]}
    assert sorted(sum(counting_model.calls, [])) == sorted(
        ["a dog chases a ball", "cats sleep all day", "the tax return is due"]
    )


async def test_preview_of_a_template_is_what_is_embedded(api_site, counting_model):
    """The text of the page is letter for letter that of the model."""
    fields = {"table": "posts", "template": "{{ title }}:\r\n <b>{{ body }}</b>", "model": "count"}
    page = soup_of(await send(api_site, **fields, preview="1"))
    shown = [pre.get_text() for pre in page.select("#embed-preview pre")]
    assert shown[0] == "dogs:\n <b>a dog chases a ball</b>"
    assert counting_model.calls == []
    assert (await send(api_site, **fields, start="1")).status_code == 303
    await api_site.settled()
    assert sorted(sum(counting_model.calls, [])) == sorted(shown)


async def test_filters_of_the_table_page_are_carried(api_site, counting_model):
    """Without the right to run SQL too; what has no place in a collection is said."""
    page = await show(api_site, "?table=posts&title__in=dogs,tax&id__gt=0&_search=x&_sort=id")
    assert 'where id > 0 and title in ["dogs", "tax"]' in page.get_text()
    assert "Not carried over from the table's page: _search." in page.get_text()
    assert plan_of(page)["Rows"].startswith("2 rows: 2 to embed")
    response = await send(api_site, **{**fields_of(page), "model": "counting", "start": "1"})
    assert response.status_code == 303
    await api_site.settled()
    assert api_site.rows("select id from embeddings order by id") == [("1",), ("3",)]


@pytest.mark.parametrize("query", ["?table=posts&title=x'or'1", "?table=posts&title__contains='--"])
async def test_filter_values_are_no_sql(api_site, query):
    """A quote is a quote."""
    page = await show(api_site, query)
    assert errors_of(page) == {}
    assert "'posts' has no rows to embed that meet the condition." in page.get_text()
    sent = {**fields_of(page), "columns": "body", "model": "counting"}
    refused = soup_of(await send(api_site, **sent, start="1"), 400)
    assert errors_of(refused) == {"table": "'posts' has no rows to embed"}


async def test_filters_without_execute_sql_can_be_made_and_updated(make_api_site):
    """The SQL is ours: whoever may make the collection may bring it up to date."""
    site = make_api_site(databases={"data": NO_SQL})
    sent = {"table": "posts", "filters": "title=dogs", "columns": "body", "model": "counting"}
    response = await send(site, EDITOR, **sent, start="1")
    assert response.status_code == 303, response.text
    await site.settled()
    [(source,)] = site.rows("select source from _embed_collections")
    assert json.loads(source) == {
        "table": "posts",
        "columns": ["body"],
        "filters": "title=dogs",
        "where": "\"title\" = 'dogs'",
    }
    answer = await site.post("/data/-/embed/c/posts/sync", {}, EDITOR)
    assert answer.status_code == 202, answer.text
    await site.settled()
    assert site.rows("select id from embeddings") == [("1",)]


async def test_sync_of_a_condition_that_is_not_its_filters_needs_sql(make_api_site):
    """A file can say anything: filters that stand for something else open nothing."""
    site = make_api_site(databases={"data": NO_SQL})
    sent = {"table": "posts", "filters": "title=dogs", "columns": "body", "model": "counting"}
    assert (await send(site, EDITOR, **sent, start="1")).status_code == 303
    await site.settled()
    from datasette_embed.database import sqlite3

    with sqlite3.connect(site.path) as conn:
        conn.execute("update _embed_collections set source = json_set(source, '$.where', '1')")
    conn.close()
    answer = await site.post("/data/-/embed/c/posts/sync", {}, EDITOR)
    assert "execute-sql" in error_of(answer, 403)


async def test_raw_conditions_and_queries_need_execute_sql(make_api_site):
    """Where SQL is denied, no address and no form brings any in."""
    site = make_api_site(databases={"data": NO_SQL})
    for query in ("?table=posts&_where=1", "?sql=select+1,2"):
        response = await site.get(NEW + query, EDITOR)
        assert response.status_code == 403
    for fields in ({"table": "posts", "where": "1"}, {"sql": "select 1, 2"}):
        response = await send(site, EDITOR, **fields, columns="body", start="1")
        assert response.status_code == 403
        assert "execute-sql" in response.text
    assert (await site.get(NEW + "?table=posts", EDITOR)).status_code == 200
    assert "SQL query" not in (await site.get(NEW, EDITOR)).text
    assert "SQL query" in (await site.get(NEW, ROOT)).text


async def test_columns_of_a_private_table_cannot_be_tried_out(make_api_site):
    """Whether there is such a column or not, the answer is the same."""
    site = make_api_site(config={"allow_create": {"id": ["editor", "plain"]}})
    answers = set()
    for column in ("body", "nope"):
        for more in ("", "&_where=1"):
            response = await site.get(f"{NEW}.json?table=secrets&{column}=x{more}", PLAIN)
            answers.add((response.status_code, response.json()["error"]))
    assert answers == {(403, "You may not view the table 'secrets' (view-table)")}


@pytest.mark.parametrize("query", ["?table=posts&nope=1", "?table=posts&title__nope=1"])
async def test_filter_that_is_none_is_said(api_site, query):
    """Instead of embedding rows that nobody meant."""
    page = await show(api_site, query, status=400)
    assert "nope" in errors_of(page)["filters"]
    assert plan_of(page) == {}


async def test_query_is_looked_at_only_when_asked(api_site, counting_model):
    """A link must not make the site run a stranger's query to its end."""
    page = await show(api_site, "?sql=select+id,+title+from+posts")
    assert page.h1.get_text() == "Embed rows of a query"
    assert page.select_one("#embed-plan")["data-state"] == "unasked"
    assert page.select_one("[name=store]").has_attr("checked")
    assert [pre.get_text() for pre in page.select("#embed-preview pre")] == ["dogs", "cats", "tax"]
    fields = {**fields_of(page), "model": "counting"}
    checked = soup_of(await send(api_site, **fields, check="1"))
    assert plan_of(checked)["Rows"] == "3 rows: 3 to embed, 0 already done"
    assert (await send(api_site, **fields_of(checked), start="1")).status_code == 303
    await api_site.settled()
    assert api_site.rows("select content from embeddings order by id") == [
        ("dogs",),
        ("cats",),
        ("tax",),
    ]


async def test_query_that_takes_for_ever_is_stopped(make_api_site):
    """The preview has the time of any other query."""
    site = make_api_site(settings={"sql_time_limit_ms": 50})
    endless = "with recursive c(n) as (select 1 union all select n + 1 from c) select n, n from c"
    page = await show(site, "?" + urlencode({"sql": f"{endless} order by 1 desc"}))
    assert "The rows cannot be shown: to read them takes longer than 0.05" in page.get_text()
    assert [box["value"] for box in page.select("[name=columns]")] == ["n", "n:1"]


async def test_view_of_a_table_that_is_gone(make_api_site, tmp_path):
    """Is no choice, and its page says why; the others are there."""
    from tests.api_site import make_file

    make_file(
        tmp_path / "data.db",
        "create table a (id integer primary key, t text); insert into a values (1, 'a text');"
        "create table b (id, t); create view broken as select * from b; drop table b;",
    )
    site = make_api_site()
    assert [cell.get_text() for cell in (await show(site)).select("td.col-table")] == ["a"]
    response = await site.get(f"{NEW}?table=broken", ROOT)
    assert response.status_code == 400
    assert "no such table: main.b" in response.text


async def test_vectors_can_go_into_another_database(make_datasette, add_plugin, tmp_path):
    """Of a database that cannot be written to, say; the choice is there where there is one."""
    from tests.api_site import HeaderActor, Site, make_file

    add_plugin(HeaderActor())
    rows, vectors = make_file(tmp_path / "data.db"), make_file(tmp_path / "more.db", "")
    add_plugin(MoreModels((CountingModel(), ())))
    datasette = make_datasette([str(vectors)], immutables=[str(rows)])
    datasette.root_enabled = True
    site = Site(datasette, vectors)
    try:
        page = await show(site, "?table=posts")
        assert [each["value"] for each in page.select("[name=into] option")] == ["more"]
        sent = {**fields_of(page), "model": "counting", "start": "1"}
        response = await send(site, **sent)
        assert response.status_code == 303, response.text
        assert response.headers["location"] == "/more/-/embed/jobs/1"
        await site.settled()
        assert site.rows("select count(*) from embeddings") == [(3,)]
    finally:
        site.stop()


async def test_saved_query_with_values(make_api_site):
    """Its parameters are written into it; without a value it says which."""
    queries = {"some": {"sql": "select id, body from posts where title = :title"}}
    site = make_api_site(databases={"data": {"queries": queries}})
    page = await show(site, "?query=some&title=tax")
    assert page.select_one("[name=sql]").get_text().endswith("where title = 'tax'")
    assert page.select_one("[name=collection]")["value"] == "some"
    assert "the tax return is due" in page.get_text()
    without = await site.get(NEW + "?query=some", ROOT)
    assert without.status_code == 400
    assert ":title" in without.text
    assert (await site.get(NEW + "?query=none", ROOT)).status_code == 404


async def test_nobody_else_sees_the_page(api_site):
    """Neither who may not make collections, nor who may not see the table."""
    for actor in (None, PLAIN):
        for path in (NEW, NEW + "?table=posts", NEW + ".json?table=posts"):
            response = await api_site.get(path, actor)
            assert response.status_code == 403
            assert "a dog chases" not in response.text
    for table in ("nope", "embeddings", "_embed_jobs", "sqlite_master"):
        assert (await api_site.get(f"{NEW}?table={table}", ROOT)).status_code == 404


async def test_private_table_is_refused_to_whom_it_is_not_for(make_api_site):
    """May make collections, may not see the table: no page, no preview, no job."""
    site = make_api_site(config={"allow_create": {"id": ["editor", "plain"]}})
    for path in (f"{NEW}?table=secrets", f"{NEW}.json?table=secrets"):
        response = await site.get(path, PLAIN)
        assert response.status_code == 403
        assert "private text" not in response.text
    response = await send(site, PLAIN, table="secrets", columns="body", start="1")
    assert response.status_code == 403
    assert "private text" not in response.text
    assert "secrets" not in [c.get_text() for c in (await show(site, actor=PLAIN)).select("td")]


async def test_sign_in_that_ended_keeps_what_was_typed(api_site):
    """The form comes back with 403; sent again by somebody who may, it goes on."""
    typed = {
        "table": "posts",
        "columns": ["title", "body"],
        "template": "<i>{{ title }}</i>",
        "collection": "mine",
        "model": "counting",
        "filters": "title=dogs",
    }
    page = soup_of(await send(api_site, None, **typed, start="1"), 403)
    assert "embed-create" in page.select_one("[role=alert]").get_text()
    assert "a dog chases" not in page.get_text()
    form = page.select_one("form.embed-new")
    again: dict[str, Any] = {}
    for field in form.select("[name]"):
        if field.get("type") != "submit":
            value = field.get_text() if field.name == "textarea" else field.get("value", "")
            again.setdefault(field["name"], []).append(value)
    assert {name: again[name] for name in typed} == {
        name: value if isinstance(value, list) else [value] for name, value in typed.items()
    }
    back = soup_of(await send(api_site, ROOT, **again, check="1"))
    assert back.select_one("[name=collection]")["value"] == "mine"
    assert "<i>dogs</i>" in back.select_one("#embed-preview").get_text()
    assert api_site.rows("select name from sqlite_master where name = 'collections'") == []


@pytest.mark.parametrize(
    ("field", "change", "part"),
    [
        ("columns", {"columns": []}, "Tick at least one column"),
        ("columns", {"columns": ["nope"]}, "no column named 'nope'"),
        ("template", {"template": "no column"}, "names no {{ column }}"),
        ("template", {"template": "{{ nope }}"}, "no column named 'nope'"),
        ("id_columns", {"id_columns": "nope"}, "no column named 'nope'"),
        ("where", {"where": "nope("}, ""),
        ("filters", {"filters": "nope=1"}, "no column 'nope'"),
        ("model", {"model": "nope"}, "nope"),
        ("collection", {"collection": "taken"}, "was made from something else"),
    ],
)
async def test_mistake_is_said_beside_its_field(api_site, field, change, part):
    """What was typed is kept, and nothing is written."""
    await api_site.make("pairs", "taken")
    before = api_site.rows("select count(*) from _embed_jobs")
    typed = {"table": "posts", "columns": ["body"], "collection": "my <name>", "model": "counting"}
    typed |= change
    response = await send(api_site, **typed, start="1")
    assert 400 <= response.status_code < 500
    page = soup_of(response, response.status_code)
    errors = errors_of(page)
    assert list(errors) == [field]
    assert part.lower() in errors[field].lower()
    if field not in ("columns", "filters"):
        marked = page.select_one("[aria-invalid=true]")
        assert marked["name"] == field
        assert f"{field}-error" in marked["aria-describedby"].split()
    assert page.select_one("[name=collection]")["value"] == typed["collection"]
    assert page.select_one("[name=template]").get_text() == typed.get("template", "")
    assert api_site.rows("select count(*) from _embed_jobs") == before


async def test_name_of_a_hidden_collection_tells_nothing(make_api_site):
    """Neither that it is there, nor what it is made of."""
    site = make_api_site(config={"allow_create": {"id": ["editor", "plain"]}})
    await site.make("secrets")
    sent = {"table": "posts", "columns": "body", "collection": "secrets", "model": "counting"}
    response = await send(site, PLAIN, **sent, start="1")
    page = soup_of(response, 400)
    assert errors_of(page) == {"collection": "This name cannot be used, choose another"}
    assert "private" not in page.get_text()


async def test_model_without_its_key_says_which_and_where(api_site, add_plugin):
    """It is no choice, and one that is sent all the same is refused at the field."""
    add_plugin(MoreModels((KeyedModel("keyed"), ())))
    page = await show(api_site, "?table=posts")
    assert "keyed" not in [option["value"] for option in page.select("[name=model] option")]
    assert "NOBODYS_KEY" in page.select_one("form details").get_text()
    response = await send(api_site, table="posts", columns="body", model="keyed", start="1")
    assert "NOBODYS_KEY" in errors_of(soup_of(response, 400))["model"]


async def test_closed_model_is_no_choice(make_api_site, add_plugin):
    """Who may not use a model does not read of it."""
    add_plugin(MoreModels((CountingModel("closed-one"), ())))
    site = make_api_site(config={"allow": {"closed-one": False}})
    assert "closed-one" not in (await site.get(NEW + "?table=posts", EDITOR)).text
    response = await send(
        site, EDITOR, table="posts", columns="body", model="closed-one", start="1"
    )
    assert "closed-one" in errors_of(soup_of(response, 403))["model"]


async def test_second_click_leads_to_the_job_that_runs(api_site, counting_model):
    """And makes no second one."""
    counting_model.gate = threading.Event()
    sent = {"table": "posts", "columns": "body", "model": "counting", "start": "1"}
    try:
        answers = [await send(api_site, **sent) for _ in range(2)]
    finally:
        counting_model.gate.set()
    assert [answer.status_code for answer in answers] == [303, 303]
    assert {answer.headers["location"] for answer in answers} == {"/data/-/embed/jobs/1"}
    await api_site.settled()
    assert api_site.rows("select count(*) from _embed_jobs") == [(1,)]


async def test_plan_names_rows_that_are_left_out_or_cut(make_api_site, add_plugin, tmp_path):
    """Without text, unusable, too long, and in words that the model does not know."""
    from tests.api_site import make_file

    words = " ".join(["word"] * 9)
    make_file(
        tmp_path / "data.db",
        "create table t (id integer primary key, body text);"
        f"insert into t values (1, '{words}'), (2, ''), (3, x'00'), (4, 'ö ü ä'), (5, 'a b c');",
    )
    add_plugin(MoreModels((CountingModel("short", max_tokens=8), ())))
    site = make_api_site()
    response = await send(site, table="t", columns="body", model="short", check="1")
    page = soup_of(response)
    plan = plan_of(page)
    assert "3 to embed" in plan["Rows"]
    assert "1 without text, left out" in plan["Rows"]
    assert "1 unusable (column 'body' holds binary content, not text)" in plan["Rows"]
    assert "1 row is longer than the model reads (8 tokens)" in plan["Text"]
    assert "1 row is mostly unknown to the model" in plan["Text"]
    assert act_of(page) == "Embed 3 rows, free"
    shown = page.select_one("#embed-preview").get_text()
    assert "Left out: it has no text" in shown
    assert "binary content" in shown


async def test_table_without_text_offers_its_columns(make_api_site, tmp_path):
    """It says so, and lets one choose all the same."""
    from tests.api_site import make_file

    make_file(
        tmp_path / "data.db",
        "create table t (id integer primary key, n integer); insert into t values (1, 7);",
    )
    page = await show(make_api_site(), "?table=t")
    assert "has no column of text" in page.get_text()
    assert ticked(page) == []
    assert [box["value"] for box in page.select("[name=columns]")] == ["id", "n"]


async def test_content_is_text_in_the_page(make_api_site, tmp_path):
    """Nothing that a row or a name says is markup."""
    from tests.api_site import make_file

    evil = "<script>alert(1)</script>{{ 7*7 }}"
    make_file(
        tmp_path / "data.db",
        f'create table "{evil}" (id integer primary key, "<b>c</b>" text);'
        f"insert into \"{evil}\" values (1, '{evil} and more');",
    )
    page = await show(make_api_site(), "?" + urlencode({"table": evil}))
    assert f"{evil} and more" in page.select_one("#embed-preview").get_text()
    assert page.h1.get_text() == f"Embed rows of {evil}"
    assert "alert(1)" not in "".join(script.get_text() for script in page.select("script"))
    assert page.select("b") == []


async def test_twin_says_the_same_in_json(api_site):
    """Columns, preview and plan of the page, and who may not has none of it."""
    body = (await api_site.get(NEW + ".json?table=posts&title=dogs", ROOT)).json()
    assert body["ok"] is True
    assert body["filters"] == "title=dogs"
    assert [column["name"] for column in body["columns"] if column["is_chosen"]] == ["body"]
    assert body["preview"] == [
        {"id": "1", "text": "a dog chases a ball", "characters": 19, "problem": None}
    ]
    assert body["state"] == "ready"
    assert body["plan"]["missing"] == 1
    tables = (await api_site.get(NEW + ".json", ROOT)).json()["tables"]
    assert "posts" in [table["name"] for table in tables]
    assert "embed-create" in error_of(await api_site.get(NEW + ".json", PLAIN), 403)


async def test_immutable_database_has_no_form(make_api_site):
    """There is nowhere to put the vectors, and the page says so."""
    site = make_api_site(is_immutable=True)
    response = await site.get(NEW + "?table=posts", ROOT)
    assert response.status_code == 403
    assert "cannot be written to" in response.text
    assert "<form" not in response.text.partition("<section")[2]


async def test_name_is_one_that_is_free(api_site):
    """And the collections of the table are named, with their pages."""
    await api_site.make()
    page = await show(api_site, "?table=posts")
    assert page.select_one("[name=collection]")["value"] == "posts-2"
    link = page.find("a", string="posts", href="/data/-/embed/c/posts")
    assert link is not None


async def test_enter_key_checks_and_does_not_start(api_site):
    """The first button of the form is the one that a browser presses."""
    page = await show(api_site, "?table=posts")
    first = page.select_one("form#embed-new [type=submit]")
    assert first["name"] == "check"
    await asyncio.to_thread(get_runner(api_site.datasette).wait, 5)


@pytest.mark.parametrize(
    ("sql", "kept"),
    [
        ("select id, body from posts where title = :q or title = :r", "'tax' or title = :r"),
        ("select id, body from posts where id = :1", "id = :1"),
        ("select id, body from posts where title = :é", "title = :é"),
    ],
)
async def test_query_without_values_is_shown_with_its_error(make_api_site, sql, kept):
    """Saved or not: the form is there, with the query as it is, and says what it lacks."""
    site = make_api_site(databases={"data": {"queries": {"some": {"sql": sql}}}})
    for query in ({"query": "some"}, {"sql": sql}):
        page = await show(site, "?" + urlencode({**query, "q": "tax"}), status=400)
        assert page.select_one("[name=sql]").get_text().endswith(kept)
        assert errors_of(page)["sql"].endswith(f"into it: {kept[-2:]}")
        assert "Not started" not in page.get_text()
        assert plan_of(page) == {}
    refused = soup_of(await send(site, **fields_of(page), start="1"), 400)
    assert "Write the values" in errors_of(refused)["sql"]
    assert "Not started" in refused.select_one("[role=alert]").get_text()


async def test_form_without_its_query_asks_for_one(api_site):
    """Somebody who has emptied the field is still on the same page."""
    page = await show(api_site, "?sql=select+id,+title+from+posts")
    emptied = soup_of(await send(api_site, **{**fields_of(page), "sql": ""}, preview="1"))
    assert "Write a query" in errors_of(emptied)["sql"]


async def test_table_whose_name_begins_with_a_space(make_api_site, tmp_path):
    """What is no name that somebody types is taken as it is."""
    from tests.api_site import make_file

    make_file(
        tmp_path / "data.db",
        'create table " sp " (id integer primary key, t text);'
        "insert into ' sp ' values (1, 'a b')",
    )
    site = make_api_site()
    page = await show(site, "?" + urlencode({"table": " sp ", "t__in": "a b"}))
    assert errors_of(page) == {}
    assert page.select_one("[name=collection]")["value"] == "sp"
    response = await send(site, **{**fields_of(page), "model": "counting", "start": "1"})
    assert response.status_code == 303, response.text
    await site.settled()
    assert site.rows("select count(*) from embeddings") == [(1,)]


async def test_name_of_a_collection_of_another_model(api_site, add_plugin):
    """Is wrong at its field, and nothing is offered that could not be done."""
    add_plugin(MoreModels((CountingModel("second"), ())))
    await api_site.make()
    sent = {"table": "posts", "columns": "body", "collection": "posts", "model": "second"}
    for button, status in (("preview", 200), ("check", 200), ("start", 409)):
        page = soup_of(await send(api_site, **sent, **{button: "1"}), status)
        [(field, error)] = errors_of(page).items()
        assert field == "collection"
        assert "'posts' is there already, made with the model counting" in error
        assert "Choose another name, or that model" in error
        assert page.select("[name=anyway]") == []
    same = soup_of(await send(api_site, **{**sent, "model": "counting"}, check="1"))
    assert plan_of(same)["Rows"] == "3 rows: 0 to embed, 3 already done"


@pytest.mark.parametrize("query", ["?table=posts&nope=1", "?table=posts&nope=1&_where=1"])
async def test_bad_filter_of_an_address_is_said_in_the_form(api_site, query):
    """Nobody has started anything yet."""
    page = await show(api_site, query, status=400)
    assert "nope" in errors_of(page)["filters"]
    assert page.select_one("[role=alert]").get_text().startswith("Something below")


async def test_errors_of_what_the_form_does_not_show_are_said(api_site):
    """Filters without a table."""
    sent = {"sql": "select id, body from posts", "filters": "title=dogs", "columns": "body"}
    page = soup_of(await send(api_site, **sent, model="counting", collection="q", start="1"), 400)
    assert "Goes with 'table'" in errors_of(page)["filters"]


async def test_wrong_id_columns_are_said_beside_their_field(api_site):
    """In words of the page, where it is marked."""
    with closing(sqlite3.connect(api_site.path)) as conn, conn:
        conn.execute("update posts set title = 'same'")
    sent = {"table": "posts", "columns": "body", "id_columns": "title", "model": "counting"}
    page = soup_of(await send(api_site, **sent, start="1"), 400)
    reason = "The ids are not unique: 'same' comes 3 times. Name columns that tell the rows apart"
    assert errors_of(page) == {"id_columns": reason}


async def test_collection_of_the_same_name_is_said_to_be_there(api_site):
    """Nobody wonders whether it becomes two."""
    await api_site.make(columns=["body"])
    sent = {"table": "posts", "columns": "body", "model": "counting", "check": "1"}
    words = "There is such a collection"
    for name, is_there in (("posts", True), ("other", False)):
        page = soup_of(await send(api_site, **sent, collection=name))
        assert (words in page.get_text()) is is_there
    assert act_of(soup_of(await send(api_site, **sent, collection="posts"))).startswith("Nothing")
