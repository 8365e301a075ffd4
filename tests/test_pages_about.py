"""The page about a collection: what it says, to whom, and its forms."""

from __future__ import annotations

import json
import re
from contextlib import closing
from urllib.parse import quote, urlencode

import pytest
from bs4 import BeautifulSoup

from datasette_embed.database import sqlite3
from tests.api_site import ANONYMOUS, AWKWARD, EDITOR, MAY_NOT_MAKE, PLAIN, ROOT

pytestmark = pytest.mark.asyncio

ABOUT = "/data/-/embed/c/posts/about"
CHANGES = ("sync", "rename", "delete")
FORM = {"content-type": "application/x-www-form-urlencoded"}
#: What would be more than text, if it were not escaped.
MARKUP = "<script>alert(1)</script> {{ 7*7 }} 'x' \"y\""


async def page_of(site, path=ABOUT, actor=ROOT, status=200):
    """Return a page, parsed."""
    return parsed(await site.get(path, actor), status)


def parsed(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return BeautifulSoup(response.text, "html.parser")


async def send(site, path, fields=(), actor=ROOT):
    """Return the response to a form, sent as a browser does."""
    page = await site.get(ABOUT, actor)
    token = BeautifulSoup(page.text, "html.parser").find(attrs={"name": "csrftoken"})
    cookies = dict(page.cookies)
    values = {**dict(fields), "csrftoken": token["value"] if token else ""}
    return await site.ask(
        "POST", path, actor, content=urlencode(values), headers=FORM, cookies=cookies
    )


def facts_of(page):
    """Return what is said under each name."""
    return {
        term.get_text(strip=True): term.find_next_sibling("dd").get_text(" ", strip=True)
        for term in page.select("dl.embed-facts dt")
    }


def actions_of(page):
    """Return where the forms that write go."""
    return [form["action"].rpartition("/")[2] for form in page.select("form[method=post]")]


def change(site, sql, *values):
    """Change the file of a site, as any other program would."""
    with closing(sqlite3.connect(site.path)) as conn, conn:
        conn.execute(sql, values)


# -- what it says ---------------------------------------------------------------------


async def test_about_made_collection_says_where_it_is_from_and_what_it_holds(api_site):
    """Everything that was chosen, and the numbers of the file."""
    await api_site.make(template="{{ title }}: {{ body }}", where="id < 3")
    page = await page_of(api_site)
    facts = facts_of(page)
    assert page.h1.get_text(strip=True) == "posts"
    assert page.find(attrs={"aria-current": "page"}).get_text() == "About"
    assert facts["Made from"] == "the table posts"
    assert facts["Only rows where"] == "id < 3"
    assert facts["Text of a row"] == "{{ title }}: {{ body }}"
    assert facts["Embedded"] == "2 rows"
    assert facts["Model"] == "counting, runs on this server"
    assert facts["Dimensions"] == "8"
    assert facts["Compared by"] == "cosine"
    assert facts["Size of the vectors"] == "64 bytes"
    assert page.select_one("dl a")["href"] == "/data/posts"
    assert page.select_one("link[rel=alternate]")["href"].endswith(f"{ABOUT}.json")


async def test_about_json_twin_says_the_same(api_site):
    """The twin has the settings, the jobs and the queries."""
    await api_site.make()
    answer = (await api_site.get(f"{ABOUT}.json", ROOT)).json()
    assert answer["collection"]["entries"] == 3
    assert answer["model"]["is_registered"] is True
    assert [job["id"] for job in answer["jobs"]] == [1]
    assert {table["name"] for table in answer["tables"]} >= {"collections", "embeddings"}
    assert len(answer["queries"]) == 3
    anonymous = (await api_site.get(f"{ABOUT}.json", ANONYMOUS)).json()
    assert "jobs" not in anonymous
    assert "urls" not in anonymous


async def test_about_queries_run_and_are_the_text_that_is_shown(api_site):
    """Each query that is linked answers with rows of the collection."""
    await api_site.make()
    page = await page_of(api_site, actor=ANONYMOUS)
    details = [each for each in page.select("details.embed-sql") if each.a]
    assert len(details) == 3
    for each in details:
        url = each.a["href"].replace("&q=&", "&q=dog&").replace("?sql=", ".json?_shape=array&sql=")
        response = await api_site.get(url, ANONYMOUS)
        assert response.status_code == 200, response.text
        assert len(response.json()) == (2 if "one row" in each.summary.get_text() else 3)
        assert quote(each.pre.get_text()[:30], safe="").replace("%20", "+") in each.a["href"]


@pytest.mark.parametrize("actor", [ANONYMOUS, PLAIN])
async def test_about_visitor_sees_no_control_and_no_job(api_site, actor):
    """What somebody may not use is not there."""
    await api_site.make()
    page = await page_of(api_site, actor=actor)
    assert page.select("form[method=post]") == []
    words = [each.get_text() for each in page.select("h2")]
    assert words == ["Where it comes from", "What it holds", "Query it in SQL"]


async def test_about_visitor_without_sql_sees_texts_of_queries_only(make_api_site):
    """The SQL can be read where it cannot be run."""
    site = make_api_site(allow_sql=False)
    await site.make()
    page = await page_of(site, actor=ANONYMOUS)
    details = page.select("details.embed-sql")
    assert "llm_embed_cosine" in details[0].pre.get_text()
    assert all("sql=" not in a["href"] for each in details for a in each.select("a"))


async def test_about_immutable_database_offers_nothing_that_writes(make_api_site):
    """Not even to root."""
    site = make_api_site()
    await site.make()
    immutable = make_api_site(is_immutable=True)
    page = await page_of(immutable)
    assert facts_of(page)["Embedded"] == "3 rows"
    assert page.select("form[method=post]") == []


async def test_about_private_collection_is_refused(api_site):
    """Nobody learns about a collection of a table they may not see."""
    await api_site.make("secrets")
    for path in ("about", "about.json"):
        response = await api_site.get(f"/data/-/embed/c/secrets/{path}", PLAIN)
        assert response.status_code == 403
        assert "private text" not in response.text


async def test_about_unknown_collection_is_404_page(api_site):
    """The page of an error is a page."""
    await api_site.make()
    page = await page_of(api_site, "/data/-/embed/c/nothing/about", ANONYMOUS, 404)
    assert "'nothing' does not exist" in page.select_one(".embed-refusal").get_text()


async def test_about_table_gone_is_said_and_the_rest_is_there(api_site):
    """A source that was dropped is struck, not an error."""
    await api_site.make()
    change(api_site, "drop view recent")
    change(api_site, "drop table posts")
    page = await page_of(api_site)
    assert "no longer exists" in facts_of(page)["Made from"]
    assert page.select_one("dl s").get_text() == "posts"
    assert "Its table posts no longer exists." in page.get_text()
    assert actions_of(page) == ["rename", "delete"]
    refused = parsed(await send(api_site, ABOUT), 400)
    assert "Its table posts no longer exists." in refused.get_text()


async def test_about_unknown_model_says_so_and_offers_no_update(api_site):
    """A file from elsewhere may name a model that is not here."""
    await api_site.make()
    for table in ("collections", "_embed_collections"):
        change(api_site, f"update {table} set model = 'elsewhere'")
    page = await page_of(api_site)
    assert "not registered on this site" in facts_of(page)["Model"]
    assert actions_of(page) == ["rename", "delete"]


async def test_about_collection_of_another_tool_says_that_nothing_is_known(api_site):
    """LLM writes down no source."""
    await api_site.make()
    change(api_site, "delete from _embed_collections")
    page = await page_of(api_site)
    assert "another tool made it" in facts_of(page)["Made from"]
    assert actions_of(page) == ["rename", "delete"]


async def test_about_markup_in_names_stays_text(api_site):
    """Names and templates come from strangers."""
    await api_site.make(AWKWARD, MARKUP, columns=["body"])
    url = (await api_site.get("/data/-/embed.json", ROOT)).json()["collections"][0]["url"]
    response = await api_site.get(url.replace(".json", "/about"), ROOT)
    assert "<script>alert" not in response.text
    page = parsed(response, 200)
    assert page.h1.get_text(strip=True) == MARKUP
    assert "49" not in page.h1.get_text()
    assert page.find(id="embed-name")["value"] == MARKUP
    assert AWKWARD in facts_of(page)["Made from"]


async def test_about_names_the_command_that_keeps_it_up_to_date(api_site):
    """To those who may change it."""
    await api_site.make()
    upkeep = facts_of(await page_of(api_site))["Kept up to date by itself"]
    command = f"datasette embed watch {api_site.path.name} posts"
    assert upkeep == f"no; a command on the server turns it on: {command}"
    upkeep = facts_of(await page_of(api_site, actor=PLAIN))["Kept up to date by itself"]
    assert upkeep == "no"


async def test_about_view_is_called_a_view(api_site):
    """No command watches one."""
    await api_site.make("recent", id_columns=["id"])
    facts = facts_of(await page_of(api_site, "/data/-/embed/c/recent/about"))
    assert facts["Made from"] == "the view recent"
    assert facts["Kept up to date by itself"] == "no"


async def test_rename_form_leaves_out_the_spaces_around_a_name(api_site):
    """Nobody sees them afterwards."""
    await api_site.make()
    response = await send(api_site, "/data/-/embed/c/posts/rename", {"name": " News "})
    assert response.headers["location"] == "/data/-/embed/c/News/about"


# -- update ---------------------------------------------------------------------------


async def test_about_check_counts_changes_and_writes_nothing(api_site, counting_model):
    """The button then says what it would do."""
    await api_site.make()
    change(api_site, "update posts set body = 'anew' where id = 1")
    change(api_site, "delete from posts where id = 2")
    calls = len(counting_model.calls)
    before = api_site.rows("select id, status from _embed_jobs")
    page = parsed(await send(api_site, ABOUT), 200)
    said = page.select_one("ul.bullets").get_text(" ", strip=True)
    assert "1 row is new or changed; 3 tokens, 232 bytes on disk" in said
    assert "1 row is gone" in said
    assert page.select_one("form[action$=sync] input[type=submit]")["value"] == "Embed 1 row"
    assert len(counting_model.calls) == calls
    assert api_site.rows("select id, status from _embed_jobs") == before


async def test_about_check_tells_failed_rows_from_changed_ones(api_site, counting_model):
    """What fails every time is no change; an update tries it again."""
    await api_site.make()
    change(
        api_site,
        "insert into _embed_failures select 1, id, content_hash, 'no', 1 from embeddings"
        " where id = '1'",
    )
    change(api_site, "delete from embeddings where id = '1'")
    page = parsed(await send(api_site, ABOUT), 200)
    said = page.select_one("ul.bullets").get_text(" ", strip=True)
    assert said.startswith("Up to date, but for 1 row that failed before: an update tries it again")
    button = page.select_one("form[action$=sync] input[type=submit]")
    assert button["value"] == "Try 1 row again"
    change(api_site, "update posts set body = 'anew' where id = 2")
    page = parsed(await send(api_site, ABOUT), 200)
    said = page.select_one("ul.bullets").get_text(" ", strip=True)
    assert said.startswith("1 row is new or changed, 1 failed before and is tried again; ")
    change(api_site, "update posts set body = 'anew' where id = 1")
    page = parsed(await send(api_site, ABOUT), 200)
    said = page.select_one("ul.bullets").get_text(" ", strip=True)
    assert said.startswith("2 rows are new or changed; ")
    plan = await api_site.post("/data/-/embed/estimate", {"table": "posts", "columns": ["body"]})
    assert plan.json()["plan"]["failed_before"] == 0


async def test_about_check_up_to_date_offers_no_update(api_site):
    """There is nothing to press when there is nothing to do."""
    await api_site.make()
    page = parsed(await send(api_site, ABOUT), 200)
    assert "all 3 rows are up to date" in page.select_one("ul.bullets").get_text()
    assert "sync" not in actions_of(page)


async def test_about_check_says_how_long_many_rows_take(api_site):
    """A sample of so many is embedded to time them."""
    await api_site.make()
    change(
        api_site,
        "with recursive n(i) as (select 100 union all select i + 1 from n where i < 300)"
        " insert into posts (id, title, body) select i, 'new', 'text number ' || i from n",
    )
    page = parsed(await send(api_site, ABOUT), 200)
    said = page.select_one("ul.bullets").get_text(" ", strip=True)
    assert "201 rows are new or changed; " in said
    assert " tokens, about 1 s, " in said


async def test_about_paid_model_is_updated_only_after_its_price_was_said(api_site, counting_model):
    """Nobody spends money by a click on a button without a number."""
    counting_model.price_per_million_tokens = 10_000.0
    await api_site.make()
    assert "sync" not in actions_of(await page_of(api_site))
    change(api_site, "update posts set body = 'anew' where id = 1")
    page = parsed(await send(api_site, ABOUT), 200)
    button = page.select_one("form[action$=sync] input[type=submit]")
    assert re.fullmatch(r"Embed 1 row for about \$0\.\d\d", button["value"])
    cost = button["value"].removeprefix("Embed 1 row for ")
    assert f", {cost}, " in page.select_one("[role=status] li").get_text()


async def test_sync_form_goes_to_the_job_that_embeds(api_site):
    """The change is there when the job has ended, and what is gone is removed."""
    await api_site.make()
    change(api_site, "delete from posts where id = 2")
    response = await send(api_site, f"{ABOUT[:-6]}/sync")
    assert response.status_code == 303
    assert response.headers["location"] == "/data/-/embed/jobs/2"
    await api_site.settled()
    assert api_site.rows("select id from embeddings order by id") == [("1",), ("3",)]


async def test_sync_form_keep_removed_keeps(api_site):
    """The tick is what it says."""
    await api_site.make()
    change(api_site, "delete from posts where id = 2")
    await send(api_site, f"{ABOUT[:-6]}/sync", {"keep_removed": "on"})
    await api_site.settled()
    assert len(api_site.rows("select id from embeddings")) == 3


async def test_sync_form_twice_goes_to_the_job_that_runs(api_site, counting_model):
    """A double click starts one job."""
    await api_site.make()
    with api_site.running_job(counting_model):
        response = await send(api_site, f"{ABOUT[:-6]}/sync")
        assert response.status_code == 303
        assert response.headers["location"] == "/data/-/embed/jobs/2"
    await api_site.settled()
    assert len(api_site.rows("select id from _embed_jobs")) == 2


# -- rename, delete -------------------------------------------------------------------


async def test_rename_form_goes_to_the_page_under_the_new_name(api_site):
    """And says so there, once."""
    await api_site.make()
    response = await send(api_site, f"{ABOUT[:-6]}/rename", {"name": "new name"})
    assert response.status_code == 303
    assert response.headers["location"] == "/data/-/embed/c/new+name/about"
    assert api_site.rows("select name from collections") == [("new name",)]
    cookies = dict(response.cookies)
    page = await api_site.get(response.headers["location"], ROOT, cookies=cookies)
    assert "It is called new name now" in page.text


@pytest.mark.parametrize(
    "name, message",
    [
        ("", "Type the new name"),
        ("posts", "This is its name already"),
        ("other", "there is a collection 'other' already"),
    ],
)
async def test_rename_form_bad_name_is_said_beside_the_field(api_site, name, message):
    """What was typed is still there."""
    await api_site.make()
    await api_site.make(name="other")
    page = parsed(await send(api_site, f"{ABOUT[:-6]}/rename", {"name": name}), 400)
    field = page.find(id="embed-name")
    assert field["value"] == name
    assert field["aria-invalid"] == "true"
    problem = page.find(id=field["aria-describedby"])
    assert message in problem.get_text()
    assert len(page.select("[aria-invalid]")) == 1
    assert api_site.rows("select name from collections order by 1") == [("other",), ("posts",)]


async def test_delete_form_with_its_name_deletes_and_goes_to_the_list(api_site):
    """The rows stay."""
    await api_site.make()
    response = await send(api_site, f"{ABOUT[:-6]}/delete", {"confirm": "posts"})
    assert response.status_code == 303
    assert response.headers["location"] == "/data/-/embed"
    assert api_site.rows("select * from collections") == []
    assert api_site.rows("select count(*) from posts") == [(3,)]


@pytest.mark.parametrize("typed", ["", "Posts", "posts ", MARKUP])
async def test_delete_form_other_name_deletes_nothing(api_site, typed):
    """Nearly the name is not the name."""
    await api_site.make()
    page = parsed(await send(api_site, f"{ABOUT[:-6]}/delete", {"confirm": typed}), 400)
    field = page.find(id="embed-confirm")
    assert field["value"] == typed
    assert "not its name" in page.find(id=field["aria-describedby"]).get_text()
    assert api_site.rows("select name from collections") == [("posts",)]


async def test_delete_form_while_its_job_runs_is_refused_with_the_reason(api_site, counting_model):
    """The page says which job has to end first."""
    await api_site.make()
    with api_site.running_job(counting_model):
        response = await send(api_site, f"{ABOUT[:-6]}/delete", {"confirm": "posts"})
        page = parsed(response, 409)
    assert "Cancel job 2 first" in page.find(id="embed-problem-confirm").get_text()
    assert api_site.rows("select name from collections") == [("posts",)]


@pytest.mark.parametrize("change_name", CHANGES)
async def test_form_of_a_collection_deleted_in_another_tab_is_404(api_site, change_name):
    """The page of the form still stands there."""
    await api_site.make()
    change(api_site, "delete from collections")
    fields = {"rename": {"name": "x"}, "delete": {"confirm": "posts"}}.get(change_name, {})
    headers = {**FORM, "authorization": "basic x", "sec-fetch-site": "same-origin"}
    response = await api_site.ask(
        "POST", f"{ABOUT[:-6]}/{change_name}", ROOT, content=urlencode(fields), headers=headers
    )
    parsed(response, 404)


@pytest.mark.parametrize("path", ["about", *CHANGES])
async def test_form_of_a_visitor_is_refused_and_changes_nothing(api_site, path):
    """A form that was not offered does nothing when it is sent."""
    await api_site.make()
    fields = {"rename": {"name": "x"}, "delete": {"confirm": "posts"}}.get(path, {})
    response = await send(api_site, f"{ABOUT[:-6]}/{path}", fields, PLAIN)
    assert response.status_code == 403
    assert MAY_NOT_MAKE.replace("'", "&#39;") in response.text or MAY_NOT_MAKE in response.text
    assert api_site.rows("select name from collections") == [("posts",)]
    assert len(api_site.rows("select id from _embed_jobs")) == 1


async def test_about_editor_has_every_control(api_site):
    """Who may make collections may change them."""
    await api_site.make()
    page = await page_of(api_site, actor=EDITOR)
    assert actions_of(page) == ["about#update", "sync", "rename", "delete"]
    assert [row.a.get_text() for row in page.select(".embed-log tbody tr")] == ["1"]
    assert json.loads((await api_site.get(f"{ABOUT}.json", EDITOR)).text)["urls"]
