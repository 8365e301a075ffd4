"""What ``create``, ``sync``, ``multi`` and ``demo`` say before, during and after an embedding run.

Layer 11: imports what it reports on. Nothing is decided here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..amounts import about_money_text, duration_text, rows_text, size_text
from ..job_records import JobCounts
from ..jobs import JobRun
from ..models import EmbeddingModel
from ..planning import Plan
from ..records import CollectionRecord, EntryWarning, RowSource
from ..store import Store
from .output import command_text, say


def say_plan(plan: Plan, source: RowSource, model: EmbeddingModel, remove: bool) -> None:
    """Say what a run would do and, where it would embed anything, what that takes."""
    say(str(source))
    again = f" ({plan.failed_before:,} of them failed before)" if plan.failed_before else ""
    parts = [f"{plan.missing:,} to embed{again}", f"{plan.unchanged:,} up to date"]
    parts += [f"{plan.blank:,} empty"] if plan.blank else []
    example = "for example: " if plan.unusable > 1 else ""
    parts += (
        [f"{plan.unusable:,} unusable ({example}{plan.example_problem})"] if plan.unusable else []
    )
    going = plan.removable if remove else plan.blanked
    parts += [f"{going:,} to remove"] if going else []
    say(f"{rows_text(plan.rows)}: {', '.join(parts)}")
    if not plan.missing:
        return
    if plan.is_other_version:
        say(
            "The collection was made with another version of this model, or with other options "
            "of it: all of it is embedded again"
        )
    where = " (over the network)" if model.needs_key or model.price_per_million_tokens else ""
    where = " (on this machine, free)" if model.is_local else where
    say(f"Model: {model.model_id}{where}")
    about = "about " if plan.is_sampled else ""
    estimates = [] if source.is_binary else [f"{about}{plan.tokens:,} tokens"]
    if plan.cost_usd is not None:
        estimates.append(about_money_text(plan.cost_usd))
    if plan.duration_seconds is not None:
        estimates.append(f"about {duration_text(plan.duration_seconds)}")
    if plan.disk_bytes:
        estimates.append(f"about {size_text(plan.disk_bytes)} of disk")
    if estimates:
        say(f"Estimate: {', '.join(estimates)}")


def say_counts(counts: JobCounts, duration_seconds: float) -> None:
    """Say what a run did."""
    done = counts.embedded + counts.reused
    parts = [f"Embedded {rows_text(done)} in {duration_seconds:.1f} s"]
    if done and duration_seconds > 0:
        parts[0] += f" ({done / duration_seconds:.0f} rows a second)"
    parts += [f"{counts.reused:,} of them by reusing a vector"] if counts.reused else []
    parts += [f"{counts.unchanged:,} were up to date"] if counts.unchanged else []
    parts += [f"{counts.refreshed:,} now have their text stored"] if counts.refreshed else []
    are = "is" if counts.blank == 1 else "are"
    parts += [f"{counts.blank:,} {are} empty"] if counts.blank else []
    parts += [f"{counts.removed:,} removed"] if counts.removed else []
    say("; ".join(parts))


def say_warnings(
    store: Store, path: str, collection: CollectionRecord, model: EmbeddingModel
) -> None:
    """Name the rows whose vector does not speak for the whole text."""
    found = store.count_warnings(collection.id)
    for warning, count in found.items():
        examples = store.list_warnings(collection.id, warning, 3)
        ids = ", ".join(entry_id for entry_id, _, _ in examples)
        ids += ", …" if count > len(examples) else ""
        if warning is EntryWarning.TRUNCATED:
            tokens = f" the {model.max_tokens} tokens" if model.max_tokens else ""
            say(
                f"{rows_text(count)} longer than{tokens} this model reads: "
                f"only their beginning counts ({ids})"
            )
        else:
            say(
                f"{rows_text(count)} mostly unknown to this model, in another language or script "
                f"perhaps: a multilingual model would read them ({ids})"
            )
    if found:
        say(f"All of them: {command_text('collections show', path, collection.name)}")


@contextmanager
def progress(run: JobRun) -> Iterator[None]:
    """Show rows done, rows a second and the time left, on a terminal."""
    started = time.perf_counter()

    def speed(counts: JobCounts | None) -> str:
        done = counts.embedded + counts.reused if counts else 0
        return f"{done / (time.perf_counter() - started):.0f} rows/s" if done else ""

    with click.progressbar(
        length=run.rows_total,
        label="Embedding",
        show_pos=True,
        show_eta=True,
        item_show_func=speed,
        file=sys.stderr,
    ) as bar:
        run.report = lambda counts: bar.update(counts.rows_done - bar.pos, counts)
        yield
