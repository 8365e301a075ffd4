"""What is said of a job: its numbers in one line, its state in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from datasette_embed.job_rows import JobCounts
from datasette_embed.web import job_words

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def job(**values):
    """Return the description of a job that runs."""
    counts = vars(JobCounts()) | values.pop("counts", {})
    given = {
        "status": "running",
        "is_abandoned": False,
        "request": None,
        "reason": None,
        "waits_for": None,
        "action": "create",
        "rows_total": 5673,
        "rows_per_second": None,
        "seconds_left": None,
        "cost_usd": None,
        "started_at": "2026-01-01T11:00:00+00:00",
        "finished_at": None,
    }
    return {**given, **values, "counts": counts}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "0 of 5,673 rows (0 %)"),
        (
            {
                "counts": {"rows_done": 2112, "embedded": 2111, "failed": 1},
                "rows_per_second": 53.2,
                "seconds_left": 67.0,
                "cost_usd": 0.0422,
            },
            "2,112 of 5,673 rows (37 %) · 53 rows a second · about 1 min left · 1 error"
            " · $0.04 of about $0.11",
        ),
        ({"counts": {"rows_done": 5672}}, "5,672 of 5,673 rows (99 %)"),
        ({"rows_total": 1, "counts": {"rows_done": 3}}, "3 of 1 row (100 %)"),
        ({"rows_total": 0}, "0 rows"),
        ({"rows_total": 0, "status": "pending"}, "rows not counted yet"),
        ({"rows_per_second": 2.26}, "0 of 5,673 rows (0 %) · 2.3 rows a second"),
        ({"rows_per_second": 0.05}, "0 of 5,673 rows (0 %) · 3.0 rows a minute"),
        ({"counts": {"failed": 1200}}, "0 of 5,673 rows (0 %) · 1,200 errors"),
        # Not at work, so neither as fast nor as soon done as it was.
        ({"is_abandoned": True, "rows_per_second": 9, "seconds_left": 9}, "0 of 5,673 rows (0 %)"),
        ({"status": "paused", "rows_per_second": 9}, "0 of 5,673 rows (0 %)"),
        ({"cost_usd": 0.0}, "0 of 5,673 rows (0 %)"),
        ({"cost_usd": 0.5}, "0 of 5,673 rows (0 %) · $0.50"),
        # Gone on with: 500 rows are paid for, and are passed once more.
        (
            {"rows_total": 1000, "cost_usd": 0.5, "counts": {"rows_done": 0, "embedded": 500}},
            "0 of 1,000 rows (0 %) · $0.50 of about $1.00",
        ),
        (
            {"status": "finished", "cost_usd": 0.001, "counts": {"rows_done": 5673, "embedded": 9}},
            "5,673 of 5,673 rows (100 %) · under $0.01 in all",
        ),
    ],
)
def test_summary_says_only_what_is_known(values, expected):
    """Rows, rate, time left, errors and money, each where there is something to say."""
    assert job_words.summary(job(**values)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ""),
        ({"request": "pause"}, "Pausing: what is being embedded right now is stored first."),
        ({"request": "cancel"}, "Ending: what is being embedded right now is stored first."),
        (
            {"is_abandoned": True, "waits_for": "its turn"},
            "Interrupted: the program that ran it is gone. Waits for its turn.",
        ),
        ({"status": "pending", "waits_for": "its turn"}, "Waits for its turn."),
        ({"status": "pending"}, "Waits."),
        ({"status": "paused", "reason": "paused on request"}, "Paused."),
        ({"status": "paused", "reason": "rate limit"}, "Paused by itself: rate limit."),
        ({"status": "failed", "reason": "key refused (401)"}, "Failed: key refused (401)."),
        ({"status": "failed"}, "Failed: nobody wrote down why."),
        (
            {"status": "cancelled", "reason": "cancelled on request"},
            "Cancelled. What was embedded is kept.",
        ),
        (
            {"status": "cancelled", "reason": "replaced by a later job"},
            "Cancelled: replaced by a later job. What was embedded is kept.",
        ),
        (
            {"status": "finished", "counts": {"rows_done": 3, "unchanged": 3}},
            "Nothing to do: all rows are up to date.",
        ),
        ({"status": "finished"}, "Nothing to do: all rows are up to date."),
        (
            {"status": "finished", "counts": {"rows_done": 2, "blank": 2}},
            "Nothing to do: no row has any text.",
        ),
        (
            {
                "status": "finished",
                "finished_at": "2026-01-01T11:01:05+00:00",
                "counts": {"rows_done": 6, "embedded": 2, "reused": 1, "unchanged": 1, "blank": 1}
                | {"failed": 1, "removed": 1, "refreshed": 1},
            },
            "Finished: 3 rows embedded, 1 were up to date, 1 without text, 1 now with their text,"
            " 1 removed, 1 failed. It took 1 min.",
        ),
        # Gone on with: what it found unchanged it had embedded itself.
        (
            {
                "status": "finished",
                "counts": {"rows_done": 5, "embedded": 5, "unchanged": 4},
            },
            "Finished: 5 rows embedded.",
        ),
        (
            {
                "status": "finished",
                "finished_at": "2026-01-01T11:01:05+00:00",
                "counts": {"rows_done": 5, "embedded": 5, "unchanged": 4},
            },
            "Finished: 5 rows embedded. The last part took 1 min.",
        ),
    ],
)
def test_state_sentence_of_every_state(values, expected):
    """A reason that says no more than the state is left out."""
    assert job_words.state_sentence(job(**values)) == expected


@pytest.mark.parametrize(
    ("values", "doing", "kind"),
    [
        ({}, "Embedding", "first embedding"),
        ({"action": "sync"}, "Updating", "update"),
        ({"action": "sync", "status": "paused"}, "Updating", "update"),
        ({"action": "retry", "status": "finished"}, "Second try of the failed rows of", None),
        ({"action": "watch", "status": "cancelled"}, "Watch of", "watch"),
        ({"action": None}, "Embedding", "embedding"),
        ({"action": "<b>", "status": "finished"}, "Embedding of", "embedding"),
    ],
)
def test_kind_of_job_in_words(values, doing, kind):
    """In the present as long as it has work to do."""
    assert job_words.what_it_does(job(**values)) == doing
    if kind is not None:
        assert job_words.kind_text(job(**values)) == kind


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"status": "pending", "waits_for": "its turn"}, True),
        ({"status": "pending", "waits_for": "somebody to resume it: why"}, False),
        ({"is_abandoned": True, "waits_for": "somebody to resume it"}, False),
        ({"is_abandoned": True, "waits_for": "its turn"}, True),
        ({"status": "paused", "waits_for": "somebody to resume it"}, False),
        ({"status": "finished"}, False),
    ],
)
def test_job_is_underway_if_it_goes_on_alone(values, expected):
    """Only then is a page loaded again by itself."""
    assert job_words.is_underway(job(**values)) is expected


def test_times_that_are_none_are_said_as_they_stand():
    """A file may hold anything where a time should be."""
    assert job_words.ago_text("2026-01-01T11:59:20+00:00", NOW) == "40 s ago"
    assert job_words.ago_text("2026-01-01T12:00:00+00:00", NOW) == "just now"
    assert [job_words.ago_text(wrong, NOW) for wrong in (None, "soon", "2026-01-01")] == [""] * 3
    assert job_words.time_text("2026-01-01T11:59:20+00:00") == "2026-01-01 11:59:20"
    assert [job_words.time_text(wrong) for wrong in (None, "soon")] == ["", "soon"]


@pytest.mark.parametrize(
    ("values", "entries", "expected"),
    [
        ({"status": "paused"}, 320, "paused: 320 of 5,673 rows are in it; results come from"),
        ({"status": "pending", "rows_total": 0}, 0, "waiting: 0 rows are in it; results come"),
        ({"status": "pending", "action": "watch"}, 9, "kept up to date"),
        ({"action": "sync", "counts": {"rows_done": 9}}, 9, "update running, 9 of 5,673 rows"),
    ],
)
def test_completeness_of_a_collection_whose_job_goes_on(values, entries, expected):
    """Results of a first embedding come from a part of the rows; of an update from all."""
    assert job_words.completeness_text(job(**values), entries).startswith(expected)
