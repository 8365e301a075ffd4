"""Job words: what a job has done, and what it waits for, in words that people read.

Layer 11: imports ``amounts``. Made of the description of a job that programs get too, so
that a page never knows more than they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..amounts import about_money_text, duration_text, money_text, rows_text

#: What a job does; the same once it has ended; both before the name of its collection; a name.
_ACTIONS = {
    "create": ("Embedding", "Embedding of", "first embedding"),
    "sync": ("Updating", "Update of", "update"),
    "retry": (
        "Embedding once more the failed rows of",
        "Second try of the failed rows of",
        "second try",
    ),
    "watch": ("Keeping up to date", "Watch of", "watch"),
}
#: Reasons that say no more than the state.
_ON_REQUEST = (None, "paused on request", "cancelled on request")
#: Counts of a run that has found nothing to do.
_WORK = ("embedded", "reused", "refreshed", "removed", "failed")
_ENDED = ("finished", "cancelled")


def is_ended(job: Mapping[str, Any]) -> bool:
    """Say whether a job has ended for good."""
    return job["status"] in _ENDED


def is_underway(job: Mapping[str, Any]) -> bool:
    """Say whether a job goes on without anybody doing anything."""
    waits = job["waits_for"] or ""
    return job["status"] in ("pending", "running") and not waits.startswith("somebody")


def what_it_does(job: Mapping[str, Any]) -> str:
    """Return the words before the name of the collection: ``Embedding``, ``Update of``."""
    doing, done, _ = _ACTIONS.get(job["action"], _ACTIONS["create"])
    return done if is_ended(job) else doing


def kind_text(job: Mapping[str, Any]) -> str:
    """Return what kind of job it is, in a noun."""
    return _ACTIONS[job["action"]][2] if job["action"] in _ACTIONS else "embedding"


def state_text(job: Mapping[str, Any]) -> str:
    """Return the state of a job in a word."""
    return "interrupted" if job["is_abandoned"] else str(job["status"])


def state_and_reason(job: Mapping[str, Any]) -> str:
    """Return the state of a job, and the reason where it says more."""
    state = state_text(job)
    return state if job["reason"] in _ON_REQUEST else f"{state}: {job['reason']}"


def state_sentence(job: Mapping[str, Any]) -> str:
    """Return what there is to say of the state of a job; empty for one that just runs."""
    status, reason = job["status"], job["reason"]
    if job["is_abandoned"]:
        return _waiting("Interrupted: the program that ran it is gone.", job)
    if status == "running":
        return {
            "pause": "Pausing: what is being embedded right now is stored first.",
            "cancel": "Ending: what is being embedded right now is stored first.",
        }.get(job["request"], "")
    if status == "pending":
        return _waiting("", job)
    if status == "paused":
        if reason in _ON_REQUEST:
            return "Paused."
        return f"Paused by itself: {_ended_sentence(reason)}"
    if status == "failed":
        return f"Failed: {_ended_sentence(reason or 'nobody wrote down why')}"
    if status == "cancelled":
        why = "Cancelled." if reason in _ON_REQUEST else f"Cancelled: {_ended_sentence(reason)}"
        return f"{why} What was embedded is kept."
    return _finished(job)


def _finished(job: Mapping[str, Any]) -> str:
    counts = job["counts"]
    if not any(counts[name] for name in _WORK):
        if counts["blank"] and counts["blank"] == counts["rows_done"]:
            return "Nothing to do: no row has any text."
        return "Nothing to do: all rows are up to date."
    stored = counts["embedded"] + counts["reused"]
    # A job that went on found unchanged what it had embedded before.
    others = counts["rows_done"] - stored - counts["blank"] - counts["failed"]
    unchanged = max(0, min(counts["unchanged"], others))
    parts = [f"{rows_text(stored)} embedded"] if stored else []
    parts += [f"{unchanged:,} were up to date"] if unchanged else []
    parts += [f"{counts['blank']:,} without text"] if counts["blank"] else []
    parts += [f"{counts['refreshed']:,} now with their text"] if counts["refreshed"] else []
    parts += [f"{counts['removed']:,} removed"] if counts["removed"] else []
    parts += [f"{counts['failed']:,} failed"] if counts["failed"] else []
    taken = seconds_between(job["started_at"], job["finished_at"])
    # What a job did before a pause is not in its times.
    what = "The last part" if unchanged < counts["unchanged"] else "It"
    took = f" {what} took {duration_text(taken)}." if taken else ""
    return f"Finished: {', '.join(parts)}.{took}"


def completeness_text(job: Mapping[str, Any], entries: int) -> str:
    """Return how much of a collection is there while its job has not ended.

    Args:
        entries: how many rows it has.
    """
    if job["action"] == "watch" and job["status"] == "pending":
        return "kept up to date"
    state, total = state_text(job), job["rows_total"]
    state = {"pending": "waiting"}.get(state, state)
    if job["action"] in ("sync", "retry", "watch"):
        return f"{kind_text(job)} {state}, {job['counts']['rows_done']:,} of {rows_text(total)}"
    there = f"{entries:,} of {rows_text(total)}" if total > 0 else rows_text(entries)
    are = "is" if entries == 1 else "are"
    return f"{state}: {there} {are} in it; results come from these only"


def _waiting(before: str, job: Mapping[str, Any]) -> str:
    waits = f"Waits for {_ended_sentence(job['waits_for'])}" if job["waits_for"] else ""
    return f"{before} {waits}".strip() or "Waits."


def _ended_sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def percent(job: Mapping[str, Any]) -> int | None:
    """Return how much of the rows is done, 0 to 100; None where nobody counted them."""
    total, done = job["rows_total"], job["counts"]["rows_done"]
    return min(100, done * 100 // total) if total > 0 else None


def summary(job: Mapping[str, Any]) -> str:
    """Return rows, rate, time left, errors and money of a job in one line."""
    counts, total = job["counts"], job["rows_total"]
    done = counts["rows_done"]
    share = percent(job)
    parts = [rows_text(done) if share is None else f"{done:,} of {rows_text(total)} ({share} %)"]
    if job["status"] == "pending" and not total:
        parts = ["rows not counted yet"]
    if job["status"] == "running" and not job["is_abandoned"]:
        parts += [_rate_text(job["rows_per_second"])] if job["rows_per_second"] else []
        left = job["seconds_left"]
        parts += [f"about {duration_text(left)} left"] if left else []
    if counts["failed"]:
        parts.append("1 error" if counts["failed"] == 1 else f"{counts['failed']:,} errors")
    parts += _money(job)
    return " · ".join(parts)


def _money(job: Mapping[str, Any]) -> list[str]:
    spent, counts = job["cost_usd"], job["counts"]
    if not spent:
        return []
    if is_ended(job):
        return [f"{money_text(spent)} in all"]
    # What earlier runs of the job embedded is paid for, though this one has yet to pass it.
    stored = counts["embedded"] + counts["reused"]
    left = max(0, job["rows_total"] - max(counts["rows_done"], stored))
    if not counts["embedded"]:
        return [money_text(spent)]
    in_all = spent + spent * left / counts["embedded"]
    return [f"{money_text(spent)} of {about_money_text(in_all)}"]


def _rate_text(rate: float) -> str:
    if rate >= 10:
        return f"{rate:,.0f} rows a second"
    return f"{rate:.1f} rows a second" if rate >= 0.1 else f"{rate * 60:.1f} rows a minute"


def ago_text(then: str | None, now: datetime | None = None) -> str:
    """Return how long ago a time was; empty where it is none."""
    seconds = seconds_between(then, (now or datetime.now(UTC)).isoformat())
    if seconds is None:
        return ""
    return "just now" if seconds < 1 else f"{duration_text(seconds)} ago"


def time_text(time: str | None) -> str:
    """Return a time of a record as people write it, in UTC; what is none as it stands."""
    try:
        return datetime.fromisoformat(time or "").strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return time or ""


def seconds_between(first: str | None, last: str | None) -> float | None:
    """Return the seconds between two times of a record; None where one is none."""
    try:
        times = datetime.fromisoformat(last or ""), datetime.fromisoformat(first or "")
        return (times[0] - times[1]).total_seconds()
    except (ValueError, TypeError):
        return None  # not written by us
