"""Estimates: what a new collection takes, while somebody waits for the page, and in words.

Layer 11: imports ``models`` and ``planning``. An estimate reads the whole source: it goes on
in its thread when the page does not wait for it, and is there when somebody looks again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ...errors import EmbedError
from ...models import EmbeddingModel
from ...planning import TIMED_SAMPLE, Plan
from ..fields import FieldError
from ..job_words import duration_text, money_text, rows_text
from ..making_api import estimate
from ..wishes import Wish
from .new_form import digest

if TYPE_CHECKING:
    from datasette.app import Datasette

#: Seconds that an estimate counts which nobody has looked at.
_KEPT_SECONDS = 60.0
#: Estimates that are kept, each of one plan.
_MOST_KEPT = 50


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


UNASKED = Estimate("unasked")


@dataclass(frozen=True)
class _Asked:
    task: asyncio.Task[Plan]
    since: float


_asked: WeakKeyDictionary[Datasette, dict[str, _Asked]] = WeakKeyDictionary()


async def estimated(datasette: Datasette, wish: Wish, patience: float) -> Estimate:
    """Return the estimate of a wish, as far as it has come within so many seconds.

    Raises:
        FieldError: a field is wrong.
    """
    mine, key = _asked.setdefault(datasette, {}), digest(wish)
    asked = mine.get(key)
    if asked is None or (asked.task.done() and time.monotonic() - asked.since > _KEPT_SECONDS):
        task = asyncio.create_task(asyncio.to_thread(estimate, datasette, wish))
        # One that nobody comes back for must not be reported as lost.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        while len(mine) >= _MOST_KEPT:
            mine.pop(next(iter(mine)))
        asked = mine[key] = _Asked(task, time.monotonic())
    done, _ = await asyncio.wait({asked.task}, timeout=patience)
    if not done:
        return Estimate("counting")
    if mine.get(key) is asked:
        del mine[key]
    try:
        return Estimate("ready", asked.task.result())
    except FieldError:
        raise
    except EmbedError as error:
        return Estimate("failed", error=error)


# -- words ----------------------------------------------------------------------------


def is_paid(model: EmbeddingModel) -> bool:
    """Say whether to embed with a model may cost money."""
    return bool(model.price_per_million_tokens) or not model.is_local


def plan_lines(plan: Plan, model: EmbeddingModel, database: str) -> Iterator[tuple[str, str]]:
    """Yield (what, how much) of a plan, for people.

    Args:
        database: where the vectors go.
    """
    parts = [f"{plan.missing:,} to embed", f"{plan.unchanged:,} already done"]
    parts += [f"{plan.blank:,} without text, left out"] if plan.blank else []
    parts += [f"{plan.unusable:,} unusable ({plan.example_problem})"] if plan.unusable else []
    yield "Rows", f"{rows_text(plan.rows)}: {', '.join(parts)}"
    if not plan.missing:
        return
    about = "about " if plan.is_sampled else ""
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
        yield "Disk", f"about {_size_text(plan.disk_bytes)} in {database}"


def _readability(plan: Plan, model: EmbeddingModel) -> Iterator[str]:
    about = "about " if plan.is_sampled else ""
    if plan.too_long:
        are, them = ("is", "it") if plan.too_long == 1 else ("are", "them")
        yield f"; {about}{rows_text(plan.too_long)} {are} longer than the model reads"
        yield f" ({model.max_tokens:,} tokens): the rest of {them} is cut"
    if plan.unreadable:
        are, them = ("is", "it") if plan.unreadable == 1 else ("are", "them")
        yield f"; {about}{rows_text(plan.unreadable)} {are} mostly unknown to the model,"
        yield f" in another language perhaps: a multilingual one would read {them}"


def _cost_text(plan: Plan, model: EmbeddingModel) -> str:
    if plan.cost_usd:
        return f"about {money_text(plan.cost_usd)}"
    if model.is_local:
        return "free: the model runs on this server"
    return "free" if plan.cost_usd is not None else "not known: the model does not say its price"


def act_text(plan: Plan | None, model: EmbeddingModel | None) -> str:
    """Return what the button that starts says."""
    is_free = model is not None and not is_paid(model)
    if plan is None:
        return "Embed the rows, free" if is_free else "Embed the rows"
    if not plan.missing:
        return "Make the collection"
    what = f"Embed {rows_text(plan.missing)}"
    if plan.cost_usd:
        cost = money_text(plan.cost_usd)
        return f"{what} for {cost if cost.startswith('under') else f'about {cost}'}"
    return f"{what}, free" if is_free or plan.cost_usd == 0 else what


def _size_text(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1_000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1_000
    return f"{size:,.1f} GB"


def plan_object(found: Estimate) -> dict[str, Any] | None:
    """Return a plan as JSON, as ``…/estimate`` says it."""
    if found.plan is None:
        return None
    return {**vars(found.plan), "is_up_to_date": found.plan.is_up_to_date}
