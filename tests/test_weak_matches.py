"""Weak matches: when a search is said to have found nothing near."""

from __future__ import annotations

import random

import pytest

from datasette_embed import vectors
from datasette_embed.database import sqlite3
from datasette_embed.models import Kind
from datasette_embed.registry import get_registry
from datasette_embed.store import Store
from datasette_embed.web import weak_matches
from datasette_embed.web.weak_matches import FEWEST_ROWS, usual_of
from tests.fakes import vector_of

TOPICS, PER_TOPIC, DIMENSIONS = 8, 10, 64


def around(topic, spread, seed):
    """A vector near one axis."""
    chance = random.Random(seed)
    numbers = [chance.gauss(0, spread) for _ in range(DIMENSIONS)]
    numbers[topic] += 1
    return vectors.encode(numbers)


def rows():
    return [
        around(topic, 0.05, topic * PER_TOPIC + n)
        for topic in range(TOPICS)
        for n in range(PER_TOPIC)
    ]


def best_of(blobs, query):
    return max(vectors.cosine(blob, query) for blob in blobs)


def test_words_about_a_topic_are_near_and_others_are_weak():
    """A query inside a topic, and one between all of them."""
    blobs = rows()
    usual = usual_of(blobs)
    for topic in range(TOPICS):
        near = around(topic, 0.1, 1_000 + topic)
        far = around(TOPICS + topic, 0.1, 2_000 + topic)
        assert not usual.is_weak(near, best_of(blobs, near))
        assert usual.is_weak(far, best_of(blobs, far))


def test_usual_is_the_median_of_the_nearest_other_row():
    """By plain Python over all rows."""
    blobs = rows()
    nearest, gaps = [], []
    for place, blob in enumerate(blobs):
        scores = [vectors.cosine(blob, other) for n, other in enumerate(blobs) if n != place]
        nearest.append(max(scores))
        gaps.append(max(scores) - sum(scores) / len(scores))
    usual = usual_of(blobs)
    middle = len(blobs) // 2
    assert usual.best == pytest.approx(sum(sorted(nearest)[middle - 1 : middle + 1]) / 2, abs=1e-5)
    assert usual.gap == pytest.approx(sum(sorted(gaps)[middle - 1 : middle + 1]) / 2, abs=1e-5)


@pytest.mark.parametrize("again", [1, 2, 3])
def test_rows_that_repeat_change_nothing(again):
    """How near a row is to its copy says nothing of the others."""
    blobs = rows()
    # The same text is not always the same to the last bit: here it is longer.
    copies = [
        vectors.encode([n * x for x in vectors.decode(blob)])
        for n in range(1, again + 1)
        for blob in blobs
    ]
    once, repeated = usual_of(blobs), usual_of(copies)
    assert repeated.best == pytest.approx(once.best, abs=0.02)
    assert repeated.gap == pytest.approx(once.gap, abs=0.02)
    near = around(1, 0.1, 1_001)
    assert not repeated.is_weak(near, best_of(blobs, near))


@pytest.mark.parametrize(
    "blobs",
    [
        [],
        rows()[: FEWEST_ROWS - 1],
        [vectors.encode([1.0, 2.0])] * 30,
        [vectors.encode([0.0] * DIMENSIONS)] * 30,
        [*rows()[:10], *[b"abc"] * 30],
        rows()[: FEWEST_ROWS - 1] * 3,
    ],
    ids=["none", "few", "all one", "zero", "few usable", "few that repeat"],
)
def test_of_too_little_nothing_is_said(blobs):
    """No note is better than a wrong one."""
    assert usual_of(blobs) is None


def test_a_vector_of_another_length_is_not_judged():
    """The query itself says what is wrong with it."""
    assert not usual_of(rows()).is_weak(vectors.encode([1.0, 2.0]), 0.0)


def test_bundled_model_tells_gibberish_from_a_question(make_datasette):
    """What the module's measurement says of the whole corpus, on a few titles of it."""
    conn = sqlite3.connect("benchmarks/data/til.db")
    titles = [row[0] for row in conn.execute("select title from til order by path limit 120")]
    conn.close()
    model = get_registry(make_datasette()).get("minilm")
    blobs = [vectors.encode(each) for each in model.embed_multi(titles)]
    usual = usual_of(blobs)
    judged = {}
    for words in ("aws s3 bucket permissions", "asdf qwer zxcv", "chocolate cake recipe"):
        blob = vectors.encode(model.embed(words, kind=Kind.QUERY))
        judged[words] = usual.is_weak(blob, best_of(blobs, blob))
    assert list(judged.values()) == [False, True, True], judged


@pytest.mark.asyncio
async def test_usual_is_read_once_until_the_collection_changes(api_site, monkeypatch):
    """Searches between two changes cost nothing for it."""
    await api_site.make(columns=["body"])
    samples = []
    sample = weak_matches._sample

    def counted(conn, record):
        samples.append(record.name)
        return sample(conn, record)

    monkeypatch.setattr(weak_matches, "_sample", counted)
    for _ in range(3):
        assert (await api_site.get("/data/-/embed/c/posts?q=a")).status_code == 200
    assert len(samples) == 1
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.executemany(
            "insert into embeddings (collection_id, id, embedding) values (1, ?, ?)",
            [(f"n{n}", vectors.encode(vector_of(f"n{n}"))) for n in range(30)],
        )
    conn.close()
    assert (await api_site.get("/data/-/embed/c/posts?q=a")).status_code == 200
    assert len(samples) == 2


@pytest.mark.asyncio
async def test_sample_of_a_large_collection_lists_only_its_beginning(api_site, monkeypatch):
    """After each change a visitor waits for it."""
    await api_site.make(columns=["body"])
    conn = sqlite3.connect(api_site.path)
    record = Store(conn).get_collection("posts")
    assert len(weak_matches._sample(conn, record)) == 3
    monkeypatch.setattr(weak_matches, "_MOST_LISTED", 2)
    assert len(weak_matches._sample(conn, record)) == 2
    conn.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("metric", ["cosine", "dot"])
async def test_nothing_is_said_of_scores_that_are_no_cosines(api_site, metric):
    """An inner product has no usual size."""
    await api_site.make(columns=["body"])
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.executemany(
            "insert into embeddings (collection_id, id, embedding) values (1, ?, ?)",
            [(f"n{n}", vectors.encode(vector_of(f"n{n}"))) for n in range(30)],
        )
        conn.execute("update _embed_collections set metric = ?", (metric,))
    record = Store(conn).get_collection("posts")
    conn.close()
    datasette = api_site.datasette
    usual = await weak_matches.find_usual(datasette, datasette.get_database("data"), record)
    assert (usual is not None) == (metric == "cosine")
