"""The watcher of a server: what it notices, what it has embedded, what it leaves alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from datasette.app import Datasette

from datasette_embed.database import open_database
from datasette_embed.errors import JobStateError, ProviderError
from datasette_embed.job_records import JobRecords, JobStatus
from datasette_embed.runner import get_runner
from datasette_embed.runner import watcher as watcher_module
from datasette_embed.runner.site import Site
from datasette_embed.runner.wiring import get_watcher, stop
from datasette_embed.runs import create, sync
from datasette_embed.store import Store
from tests.fakes import CountingModel
from tests.storage import blob_of, execute, expected, make_docs, query, stored
from tests.test_watching import DOCS, items, noted, watch

NEVER = {"watch_seconds": 3600}
WAIT_SECONDS = 20.0


@pytest.fixture
def db(tmp_path: Path, counting_model: CountingModel) -> Path:
    """A file whose table docs is embedded and watched."""
    path = make_docs(tmp_path / "a.db", DOCS)
    create(path, "docs", model_id="count")
    watch(path)
    counting_model.calls.clear()
    return path


def look(datasette: Datasette) -> None:
    """Let the watcher look once, and wait for what it has queued."""
    assert get_watcher(datasette).look()
    assert get_runner(datasette).wait(WAIT_SECONDS)


def test_look_embeds_what_another_program_changed(db, make_datasette, counting_model):
    """As LLM and the sqlite3 shell write; only the changed rows are embedded."""
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    assert counting_model.calls == [] and noted(db) == []
    execute(db, "insert or replace into docs values (2, 'new'), (9, 'more')")
    execute(db, "delete from docs where id = 1", "update docs set body = '' where id = 3")
    look(datasette)
    assert stored(db) == expected([(2, "new"), (9, "more"), *DOCS[3:]])
    assert sorted(items(counting_model)) == ["more", "new"]
    assert noted(db) == []
    with closing(open_database(db)) as conn:
        jobs = JobRecords(conn).list_jobs()
    assert [(job.action, job.status) for job in jobs if job.action] == [
        ("watch", JobStatus.FINISHED)
    ]


def test_look_at_what_did_not_change_asks_one_thing(db, make_datasette, monkeypatch):
    """A file nobody wrote to, one without our tables and an immutable one cost nothing."""
    plain = make_docs(db.with_name("plain.db"), DOCS)
    frozen = db.with_name("frozen.db")
    frozen.write_bytes(db.read_bytes())
    datasette = make_datasette([db, plain], immutables=[str(frozen)], config=NEVER)
    asked: list[str] = []

    def counted(*args: Any, **options: Any) -> Any:
        asked.append("survey")
        return real(*args, **options)

    real = watcher_module.survey
    monkeypatch.setattr(watcher_module, "survey", counted)
    look(datasette)
    assert set(get_watcher(datasette)._files) == {str(db), str(plain)}
    look(datasette)  # what the first one had embedded is a change
    asked.clear()
    look(datasette)
    assert asked == []
    execute(plain, "delete from docs")
    look(datasette)
    assert asked == ["survey"]


def test_changes_while_no_server_ran_are_made_good(db, make_datasette, counting_model):
    """The triggers are in the file."""
    first = make_datasette([db], config=NEVER)
    look(first)
    asyncio.run(stop(first))
    execute(db, "update docs set body = 'new' where id = 2")
    assert get_watcher(first).look() is False
    assert stored(db)["2"] == blob_of("text 2")
    look(make_datasette([db], config=NEVER))
    assert stored(db)["2"] == blob_of("new") and items(counting_model) == ["new"]


def test_replaced_file_is_looked_at_anew(db, make_datasette):
    """Another file under the same name."""
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    other = db.with_name("other.db")
    other.write_bytes(db.read_bytes())
    execute(other, "update docs set body = 'new' where id = 2")
    other.rename(db)
    look(datasette)
    assert stored(db)["2"] == blob_of("new")


def test_watch_of_a_stranger_is_logged_once_and_starts_nothing(
    db, make_datasette, counting_model, user_directory, caplog
):
    """A file that comes from another machine."""
    for file in user_directory.iterdir():
        file.unlink()
    datasette = make_datasette([db], config=NEVER)
    with caplog.at_level(logging.WARNING):
        look(datasette)
        execute(db, "update docs set body = 'new' where id = 2")
        look(datasette)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("datasette_embed")] == [
        f"{db}: collection 'docs' is not kept up to date: its watch was not set up for this file "
        "on this machine. To do that: datasette embed watch"
    ]
    assert counting_model.calls == [] and stored(db)["2"] == blob_of("text 2")
    watch(db)
    look(datasette)
    assert stored(db)["2"] == blob_of("new")


def test_failure_is_tried_again_later_and_later(db, make_datasette, counting_model, monkeypatch):
    """Not at every look; what was noted stays."""
    now = [0.0]
    monkeypatch.setattr(watcher_module, "monotonic", lambda: now[0])
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    counting_model.dimensions = 4  # such vectors do not fit the collection
    execute(db, "update docs set body = 'new' where id = 2")
    attempts = []
    real = watcher_module.drain
    monkeypatch.setattr(
        watcher_module, "drain", lambda *a, **k: (attempts.append(now[0]), real(*a, **k))[1]
    )
    for second in range(0, 100):
        now[0] = float(second)
        look(datasette)
    assert attempts == [0.0, 15.0, 45.0]
    assert noted(db) == ["2"]
    counting_model.dimensions = 8
    now[0] = 200.0
    look(datasette)
    assert stored(db)["2"] == blob_of("new") and noted(db) == []


def test_paid_model_without_paid_is_logged_and_not_called(
    db, make_datasette, counting_model, caplog
):
    """It may have become a paid one after the watch was set up."""
    execute(db, "update docs set body = 'new' where id = 2")
    counting_model.price_per_million_tokens = 0.1
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    look(datasette)
    told = [r.getMessage() for r in caplog.records if "may cost money" in r.getMessage()]
    assert len(told) == 1 and "allow that with datasette embed watch --paid" in told[0]
    assert counting_model.calls == []


def test_failing_text_does_not_stop_the_others(db, make_datasette, counting_model):
    """It is recorded, and dealt with: nothing is tried again for ever."""
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    execute(db, "update docs set body = 'new ' || id")
    real = counting_model.embed_batch

    def embed_batch(batch: list[str], **options: object) -> object:
        if "new 2" in batch:
            raise ProviderError("counting", "cannot read this")
        return real(batch, **options)

    counting_model.embed_batch = embed_batch
    look(datasette)
    assert stored(db)["2"] == blob_of("text 2") and stored(db)["3"] == blob_of("new 3")
    assert noted(db) == []
    assert query(db, "select entry_id, message from _embed_failures") == [
        ("2", "counting: cannot read this")
    ]


def test_sync_in_between_and_watch_agree(db, make_datasette, counting_model):
    """A person may sync a watched collection; nothing is embedded twice."""
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    execute(db, "update docs set body = 'new' where id = 2")
    sync(db, "docs", confirm=lambda question: True)
    look(datasette)
    assert items(counting_model) == ["new"] and noted(db) == []


def watch_job(db: Path) -> tuple[int, str]:
    """Return (id, status) of the newest job of the watch."""
    sql = "select id, status from _embed_jobs where action = 'watch' order by id desc limit 1"
    return query(db, sql)[0]


@pytest.mark.parametrize("kind", ["pause", "cancel"])
def test_steered_watch_rests_and_goes_on_at_once(
    db, make_datasette, counting_model, monkeypatch, kind
):
    """However long nobody says otherwise; a sync in between changes nothing of it."""
    now = [0.0]
    monkeypatch.setattr(watcher_module, "monotonic", lambda: now[0])
    datasette = make_datasette([db], config=NEVER)
    runner = get_runner(datasette)
    look(datasette)
    number, _ = watch_job(db)
    real = counting_model.embed_batch

    def embed_batch(batch: list[str], **options: object) -> object:
        if batch == ["new"]:
            getattr(runner, kind)("a", number)
        return real(batch, **options)

    counting_model.embed_batch = embed_batch
    execute(db, "update docs set body = 'new' where id = 2")
    look(datasette)
    stopped = "paused" if kind == "pause" else "cancelled"
    assert watch_job(db) == (number, stopped) and noted(db) == ["2"]
    execute(db, "update docs set body = 'newer' where id = 3")
    for now[0] in (10_000.0, 10.0):  # the second one is before any wait would end
        look(datasette)
    assert items(counting_model) == ["new"] and watch_job(db) == (number, stopped)
    runner.sync("a", "docs")
    assert runner.wait(WAIT_SECONDS)
    assert items(counting_model) == ["new", "newer"] and watch_job(db) == (number, stopped)
    execute(db, "update docs set body = 'newest' where id = 4")
    if kind == "pause":
        job = runner.resume("a", number)
        assert (job.status, job.signature) == (JobStatus.PENDING, None)
        assert runner.wait(0)  # nobody but the watcher takes it
        assert runner.look() and runner.wait(WAIT_SECONDS)
        assert items(counting_model) == ["new", "newer"]
    else:
        with pytest.raises(JobStateError, match="there is nothing to resume"):
            runner.resume("a", number)
        watch(db)
    look(datasette)
    assert items(counting_model) == ["new", "newer", "newest"] and noted(db) == []
    assert watch_job(db)[1] == "finished"


def test_signed_job_of_a_watch_is_no_job_of_the_runner(db, make_datasette, counting_model):
    """As an earlier version left one that was resumed: it would read the whole table."""
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    execute(db, "update docs set body = 'new' where id = 2")
    execute(db, "update _embed_jobs set status = 'pending' where action = 'watch'")
    with closing(open_database(db, writable=True)) as conn:
        records = JobRecords(conn)
        job = records.get_job(watch_job(db)[0])
        record = Store(conn).get_collection("docs")
        records.set_signature(job, Site(datasette).sign(str(db), job, record))
    assert get_runner(datasette).look() and get_runner(datasette).wait(WAIT_SECONDS)
    assert counting_model.calls == [] and watch_job(db)[1] == "pending"


def test_resume_where_nobody_watches_is_refused(db, make_datasette):
    """Nobody would do it."""
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    number, _ = watch_job(db)
    execute(
        db,
        "update _embed_jobs set status = 'paused' where action = 'watch'",
        "update _embed_watches set signature = 'x'",
    )
    with pytest.raises(JobStateError, match="'docs' is not watched on this machine"):
        get_runner(datasette).resume("a", number)
    assert watch_job(db) == (number, "paused")


def test_look_frees_a_table_whose_triggers_fail(db, make_datasette, counting_model, caplog):
    """Another program dropped a table of ours; then the watch goes on."""
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    execute(db, "drop table _embed_changes")
    look(datasette)
    assert f"{db}: removed 4 triggers whose tables are gone" in caplog.text
    execute(db, "insert into docs values (9, 'nine')")
    look(datasette)
    assert stored(db)["9"] == blob_of("nine") and items(counting_model) == ["nine"]
    execute(db, "drop table _embed_changes", "drop table _embed_watches")
    look(datasette)
    execute(db, "insert into docs values (10, 'ten')")
    assert (
        query(db, "select name from sqlite_master where name like '%embed_watch!_%' escape '!'")
        == []
    )


def test_look_after_a_new_index_renews_the_triggers_once(db, make_datasette, counting_model):
    """A look at the same schema does not compare them again."""
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    execute(db, "create unique index bodies on docs (lower(body))")
    execute(db, "insert or replace into docs values (9, 'TEXT 1')")
    look(datasette)
    assert stored(db) == expected([*DOCS[1:], (9, "TEXT 1")])
    look(datasette)
    look(datasette)
    (file,) = get_watcher(datasette)._files.values()
    with closing(open_database(db)) as conn:
        assert file.schema == conn.execute("pragma schema_version").fetchone()[0]


@pytest.mark.parametrize("what", ["deleted", "no longer served"])
def test_file_lost_while_its_changes_are_embedded_ends_that(
    db, make_datasette, counting_model, caplog, what
):
    """What is embedded for a file that is gone is paid for nothing."""
    execute(db, "pragma journal_mode = wal")  # else SQLite itself refuses to write it
    datasette = make_datasette([db], config=NEVER)
    look(datasette)
    execute(db, "update docs set body = 'new ' || id")
    counting_model.batch_size = 1
    real = counting_model.embed_batch

    def embed_batch(batch: list[str], **options: object) -> object:
        if what == "deleted":
            db.unlink(missing_ok=True)
        elif "a" in datasette.databases:
            datasette.remove_database("a")
        return real(batch, **options)

    counting_model.embed_batch = embed_batch
    look(datasette)
    assert len(items(counting_model)) == 1
    if what == "deleted":
        assert "was deleted or replaced while a job wrote to it" in caplog.text
    else:
        assert watch_job(db)[1] == "pending" and len(noted(db)) == 5


async def eventually(condition: Callable[[], bool]) -> bool:
    """Wait until something another thread does has come true."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True


@pytest.mark.skipif(not hasattr(Datasette, "allowed"), reason="0.65 has other events")
def test_rows_written_over_the_api_are_embedded_at_once(db, make_datasette, counting_model):
    """Datasette 1.0 tells of them, so nobody waits for the next look."""

    async def run() -> None:
        datasette = make_datasette([db], config=NEVER)
        datasette.root_enabled = True
        await datasette.invoke_startup()
        watcher = get_watcher(datasette)
        watcher.start()
        assert await eventually(lambda: noted(db) == [])
        cookies = {"ds_actor": datasette.client.actor_cookie({"id": "root"})}
        for path, body, text in (
            ("/a/docs/-/insert", {"rows": [{"id": 9, "body": "nine"}]}, ("9", "nine")),
            ("/a/docs/-/upsert", {"rows": [{"id": 9, "body": "upserted"}]}, ("9", "upserted")),
            ("/a/docs/2/-/update", {"update": {"body": "two"}}, ("2", "two")),
            ("/a/docs/3/-/delete", {}, ("3", None)),
        ):
            response = await datasette.client.post(path, json=body, cookies=cookies)
            assert response.status_code in (200, 201), response.text
            wanted = None if text[1] is None else blob_of(text[1])
            assert await eventually(lambda w=wanted, i=text[0]: stored(db).get(i) == w), path
        await stop(datasette)

    asyncio.run(run())
    assert items(counting_model) == ["nine", "upserted", "two"]


def test_watcher_of_a_server_looks_by_itself(db, make_datasette, counting_model):
    """Every ``watch_seconds``, without any request."""

    async def run() -> None:
        datasette = make_datasette([db], config={"watch_seconds": 0.05})
        watcher = get_watcher(datasette)
        watcher.start()
        execute(db, "update docs set body = 'new' where id = 2")
        assert await eventually(lambda: stored(db)["2"] == blob_of("new"))
        await stop(datasette)
        assert await eventually(lambda: watcher._files == {})

    asyncio.run(run())
    assert items(counting_model) == ["new"]
