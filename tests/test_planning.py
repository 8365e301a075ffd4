"""What a run would do, before it does it."""

from __future__ import annotations

from contextlib import closing

import pytest

from datasette_embed import planning
from datasette_embed.database import open_database
from datasette_embed.errors import MissingDependencyError, ProviderError
from datasette_embed.planning import make_plan
from datasette_embed.sources import Source, SourceSpec
from datasette_embed.store import Store
from tests.engine_fakes import FailingModel
from tests.fakes import CountingModel
from tests.storage import execute, make_docs, run_job


def plan_of(path, model, **options):
    """Plan the table docs as the command line does."""
    with closing(open_database(path)) as source_conn, closing(open_database(path)) as conn:
        source = Source(source_conn, SourceSpec(table="docs", columns=("body",)), str(path))
        store = Store(conn)
        return make_plan(source, model, store, store.find_collection("docs"), **options)


def test_plan_new_table_counts_every_kind_of_row(tmp_path):
    """Rows, distinct texts, blank ones, unusable ones; tokens are exact for few rows."""
    rows = [(1, "a b"), (2, "a b"), (3, "c"), (4, None), (5, " "), (6, b"\0"), (7, b"\0")]
    path = make_docs(tmp_path / "a.db", rows)
    model = CountingModel(max_tokens=3)
    plan = plan_of(path, model)
    assert (plan.rows, plan.missing, plan.contents) == (7, 3, 2)
    assert (plan.blank, plan.unusable, plan.unchanged, plan.removable) == (2, 2, 0, 0)
    assert plan.example_problem == "column 'body' holds binary content, not text"
    # Two words and two special tokens, of which the model reads three.
    assert (plan.tokens, plan.too_long, plan.is_sampled) == (3 + 3 + 3, 2, False)
    assert plan.disk_bytes == 3 * (8 * 4 + 200)
    assert (plan.cost_usd, plan.duration_seconds) == (None, None)
    assert not plan.is_up_to_date
    assert model.calls == []


def test_plan_existing_collection_compares(tmp_path):
    """New, changed, unchanged, gone, and text still to be stored."""
    path = make_docs(tmp_path / "a.db", [(n, f"t{n}") for n in range(6)])
    run_job(path, CountingModel())
    assert plan_of(path, CountingModel()).is_up_to_date
    plan = plan_of(path, CountingModel(), store_content=True)
    assert (plan.to_store, plan.is_up_to_date) == (6, False)
    execute(
        path,
        "update docs set body = 'new' where id = 0",
        "update docs set body = null where id = 1",
        "update docs set body = x'00' where id = 2",
        "delete from docs where id = 3",
        "insert into docs values (9, 'nine')",
    )
    plan = plan_of(path, CountingModel())
    assert (plan.missing, plan.unchanged, plan.blank, plan.unusable) == (2, 2, 1, 1)
    assert plan.removable == 2


def test_plan_model_revised_everything_is_missing(tmp_path):
    """Another fingerprint makes every vector out of date."""
    path = make_docs(tmp_path / "a.db", [(n, f"t{n}") for n in range(6)])
    run_job(path, CountingModel())
    model = CountingModel()
    model.revision = "2"
    plan = plan_of(path, model)
    assert (plan.missing, plan.unchanged, plan.removable) == (6, 0, 0)


def test_plan_many_rows_extrapolated_from_a_sample(tmp_path):
    """1,000 texts of 1 to 10 words: the estimate is near, the price follows from it."""
    rows = [(n, " ".join(["word"] * (n % 10 + 1)) + f" {n}") for n in range(1_000)]
    path = make_docs(tmp_path / "a.db", rows)
    model = CountingModel(max_tokens=8)
    model.price_per_million_tokens = 20.0
    plan = plan_of(path, model)
    exact = sum(min(8, n % 10 + 4) for n, _ in rows)
    assert plan.is_sampled
    assert plan.tokens == pytest.approx(exact, rel=0.1)
    assert plan.too_long == pytest.approx(500, rel=0.25)
    assert plan.cost_usd == pytest.approx(plan.tokens * 20 / 1e6)
    assert plan.tokens == plan_of(path, CountingModel(max_tokens=8)).tokens


def test_plan_local_model_timed_paid_one_never(tmp_path):
    """A local model is timed on twelve texts; nothing is sent to another machine."""
    path = make_docs(tmp_path / "a.db", [(n, f"t{n}") for n in range(100)])
    local, remote = CountingModel(), CountingModel()
    remote.is_local = False
    assert plan_of(path, local).duration_seconds > 0
    assert local.warmed.is_set()
    assert local.batch_sizes == [12]
    assert plan_of(path, remote).duration_seconds is None
    assert (remote.calls, remote.warmed.is_set()) == ([], False)


@pytest.mark.parametrize("error", [ProviderError("m", "no"), RuntimeError("no")])
def test_plan_text_of_the_sample_fails_not_timed(tmp_path, error):
    """The run finds the bad text; the plan must not stop it."""
    path = make_docs(tmp_path / "a.db", [(n, f"t{n}") for n in range(100)])
    model = FailingModel()
    model.script = [error]
    plan = plan_of(path, model)
    assert (plan.missing, plan.duration_seconds) == (100, None)


def test_plan_model_cannot_run_at_all_raised(tmp_path):
    """What the run would meet as well is said before it begins."""
    path = make_docs(tmp_path / "a.db", [(n, f"t{n}") for n in range(100)])
    model = FailingModel()
    model.script = [MissingDependencyError("torch", "")]
    with pytest.raises(MissingDependencyError, match="torch is not installed"):
        plan_of(path, model)


def test_plan_more_texts_than_can_be_compared_taken_as_distinct(tmp_path, monkeypatch):
    """Memory is bounded: beyond the limit the count is an upper bound."""
    monkeypatch.setattr(planning, "DIGEST_LIMIT", 4)
    path = make_docs(tmp_path / "a.db", [(n, "same") for n in range(10)])
    assert plan_of(path, CountingModel()).contents == 7


def test_plan_tells_what_failed_before_from_what_changed(tmp_path):
    """A text that failed is missing for ever; once it is changed it is new."""
    path = make_docs(tmp_path / "a.db", [(1, "a"), (2, "b"), (3, "c")])
    run_job(path, CountingModel())
    execute(
        path,
        "insert into _embed_failures select 1, id, content_hash, 'no', 1 from embeddings"
        " where id in ('1', '2')",
        "delete from embeddings where id in ('1', '2')",
        "update docs set body = 'new' where id = 2",
    )
    plan = plan_of(path, CountingModel())
    assert (plan.missing, plan.failed_before, plan.unchanged) == (2, 1, 1)
