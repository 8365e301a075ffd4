"""The page of a job: what it says in every state, and what can be done there."""

from __future__ import annotations

import json
from contextlib import closing
from urllib.parse import urlencode

import pytest
from bs4 import BeautifulSoup

from datasette_embed.database import sqlite3
from datasette_embed.job_rows import owner_name
from tests.api_site import ANONYMOUS, EDITOR, MAY_NOT_MAKE, PLAIN, ROOT
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel

pytestmark = pytest.mark.asyncio

JOBS = "/data/-/embed/jobs"
SEARCH = "/data/-/embed/c/posts"
FORM = {"content-type": "application/x-www-form-urlencoded"}
#: A reason, a name or an id that would be more than text, if it were not escaped.
MARKUP = "<script>alert(1)</script> {{ 7*7 }} 'x' \"y\""


class Picky(CountingModel):
    """Refuses every text about a dog."""

    def embed_batch(self, items, *, kind, key=None):
        if any("dog" in item for item in items):
            raise ValueError("no dogs")
        return super().embed_batch(items, kind=kind, key=key)


class MorePlugin(ModelsPlugin):
    """Another plugin than that of ``counting_model``."""


@pytest.fixture
def picky(add_plugin):
    model = Picky("picky", batch_size=1)
    add_plugin(MorePlugin((model, ())))
    return model


def change(site, sql, *values):
    """Change the file of a site, as any other program would."""
    with closing(sqlite3.connect(site.path)) as conn, conn:
        conn.execute(sql, values)


async def page_of(site, path=f"{JOBS}/1", actor=ROOT, status=200, **options):
    """Return a page, parsed."""
    response = await site.get(path, actor, **options)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return BeautifulSoup(response.text, "html.parser")


async def send(site, path, actor=ROOT, **options):
    """Send a form without fields, as its button does."""
    headers = {**FORM, **options.pop("headers", {})}
    return await site.ask("POST", path, actor, content=urlencode({}), headers=headers, **options)


def text_of(element):
    """Return the text of an element on one line."""
    return " ".join(element.get_text().split())


def rows_of(page, name):
    """Return the cells of the table of this class."""
    return [[text_of(cell) for cell in row("td")] for row in page.select(f".{name} tbody tr")]


def failures_of(page):
    """Return (number of rows and reason, rows) of each group of failures."""
    return [
        (text_of(group.p), [text_of(row) for row in group("li")])
        for group in page.select(".embed-failures")
    ]


def buttons_of(page):
    """Return (what a form's button says, where the form goes)."""
    return [
        (form.select_one("input[type=submit]")["value"], form["action"])
        for form in page.select("#embed-job form")
    ]


async def test_finished_job_says_what_it_did_and_links_the_search(api_site):
    """And offers nothing else: no button, no script, no reload."""
    await api_site.make()
    change(
        api_site,
        "update _embed_jobs set created_at = '2026-01-01T09:59:00+00:00',"
        " started_at = '2026-01-01T10:00:00+00:00',"
        " finished_at = '2026-01-01T10:00:05+00:00'",
    )
    page = await page_of(api_site)
    job = page.select_one("#embed-job")
    assert text_of(page.h1) == "posts"
    assert text_of(job.h2) == "Job 1: finished"
    sentence, state, summary, search = (text_of(p) for p in job("p"))
    assert sentence.startswith("Embedding of posts with counting, asked for by root ")
    assert state == "Finished: 3 rows embedded. It took 5 s."
    assert summary == "3 of 3 rows (100 %)"
    assert search == "Search these rows by meaning"
    assert [a["href"] for a in job.select("p a")] == [SEARCH, SEARCH]
    assert job.progress["value"] == "100"
    assert rows_of(page, "embed-log") == [
        ["1", "first embedding", "finished", "3 of 3 rows (100 %)"]
        + ["2026-01-01 09:59:00", "2026-01-01 10:00:05", "root"]
    ]
    assert not page.select("#embed-job form, .embed-failures, noscript")
    assert not page.find("script", src=lambda src: src and "embed_job" in src)
    assert "data-url" not in job.attrs


async def test_running_job_shows_progress_and_can_be_stopped(api_site, counting_model):
    """What it says is what its JSON says; a browser without scripts loads it again."""
    await api_site.make()
    with api_site.running_job(counting_model):
        page = await page_of(api_site, f"{JOBS}/2")
        data = (await api_site.get(f"{JOBS}/2.json", ROOT)).json()["job"]
    job = page.select_one("#embed-job")
    assert text_of(job.h2) == "Job 2: running"
    assert text_of(job.p).startswith("Updating posts with counting, asked for ")
    assert text_of(job.select_one("#embed-job-summary")) == data["summary"] == "0 of 3 rows (0 %)"
    assert (job.progress["value"], job.progress["max"]) == ("0", "100")
    assert buttons_of(page) == [
        ("Pause", f"{JOBS}/2/pause"),
        ("Cancel, keep what is done", f"{JOBS}/2/cancel"),
    ]
    assert all(form.select_one("input[name=csrftoken]") for form in job("form"))
    assert page.select_one("head noscript meta[http-equiv=refresh]")["content"] == "5"
    assert page.find("script", src=lambda src: src and src.endswith("embed_job.js"))
    assert job["data-url"] == f"{JOBS}/2.json"
    names = ("status", "is_abandoned", "request", "reason", "waits_for")
    assert json.loads(job["data-state"]) == [*(data[name] for name in names), 0]
    # The heading says nothing that this page says better; what is said twice is kept up twice.
    assert text_of(page.select_one(".embed-summary")) == "Rows of posts · body · model counting"
    assert text_of(page.select_one("#embed-job-progress-text")) == data["summary"]
    assert [row[:4] for row in rows_of(page, "embed-log")] == [
        ["2", "update", "running", "0 of 3 rows (0 %)"],
        ["1", "first embedding", "finished", "3 of 3 rows (100 %)"],
    ]
    assert page.select_one(".embed-log a[aria-current]")["href"] == f"{JOBS}/2"


@pytest.mark.parametrize(
    ("values", "state", "sentence", "actions", "reloads"),
    [
        (
            "status = 'paused', reason = 'paused on request'",
            "paused",
            "Paused.",
            ["resume", "cancel"],
            False,
        ),
        (
            "status = 'paused', reason = 'the model is over its limit'",
            "paused",
            "Paused by itself: the model is over its limit.",
            ["resume", "cancel"],
            False,
        ),
        (
            "status = 'failed', reason = 'key refused (401)'",
            "failed",
            "Failed: key refused (401).",
            ["resume", "cancel"],
            False,
        ),
        (
            "status = 'failed', reason = :path || ': no table named posts'",
            "failed",
            "Failed: data: no table named posts.",
            ["resume", "cancel"],
            False,
        ),
        ("status = 'pending'", "pending", "Waits for its turn.", "resume pause cancel".split(), 1),
        (
            "status = 'running', owner = 'x'",
            "interrupted",
            "Interrupted: the program that ran it is gone. Waits for its turn.",
            ["resume", "pause", "cancel"],
            True,
        ),
        (
            "status = 'running', owner = 'x', signature = null",
            "interrupted",
            "Interrupted: the program that ran it is gone. Waits for somebody to resume it: this "
            "server was not asked for it, and starts nothing alone.",
            ["resume", "pause", "cancel"],
            False,
        ),
        (
            "status = 'running', request = 'pause', owner = :owner, heartbeat_at = :now",
            "running",
            "Pausing: what is being embedded right now is stored first.",
            ["resume", "cancel"],
            True,
        ),
        (
            "status = 'cancelled', reason = 'replaced by a later job'",
            "cancelled",
            "Cancelled: replaced by a later job. What was embedded is kept.",
            [],
            False,
        ),
        (
            "embedded = 0, unchanged = 3",
            "finished",
            "Nothing to do: all rows are up to date.",
            [],
            False,
        ),
    ],
)
async def test_every_state_is_said_and_offers_what_it_allows(
    api_site, values, state, sentence, actions, reloads
):
    """Only a job that goes on by itself is loaded again without a script."""
    await api_site.make()
    stands_for = {
        ":owner": f"'{owner_name()}'",
        ":now": "datetime() || '+00:00'",
        ":path": f"'{api_site.path}'",
    }
    for name, value in stands_for.items():
        values = values.replace(name, value)
    change(api_site, f"update _embed_jobs set {values}")
    page = await page_of(api_site)
    assert text_of(page.select_one("#embed-job h2")) == f"Job 1: {state}"
    assert text_of(page.select_one(".embed-job-state")) == sentence
    assert [url for _, url in buttons_of(page)] == [f"{JOBS}/1/{action}" for action in actions]
    assert bool(page.select("head noscript")) is bool(reloads)
    is_live = state not in ("finished", "cancelled")
    assert ("data-url" in page.select_one("#embed-job").attrs) is is_live


async def test_failures_link_their_rows_and_are_tried_again(api_site, picky):
    """The button makes a job of its own, and leads to its page."""
    await api_site.make(model="picky")
    page = await page_of(api_site)
    ((why, rows),) = failures_of(page)
    assert (why.startswith("1 row: picky: the model failed"), rows) == (True, ["1"])
    assert page.select_one(".embed-failures li a")["href"] == "/data/posts/1"
    assert text_of(page.select_one("#embed-job-summary")) == "3 of 3 rows (100 %) · 1 error"
    assert buttons_of(page) == [("Try the failed rows again", f"{JOBS}/1/retry")]
    response = await send(api_site, f"{JOBS}/1/retry", EDITOR)
    assert (response.status_code, response.headers["location"]) == (303, f"{JOBS}/2")
    await api_site.settled()
    page = await page_of(api_site, f"{JOBS}/2")
    words = text_of(page.select_one("#embed-job p"))
    assert words.startswith("Second try of the failed rows of posts with picky, asked for by edit")


async def test_failures_of_one_reason_stand_together_and_link_rows_that_are_there(api_site):
    """A reason is said once; a row that was deleted since has no page."""
    await api_site.make()
    for entry_id, message, attempts in (("1", "x", 1), ("2", "y", 1), ("3", "x", 2), ("9", "x", 1)):
        change(
            api_site,
            "insert into _embed_failures values (1, ?, null, ?, ?)",
            entry_id,
            message,
            attempts,
        )
    page = await page_of(api_site)
    assert failures_of(page) == [
        ("3 rows: x", ["1", "3 (tried 2 times)", "9"]),
        ("1 row: y", ["2"]),
    ]
    links = [a["href"] for a in page.select(".embed-failures a")]
    assert links == ["/data/posts/1", "/data/posts/3", "/data/posts/2"]


@pytest.mark.parametrize("twice", [False, True])
async def test_jobs_of_a_database_are_listed_with_their_collections(api_site, twice):
    """The newest first, and page after page."""
    await api_site.make()
    await api_site.make("secrets")
    page = await page_of(api_site, f"{JOBS}?number=1" if twice else JOBS)
    rows = [row[:4] for row in rows_of(page, "embed-log")]
    if twice:
        following = page.find("a", string="Next page")["href"]
        assert following == f"{JOBS}?number=1&before=2"
        rows += [row[:4] for row in rows_of(await page_of(api_site, following), "embed-log")]
    assert rows == [
        ["2", "secrets", "first embedding", "finished"],
        ["1", "posts", "first embedding", "finished"],
    ]
    assert page.select_one(".export-links a")["href"].startswith(f"{JOBS}.json")
    assert (await api_site.get(JOBS, ANONYMOUS)).status_code == 403


async def test_unfinished_collection_says_so_on_each_of_its_pages(api_site):
    """In how many rows are there, and to those who see no job that it is not all."""
    await api_site.make()
    change(api_site, "update _embed_jobs set status = 'paused', rows_total = 5")
    for path in ("?q=dog", "/about", "/like/1"):
        words = text_of((await page_of(api_site, SEARCH + path)).select_one(".embed-summary"))
        assert words.endswith("paused: 3 of 5 rows are in it; results come from these only")
        page = await page_of(api_site, SEARCH + path, ANONYMOUS)
        words = text_of(page.select_one(".embed-summary"))
        assert words.endswith(" · not complete: results come from these rows only")
    change(api_site, "update _embed_jobs set status = 'finished'")
    words = text_of((await page_of(api_site, SEARCH)).select_one(".embed-summary"))
    assert words.endswith("model counting")


async def test_failures_of_strangers_are_text_and_come_in_pages(api_site):
    """What a file says of an id, a message, a reason or a person is shown as it is."""
    await api_site.make()
    change(
        api_site,
        "update _embed_jobs set status = 'failed', reason = ?, actor = ?, failed = 2",
        MARKUP,
        MARKUP,
    )
    for entry_id in ("a&b", MARKUP):
        change(
            api_site,
            "insert into _embed_failures values (1, ?, null, ?, 1)",
            entry_id,
            MARKUP,
        )
    page = await page_of(api_site, f"{JOBS}/1?number=1")
    found = failures_of(page)
    following = page.find("a", string="More rows that failed")["href"]
    assert following.startswith(f"{JOBS}/1?")
    page = await page_of(api_site, following.partition("#")[0])
    found += failures_of(page)
    assert found == [(f"1 row: {MARKUP}", [MARKUP]), (f"1 row: {MARKUP}", ["a&b"])]
    assert page.find("a", string="More rows that failed") is None
    assert text_of(page.select_one(".embed-job-state")) == f"Failed: {MARKUP}."
    assert text_of(page.select_one("#embed-job strong")) == MARKUP
    assert json.loads(page.select_one("#embed-job")["data-state"])[3] == MARKUP
    assert page.find("script", string="alert(1)") is None


async def test_form_pauses_a_running_job_and_a_second_click_harms_nothing(api_site, counting_model):
    """Back on the page of the job, which says what could not be done."""
    await api_site.make()
    with api_site.running_job(counting_model):
        for name in ("pause", "cancel"):
            response = await send(api_site, f"{JOBS}/2/{name}", EDITOR)
            assert (response.status_code, response.headers["location"]) == (303, f"{JOBS}/2")
            found = api_site.rows("select request from _embed_jobs where id = 2")
            assert found == [(name,)]
        response = await send(api_site, f"{JOBS}/2/pause", EDITOR)
        assert (response.status_code, response.headers["location"]) == (303, f"{JOBS}/2")
        assert api_site.rows("select request from _embed_jobs where id = 2") == [("cancel",)]
    await api_site.settled()
    page = await page_of(api_site, f"{JOBS}/2", EDITOR, cookies=dict(response.cookies))
    message = text_of(page.select_one(".message-warning"))
    assert message == "Job 2 is running: it is being cancelled"
    assert text_of(page.select_one("#embed-job h2")) == "Job 2: cancelled"


@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "retry"])
async def test_forms_are_for_those_who_may_create(api_site, action):
    """Others are refused in words, and nothing happens."""
    await api_site.make()
    before = api_site.rows("select * from _embed_jobs")
    for actor in (ANONYMOUS, PLAIN):
        response = await send(api_site, f"{JOBS}/1/{action}", actor)
        assert response.status_code == 403
        assert MAY_NOT_MAKE in BeautifulSoup(response.text, "html.parser").get_text()
    assert api_site.rows("select * from _embed_jobs") == before


async def test_form_with_fields_is_refused(api_site):
    """A mistake nobody would notice otherwise."""
    await api_site.make()
    response = await api_site.ask("POST", f"{JOBS}/1/cancel", ROOT, content="force=1", headers=FORM)
    assert response.status_code == 400
    page = BeautifulSoup(response.text, "html.parser")
    assert text_of(page.select_one(".embed-refusal")) == "Unknown field 'force'. Fields: none"


@pytest.mark.parametrize("actor", [ANONYMOUS, PLAIN])
@pytest.mark.parametrize("job", [1, 9])
async def test_page_is_for_those_who_may_create(api_site, actor, job):
    """Others are not told whether there is one."""
    await api_site.make()
    page = await page_of(api_site, f"{JOBS}/{job}", actor, status=403)
    assert MAY_NOT_MAKE in page.get_text()
    assert "posts" not in page.get_text()


async def test_job_of_a_hidden_collection_is_hidden(make_api_site):
    """Nor does the log of another collection name it."""
    site = make_api_site(config={"allow_create": {"id": ["editor", "plain"]}})
    await site.make()
    await site.make("secrets")
    page = await page_of(site, f"{JOBS}/2", PLAIN, status=403)
    assert "secrets" not in page.get_text()
    assert [row[0] for row in rows_of(await page_of(site, actor=PLAIN), "embed-log")] == ["1"]


@pytest.mark.parametrize(
    ("job", "status", "message"),
    [
        ("9", 404, "There is no job 9"),
        ("99999999999999999999", 404, "There is no job 99999999999999999999"),
        ("x", 400, "The number of a job is a whole number"),
        ("1?number=x", 400, "'number' must be a whole number from 1 to 1000"),
        ("1?nosuch=1", 400, "Unknown field 'nosuch'. Fields: number, after"),
    ],
)
async def test_page_that_cannot_be_says_why(api_site, job, status, message):
    """Deleted with its collection, or never there."""
    await api_site.make()
    page = await page_of(api_site, f"{JOBS}/{job}", status=status)
    assert text_of(page.h1) == f"Error {status}"
    assert text_of(page.select_one(".embed-refusal")).startswith(message)


async def test_immutable_database_offers_nothing_that_writes(make_api_site):
    """Nor is a page loaded again that cannot change."""
    site = make_api_site()
    await site.make()
    change(site, "update _embed_jobs set status = 'paused', failed = 1")
    site.stop()
    page = await page_of(make_api_site(is_immutable=True))
    assert text_of(page.select_one("#embed-job h2")) == "Job 1: paused"
    assert not page.select("#embed-job form, head noscript, #embed-job[data-url]")


async def test_model_that_is_closed_to_the_actor_is_not_offered(make_api_site, add_plugin):
    """To cancel is free; to go on is not."""
    paid = CountingModel("paid")
    paid.price_per_million_tokens, paid.is_local = 1.0, False
    add_plugin(MorePlugin((paid, ())))

    site = make_api_site()
    await site.make(model="paid")
    change(site, "update _embed_jobs set status = 'paused'")
    for actor, actions in ((ROOT, ["resume", "cancel"]), (EDITOR, ["cancel"])):
        page = await page_of(site, actor=actor)
        assert [url.rpartition("/")[2] for _, url in buttons_of(page)] == actions
    response = await send(site, f"{JOBS}/1/resume", EDITOR)
    assert response.status_code == 403
    assert site.rows("select status from _embed_jobs") == [("paused",)]


async def test_page_writes_nothing_and_answers_head(api_site):
    """Whatever state the job is in."""
    await api_site.make()
    change(api_site, "update _embed_jobs set status = 'running', owner = 'x'")
    before = api_site.rows("select * from _embed_jobs")
    await page_of(api_site)
    response = await api_site.ask("HEAD", f"{JOBS}/1", ROOT)
    assert response.status_code == 200
    link = f'<{JOBS}/1.json>; rel="alternate"; type="application/json+datasette"'
    assert response.headers["link"] == link
    assert (await api_site.ask("POST", f"{JOBS}/1", ROOT)).status_code == 405
    assert api_site.rows("select * from _embed_jobs") == before


async def test_addresses_carry_the_base_url(make_api_site):
    """Behind a proxy everything is below a path."""
    site = make_api_site(settings={"base_url": "/below/"})
    await site.make()
    change(site, "update _embed_jobs set status = 'paused'")
    page = await page_of(site)
    assert [url for _, url in buttons_of(page)] == [
        f"/below{JOBS}/1/resume",
        f"/below{JOBS}/1/cancel",
    ]
    assert page.select_one("#embed-job")["data-url"] == f"/below{JOBS}/1.json"
    assert page.find("script", src=lambda src: src and src.startswith("/below/-/static-plugins/"))
    response = await send(site, f"{JOBS}/1/cancel")
    assert response.headers["location"] == f"/below{JOBS}/1"
