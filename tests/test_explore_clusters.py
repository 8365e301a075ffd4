"""Groups of entries that are near each other."""

from __future__ import annotations

import sys
from contextlib import closing

import numpy as np
import pytest

from datasette_embed.database import open_database
from datasette_embed.errors import (
    CollectionNotFoundError,
    MissingDependencyError,
    OutdatedCollectionError,
    SourceError,
)
from datasette_embed.explore.clusters import cluster
from tests.storage import execute
from tests.test_explore_neighbors import blob, write

needs_sklearn = pytest.mark.explore


def three_groups(sizes=(7, 12, 4)):
    """Return vectors around three directions; the id says which."""
    random = np.random.default_rng(0)
    return {
        f"{name}{n:02}": (np.eye(6)[axis] * 5 + random.normal(0, 0.1, 6)).tolist()
        for axis, (name, size) in enumerate(zip("abc", sizes, strict=True))
        for n in range(size)
    }


def run(path, number, name="docs"):
    with closing(open_database(path)) as conn:
        return cluster(conn, str(path), name, number)


@needs_sklearn
def test_cluster_plain_groups_found_largest_first(tmp_path):
    """Every entry once, ids in order, the largest group first."""
    vectors = three_groups()
    found = run(write(tmp_path / "a.db", vectors), 3)
    ids = [[i for i in sorted(vectors) if i[0] == name] for name in "bac"]
    assert (found.clusters, found.left_out) == (ids, 0)


@needs_sklearn
def test_cluster_groups_of_one_size_by_smallest_id(tmp_path):
    """What decides between groups of one size."""
    found = run(write(tmp_path / "a.db", three_groups((5, 5, 5))), 3)
    assert [members[0] for members in found.clusters] == ["a00", "b00", "c00"]


@needs_sklearn
def test_cluster_same_data_same_clusters_whatever_the_order_of_writing(tmp_path):
    """Groups that are no groups, twice, from files written in another order."""
    drawn = np.random.default_rng(4).standard_normal((300, 8))
    vectors = {f"{n:03}": row.tolist() for n, row in enumerate(drawn)}
    found = run(write(tmp_path / "a.db", vectors), 9)
    again = run(write(tmp_path / "b.db", dict(reversed(vectors.items()))), 9)
    assert found == again
    assert len(found.clusters) == 9
    assert sorted(i for members in found.clusters for i in members) == sorted(vectors)


@needs_sklearn
def test_cluster_length_of_a_vector_does_not_count(tmp_path):
    """A direction is a direction."""
    vectors = {
        i: [x * 10.0 ** (n % 5) for x in v] for n, (i, v) in enumerate(three_groups().items())
    }
    found = run(write(tmp_path / "a.db", vectors), 3)
    assert [len(members) for members in found.clusters] == [12, 7, 4]


@needs_sklearn
def test_cluster_equal_vectors_fewer_clusters(tmp_path):
    """Two directions cannot make four groups."""
    vectors = {str(n): [1.0, n % 2] for n in range(8)}
    found = run(write(tmp_path / "a.db", vectors), 4)
    assert found.clusters == [["0", "2", "4", "6"], ["1", "3", "5", "7"]]


@needs_sklearn
def test_cluster_unusable_vectors_left_out(tmp_path):
    """They are counted; one cluster is allowed, and as many as there are entries."""
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "zero": [0.0, 0.0], "odd": blob([1.0])}
    path = write(tmp_path / "a.db", vectors)
    found = run(path, 1)
    assert (found.clusters, found.left_out) == ([["a", "b"]], 2)
    assert run(path, 2).clusters == [["a"], ["b"]]


def test_cluster_bad_input_refused(tmp_path):
    """Too many, too few, nothing there; said before scikit-learn is looked for."""
    path = write(tmp_path / "a.db", {"a": [1.0, 0.0], "b": [0.0, 1.0]})
    with pytest.raises(SourceError, match="'docs': 3 clusters of 2 entries are too many"):
        run(path, 3)
    with pytest.raises(ValueError, match="number must be at least 1, not 0"):
        run(path, 0)
    with pytest.raises(CollectionNotFoundError, match="Collections in this file: docs"):
        run(path, 2, "nope")
    with pytest.raises(SourceError, match="'none': has no entries: there is nothing to cluster"):
        run(write(path, {}, name="none"), 2, "none")
    with pytest.raises(SourceError, match="'zero': has no usable vectors"):
        run(write(path, {"a": [0.0]}, name="zero"), 1, "zero")


def test_cluster_without_scikit_learn_names_the_extra(tmp_path, monkeypatch):
    """The message ends with the command that installs it."""
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    path = write(tmp_path / "a.db", {"a": [1.0, 0.0]})
    with pytest.raises(MissingDependencyError, match=r"'datasette-embed\[explore\]'$"):
        run(path, 1)


def test_cluster_half_of_a_new_model_refused(tmp_path):
    """Vectors of two versions have no distance to each other."""
    db = write(tmp_path / "a.db", three_groups())
    execute(
        db,
        "insert or replace into _embed_collections (collection_id, name, model, fingerprint,"
        " metric, rebuilding, created_at)"
        " select id, name, model, 'new', 'cosine', 1, 'now' from collections",
    )
    with pytest.raises(OutdatedCollectionError, match="only partly embedded"):
        run(db, 3)
