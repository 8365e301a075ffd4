"""What a new collection takes, as its page says it: counted, kept, seen before it is paid."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlencode

import pytest
from bs4 import BeautifulSoup

from datasette_embed.database import sqlite3
from datasette_embed.web import making_api
from datasette_embed.web.pages import estimates, new_page
from tests.api_site import ROOT, make_file
from tests.new_form import (
    NEW,
    MoreModels,
    PaidModel,
    act_of,
    errors_of,
    fields_of,
    plan_of,
    send,
    show,
    soup_of,
)

pytestmark = pytest.mark.asyncio


def state_of(page: BeautifulSoup) -> str:
    """Return how far the estimate is."""
    return str(page.select_one("#embed-plan")["data-state"])


@pytest.fixture
def counted(monkeypatch) -> Iterator[Callable[..., list[str]]]:
    """Count estimates by the name of the collection; each takes as long as it is told."""
    names: list[str] = []
    real = estimates.estimate

    def use(seconds: float = 0) -> list[str]:
        def slow(datasette: Any, wish: Any, *more: Any) -> Any:
            names.append(wish.name)
            time.sleep(seconds)
            return real(datasette, wish, *more)

        monkeypatch.setattr(estimates, "estimate", slow)
        return names

    return use


@pytest.fixture
def busy() -> Iterator[ExitStack]:
    """Hold all places for estimates, until the stack is closed."""
    with ExitStack() as stack:
        for _ in range(making_api.ESTIMATES_AT_ONCE):
            stack.enter_context(making_api._one_of_few())
        yield stack


async def test_paid_model_starts_only_once_its_cost_was_seen(api_site, add_plugin):
    """The button says the price; a change of what is embedded asks once more."""
    add_plugin(MoreModels((PaidModel("paid"), ())))
    typed = {"table": "posts", "columns": ["body"], "model": "paid", "collection": "p"}
    unseen = soup_of(await send(api_site, **typed, start="1"), 400)
    assert "Look at what it takes now" in errors_of(unseen)["start"]
    assert act_of(unseen) == "Embed 3 rows for about $200.00"
    sent = fields_of(unseen)
    changed = soup_of(
        await send(api_site, **{**sent, "columns": ["title", "body"]}, start="1"), 400
    )
    assert act_of(changed) == "Embed 3 rows for about $230.00"
    assert api_site.rows("select name from sqlite_master where name = 'collections'") == []
    assert (await send(api_site, **sent, start="1")).status_code == 303
    await api_site.settled()


async def test_paid_model_that_has_come_to_cost_more_asks_again(api_site, add_plugin):
    """Rows may be added while somebody reads the price; a row less is no reason to ask."""
    add_plugin(MoreModels((PaidModel("paid"), ())))
    typed = {"table": "posts", "columns": ["body"], "model": "paid", "collection": "p"}
    sent = fields_of(soup_of(await send(api_site, **typed, check="1")))
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("insert into posts (title, body) select title, body from posts")
    more = soup_of(await send(api_site, **sent, start="1"), 400)
    assert errors_of(more)["start"] == (
        "It is more than a moment ago: 6 rows for about $400.00. Start again if that is fine"
    )
    assert more.select_one("[name=start]")["aria-describedby"] == "start-error"
    assert api_site.rows("select name from sqlite_master where name = 'collections'") == []
    with conn:
        conn.execute("delete from posts where id = 6")
    conn.close()
    assert (await send(api_site, **fields_of(more), start="1")).status_code == 303
    await api_site.settled()
    assert api_site.rows("select count(*) from embeddings") == [(5,)]


async def test_estimate_that_failed_asks_for_a_tick(api_site, monkeypatch):
    """The reason is said; only the tick starts, and then it starts."""

    def broken(*_args: Any) -> Any:
        raise estimates.EmbedError("the abacus is broken")

    monkeypatch.setattr(estimates, "estimate", broken)
    page = await show(api_site, "?table=posts")
    assert "Could not estimate: the abacus is broken" in page.get_text()
    assert page.select_one("[name=anyway]").has_attr("required")
    sent = {**fields_of(page), "model": "counting"}
    refused = soup_of(await send(api_site, **sent, start="1"), 400)
    assert "Tick this" in errors_of(refused)["anyway"]
    ticked = {"anyway": refused.select_one("[name=anyway]")["value"], "start": "1"}
    # It was shown with this model, and these rows: for others it says nothing.
    for change in ({"columns": "title"}, {"collection": "other"}, {"anyway": "1"}):
        other = soup_of(await send(api_site, **{**sent, **ticked, **change}), 400)
        assert "Tick this" in errors_of(other)["anyway"]
    assert (await send(api_site, **sent, **ticked)).status_code == 303
    await api_site.settled()


async def test_long_estimate_does_not_keep_the_page(api_site, monkeypatch):
    """It goes on by itself, and is there when somebody looks again; it is made once."""
    gate, calls, real = threading.Event(), [], estimates.estimate

    def slow(*arguments: Any) -> Any:
        calls.append(1)
        gate.wait(20)
        return real(*arguments)

    monkeypatch.setattr(estimates, "estimate", slow)
    monkeypatch.setattr(new_page, "OPENING_PATIENCE", 0.01)
    try:
        page = await show(api_site, "?table=posts")
        assert page.select_one("#embed-plan")["data-state"] == "counting"
        sent = fields_of(page)
        again = soup_of(await send(api_site, **sent, preview="1"))
        assert again.select_one("#embed-plan")["data-state"] == "counting"
    finally:
        gate.set()
    checked = soup_of(await send(api_site, **sent, check="1"))
    assert plan_of(checked)["Rows"].startswith("3 rows")
    assert calls == [1]


async def test_long_estimate_counts_from_its_end(api_site, counted, monkeypatch):
    """However long it took: or it would be begun again and again, and never be seen."""
    names = counted(0.6)
    monkeypatch.setattr(estimates, "_KEPT_SECONDS", 0.5)
    monkeypatch.setattr(new_page, "OPENING_PATIENCE", 0.01)
    assert state_of(await show(api_site, "?table=posts")) == "counting"
    await asyncio.sleep(0.7)
    for _ in range(2):  # whoever starts has to find it, too
        assert state_of(await show(api_site, "?table=posts")) == "ready"
    assert len(names) == 1
    await asyncio.sleep(0.6)
    assert state_of(await show(api_site, "?table=posts")) == "counting"


async def test_short_estimate_is_made_anew_for_each_look(api_site, counted):
    """It says how things are now."""
    names = counted()
    for _ in range(2):
        assert state_of(await show(api_site, "?table=posts")) == "ready"
    assert len(names) == 2


async def test_typing_a_name_makes_no_new_estimate(api_site, counted, monkeypatch):
    """What a new collection takes does not depend on its name; what a known one takes does."""
    await api_site.make()
    names = counted(0.5)
    monkeypatch.setattr(new_page, "OPENING_PATIENCE", 0.01)
    typed = {"table": "posts", "columns": "body", "model": "counting", "preview": "1"}
    for name in ("a", "ab", "abc"):
        page = soup_of(await send(api_site, **typed, collection=name))
        assert state_of(page) == "counting"
    assert names == ["a"]
    soup_of(await send(api_site, **typed, collection="posts"))
    while len(names) < 2:
        await asyncio.sleep(0.01)
    assert names == ["a", "posts"]


async def test_estimate_that_finds_no_place_is_looked_for_again(api_site, busy):
    """It has not failed: there is nothing to tick, and in a moment it is there."""
    page = await show(api_site, "?table=posts")
    assert state_of(page) == "counting"
    assert page.select("[name=anyway]") == []
    sent = {**fields_of(page), "model": "counting"}
    refused = soup_of(await send(api_site, **sent, is_unchecked="1", start="1"), 400)
    assert "still being counted" in errors_of(refused)["start"]
    assert refused.select("[name=anyway]") == []
    busy.close()
    assert state_of(soup_of(await send(api_site, **sent, preview="1"))) == "ready"


async def test_filters_of_an_address_are_not_read_for_long(make_api_site, tmp_path, monkeypatch):
    """A link of a stranger holds no place for estimates; whoever asks has it all read."""
    script = (
        "create table t (id integer primary key, body text);"
        "with recursive c(n) as (select 1 union all select n + 1 from c where n < 100000)"
        " insert into t select n, 'some text of row ' || n from c;"
    )
    make_file(tmp_path / "data.db", script)
    site = make_api_site()
    monkeypatch.setattr(new_page, "OPENING_PATIENCE", 0.05)
    many = [("table", "t"), *[("body__notlike", f"%zz{n}%") for n in range(50)]]
    page = await show(site, "?" + urlencode(many))
    assert state_of(page) == "unasked"
    assert not estimates._asked.get(site.datasette)
    places = [making_api._estimates.acquire(timeout=5) for _ in range(2)]
    for _ in places:
        making_api._estimates.release()
    assert places == [True, True]
    asked = soup_of(await send(site, **fields_of(page), check="1"))
    assert plan_of(asked)["Rows"].startswith("100,000 rows")


async def test_filters_of_an_address_do_not_wait_for_a_place(api_site, busy):
    """Nor does the page go on to ask for one by itself."""
    assert state_of(await show(api_site, "?table=posts&id__gt=0")) == "unasked"
    busy.close()
    assert state_of(await show(api_site, "?table=posts&id__gt=0")) == "ready"


async def test_more_filters_than_anybody_writes_are_refused(api_site):
    """Each is looked at for every row."""
    many = urlencode([("table", "posts"), *[("body__notlike", f"%{n}%") for n in range(51)]])
    page = soup_of(await api_site.get(f"{NEW}?{many}", ROOT), 400)
    assert "t most 50 filters" in errors_of(page)["filters"]
    sent = {"table": "posts", "columns": "body", "filters": many.partition("&")[2]}
    refused = soup_of(await send(api_site, **sent, model="counting", start="1"), 400)
    assert "t most 50 filters" in errors_of(refused)["filters"]
