"""Server: who may use a model in SQL and over HTTP, how often, and what is never shown."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback

import pytest
from datasette import Request, hookimpl
from datasette.app import Datasette

from datasette_embed import budgets, executor, server
from datasette_embed.budgets import budget_of
from datasette_embed.encoding import decode
from datasette_embed.errors import (
    BudgetExceededError,
    ModelNotAllowedError,
    ProviderError,
    TextTooLongError,
    UnreadableTextError,
)
from datasette_embed.models import EmbeddingModel, Kind
from datasette_embed.server import embed_for
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel, FakeClock, vector_of
from tests.visitors import cookies_of, run_sql

ANNA = {"id": "anna"}
ROOT = {"id": "root"}
EMBED = "select length(llm_embed('paid', :q))"
REFUSED = (400, str(ModelNotAllowedError("paid")))
IS_ONE = hasattr(Datasette, "allowed")

pytestmark = [
    pytest.mark.asyncio,
    # Datasette has sqlite3 print what a function raises.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def paid(add_plugin):
    """A model that costs money, beside one that does not."""
    model = CountingModel("paid")
    model.price_per_million_tokens = 0.02
    model.free = CountingModel()
    add_plugin(ModelsPlugin((model, ("dear",)), (model.free, ("count",))))
    return model


@pytest.fixture
def make_site(make_datasette):
    """Make a Datasette with a root user, on either version."""

    def make(**options):
        datasette = make_datasette(**options)
        datasette.root_enabled = True
        return datasette

    return make


# -- who ----------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 1, 3])
async def test_sql_paid_model_closed_to_visitors_open_to_root(make_site, paid, threads):
    """The free one answers all; the paid one is not even asked."""
    datasette = make_site(settings={"num_sql_threads": threads})
    for actor in (None, ANNA):
        status, text = await run_sql(datasette, EMBED, actor=actor, q="cat")
        assert status == 400
        # Without threads of its own the text of an error stays sqlite3's.
        assert text == REFUSED[1] if threads else "exception" in text
        free = await run_sql(datasette, "select length(llm_embed('count', 'cat'))", actor=actor)
        assert free == (200, 32)
    assert paid.calls == []
    assert await run_sql(datasette, EMBED, actor=ROOT, q="cat") == (200, 32)
    # What is cached is no less closed.
    assert (await run_sql(datasette, EMBED, q="cat"))[0] == 400


@pytest.mark.parametrize("threads", [0, 1, 3])
async def test_sql_allow_block_by_alias(make_site, paid, threads):
    """Who is allowed in config is."""
    datasette = make_site(
        config={"allow": {"dear": {"id": "anna"}}}, settings={"num_sql_threads": threads}
    )
    assert await run_sql(datasette, EMBED, actor=ANNA, q="cat") == (200, 32)
    assert (await run_sql(datasette, EMBED, q="cat"))[0] == 400
    assert (await run_sql(datasette, EMBED, actor={"id": "bob"}, q="cat"))[0] == 400


@pytest.mark.skipif(not IS_ONE, reason="Datasette 0.65 always has a root user")
@pytest.mark.parametrize("threads", [1, 3])
async def test_sql_root_of_a_site_without_one_is_anybody(make_site, paid, threads):
    """Without --root the id is one like any other."""
    datasette = make_site(settings={"num_sql_threads": threads})
    datasette.root_enabled = False
    assert (await run_sql(datasette, EMBED, actor=ROOT, q="cat"))[0] == 400
    assert paid.calls == []


async def test_sql_closed_model_refused_to_root_too(make_site, paid):
    """False means nobody."""
    datasette = make_site(config={"allow": {"paid": False, "count": False}})
    assert await run_sql(datasette, EMBED, actor=ROOT, q="cat") == REFUSED
    status, text = await run_sql(datasette, "select llm_embed('counting', 'x')")
    assert (status, text) == (400, str(ModelNotAllowedError("counting")))
    assert "have whoever runs this site open it with the setting 'allow'" in text
    assert paid.calls == paid.free.calls == []


@pytest.mark.parametrize("threads", [0, 3])
async def test_sql_interleaved_requests_each_has_its_own_actor(make_site, paid, threads):
    """Twenty at once, every second one anna's."""
    datasette = make_site(
        config={"allow": {"paid": {"id": "anna"}}}, settings={"num_sql_threads": threads}
    )
    await datasette.invoke_startup()
    actors = [ANNA if number % 2 else None for number in range(20)]
    # One text that is cached: else too many would wait for the model at once.
    assert await run_sql(datasette, EMBED, actor=ANNA, q="cat") == (200, 32)
    gate = asyncio.Semaphore(2)

    async def ask(actor):
        async with gate:
            return await run_sql(datasette, EMBED, actor=actor, q="cat")

    found = await asyncio.gather(*map(ask, actors))
    assert [status for status, _ in found] == [200 if actor else 400 for actor in actors]


class PluginThatDecides:
    """A plugin of 0.65 that has the last word on models, from the database."""

    def __init__(self, verdict):
        self.verdict = verdict

    @hookimpl(trylast=True)
    def permission_allowed(self, datasette, actor, action, resource):
        async def verdict():
            await datasette.get_database("_memory").execute("select 1")
            return self.verdict

        return verdict() if (action, resource) == ("embed-use-model", "paid") else None


@pytest.mark.skipif(IS_ONE, reason="Datasette 1.0 has no permission_allowed")
@pytest.mark.parametrize(("verdict", "status"), [(True, 200), (False, 400), (None, 400)])
async def test_sql_another_plugin_has_the_last_word(make_site, paid, add_plugin, verdict, status):
    """It grants and it denies; its own query gets a thread while ours waits for it."""
    add_plugin(PluginThatDecides(verdict))
    assert (await run_sql(make_site(), EMBED, actor=ANNA, q="cat"))[0] == status
    assert len(paid.calls) == (status == 200)


@pytest.mark.skipif(not IS_ONE, reason="permissions in config came with Datasette 1.0")
async def test_sql_permissions_of_config_grant(make_site, paid):
    """``permissions:`` of datasette.yaml names our action like any other."""
    site = {"permissions": {"embed-use-model": {"id": "anna"}}}
    datasette = make_site(site=site)
    assert await run_sql(datasette, EMBED, actor=ANNA, q="cat") == (200, 32)
    assert (await run_sql(datasette, EMBED, q="cat"))[0] == 400


class OtherPlugin:
    """A plugin that may have a say about any permission, and here has none."""

    if IS_ONE:

        @hookimpl
        def permission_resources_sql(self, datasette, actor, action):
            return None

    else:

        @hookimpl
        def permission_allowed(self, datasette, actor, action, resource):
            return None


async def test_sql_permission_asked_once_a_request(make_site, paid, monkeypatch, add_plugin):
    """Not once a row."""
    add_plugin(OtherPlugin())
    asked = []
    original = server.access.may_use_model

    async def counted(datasette, actor, model_id):
        asked.append(model_id)
        return await original(datasette, actor, model_id)

    monkeypatch.setattr(server.access, "may_use_model", counted)
    sql = "select max(length(llm_embed('count', value))) from json_each('[1, 2, 3, 1]')"
    assert await run_sql(make_site(), sql) == (200, 32)
    assert set(asked) == {"counting"} and len(asked) <= 2  # 1.0 may run a query twice


@pytest.mark.parametrize("clients", [12, 40])
async def test_sql_many_at_once_of_a_fast_model_none_refused(make_site, paid, clients, monkeypatch):
    """Nobody but config has a say: no thread waits for an answer, cached or not."""
    # On a machine busy with other tests even a fast model may take its time.
    monkeypatch.setattr("datasette_embed.query_embeddings.GRACE_SECONDS", 10)
    datasette = make_site(
        config={"allow": {"paid": True}, "calls_per_minute": 999, "calls_per_minute_total": 999}
    )
    await datasette.invoke_startup()
    for model in ("count", "paid"):
        sql = f"select length(llm_embed('{model}', :q))"
        for texts in ([f"{model} {n}" for n in range(clients)], ["same"] * clients):
            found = await asyncio.gather(*(run_sql(datasette, sql, q=text) for text in texts))
            assert found == [(200, 32)] * clients


async def test_sql_all_threads_would_wait_for_permission_busy(
    make_site, paid, monkeypatch, add_plugin
):
    """One thread is left for the answer."""
    add_plugin(OtherPlugin())
    datasette = make_site()
    monkeypatch.setitem(server._asking, datasette, 2)
    status, text = await run_sql(datasette, "select llm_embed('count', 'x')")
    assert (status, text) == (400, "counting: embedding model is busy, retry in a moment")
    assert server._asking[datasette] == 2


RESTRICTED = {**ROOT, "_r": {"a": ["vi", "vd", "es", "view-instance", "execute-sql"]}}


@pytest.mark.parametrize("threads", [0, 1])
async def test_sql_restricted_token_on_the_only_thread_free_models_only(make_site, paid, threads):
    """What the token is restricted to cannot be looked up there."""
    datasette = make_site(settings={"num_sql_threads": threads})
    status, text = await run_sql(datasette, EMBED, actor=RESTRICTED, q="cat")
    assert status == 400
    if threads:
        assert "the token's restrictions" in text and "num_sql_threads below 2" in text
    assert paid.calls == []
    sql = "select length(llm_embed('count', 'x'))"
    assert await run_sql(datasette, sql, actor=RESTRICTED) == (200, 32)


@pytest.mark.skipif(not IS_ONE, reason="permissions in config came with Datasette 1.0")
@pytest.mark.parametrize("threads", [0, 1])
async def test_sql_permissions_of_config_on_the_only_thread_refused(make_site, paid, threads):
    """What they say cannot be looked up there, so nobody is let in by guess."""
    datasette = make_site(
        site={"permissions": {"embed-use-model": {"id": "anna"}}},
        settings={"num_sql_threads": threads},
    )
    for sql in (EMBED, "select length(llm_embed('count', :q))"):
        status, text = await run_sql(datasette, sql, q="cat")
        assert status == 400
        if threads:
            assert "the site's permissions" in text and "num_sql_threads below 2" in text
    assert paid.calls == paid.free.calls == []


async def test_sql_view_or_link_opened_by_root_spends_a_budget(make_site, paid):
    """Whoever wrote the link, or the file with the view, does not spend root's money."""
    datasette = make_site(config={"calls_per_request": 3})
    many = "select count(llm_embed('paid', value)) from json_each('[1, 2, 3, 4, 5, 6]')"
    status, text = await run_sql(datasette, many, actor=ROOT)
    assert status == 400 and "texts to embed for one request: 4 is over the limit of 3" in text
    assert len(paid.calls) <= 6  # 1.0 may run a query twice
    assert await run_sql(datasette, many.replace("paid", "count"), actor=ROOT) == (200, 6)


@pytest.mark.parametrize("actor", [None, ROOT])
async def test_sql_without_the_executor_wrapper_paid_model_refused(
    make_site, paid, monkeypatch, actor
):
    """Datasette has changed: what cannot be seen is not guessed, and nothing is spent."""
    monkeypatch.setattr(executor.contextvars, "copy_context", _EmptyContext)
    datasette = make_site()
    assert await run_sql(datasette, EMBED, actor=actor, q="cat") == REFUSED
    assert paid.calls == []
    assert await run_sql(datasette, "select length(llm_embed('count', 'x'))") == (200, 32)


def _EmptyContext():
    """Return a context in which nothing is set, as a pool thread has it by itself."""
    from contextvars import Context

    return Context()


async def test_sql_executor_not_wrapped_at_all_paid_model_refused(make_site, paid, monkeypatch):
    """The same with Datasette's own executor; the text of the error is sqlite3's then."""
    for module in (server, executor):
        monkeypatch.setattr(module, "wrap_executor", lambda datasette: None)
    monkeypatch.setattr("datasette_embed.sql_functions.wrap_executor", lambda datasette: None)
    datasette = make_site()
    assert not hasattr(datasette.executor, "datasette_embed_submit")
    status, text = await run_sql(datasette, EMBED, q="cat")
    assert (status, text) == (400, "user-defined function raised exception")
    if not IS_ONE:  # which carries the context itself
        assert (await run_sql(datasette, EMBED, actor=ROOT, q="cat"))[0] == 400
    assert paid.calls == []
    assert await run_sql(datasette, "select length(llm_embed('count', 'x'))") == (200, 32)


@pytest.mark.parametrize("threads", [0, 3])
async def test_sql_request_unknown_paid_model_refused(make_site, paid, monkeypatch, threads):
    """Nobody noted the request, though config opens the model to all."""
    monkeypatch.setattr(budgets, "note_request", lambda request: None)
    datasette = make_site(config={"allow": {"paid": True}}, settings={"num_sql_threads": threads})
    assert (await run_sql(datasette, EMBED, actor=ROOT, q="cat"))[0] == 400
    assert paid.calls == []
    assert await run_sql(datasette, "select length(llm_embed('count', 'x'))") == (200, 32)


async def test_sql_outside_a_request_paid_model_refused(make_site, paid):
    """Neither the server's own queries nor its writes spend anything."""
    datasette = make_site(config={"allow": {"paid": True}})
    await datasette.invoke_startup()
    database = datasette.get_database("_memory")
    with pytest.raises(Exception, match="You may not use the model paid here"):
        await database.execute(EMBED, {"q": "x"})
    with pytest.raises(Exception, match="user-defined function raised exception"):
        await database.execute_write_fn(lambda conn: conn.execute(EMBED, {"q": "x"}).fetchall())
    assert paid.calls == []


# -- how often ----------------------------------------------------------------------

ROWS = "select count(llm_embed('count', value)) from json_each(:q)"


async def test_sql_budget_of_a_request_cached_texts_are_free(make_site, paid):
    """Three texts of one request, the fourth is refused; what is cached costs nothing."""
    datasette = make_site(config={"calls_per_request": 3})
    assert await run_sql(datasette, ROWS, q="[1, 2, 3, 1, 2]") == (200, 5)
    assert await run_sql(datasette, ROWS, q="[1, 2, 3]") == (200, 3)
    status, text = await run_sql(datasette, ROWS, q="[1, 4, 5, 6, 7]")
    assert status == 400
    assert text.startswith("texts to embed for one request: 4 is over the limit of 3. To search")
    assert "datasette embed create" in text
    assert paid.free.calls == [[str(number)] for number in range(1, 7)]
    assert await run_sql(datasette, ROWS, actor=ROOT, q="[10, 11, 12, 13, 14]") == (200, 5)


async def test_sql_and_http_one_budget_a_minute(make_site, paid):
    """Both count into the same minute of the same visitor, and it slides on."""
    datasette = make_site(config={"calls_per_minute": 2})
    clock = budget_of(datasette).clock = FakeClock()
    assert await run_sql(datasette, ROWS, actor=ANNA, q="[1]") == (200, 1)
    await embed_for(datasette, request_of(ANNA), paid.free, ["2"])
    with pytest.raises(BudgetExceededError, match="for you in a minute: 3 is over") as caught:
        await embed_for(datasette, request_of(ANNA), paid.free, ["3"])
    assert caught.value.retry_after_seconds == 60
    assert (await run_sql(datasette, ROWS, actor=ANNA, q="[3]"))[0] == 400
    assert await run_sql(datasette, ROWS, q="[3]") == (200, 1)  # somebody else
    clock.advance(60)
    assert await run_sql(datasette, ROWS, actor=ANNA, q="[4]") == (200, 1)


async def test_sql_long_text_refused_to_visitors(make_site, paid):
    """What is searched for is short; root may still embed an article."""
    datasette = make_site(config={"query_characters": 5})
    sql = "select length(llm_embed('count', :q))"
    status, text = await run_sql(datasette, sql, q="123456")
    assert status == 400
    assert text.startswith("counting: the text is 6 characters long, and may have at most 5 here")
    assert "Shorten it with substr()" in text
    assert await run_sql(datasette, sql, q="12345") == (200, 32)
    assert await run_sql(datasette, sql, actor=ROOT, q="123456") == (200, 32)


# -- embed_for ----------------------------------------------------------------------


def request_of(actor=None):
    return Request({"type": "http", "headers": [], "client": ("1.1.1.1", 1), "actor": actor}, None)


async def test_embed_for_blobs_in_order_and_cached_for_sql(make_site, paid):
    """One call for all of them, each text once, shared with SQL."""
    datasette = make_site()
    await datasette.invoke_startup()
    blobs = await embed_for(datasette, request_of(), paid.free, ["b", "a", "b"])
    expected = [vector_of(text, Kind.QUERY) for text in ("b", "a", "b")]
    assert [decode(blob) for blob in blobs] == [pytest.approx(vector) for vector in expected]
    assert paid.free.calls == [["b", "a"]]
    assert await run_sql(datasette, "select length(llm_embed('count', 'a'))") == (200, 32)
    assert len(paid.free.calls) == 1


async def test_embed_for_refusals_before_anything_is_embedded(make_site, paid):
    """Of a list with one bad text none is paid for."""
    datasette = make_site(config={"query_characters": 5, "calls_per_request": 2})
    await datasette.invoke_startup()
    for model, items, expected in (
        (paid, ["x"], ModelNotAllowedError),
        (paid.free, ["x", "123456"], TextTooLongError),
        (paid.free, ["x", " "], UnreadableTextError),
        (paid.free, ["1", "2", "3"], BudgetExceededError),
    ):
        with pytest.raises(expected):
            await embed_for(datasette, request_of(), model, items)
    assert paid.calls == paid.free.calls == []
    sent = request_of(ROOT)
    sent.scope["method"] = "POST"
    assert len(await embed_for(datasette, sent, paid, ["1", "2", "3"])) == 3


async def test_embed_for_does_not_use_datasettes_threads(make_site, paid):
    """While a model hangs, plain queries are answered, and so is SQL with another text."""
    import threading

    datasette = make_site()
    await datasette.invoke_startup()
    paid.free.gate = threading.Event()
    slow = [
        asyncio.ensure_future(embed_for(datasette, request_of(), paid.free, [str(number)]))
        for number in range(3)
    ]
    while len(paid.free.calls) < 3 and not any(task.done() for task in slow):
        await asyncio.sleep(0.001)
    assert await run_sql(datasette, "select 1") == (200, 1)
    paid.free.gate.set()
    assert [len(blobs) for blobs in await asyncio.gather(*slow)] == [1, 1, 1]


# -- keys ---------------------------------------------------------------------------

KEY = "sk-secret/0123456789"


class LeakyModel(EmbeddingModel):
    """Puts its key into everything it raises, three deep."""

    model_id, needs_key, dimensions = "leaky", "leak", 8
    used: list = []

    def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
        used = self.get_key(key)
        self.used.append(used)
        try:
            try:
                raise ConnectionError(f"401 for Authorization: Bearer {used}")
            except ConnectionError as error:
                raise ValueError(f"refused {used}") from error
        except ValueError as error:
            raise RuntimeError(f"failed with {used}") from error


@pytest.fixture
def leaky(add_plugin, monkeypatch):
    monkeypatch.setattr(LeakyModel, "used", [])
    model = LeakyModel()
    add_plugin(ModelsPlugin((model, ())))
    return model


@pytest.mark.parametrize("config", [{"keys": {"leak": KEY}}, {"keys_leak": KEY}])
async def test_key_of_config_used_and_never_shown(make_site, leaky, caplog, capsys, config):
    """Not in the page, the JSON, the log with its tracebacks, or what sqlite3 prints."""
    datasette = make_site(config={**config, "allow": {"leaky": True}})
    with caplog.at_level(logging.DEBUG):
        sql = "select llm_embed('leaky', 'x')"
        status, text = await run_sql(datasette, sql)
        page = await datasette.client.get(
            "/_memory/-/query" if IS_ONE else "/_memory", params={"sql": sql}
        )
        with pytest.raises(ProviderError) as caught:
            await embed_for(datasette, request_of(), leaky, ["x"])
    assert leaky.used and set(leaky.used) == {KEY}
    assert leaky.key is None
    assert (status, text.partition("(")[0]) == (400, "leaky: the model failed ")
    formatted = "".join(traceback.format_exception(caught.value))
    printed = capsys.readouterr()
    logged = caplog.text + "".join(
        "".join(traceback.format_exception(*record.exc_info))
        for record in caplog.records
        if record.exc_info
    )
    for shown in (text, page.text, formatted, repr(caught.value), caught.value.detail, logged):
        assert KEY not in shown
    assert KEY not in printed.err and KEY not in printed.out
    assert "RuntimeError" in logged


@pytest.mark.parametrize("path", ["metadata", "config", "plugins", "settings", "versions"])
@pytest.mark.parametrize("form", ["nested", "flat"])
async def test_key_from_the_environment_in_no_page_of_datasette(
    make_site, leaky, monkeypatch, path, form
):
    """``$env`` is shown by its name at most."""
    monkeypatch.setenv("LEAK_KEY", KEY)
    value = {"$env": "LEAK_KEY"}
    datasette = make_site(
        config={"keys": {"leak": value}} if form == "nested" else {"keys_leak": value}
    )
    await datasette.invoke_startup()
    assert budgets.key_for(datasette, leaky) == KEY
    response = await datasette.client.get(f"/-/{path}.json", cookies=cookies_of(datasette, ROOT))
    assert KEY not in response.text


@pytest.mark.parametrize("config", [{"keys": {"leak": KEY}}, {"keys_leak": KEY}])
async def test_start_plain_key_in_public_metadata_warned_of(make_site, leaky, caplog, config):
    """0.65 shows it to everybody; 1.0 shows it to nobody."""
    datasette = make_site(config=config)
    with caplog.at_level(logging.WARNING):
        await datasette.invoke_startup()
    warned = [record.message for record in caplog.records if "API key in keys" in record.message]
    assert len(warned) == (0 if IS_ONE else 1)
    assert all('"$env"' in line and ("keys.leak" in line or "keys_leak" in line) for line in warned)
    assert KEY not in caplog.text
    for path in ("config", "plugins", "metadata") if IS_ONE else ():
        response = await datasette.client.get(
            f"/-/{path}.json", cookies=cookies_of(datasette, ROOT)
        )
        assert KEY not in json.dumps(response.json())


async def test_start_key_in_the_environment_not_warned_of(make_site, leaky, caplog, monkeypatch):
    """Both forms of the right way are silent."""
    monkeypatch.setenv("LEAK_KEY", KEY)
    for config in ({"keys": {"leak": {"$env": "LEAK_KEY"}}}, {"keys_leak": {"$env": "LEAK_KEY"}}):
        with caplog.at_level(logging.WARNING):
            await make_site(config=config).invoke_startup()
    assert "API key" not in caplog.text


async def test_start_unknown_name_in_allow_warned_of(make_site, paid, caplog):
    """A typing error would leave open what it should close."""
    with caplog.at_level(logging.WARNING):
        await make_site(config={"allow": {"piad": False}}).invoke_startup()
    assert "allow: there is no model 'piad'" in caplog.text
