"""Budgets: who may call which model, how often; without a server."""

from __future__ import annotations

import threading

import pytest
from datasette import Request

from datasette_embed.budgets import (
    TRUSTED,
    Budget,
    Visit,
    admission_of,
    budget_of,
    current_request,
    current_visit,
    is_free,
    is_open,
    key_for,
    note_request,
    unused_names,
    visiting,
    visitor_of,
)
from datasette_embed.errors import BudgetExceededError, TextTooLongError
from datasette_embed.providers.adapted import AdaptedModel
from datasette_embed.settings import Settings
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel, FakeClock, LlmStyleModel

ANNA = {"id": "anna"}
ROOT = {"id": "root"}


def visit_of(actor=None, *, client=("10.0.0.1", 1), headers=()):
    """Return the visit of a request that has arrived."""
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "headers": pairs, "client": client, "actor": actor}
    return Visit(None, Request(scope, None))


@pytest.fixture
def paid(add_plugin):
    """A model that costs money, with the alias ``dear``."""
    model = CountingModel("paid")
    model.needs_key, model.is_local = "service", False
    add_plugin(ModelsPlugin((model, ("dear",))))
    return model


def test_is_free_only_local_without_price_and_key():
    """A model that says nothing, as LLM's do, is not free."""
    assert is_free(CountingModel())
    for name, value in [
        ("price_per_million_tokens", 0.02),
        ("needs_key", "k"),
        ("is_local", False),
    ]:
        model = CountingModel()
        setattr(model, name, value)
        assert not is_free(model), name
    assert not is_free(AdaptedModel(LlmStyleModel()))


@pytest.mark.parametrize(
    ("allow", "nobody", "anna", "root"),
    [
        ({}, False, False, True),
        ({"paid": True}, True, True, True),
        ({"dear": {"id": ["anna"]}}, False, True, True),
        ({"dear": {"id": "*"}}, False, True, True),
        ({"dear": {}}, False, False, True),
        ({"dear": False}, False, False, False),
        ({"paid": True, "dear": False}, False, False, False),
        ({"counting": True}, False, False, True),
    ],
)
def test_is_open_paid_model_by_config(make_datasette, paid, allow, nobody, anna, root):
    """Closed, unless config opens it, under any of its names; false closes it to root too."""
    datasette = make_datasette(config={"allow": allow})
    found = tuple(is_open(datasette, "paid", actor) for actor in (None, ANNA, ROOT))
    assert found == (nobody, anna, root)


def test_is_open_free_model_until_config_closes_it(make_datasette, counting_model):
    """The bundled one costs nothing, and a site may still keep it for some."""
    assert is_open(make_datasette(), "counting", None)
    closed = make_datasette(config={"allow": {"count": {"id": "anna"}}})
    assert not is_open(closed, "counting", None)
    assert is_open(closed, "counting", ANNA) and is_open(closed, "counting", ROOT)
    assert not is_open(closed, "nobody's model", ROOT)


def test_is_open_allow_of_a_registered_model(make_datasette):
    """An entry of ``models`` may say who."""
    entry = {"provider": "sentence-transformers", "model": "a/b", "allow": False}
    datasette = make_datasette(config={"models": [entry]})
    assert not is_open(datasette, "sentence-transformers/a/b", ROOT)


def test_unused_names_known_names_are_said(make_datasette, paid):
    """A typing error in ``allow`` would leave open what it should close."""
    config = {"allow": {"paid": False, "piad": False}, "keys": {"service": "k-1234", "opnai": "x"}}
    first, second = unused_names(make_datasette(config=config))
    assert first.startswith("allow: there is no model 'piad'") and "paid (dear)" in first
    assert second == "keys: no model here needs the key 'opnai'"


def test_key_for_id_before_name_nested_or_flat(make_datasette, paid):
    """Config for one model counts before config for all that need the same key."""
    assert key_for(make_datasette(), paid) is None
    assert key_for(make_datasette(config={"keys": {"service": "for-all"}}), paid) == "for-all"
    assert key_for(make_datasette(config={"keys_service": "for-all"}), paid) == "for-all"
    both = make_datasette(config={"keys": {"service": "for-all", "paid": "for-it"}})
    assert key_for(both, paid) == "for-it"
    assert key_for(both, CountingModel()) is None
    assert "for-" not in repr(Settings(keys={"a": "for-it"}))


SETTINGS = Settings(calls_per_request=3, calls_per_minute=4, calls_per_minute_total=6)


def test_budget_per_request_waiting_does_not_help():
    """The limit of one request has no time after which it is over."""
    budget, visit = Budget(FakeClock()), visit_of()
    for _ in range(3):
        budget.spend(visit, "a", SETTINGS)
    with pytest.raises(BudgetExceededError, match="for one request: 4 is over the limit of 3") as e:
        budget.spend(visit, "a", SETTINGS)
    assert (e.value.limit, e.value.used, e.value.retry_after_seconds) == (3, 4, None)
    assert "datasette embed create" in e.value.in_sql
    assert str(e.value).endswith("limit of 3. Send at most 3 texts a request")
    budget.spend(visit_of(), "a", SETTINGS)


def test_budget_per_visitor_window_slides():
    """A call counts for a minute, not until the next full one; a refused one does not."""
    clock = FakeClock()
    budget = Budget(clock)
    for _ in range(4):
        budget.spend(visit_of(), "a", SETTINGS)
        clock.advance(10)
    with pytest.raises(BudgetExceededError, match="for you in a minute: 5 is over the") as caught:
        budget.spend(visit_of(), "a", SETTINGS)
    assert caught.value.retry_after_seconds == 20
    budget.spend(visit_of(), "b", SETTINGS)
    clock.advance(20)
    budget.spend(visit_of(), "a", SETTINGS)
    with pytest.raises(BudgetExceededError, match="for you"):
        budget.spend(visit_of(), "a", SETTINGS)


def test_budget_total_bounds_all_visitors_and_the_memory():
    """A thousand addresses are one crowd."""
    clock = FakeClock()
    budget = Budget(clock)
    for number in range(6):
        budget.spend(None, f"v{number}", SETTINGS)
    for number in range(100):
        with pytest.raises(BudgetExceededError, match="for all visitors in a minute: 7 is over"):
            budget.spend(None, f"w{number}", SETTINGS)
    assert len(budget._calls) == len(budget._of_visitor) == 6
    clock.advance(60)
    budget.spend(None, "x", SETTINGS)
    assert len(budget._calls) == len(budget._of_visitor) == 1


def test_budget_check_counts_nothing():
    """To ask is free."""
    budget, visit = Budget(FakeClock()), visit_of()
    budget.check(visit, "a", SETTINGS, 3)
    with pytest.raises(BudgetExceededError, match="4 is over the limit of 3"):
        budget.check(visit, "a", SETTINGS, 4)
    assert visit.calls == 0 and not budget._calls


def test_budget_threads_at_once_not_one_too_many():
    """Check and count are one step."""
    budget, done = Budget(FakeClock()), []
    settings = Settings(calls_per_request=1, calls_per_minute=50, calls_per_minute_total=50)

    def spend():
        for _ in range(20):
            try:
                budget.spend(visit_of(), "a", settings)
            except BudgetExceededError:
                continue
            done.append(1)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 50


@pytest.mark.parametrize(
    ("visit", "header", "name"),
    [
        (None, None, "unknown"),
        (visit_of(ANNA), None, "actor anna"),
        (visit_of({"name": "no id"}), None, "address 10.0.0.1"),
        (visit_of(client=None), None, "address "),
        (visit_of(headers=[("x-real-ip", "1.2.3.4")]), None, "address 10.0.0.1"),
        (visit_of(headers=[("x-real-ip", "1.2.3.4")]), "X-Real-IP", "address 1.2.3.4"),
        (visit_of(headers=[("f", "1.2.3.4:5001")]), "F", "address 1.2.3.4"),
        (visit_of(headers=[("f", "[2001:db8::1]:443")]), "F", "address 2001:db8::/64"),
        (visit_of(headers=[("f", "[2001:db8::1]")]), "F", "address 2001:db8::/64"),
        (visit_of(headers=[("f", "2001:db8::1")]), "F", "address 2001:db8::/64"),
        (visit_of(headers=[("f", "6.6.6.6, 1.2.3.4")]), "F", "address 1.2.3.4"),
        (visit_of(), "X-Real-IP", "address 10.0.0.1"),
        (visit_of(client=("2001:db8:1:2:3::4", 1)), None, "address 2001:db8:1:2::/64"),
        (visit_of(client=("::ffff:10.0.0.1", 1)), None, "address 10.0.0.1"),
        (visit_of(headers=[("f", "x" * 500)]), "f", "address " + "x" * 100),
    ],
)
def test_visitor_of_actor_then_address(visit, header, name):
    """A visitor chooses neither a header nor the half of an IPv6 address to be somebody new."""
    assert visitor_of(visit, header) == name


def test_admission_of_root_without_limits_others_with(make_datasette, paid):
    """Everybody's calls cost the same money; root's are root's."""
    datasette = make_datasette(config={"keys": {"paid": "the-key"}, "query_characters": 3})
    datasette.root_enabled = True
    root = admission_of(datasette, paid, visit_of(ROOT), is_sent=True)
    assert (root.key, root.characters, root.spend) == ("the-key", None, None)
    root.check_length(paid, "a" * 1000)
    anna = admission_of(datasette, paid, visit_of(ANNA))
    anna.check_length(paid, "abc")
    anna.check_length(paid, b"abcd")
    with pytest.raises(TextTooLongError, match="4 characters long, and may have at most 3 here"):
        anna.check_length(paid, "abcd")
    anna.spend()
    assert budget_of(datasette)._of_visitor == {"actor anna": 1}
    assert TRUSTED.spend is None and TRUSTED.characters is None


def test_admission_of_root_in_sql_only_what_is_free_has_no_limits(make_datasette, paid):
    """A link somebody sent, or a view in their file, must not spend root's money."""
    datasette = make_datasette(config={"calls_per_request": 2})
    datasette.root_enabled = True
    assert admission_of(datasette, CountingModel(), visit_of(ROOT)).spend is None
    admission = admission_of(datasette, paid, visit_of(ROOT))
    admission.spend()
    admission.spend()
    with pytest.raises(BudgetExceededError, match="3 is over the limit of 2"):
        admission.spend()


def test_budget_more_than_a_minute_allows_waiting_does_not_help():
    """Who is told to wait and try again would be refused again."""
    settings = Settings(calls_per_request=9, calls_per_minute=4, calls_per_minute_total=9)
    for count, seconds in ((4, 60), (5, None)):
        budget = Budget(FakeClock())
        budget.spend(None, "a", settings)
        with pytest.raises(BudgetExceededError, match="for you in a minute") as caught:
            budget.check(None, "a", settings, count)
        assert caught.value.retry_after_seconds == seconds


def test_is_open_default_deny_only_what_config_opens(make_datasette, counting_model):
    """Datasette 1.0 started with ``--default-deny``; root may all the same."""
    for config, expected in (({}, False), ({"allow": {"count": True}}, True)):
        datasette = make_datasette(config=config)
        datasette.default_deny = True
        assert is_open(datasette, "counting", None) is expected
        assert is_open(datasette, "counting", ROOT)


@pytest.mark.asyncio
async def test_visiting_inside_another_is_its_own_and_ends():
    """A request that the server makes itself does not leak, and no task outlives its visit."""
    note_request(visit_of().request)
    assert current_visit() is None
    with visiting() as outer:
        assert current_visit() is None  # nobody has said yet who asks
        first = visit_of(ROOT).request
        note_request(first)
        with visiting() as inner:
            assert current_request() is None
            note_request(visit_of(ANNA).request)
            assert current_visit() is inner and inner.actor == ANNA
        assert current_visit() is outer and current_request() is first
        outer.is_over = True
        assert current_visit() is None
    assert current_request() is None
