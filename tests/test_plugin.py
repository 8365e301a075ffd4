"""Plugin: the hooks in real Datasette instances, on whichever version is installed."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
import weakref
from html import unescape

import pytest
from datasette import hookimpl
from datasette.app import Datasette
from datasette.utils import StartupError
from datasette.utils.sqlite import sqlite3

import datasette_embed
from datasette_embed import compat, errors, executor, plugin, server, sql_functions
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel, FakeClock
from tests.storage import make_half_written

# Datasette has sqlite3 report what callbacks raise; pytest would make errors of that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

HOOKS = (
    "actor_from_request",
    "asgi_wrapper",
    "database_actions",
    "extra_body_script",
    "extra_template_vars",
    "filters_from_request",
    "hidden_search_tables",
    "hidden_tables",
    "homepage_actions",
    "jump_items_sql",
    "menu_links",
    "permission_allowed",
    "permission_resources_sql",
    "prepare_connection",
    "query_actions",
    "register_actions",
    "register_column_types",
    "register_commands",
    "register_routes",
    "render_cell",
    "row_actions",
    "shutdown",
    "skip_csrf",
    "startup",
    "table_actions",
    "top_row",
    "track_event",
    "view_actions",
)
#: The hooks they implement: two of them say something about permissions in Datasette 0.65.
IMPLEMENTED = set(HOOKS) - {"hidden_search_tables", "hidden_tables"}


async def query(datasette, sql, **params):
    """Run SQL over HTTP as JSON, and return (status, first row or error)."""
    url = compat.sql_url(datasette, "_memory", sql, {**params, "_shape": "objects"})
    response = await datasette.client.get(url.replace("?", ".json?", 1))
    body = response.json()
    return response.status_code, body["rows"][0] if body.get("rows") else body["error"]


@pytest.mark.asyncio
async def test_sql_bundled_model_answers_over_http(make_datasette):
    """It works the moment it is installed: no key, no download."""
    datasette = make_datasette()
    status, row = await query(
        datasette,
        "select llm_embed_cosine(llm_embed('minilm', :a), llm_embed('default', :b)) as near, "
        "llm_embed_cosine(llm_embed('minilm', :a), llm_embed('default', :c)) as far",
        a="a dog",
        b="a puppy",
        c="quarterly tax returns",
    )
    assert status == 200
    assert row["near"] > 0.7 > 0.3 > row["far"]


ERRORS = [
    ("select llm_embed('nope', 'x')", "Unknown model: nope. Known models: counting (count), "),
    ("select llm_embed('count', 'x', 'y')", "kind must be 'query' or 'document', not 'y'"),
    ("select llm_embed('count', 'สวัสดี')", "Use a multilingual model"),
    ("select llm_embed('count', '1 2 3 4')", "the text has 6 tokens and the model reads 5"),
    (
        "select llm_embed_cosine(x'0000803f', x'0000803f0000803f')",
        "vectors of 1 and 2 dimensions: made by different models? filter by collection_id",
    ),
    ("select llm_embed_dot('[1]', '[1, 2]')", "vectors of 1 and 2 dimensions"),
    ("select llm_embed_l2('[1]', 'x')", "a vector as text is a JSON array of numbers"),
    ("select llm_embed_decode(5)", "a vector is a BLOB of float32 or a JSON array, not integer"),
    ("select llm_embed_average(value) from json_each('[\"x\"]')", "a vector as text is a JSON"),
    ("select llm_embed_top(1, '[1]', '[1]', 0)", "k must be a positive integer"),
    ("select llm_embed_top(1, '[1]', '[1, 2]', 3)", "vectors of 1 and 2 dimensions"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("sql", "message"), ERRORS)
async def test_sql_error_message_in_html_and_json(make_datasette, counting_model, sql, message):
    """The person who wrote the SQL reads what is wrong with it."""
    counting_model.max_tokens = 5
    datasette = make_datasette()
    status, error = await query(datasette, sql)
    assert status == 400
    assert message in error
    page = await datasette.client.get(compat.sql_url(datasette, "_memory", sql))
    assert page.status_code == (200 if compat.is_version_one(datasette) else 400)
    assert message in unescape(page.text)


@pytest.mark.asyncio
async def test_sql_model_fails_its_reason_is_shown_and_not_kept(make_datasette, counting_model):
    """A foreign exception is shown by type; when the model is back, so is the answer."""
    datasette = make_datasette()
    counting_model.fails_with = RuntimeError("secret")
    status, error = await query(datasette, "select llm_embed('count', 'x')")
    assert (status, error) == (
        400,
        "counting: the model failed (RuntimeError). The log says why",
    )
    counting_model.fails_with = None
    status, _ = await query(datasette, "select llm_embed_dimensions(llm_embed('count', 'x')) as d")
    assert status == 200


@pytest.mark.asyncio
async def test_sql_model_written_for_llm_fails_its_words_are_for_the_log(
    make_datasette, add_plugin, caplog
):
    """What a provider says may hold content, paths or keys: no visitor reads it."""

    class Foreign:
        model_id = "foreign"

        def embed_batch(self, items):
            raise RuntimeError(f"key sk-123 refused for {items}")

    add_plugin(ModelsPlugin((Foreign(), ())))
    status, error = await query(
        make_datasette(config={"allow": {"foreign": True}}), "select llm_embed('foreign', 'mine')"
    )
    assert (status, error) == (400, "foreign: the model failed (RuntimeError). The log says why")
    assert "foreign: RuntimeError: key sk-123 refused for ['mine']" in caplog.text


@pytest.mark.asyncio
async def test_sql_one_slow_text_leaves_a_thread_free(make_datasette, counting_model):
    """Three visitors who ask for one text cannot stop the site."""
    counting_model.gate = threading.Event()
    datasette = make_datasette(
        config={"embed_timeout_seconds": 60}, settings={"num_sql_threads": 3}
    )
    sql = "select llm_embed_dimensions(llm_embed('count', 'slow')) as d"
    tasks = [asyncio.ensure_future(query(datasette, sql)) for _ in range(3)]
    try:
        refused, _ = await asyncio.wait(tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        answer = await asyncio.wait_for(query(datasette, "select 1 as one"), 10)
    finally:
        counting_model.gate.set()
    answers = await asyncio.gather(*tasks)
    assert answer == (200, {"one": 1})
    busy = (400, "counting: embedding model is busy, retry in a moment")
    assert [task.result() for task in refused] == [busy]
    assert sorted(answers, key=str) == [(200, {"d": 8}), (200, {"d": 8}), busy]
    assert await query(datasette, sql) == (200, {"d": 8})
    assert counting_model.calls == [["slow"]]


@pytest.mark.asyncio
async def test_sql_timeout_and_busy_are_said(make_datasette, counting_model):
    """A hanging model costs its own queries, and each is told why."""
    counting_model.gate = threading.Event()
    datasette = make_datasette(config={"embed_timeout_seconds": 0.4})
    for text in ("a", "b"):
        status, error = await query(datasette, f"select llm_embed('count', '{text}')")
        assert (status, error) == (
            400,
            "counting: no answer within 0.4 seconds, retry in a moment",
        )
    status, error = await query(datasette, "select llm_embed('count', 'c')")
    assert (status, error) == (400, "counting: embedding model is busy, retry in a moment")
    counting_model.gate.set()


@pytest.mark.asyncio
async def test_sql_no_threads_still_answers(make_datasette, counting_model):
    """Without a pool errors lack their text, and everything else works."""
    datasette = make_datasette(settings={"num_sql_threads": 0})
    status, row = await query(datasette, "select llm_embed_dimensions(llm_embed('count', 'x')) d")
    assert (status, row) == (200, {"d": 8})
    status, error = await query(datasette, "select llm_embed('nope', 'x')")
    assert (status, error) == (400, "user-defined function raised exception")


@pytest.mark.asyncio
async def test_sql_functions_on_the_write_connection(make_datasette, counting_model):
    """Writing vectors is what some will do."""
    datasette = make_datasette()
    database = datasette.add_memory_database("written")
    await database.execute_write("create table t as select llm_embed('count', 'x') as v")
    rows = await database.execute("select llm_embed_dimensions(v) from t")
    assert rows.first()[0] == 8
    with pytest.raises(sqlite3.OperationalError):
        await database.execute_write("insert into t select llm_embed('nope', 'x')")


@pytest.fixture
def clock(monkeypatch):
    """One clock for Datasette's limit and for ours, moved by the model and by being read."""
    clock = FakeClock(step=0.001)
    for module in (compat, executor, sql_functions):
        monkeypatch.setattr(module, "perf_counter", clock)
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


# 60 * 60 rows are enough for the progress handler to be asked a few dozen times.
SCAN = (
    "with input as (select llm_embed('count', :q) as e) "
    "select count(*) as n from json_each(:a), json_each(:a), input where length(e) = 32"
)
LIST = json.dumps(list(range(60)))


@pytest.mark.asyncio
async def test_time_limit_renewed_after_an_uncached_embed(
    make_datasette, counting_model, clock, monkeypatch
):
    """A model that takes longer than the limit does not kill the scan that follows."""
    counting_model.clock, counting_model.seconds = clock, 5.0
    datasette = make_datasette(settings={"sql_time_limit_ms": 1000})
    status, row = await query(datasette, SCAN, q="first", a=LIST)
    assert (status, row) == (200, {"n": 3600})
    # The same query without the renewal, so that the test above can fail.
    monkeypatch.setattr(compat, "find_time_limit", lambda: None)
    other = make_datasette(settings={"sql_time_limit_ms": 1000})
    status, error = await query(other, SCAN, q="second", a=LIST)
    assert status == 400
    assert "SQL query took too long" in error


@pytest.mark.asyncio
async def test_time_limit_heavy_query_still_stopped_after_an_embed(
    make_datasette, counting_model, clock
):
    """The fresh budget is one budget."""
    counting_model.clock, counting_model.seconds = clock, 5.0
    datasette = make_datasette(settings={"sql_time_limit_ms": 1000})
    endless = (
        "with recursive n(i) as (select length(llm_embed('count', :q)) union all "
        "select i + 1 from n) select max(i) from n"
    )
    status, error = await query(datasette, endless, q="first")
    assert status == 400
    assert "SQL query took too long" in error


@pytest.mark.asyncio
async def test_time_limit_embedding_row_after_row_is_stopped(make_datasette, counting_model, clock):
    """Each row's embed renews the limit, but not for ever: the query is told what to do."""
    counting_model.clock, counting_model.seconds = clock, 0.5
    datasette = make_datasette(settings={"sql_time_limit_ms": 1000})
    endless = (
        "with recursive n(i) as (select 1 union all "
        "select i + length(llm_embed('count', 'n' || i)) from n) select max(i) from n"
    )
    status, error = await query(datasette, endless)
    assert status == 400
    assert error == (
        "this query has been embedding texts for more than 10 seconds. Embed the table once "
        "instead, with: datasette embed create"
    )
    assert 18 <= len(counting_model.calls) <= 20  # half a second each


@pytest.mark.asyncio
async def test_time_limit_none_set_where_datasette_set_none(make_datasette, counting_model, clock):
    """A function that a plugin runs on the connection has no limit, and gets none."""
    counting_model.clock, counting_model.seconds = clock, 5.0
    datasette = make_datasette(settings={"sql_time_limit_ms": 1000})
    params = {"q": "first", "a": LIST}

    def run(connection):
        connection.execute(SCAN, params).fetchall()
        clock.advance(100)
        return connection.execute(SCAN, params).fetchone()[0]

    assert await datasette.get_database("_memory").execute_fn(run) == 3600


@pytest.mark.asyncio
async def test_time_limit_of_a_renewed_query_does_not_reach_the_next(
    make_datasette, counting_model, clock
):
    """Datasette removes the handler that we set when the statement ends."""
    counting_model.clock, counting_model.seconds = clock, 5.0
    datasette = make_datasette(settings={"sql_time_limit_ms": 1000, "num_sql_threads": 1})
    await query(datasette, SCAN, q="first", a=LIST)
    clock.advance(100)
    database = datasette.get_database("_memory")
    found = await database.execute_fn(
        lambda connection: connection.execute(SCAN, {"q": "first", "a": LIST}).fetchone()[0]
    )
    assert found == 3600


def test_site_whose_file_was_half_written_by_a_killed_program_starts(tmp_path):
    """Datasette opens files for reading, which cannot undo that: it would not start at all."""
    path = tmp_path / "killed.db"
    make_half_written(path)
    url = "/killed/t.json?_shape=array"
    run = [sys.executable, "-m", "datasette"]
    answer = subprocess.run([*run, path, "--get", url], capture_output=True, text=True)
    assert [row["x"] for row in json.loads(answer.stdout)] == ["before"], answer.stderr
    assert not path.with_name("killed.db-journal").exists()


def test_site_whose_half_written_file_is_immutable_changes_nothing(tmp_path):
    """What is served as a file that does not change is read as it is."""
    path = tmp_path / "killed.db"
    make_half_written(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    run = [sys.executable, "-m", "datasette", "-i", path, "--get", "/killed.json"]
    subprocess.run(run, capture_output=True, check=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.asyncio
async def test_prepare_connection_wins_beside_another_plugin(make_datasette, add_plugin):
    """datasette-llm-embed registers llm_embed too; ours is the last word."""

    class Other:
        @hookimpl
        def prepare_connection(self, conn):
            conn.create_function("llm_embed", 2, lambda model_id, content: "theirs")

    add_plugin(Other())
    status, row = await query(make_datasette(), "select llm_embed('minilm', '') as e")
    assert (status, row) == (200, {"e": None})


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"query_cache_bytes": "big"}, "query_cache_bytes: must be a whole number"),
        ({"qery_cache_bytes": 1}, "qery_cache_bytes: unknown setting of datasette-embed. Allowed"),
    ],
)
async def test_startup_wrong_config_stops_with_one_line(make_datasette, config, message):
    """datasette serve shows a StartupError as a line and stops."""
    with pytest.raises(StartupError, match=f"^Plugin datasette-embed: {message}"):
        await make_datasette(config=config).invoke_startup()


def test_serve_wrong_config_says_one_line(tmp_path):
    """The command itself, which on 0.65 knows nothing of a plugin's StartupError."""
    config = tmp_path / "config.json"
    config.write_text('{"plugins": {"datasette-embed": {"qery_cache_bytes": 1}}}', "utf-8")
    option = "--config" if compat.is_version_one(Datasette) else "--metadata"
    said = subprocess.run(
        [sys.executable, "-m", "datasette", "serve", option, config, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode == 1
    [line] = said.stderr.strip().splitlines()
    assert line.startswith("Error: Plugin datasette-embed: qery_cache_bytes: unknown setting")


async def serve(datasette):
    """Send what a server sends when it starts and stops."""
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message["type"])

    await datasette.invoke_startup()
    await datasette.app()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.asyncio
async def test_server_starts_warms_the_named_models(make_datasette, counting_model, caplog):
    """In the background; a name that is wrong is a line in the log."""
    await serve(make_datasette(config={"warm_models": ["nope", "count"]}))
    assert counting_model.warmed.wait(30)
    assert "the model nope could not be loaded at startup: Unknown model" in caplog.text


@pytest.mark.asyncio
async def test_server_starts_model_fails_to_warm_the_others_are(make_datasette, add_plugin, caplog):
    """A model that cannot be loaded must not stop the site, nor the others."""

    class Broken(CountingModel):
        def warm(self):
            raise RuntimeError("no weights")

    good = CountingModel("good")
    add_plugin(ModelsPlugin((Broken(), ()), (good, ())))
    await serve(make_datasette(config={"warm_models": ["counting", "good"]}))
    assert good.warmed.wait(30)
    assert "no weights" in caplog.text


@pytest.mark.asyncio
async def test_startup_without_a_server_warms_nothing(make_datasette, counting_model, monkeypatch):
    """datasette --get must not load a model, least of all while it exits."""
    started = []
    monkeypatch.setattr(server, "start_thread", lambda *args, **options: started.append(args))
    datasette = make_datasette(config={"warm_models": ["count"]})
    await datasette.invoke_startup()
    assert (await datasette.client.get("/-/embed/models.json")).status_code == 200
    assert started == []
    await serve(datasette)
    assert len(started) == 1


def test_get_limits_leaves_one_thread_free(make_datasette):
    """Queries that need no model always find a thread."""
    limits = server.get_limits(make_datasette(settings={"num_sql_threads": 5}))
    assert (limits.concurrent, limits.timeout_seconds) == (4, 10.0)
    assert server.get_limits(make_datasette(settings={"num_sql_threads": 1})).concurrent == 1
    assert server.get_limits(make_datasette(settings={"num_sql_threads": 0})).concurrent == 1


def test_prepare_connection_keeps_no_datasette_alive(counting_model):
    """A connection's functions hold their Datasette weakly."""

    class Site:  # Datasette 1.0 keeps itself alive, so not a real one
        executor = None

    site = Site()
    connection = sqlite3.connect(":memory:")
    plugin.prepare_connection(connection, site)
    reference = weakref.ref(site)
    del site
    gc.collect()
    assert reference() is None
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("select llm_embed('count', 'x')").fetchall()
    connection.close()


def test_package_has_the_hooks_and_pluggy_finds_them():
    """Datasette registers the package itself."""
    from datasette.plugins import pm

    for name in HOOKS:
        assert getattr(datasette_embed, name) is getattr(plugin, name)
    found = {caller.name for caller in pm.get_hookcallers(datasette_embed)}
    assert found == IMPLEMENTED


def test_package_lazy_names_are_all_there():
    """Each public name exists; an unknown one is an AttributeError."""
    for name in datasette_embed.__all__:
        assert getattr(datasette_embed, name) is not None
    lazy = set(datasette_embed._LAZY)
    assert set(datasette_embed.__all__) == lazy | set(HOOKS)
    # These are made and read in this package alone.
    internal = {"PaidModelError", "DatabaseLockedError"}
    classes = {name for name in vars(errors) if name.endswith("Error")} - internal
    assert set(datasette_embed._MODULES["errors"]) == classes
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        datasette_embed.__getattr__("nope")


def loaded_by(script):
    done = subprocess.run(
        [sys.executable, "-c", script + "\nimport json, sys; print(json.dumps(list(sys.modules)))"],
        capture_output=True,
        check=True,
        text=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "script",
    [
        "import datasette_embed",
        "import datasette.cli\nimport datasette_embed\nfrom datasette.plugins import pm\n"
        "if not pm.is_registered(datasette_embed): pm.register(datasette_embed)\n"
        "datasette_embed.register_commands(datasette.cli.cli)\n"
        "from click.testing import CliRunner\n"
        "assert 'embed' in CliRunner().invoke(datasette.cli.cli, ['--help']).output",
    ],
    ids=["package", "datasette"],
)
def test_import_loads_nothing_heavy(script):
    """Every datasette command imports the plugin; pluggy reads every name of it."""
    heavy = {"onnxruntime", "openai", "torch", "tokenizers", "simsimd", "numkong"}
    if "datasette.cli" not in script:
        # Datasette itself imports these: 0.65 numpy where it is installed, 1.0 sqlite-utils.
        heavy |= {"numpy", "sqlite_utils"}
    assert loaded_by(script) & heavy == set()


def test_import_package_first_hooks_are_still_registered():
    """A script that imports the package before Datasette gets the same plugin."""
    script = (
        "import datasette_embed\n"
        "from datasette.plugins import pm\n"
        "if not pm.is_registered(datasette_embed): pm.register(datasette_embed)\n"
        "names = {caller.name for caller in pm.get_hookcallers(datasette_embed)}\n"
        f"assert names == {IMPLEMENTED!r}, names\n"
        "datasette_embed.get_registry()\n"
        "assert pm.hook.register_embedding_models.has_spec()"
    )
    assert "datasette_embed" in loaded_by(script)
