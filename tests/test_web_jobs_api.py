"""Jobs over HTTP: how far they are, paused, resumed, cancelled, tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from datasette_embed.database import sqlite3
from datasette_embed.job_rows import JobCounts, JobRecord, JobStatus, Request, owner_name
from datasette_embed.web.descriptions import possible_actions, progress
from tests.api_site import ANONYMOUS, EDITOR, MAY_NOT_MAKE, PLAIN, ROOT, as_said_to, error_of
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel

JOBS = "/data/-/embed/jobs"
STRANGER = "somebody to resume it: this server was not asked for it, and starts nothing alone"


class Picky(CountingModel):
    """Refuses every text about a dog, until told otherwise."""

    is_picky = True

    def embed_batch(self, items, *, kind, key=None):
        if self.is_picky and any("dog" in item for item in items):
            raise ValueError("no dogs")
        return super().embed_batch(items, kind=kind, key=key)


class PickyPlugin(ModelsPlugin):
    pass


@pytest.fixture
def picky(add_plugin):
    model = Picky("picky")
    add_plugin(PickyPlugin((model, ())))
    return model


@pytest.mark.asyncio
async def test_list_newest_first(api_site):
    """Each with what it did."""
    await api_site.make()
    assert (await api_site.post("/data/-/embed/c/posts/sync", {}, EDITOR)).status_code == 202
    await api_site.settled()
    response = await api_site.get(f"{JOBS}.json", EDITOR)
    assert response.status_code == 200
    jobs = response.json()["jobs"]
    assert [(job["id"], job["action"], job["status"], job["actor"]) for job in jobs] == [
        (2, "sync", "finished", "editor"),
        (1, "create", "finished", "root"),
    ]
    assert jobs[1]["counts"] == {
        "rows_done": 3,
        "embedded": 3,
        "reused": 0,
        "unchanged": 0,
        "refreshed": 0,
        "blank": 0,
        "failed": 0,
        "removed": 0,
        "tokens": 0,
    }
    assert jobs[0]["counts"]["unchanged"] == 3
    assert jobs[1]["url"] == f"{JOBS}/1.json"
    assert jobs[1]["collection_url"] == "/data/-/embed/c/posts.json"
    assert jobs[1]["actions"] == {}


@pytest.mark.asyncio
async def test_list_in_pages_and_of_one_collection(api_site):
    """``next`` is what to ask for as ``before``."""
    await api_site.make()
    await api_site.make("recent")
    page = (await api_site.get(f"{JOBS}.json?number=1", ROOT)).json()
    assert ([job["id"] for job in page["jobs"]], page["next"]) == ([2], 2)
    page = (await api_site.get(f"{JOBS}.json?number=1&before=2", ROOT)).json()
    assert ([job["id"] for job in page["jobs"]], page["next"]) == ([1], None)
    page = (await api_site.get(f"{JOBS}.json?collection=posts", ROOT)).json()
    assert [job["id"] for job in page["jobs"]] == [1]
    message = error_of(await api_site.get(f"{JOBS}.json?collection=nosuch", ROOT), 404)
    assert message.startswith("Collection 'nosuch' does not exist.")
    message = error_of(await api_site.get(f"{JOBS}.json?number=x", ROOT), 400)
    assert message == "'number' must be a whole number from 1 to 1000"


@pytest.mark.asyncio
@pytest.mark.parametrize("actor", [ANONYMOUS, PLAIN])
@pytest.mark.parametrize("path", [f"{JOBS}.json", f"{JOBS}/1.json", f"{JOBS}/9.json"])
async def test_jobs_are_for_those_who_may_create(api_site, actor, path):
    """Others are not told whether there is one."""
    await api_site.make()
    assert error_of(await api_site.get(path, actor), 403) == as_said_to(actor, MAY_NOT_MAKE)


@pytest.mark.asyncio
@pytest.mark.parametrize("actor", [ANONYMOUS, PLAIN])
@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "retry"])
async def test_acting_is_for_those_who_may_create(api_site, actor, action):
    """And nothing happens."""
    await api_site.make()
    before = api_site.rows("select * from _embed_jobs")
    error_of(await api_site.post(f"{JOBS}/1/{action}", {}, actor), 403)
    assert api_site.rows("select * from _embed_jobs") == before


@pytest.mark.asyncio
async def test_jobs_of_a_hidden_collection_are_hidden(make_api_site):
    """Their names, reasons and failures tell of a table that the actor may not see."""
    site = make_api_site(config={"allow_create": {"id": ["editor", "plain"]}})
    await site.make()
    await site.make("secrets")
    jobs = (await site.get(f"{JOBS}.json", PLAIN)).json()["jobs"]
    assert [job["collection"] for job in jobs] == ["posts"]
    for response in (
        await site.get(f"{JOBS}/2.json", PLAIN),
        await site.post(f"{JOBS}/2/cancel", {}, PLAIN),
    ):
        assert error_of(response, 403) == (
            "You may not view the job 2: its collection is not for you"
        )
        assert "secrets" not in response.text


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("job", "status", "message"),
    [
        ("9", 404, "There is no job 9"),
        ("0", 404, "There is no job 0"),
        (str(2**63 - 1), 404, f"There is no job {2**63 - 1}"),
        (str(2**63), 404, f"There is no job {2**63}"),
        ("9" * 3_000, 404, "There is no job 99999999999999999999"),
        ("x", 400, "The number of a job is a whole number"),
        ("-1", 400, "The number of a job is a whole number"),
        ("~D9~A5", 400, "The number of a job is a whole number"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_job_of_no_such_number_refused(api_site, job, status, message):
    """Within what SQLite can count to and beyond."""
    await api_site.make()
    assert error_of(await api_site.get(f"{JOBS}/{job}.json", ROOT), status) == message
    assert error_of(await api_site.post(f"{JOBS}/{job}/pause", {}), status) == message


@pytest.mark.asyncio
async def test_job_that_runs_shows_what_it_is_doing(api_site, counting_model):
    """And is the unfinished job of its collection."""
    await api_site.make()
    with api_site.running_job(counting_model):
        job = (await api_site.get(f"{JOBS}/2.json", ROOT)).json()["job"]
        assert (job["status"], job["rows_total"], job["is_abandoned"]) == ("running", 3, False)
        shown = (await api_site.get("/data/-/embed/c/posts.json", ROOT)).json()
        assert shown["unfinished_job"]["id"] == 2
    await api_site.settled()
    shown = (await api_site.get("/data/-/embed/c/posts.json", ROOT)).json()
    assert shown["unfinished_job"] is None


@pytest.mark.asyncio
@pytest.mark.parametrize(("action", "status"), [("pause", "paused"), ("cancel", "cancelled")])
async def test_stopping_a_running_job_keeps_the_batch_in_flight(
    api_site, counting_model, action, status
):
    """202: what the model was asked for is stored, and the job ends in that state."""
    await api_site.make()
    with api_site.running_job(counting_model):
        response = await api_site.post(f"{JOBS}/2/{action}", {}, EDITOR)
        assert response.status_code == 202, response.text
        assert response.json()["job"]["request"] == action
    await api_site.settled()
    assert api_site.rows("select status from _embed_jobs where id = 2") == [(status,)]
    assert len(counting_model.calls) == 2
    if action == "pause":
        response = await api_site.post(f"{JOBS}/2/resume", {}, EDITOR)
        assert response.status_code == 202, response.text
        await api_site.settled()
        assert api_site.rows("select status from _embed_jobs where id = 2") == [("finished",)]
        assert len(counting_model.calls) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "retry"])
async def test_acting_on_a_finished_job_is_a_conflict(api_site, action):
    """With the state it is in."""
    await api_site.make()
    message = error_of(await api_site.post(f"{JOBS}/1/{action}", {}), 409)
    assert message.startswith("Job 1 is finished: ")
    assert api_site.rows("select id, status from _embed_jobs") == [(1, "finished")]


@pytest.mark.asyncio
async def test_failures_in_pages_and_tried_again(api_site, picky):
    """What could not be embedded, why, how often; ``retry`` embeds that and nothing else."""
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("insert into posts values (4, 'more', 'another dog')")
    conn.close()
    await api_site.make(model="picky")
    answer = (await api_site.get(f"{JOBS}/1.json?number=1", ROOT)).json()
    (failure,) = answer["failures"]
    assert (failure["id"], failure["attempts"], answer["next"]) == ("1", 1, "1")
    assert answer["job"]["counts"]["failed"] == 2
    answer = (await api_site.get(f"{JOBS}/1.json?number=1&after=1", ROOT)).json()
    assert ([failure["id"] for failure in answer["failures"]], answer["next"]) == (["4"], None)
    picky.is_picky = False
    called = len(picky.calls)
    response = await api_site.post(f"{JOBS}/1/retry", {}, EDITOR)
    assert response.status_code == 202, response.text
    assert response.json()["job"]["action"] == "retry"
    await api_site.settled()
    retried = [item for call in picky.calls[called:] for item in call]
    assert sorted(retried) == ["a dog chases a ball", "another dog"]
    assert api_site.rows("select count(*) from embeddings") == [(4,)]
    assert api_site.rows("select actor from _embed_jobs where action = 'retry'") == [("editor",)]


@pytest.mark.asyncio
async def test_spending_needs_a_model_one_may_use(make_api_site, add_plugin):
    """To pause or cancel is free; to go on is not."""
    paid = CountingModel("paid")
    paid.price_per_million_tokens, paid.is_local = 1.0, False
    add_plugin(PickyPlugin((paid, ())))
    site = make_api_site()
    await site.make(model="paid")
    for action in ("resume", "retry"):
        message = error_of(await site.post(f"{JOBS}/1/{action}", {}, EDITOR), 403)
        assert message.startswith("You may not use the model paid here. Sign in")
    error_of(await site.post(f"{JOBS}/1/pause", {}, EDITOR), 409)


@pytest.mark.asyncio
async def test_acting_takes_no_fields_and_only_post(api_site):
    """A link that somebody clicks does nothing."""
    await api_site.make()
    message = error_of(await api_site.post(f"{JOBS}/1/pause", {"force": True}), 400)
    assert message == "Unknown field 'force'. Fields: none"
    for method in ("GET", "PUT"):
        error_of(await api_site.ask(method, f"{JOBS}/1/pause", ROOT), 405)
    assert (await api_site.post(f"{JOBS}/1/explode", {})).status_code == 404


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("state", "waits_for"),
    [
        ("status = 'paused'", "somebody to resume it"),
        ("status = 'pending'", "its turn"),
        ("status = 'pending', options = '{}', actor = 'x'", STRANGER),
        ("status = 'running', owner = 'x', signature = null", STRANGER),
        ("status = 'finished'", None),
    ],
)
async def test_job_says_what_it_waits_for(api_site, state, waits_for):
    """A job that came with a file starts nothing by itself, and whoever looks can read it."""
    await api_site.make()
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute(f"update _embed_jobs set {state}")
    conn.close()
    shown = (await api_site.get(f"{JOBS}/1.json", ROOT)).json()["job"]
    (listed,) = (await api_site.get(f"{JOBS}.json", ROOT)).json()["jobs"]
    assert (shown["waits_for"], listed["waits_for"]) == (waits_for, waits_for)


@pytest.mark.asyncio
@pytest.mark.parametrize("action", ["pause", "sync"])
async def test_post_without_a_body_is_an_empty_object(api_site, counting_model, action):
    """Where nothing is required, and no form of another site can have sent it."""
    await api_site.make()
    path = f"{JOBS}/1/pause" if action == "pause" else "/data/-/embed/c/posts/sync"
    expected = 409 if action == "pause" else 202  # the job has ended
    response = await api_site.ask("POST", path, EDITOR)
    assert error_of(response, 400) == (
        "The content type of the request must be application/json: send {} with it"
    )
    # What a browser adds by itself goes with what another site makes it send.
    password = {"authorization": "Basic eDp5"}
    error_of(await api_site.ask("POST", path, EDITOR, headers=password), 400)
    form = {"content-type": "application/x-www-form-urlencoded"}
    token = {"authorization": "Bearer x"}
    error_of(await api_site.ask("POST", path, EDITOR, headers=token, content="a=1"), 400)
    for headers in (token, {"content-type": "application/json"}, token | form):
        response = await api_site.ask("POST", path, EDITOR, headers=headers)
        assert response.status_code == expected, response.text
        await api_site.settled()


FAILED = JobCounts(failed=1)
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def alive():
    return {"owner": owner_name(), "heartbeat_at": datetime.now(UTC).isoformat()}


def job(**values):
    """A job that was started ten seconds before NOW."""
    given = {
        "status": JobStatus.RUNNING,
        "started_at": (NOW - timedelta(seconds=10)).isoformat(),
        "finished_at": None,
        "rows_total": 100,
        "counts": JobCounts(rows_done=20),
        **values,
    }
    blank = dict.fromkeys(JobRecord.__dataclass_fields__)
    return JobRecord(**{**blank, **given})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (2.0, 40.0)),
        ({"counts": JobCounts(rows_done=120)}, (12.0, 0.0)),
        ({"counts": JobCounts()}, (None, None)),
        ({"started_at": None}, (None, None)),
        ({"started_at": "yesterday"}, (None, None)),
        ({"started_at": "2026-01-01T11:00:00"}, (None, None)),
        ({"started_at": (NOW + timedelta(seconds=5)).isoformat()}, (None, None)),
        (
            {
                "status": JobStatus.FINISHED,
                "finished_at": (NOW - timedelta(seconds=6)).isoformat(),
            },
            (5.0, None),
        ),
    ],
)
def test_progress_rate_and_seconds_left(values, expected):
    """Rows a second since the start; what is left at that rate, for a job that runs."""
    assert progress(job(**values), NOW) == expected


@pytest.mark.parametrize(
    ("values", "actions"),
    [
        ({"status": JobStatus.PENDING}, ["pause", "resume", "cancel"]),
        ({"status": JobStatus.PAUSED}, ["resume", "cancel"]),
        (
            {"status": JobStatus.FAILED, "counts": JobCounts(failed=1)},
            ["resume", "cancel", "retry"],
        ),
        ({"status": JobStatus.FINISHED, "counts": FAILED}, ["retry"]),
        ({"status": JobStatus.FINISHED}, []),
        ({"status": JobStatus.CANCELLED}, []),
        ({}, ["pause", "resume", "cancel"]),  # its process is gone
    ],
)
def test_possible_actions_follow_the_state(values, actions):
    """What would be answered with 409 is not offered."""
    assert possible_actions(job(**values)) == actions


@pytest.mark.parametrize(
    ("request_", "actions"),
    [
        (None, ["pause", "cancel"]),
        (Request.PAUSE, ["resume", "cancel"]),
        (Request.CANCEL, ["cancel"]),
    ],
)
def test_possible_actions_of_a_running_job_follow_what_it_was_asked(request_, actions):
    """It can be asked for something else until it has done what it was asked for."""
    assert possible_actions(job(**alive(), request=request_)) == actions
