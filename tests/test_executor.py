"""Executor: the message of a SQL function's error reaches whoever ran the query."""

from __future__ import annotations

import gc
import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from datasette.utils.sqlite import sqlite3

from datasette_embed.compat import is_version_one
from datasette_embed.errors import EmbedError
from datasette_embed.executor import (
    GENERIC_MESSAGE,
    current_call,
    record_error,
    reports_errors,
    wrap_executor,
)

# Datasette has sqlite3 report what callbacks raise; pytest would make errors of that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@reports_errors
def complain(message):
    raise EmbedError(message)


def break_down(_value):
    raise OverflowError("secret")


class Failing:
    """An aggregate whose step fails."""

    def step(self, value):
        complain(value)

    def finalize(self):
        return None


@pytest.fixture
def datasette():
    """All that the wrapper looks at, with one thread so that one call follows the other."""
    with ThreadPoolExecutor(1) as pool:
        fake = SimpleNamespace(executor=pool)
        wrap_executor(fake)
        yield fake


def run(datasette, sql):
    def query():
        connection = sqlite3.connect(":memory:")
        try:
            connection.create_function("complain", 1, complain)
            connection.create_function("broken", 1, reports_errors(break_down, "broken"))
            connection.create_function("foreign", 1, break_down)
            connection.create_function("plain", 0, lambda: 1 / 0)
            connection.create_aggregate("failing", 1, Failing)
            return connection.execute(sql).fetchone()[0]
        finally:
            connection.close()

    return datasette.executor.submit(query).result()


@pytest.mark.parametrize("sql", ["select complain('too long')", "select failing('too long')"])
def test_wrap_executor_message_replaces_the_generic_one(datasette, sql):
    """For scalars and for aggregates."""
    with pytest.raises(sqlite3.OperationalError, match="^too long$"):
        run(datasette, sql)


def test_wrap_executor_message_does_not_outlive_its_query(datasette):
    """The next query on the same thread fails with its own text."""
    with pytest.raises(sqlite3.OperationalError, match="^too long$"):
        run(datasette, "select complain('too long')")
    with pytest.raises(sqlite3.OperationalError, match="^user-defined function raised exception$"):
        run(datasette, "select plain()")


def test_wrap_executor_other_errors_keep_their_text(datasette):
    """Only the generic text is replaced."""

    def query():
        record_error(EmbedError("not this"))
        raise sqlite3.OperationalError("no such table: t")

    with pytest.raises(sqlite3.OperationalError, match="^no such table: t$"):
        datasette.executor.submit(query).result()


def test_reports_errors_unexpected_logged_and_shown_by_type(datasette, caplog):
    """The text of a foreign exception may hold what nobody should read."""
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(sqlite3.OperationalError, match="^internal error in broken: OverflowError"),
    ):
        run(datasette, "select broken(1)")
    assert "secret" in caplog.text
    assert "Traceback" in caplog.text


def test_wrap_executor_twice_wraps_once(datasette):
    """prepare_connection calls it for every connection."""
    submit = datasette.executor.submit
    wrap_executor(datasette)
    assert datasette.executor.submit is submit


def test_wrap_executor_arguments_and_results_pass_through(datasette):
    """It stays the submit that it was."""
    future = datasette.executor.submit(lambda a, *, b: (a, b), 1, b=2)
    assert future.result() == (1, 2)


@pytest.mark.parametrize(
    ("code", "failures", "calls"), [(776, 1, 2), (776, 2, 2), (8, 1, 1), (None, 1, 2)]
)
def test_wrap_executor_rollback_of_another_read_again_once(datasette, code, failures, calls):
    """SQLite takes it for a killed program's; what it says of a real write stays."""
    called = []

    def read():
        called.append(1)
        if len(called) <= failures:
            error = sqlite3.OperationalError("attempt to write a readonly database")
            if code:
                error.sqlite_errorcode = code
            raise error
        return "rows"

    future = datasette.executor.submit(read)
    if failures < calls:
        assert future.result(30) == "rows"
    else:
        with pytest.raises(sqlite3.OperationalError, match="readonly database"):
            future.result(30)
    assert len(called) == calls


def test_wrap_executor_no_pool_or_another_object_is_survived(caplog):
    """num_sql_threads=0, and a Datasette of the future: only the nicer text is lost."""
    wrap_executor(SimpleNamespace(executor=None))
    assert not caplog.records
    wrap_executor(SimpleNamespace())
    wrap_executor(SimpleNamespace(executor=SimpleNamespace()))
    assert len(caplog.records) == 2


def test_current_call_inside_only(datasette):
    """Each submitted call has its own; outside there is none."""
    assert current_call() is None
    first = datasette.executor.submit(current_call).result()
    second = datasette.executor.submit(current_call).result()
    assert first is not None
    assert first is not second
    assert datasette.executor.datasette_embed_submit(current_call).result() is None


def test_generic_message_is_what_this_python_says():
    """If sqlite3 changes its words, this fails before users see less."""
    connection = sqlite3.connect(":memory:")
    connection.create_function("plain", 0, lambda: 1 / 0)
    connection.create_aggregate("failing", 1, Failing)
    for sql in ("select plain()", "select failing('x')"):
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute(sql).fetchone()
        assert GENERIC_MESSAGE.fullmatch(str(caught.value))
    connection.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "sql",
    ["select llm_embed('nope', 'text')", "select nothing from nowhere", "select llm_embed_add(1)"],
)
async def test_failed_query_leaves_no_cursor_to_the_garbage_collector(make_datasette, sql):
    """A cursor freed by the collector in another thread would wait for its connection."""
    site = make_datasette()
    await site.invoke_startup()
    page = "/_memory/-/query.json" if is_version_one(site) else "/_memory.json"
    await site.client.get(page, params={"sql": "select 1"})
    gc.collect()
    gc.disable()
    try:
        before = count_cursors()
        for _ in range(5):
            response = await site.client.get(page, params={"sql": sql})
            assert not response.json()["ok"]
        assert count_cursors() <= before  # fewer, where another thread has let some go
    finally:
        gc.enable()


def count_cursors():
    # By type(): some objects of torch answer a look at their __class__ with a warning.
    return sum(issubclass(type(thing), sqlite3.Cursor) for thing in gc.get_objects())
