"""Estimates: what a new collection takes, while somebody waits for the page, and in words.

Layer 11: imports ``amounts``, ``database``, ``errors``, ``models`` and ``planning``. An
estimate reads the whole source: it goes on in its thread when the page does not wait for it,
and is there when somebody looks again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ...amounts import about_money_text, duration_text, rows_text, size_text
from ...database import DeadlineError
from ...errors import EmbedError
from ...models import EmbeddingModel
from ...planning import TIMED_SAMPLE, Plan
from ..fields import FieldError
from ..making_api import TooManyEstimatesError, estimate
from ..wishes import Wish
from .new_form import digest

if TYPE_CHECKING:
    from datasette.app import Datasette

#: Seconds for which an estimate counts, once it has ended.
_KEPT_SECONDS = 60.0
#: Estimates that are kept, each of one plan.
_MOST_KEPT = 50
#: What is "about" the same cost; rows come and go while somebody reads what it takes.
_ABOUT = 1.05


@dataclass(frozen=True)
class Estimate:
    """How far an estimate has come.

    Attributes:
        state: ``ready``, ``counting``, ``failed``, or ``unasked`` where nobody asked for it.
        error: why it failed, for ``failed``.
    """

    state: str
    plan: Plan | None = None
    error: EmbedError | None = None


UNASKED, _COUNTING = Estimate("unasked"), Estimate("counting")


class _Asked:
    """An estimate that somebody asked for.

    Attributes:
        task: what makes it.
        is_seen: whether somebody has looked at it since it ended.
    """

    def __init__(self, datasette: Datasette, wish: Wish) -> None:
        self.is_seen = False
        self._began = time.monotonic()
        self._ended: float | None = None
        self.task = asyncio.create_task(self._made(datasette, wish))
        # One that nobody comes back for must not be reported as lost.
        self.task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _made(self, datasette: Datasette, wish: Wish) -> Plan:
        try:
            return await asyncio.to_thread(estimate, datasette, wish)
        finally:
            self._ended = time.monotonic()

    def counts(self, patience: float) -> bool:
        """Say whether it needs not be made anew for somebody who waits so many seconds.

        One that takes longer than anybody waits has to be there for a second look.
        """
        if self._ended is None:
            return True
        is_long = self._ended - self._began > patience
        is_recent = time.monotonic() - self._ended <= _KEPT_SECONDS
        return is_recent and (is_long or not self.is_seen)


_asked: WeakKeyDictionary[Datasette, dict[str, _Asked]] = WeakKeyDictionary()


async def estimated(datasette: Datasette, wish: Wish, patience: float) -> Estimate:
    """Return the estimate of a wish, as far as it has come within so many seconds.

    Raises:
        FieldError: a field is wrong.
    """
    mine = _asked.setdefault(datasette, {})
    # To type the name of a new collection changes nothing.
    key = digest(wish if wish.existing else replace(wish, name=""))
    asked = mine.pop(key, None)
    if asked is None or not asked.counts(patience):
        asked = _Asked(datasette, wish)
    while len(mine) >= _MOST_KEPT:
        mine.pop(next(iter(mine)))
    mine[key] = asked
    done, _ = await asyncio.wait({asked.task}, timeout=patience)
    if not done:
        return _COUNTING
    asked.is_seen = True
    found = _found(asked.task)
    if found.state != "ready" and mine.get(key) is asked:
        del mine[key]
    return found


async def glimpsed(datasette: Datasette, wish: Wish, seconds: float) -> Estimate:
    """Return the estimate of a wish if it takes no longer than so many seconds, about.

    For what an address asks: nothing goes on for whoever followed a link of a stranger.

    Raises:
        FieldError: a field is wrong.
    """
    task = asyncio.create_task(asyncio.to_thread(estimate, datasette, wish, seconds))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    # A model may have to be loaded first.
    done, _ = await asyncio.wait({task}, timeout=2 * seconds)
    found = _found(task) if done else UNASKED
    is_late = isinstance(found.error, DeadlineError)
    return UNASKED if is_late or found.state == "counting" else found


def _found(task: asyncio.Task[Plan]) -> Estimate:
    """Return what has come of an estimate that has ended.

    Raises:
        FieldError: a field is wrong.
    """
    try:
        return Estimate("ready", task.result())
    except FieldError:
        raise
    except TooManyEstimatesError:
        return _COUNTING  # there is a place for it in a moment
    except EmbedError as error:
        return Estimate("failed", error=error)


# -- the price that somebody has seen -------------------------------------------------


def seen_text(wish: Wish, plan: Plan) -> str:
    """Return what the form remembers of a plan that it shows."""
    return f"{digest(wish)}:{_amount(plan)}"


def objection(seen: str, wish: Wish, plan: Plan) -> str:
    """Return why a paid model does not start yet, empty if it may.

    Args:
        seen: the ``seen_text`` of what was shown to whoever wants to start.
        plan: what it takes now.
    """
    wished, _, amount = seen.rpartition(":")
    if wished != digest(wish):
        return "Look at what it takes now, then start"
    with suppress(ValueError):
        if _amount(plan) <= float(amount) * _ABOUT:
            return ""
    return f"It is more than a moment ago: {_amount_text(plan)}. Start again if that is fine"


def _amount(plan: Plan) -> float:
    """Return the cost, or the rows where the model does not say its price."""
    return plan.missing if plan.cost_usd is None else plan.cost_usd


# -- words ----------------------------------------------------------------------------


def is_paid(model: EmbeddingModel) -> bool:
    """Say whether to embed with a model may cost money."""
    return bool(model.price_per_million_tokens) or not model.is_local


def plan_lines(plan: Plan, wish: Wish) -> Iterator[tuple[str, str]]:
    """Yield (what, how much) of the plan of a wish, for people."""
    model, is_of_images = wish.model, wish.spec.image is not None
    missing = f"{plan.missing:,} to embed"
    if plan.failed_before:
        missing += f" ({plan.failed_before:,} of them failed before)"
    parts = [missing, f"{plan.unchanged:,} already done"]
    content = "an image" if is_of_images else "text"
    parts += [f"{plan.blank:,} without {content}, left out"] if plan.blank else []
    example = "for example: " if plan.unusable > 1 else ""
    if plan.unusable:
        parts.append(f"{plan.unusable:,} unusable ({example}{plan.example_problem})")
    yield "Rows", f"{rows_text(plan.rows)}: {', '.join(parts)}"
    if not plan.missing:
        return
    about = "about " if plan.is_sampled else ""
    if not is_of_images:
        yield "Text", f"{about}{plan.tokens:,} tokens{''.join(_readability(plan, model))}"
    yield "Cost", _cost_text(plan, model)
    if plan.duration_seconds is not None:
        seconds = duration_text(plan.duration_seconds)
        yield "Time", f"about {seconds} ({TIMED_SAMPLE} rows timed just now)"
    elif model.is_local:
        yield "Time", "a few seconds"
    else:
        yield "Time", "not known: it depends on the provider"
    if plan.disk_bytes:
        yield "Disk", f"about {size_text(plan.disk_bytes)} in {wish.database}"


def _readability(plan: Plan, model: EmbeddingModel) -> Iterator[str]:
    about = "about " if plan.is_sampled else ""
    if plan.too_long:
        are, them = ("is", "it") if plan.too_long == 1 else ("are", "them")
        yield f"; {about}{rows_text(plan.too_long)} {are} longer than the model reads"
        yield f" ({model.max_tokens:,} tokens): the model does not see the rest of {them}"
    if plan.unreadable:
        are, them = ("is", "it") if plan.unreadable == 1 else ("are", "them")
        yield f"; {about}{rows_text(plan.unreadable)} {are} mostly unknown to the model,"
        yield f" in another language perhaps: a multilingual one would read {them}"


def _cost_text(plan: Plan, model: EmbeddingModel) -> str:
    if plan.cost_usd:
        return about_money_text(plan.cost_usd)
    if model.is_local:
        return "free: the model runs on this server"
    return "free" if plan.cost_usd is not None else "not known: the model does not say its price"


def act_text(plan: Plan | None, model: EmbeddingModel | None) -> str:
    """Return what the button that starts says."""
    is_free = model is not None and not is_paid(model)
    if plan is None:
        return "Embed the rows, free" if is_free else "Embed the rows"
    if not plan.missing:
        return "Nothing to embed: make sure of it" if plan.unchanged else "Make the collection"
    what = f"Embed {_amount_text(plan)}"
    return f"{what}, free" if is_free or plan.cost_usd == 0 else what


def _amount_text(plan: Plan) -> str:
    if not plan.cost_usd:
        return rows_text(plan.missing)
    return f"{rows_text(plan.missing)} for {about_money_text(plan.cost_usd)}"


def plan_object(found: Estimate) -> dict[str, Any] | None:
    """Return a plan as JSON, as ``…/estimate`` says it."""
    if found.plan is None:
        return None
    return {**vars(found.plan), "is_up_to_date": found.plan.is_up_to_date}
