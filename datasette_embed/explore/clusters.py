"""Groups of entries that are near each other.

Layer 7: imports ``errors``, ``store`` and ``neighbors``. scikit-learn, of the extra
``explore``, is imported when it is used. What a group is about is not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..database import read_snapshot, sqlite3, translated
from ..errors import MissingDependencyError, SourceError
from ..store import Store
from ..vectors import normalize
from .neighbors import read_vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Any number, so that the same vectors give the same clusters.
_SEED = 0


@dataclass(frozen=True)
class Clustering:
    """The entries of a collection in groups.

    Attributes:
        clusters: ids of entries, sorted; the largest group first, then that of the smallest
            id. There may be fewer than were asked for, where vectors are much alike.
        left_out: how many entries have no usable vector.
    """

    clusters: list[list[str]]
    left_out: int


def cluster(conn: sqlite3.Connection, path: str, collection_name: str, number: int) -> Clustering:
    """Return the entries of a collection in ``number`` groups, by direction of their vectors.

    The same vectors give the same groups (k-means with a fixed seed).

    Raises:
        ValueError: ``number`` is below 1.
        CollectionNotFoundError: there is no such collection.
        OutdatedCollectionError: it is only partly embedded with a new version of its model.
        SourceError: it has no usable vectors, or fewer than ``number``.
        MissingDependencyError: scikit-learn is not installed.
    """
    if number < 1:
        raise ValueError(f"number must be at least 1, not {number}")
    with translated(path), read_snapshot(conn):
        store = Store(conn)
        record = store.get_collection(collection_name)
        record.check_not_rebuilding()
        vectors = read_vectors(store, record)
    subject = f"collection '{collection_name}'"
    if not vectors.ids:
        why = "has no usable vectors" if vectors.left_out else "has no entries"
        raise SourceError(subject, f"{why}: there is nothing to cluster")
    if number > len(vectors.ids):
        entries = f"{len(vectors.ids):,} entr" + ("y" if len(vectors.ids) == 1 else "ies")
        raise SourceError(subject, f"{number:,} clusters of {entries} are too many: ask for fewer")
    labels = _labels(vectors.matrix, number)
    groups: dict[int, list[str]] = {}
    for entry_id, label in zip(vectors.ids, labels, strict=True):
        groups.setdefault(label, []).append(entry_id)
    clusters = sorted(groups.values(), key=lambda ids: (-len(ids), ids[0]))
    return Clustering(clusters, vectors.left_out)


def _labels(matrix: NDArray[np.float32], number: int) -> list[int]:
    """Return the number of each row's group.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import MiniBatchKMeans
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "explore") from error
    means = MiniBatchKMeans(n_clusters=number, n_init="auto", random_state=_SEED)
    # Sums of several threads depend on how many there are.
    with threadpool_limits(limits=1):
        labels: list[int] = means.fit_predict(normalize(matrix)).tolist()
    return labels
