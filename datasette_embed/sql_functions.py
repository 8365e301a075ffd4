"""SQL functions: every ``llm_embed…`` name, what it accepts and how it is registered.

Layer 11: imports ``budgets``, ``compat``, ``entry_id_parts``, ``errors``, ``executor``,
``models``, ``query_embeddings``, ``registry``, ``server`` and ``sql_vectors``.
``register(conn)`` serves any sqlite3 connection; ``prepare`` one of a Datasette. What a
vector function answers is decided in ``sql_vectors``. A function must never hold its
connection: SQLite holds the function, the garbage collector cannot see that, and the
connection would stay open for ever.
"""

from __future__ import annotations

import logging
import sqlite3
import weakref
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from . import compat, sql_vectors
from .budgets import TRUSTED, Admission
from .entry_id_parts import id_number, id_part
from .errors import EmbedError
from .executor import current_call, reports_errors, wrap_executor
from .models import EmbeddingModel, Item, Kind, is_blank
from .query_embeddings import PROCESS_QUERIES, Limits, QueryEmbeddings
from .registry import Registry, get_registry
from .server import admit, check_content, get_limits

if TYPE_CHECKING:
    from datasette.app import Datasette

logger = logging.getLogger(__name__)

#: Scalars of one and two vectors: name -> (number of arguments, function).
VECTOR_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "llm_embed_decode": (1, sql_vectors.decode_json),
    "llm_embed_encode": (1, sql_vectors.encode_json),
    "llm_embed_dimensions": (1, sql_vectors.dimensions),
    "llm_embed_normalize": (1, sql_vectors.normalize),
    "llm_embed_truncate": (2, sql_vectors.truncate),
    "llm_embed_add": (2, sql_vectors.add),
    "llm_embed_subtract": (2, sql_vectors.subtract),
    "llm_embed_scale": (2, sql_vectors.scale),
}
#: Functions called once per row of a scan, which report errors by themselves: a wrapper
#: around them would be a second Python call per row. Each connection gets its own.
ROW_FUNCTIONS: dict[str, Callable[[], Callable[[Any, Any], Any]]] = {
    "llm_embed_cosine": sql_vectors.cosine_function,
    "llm_embed_dot": sql_vectors.dot_function,
    "llm_embed_l2": sql_vectors.l2_function,
}


class _Sum(sql_vectors.Sum):
    step = reports_errors(sql_vectors.Sum.step, "llm_embed_sum")


class _Average(sql_vectors.Average):
    step = reports_errors(sql_vectors.Average.step, "llm_embed_average")


AGGREGATES: dict[str, tuple[int, Any]] = {
    "llm_embed_sum": (1, _Sum),
    "llm_embed_average": (1, _Average),
    "llm_embed_top": (4, sql_vectors.Top),
}

#: Says on what terms whoever runs the query may use a model, or that they may not.
FindTerms = Callable[[EmbeddingModel], Admission]

#: SQLite's own ``cache_size``, and ours: negative numbers are units of 1,024 bytes.
SQLITE_CACHE_SIZE = -2_000
PAGE_CACHE_SIZE = -4_000


def register(
    conn: sqlite3.Connection,
    *,
    registry: Registry | Callable[[], Registry] = get_registry,
    queries: QueryEmbeddings = PROCESS_QUERIES,
    limits: Callable[[], Limits] = Limits,
    find_time_limit: Callable[[], Callable[[], None] | None] | None = None,
    find_terms: FindTerms = lambda model: TRUSTED,
    widen_page_cache: bool = True,
) -> None:
    """Register every SQL function on a connection of sqlite3, pysqlite3 or sqlite-utils.

    A page cache of SQLite's default size, too small to scan vectors, becomes 4 MB.

    Args:
        conn: the connection; nothing keeps it alive.
        registry: the models that may be called, or what returns them; this process's by
            default.
        queries: the cache of query vectors.
        limits: returns how long an uncached embed may take; without limit by default.
        find_time_limit: returns what renews the time limit of the query that is running,
            or None if it has none.
        find_terms: decides who may use a model; whoever runs a script may use any.
        widen_page_cache: whether to; SQLite reads the file for it.
    """
    find_registry = (lambda: registry) if isinstance(registry, Registry) else registry
    embed = _embed_function(find_registry, queries, limits, find_time_limit, find_terms)
    for number_of_arguments in (2, 3):
        _create(conn, "llm_embed", number_of_arguments, embed)
    _create(conn, "llm_embed_id_part", 2, reports_errors(id_part, "llm_embed_id_part"))
    _create(conn, "llm_embed_id_number", 1, reports_errors(id_number, "llm_embed_id_number"))
    for name, (number_of_arguments, function) in VECTOR_FUNCTIONS.items():
        _create(conn, name, number_of_arguments, reports_errors(function, name))
    for name, new_function in ROW_FUNCTIONS.items():
        _create(conn, name, 2, new_function())
    for name, (number_of_arguments, aggregate) in AGGREGATES.items():
        conn.create_aggregate(name, number_of_arguments, aggregate)
    if widen_page_cache:
        _widen_page_cache(conn)


def _widen_page_cache(conn: sqlite3.Connection) -> None:
    """Let SQLite keep 4 MB of pages where it would keep its default of 2 MB.

    Before version 3.45 it reads the pages of large BLOBs through that cache, so a scan of
    more vectors than fit (a few hundred) drives out all the others, every time. Not more,
    for a cache that is larger but still too small only costs time.
    """
    try:
        if conn.execute("pragma cache_size").fetchone()[0] == SQLITE_CACHE_SIZE:
            conn.execute(f"pragma cache_size = {PAGE_CACHE_SIZE}")
    except Exception as error:
        # SQLite reads the file for it: one that is locked or no database says so again,
        # to whoever runs the first query.
        logger.debug("the page cache stays as it is: %s", error)


def _create(
    conn: sqlite3.Connection, name: str, number_of_arguments: int, function: Callable[..., Any]
) -> None:
    # Deterministic, so that SQLite calls it once for constant arguments, not once per row.
    conn.create_function(name, number_of_arguments, function, deterministic=True)


def prepare(conn: sqlite3.Connection, datasette: Datasette) -> None:
    """Register every SQL function on one connection of a Datasette.

    It may run before the startup hook, with a config that is wrong, so what needs config is
    looked up when a function is called. The Datasette is held weakly: see above.
    """
    wrap_executor(datasette)
    reference = weakref.ref(datasette)
    register(
        conn,
        registry=lambda: get_registry(_alive(reference)),
        limits=lambda: get_limits(_alive(reference)),
        find_time_limit=compat.find_time_limit,
        find_terms=lambda model: admit(_alive(reference), model),
    )


def _alive(reference: weakref.ref[Datasette]) -> Datasette:
    datasette = reference()
    if datasette is None:
        raise EmbedError("this connection belongs to a Datasette that is gone")
    return datasette


def _embed_function(
    find_registry: Callable[[], Registry],
    queries: QueryEmbeddings,
    limits: Callable[[], Limits],
    find_time_limit: Callable[[], Callable[[], None] | None] | None,
    find_terms: FindTerms = lambda model: TRUSTED,
) -> Callable[..., bytes | None]:
    """Return ``llm_embed`` for one connection."""

    def llm_embed(model_id: Any, content: Any, kind: Any = "query") -> bytes | None:
        item = read_content(content)
        if item is None and model_id in (None, ""):
            return None  # a stored query that was opened without its parameters
        # Before the text, so that a wrong name is noticed over a column of NULLs too.
        model = find_registry().get(str(model_id or ""))
        side = read_kind(kind)
        if item is None:
            return None
        terms = find_terms(model)
        found = queries.find(model, item, kind=side)
        if found is not None:
            return found
        bounds = limits()
        check_content(model, item, terms, bounds)
        renew = find_time_limit() if find_time_limit is not None else None
        if renew is not None:
            _refuse_old_query(bounds)
        blob = queries.embed(
            model, item, kind=side, key=terms.key, limits=bounds, spend=terms.spend
        )
        # The time the model took is not the query's, and without a call nobody knows how
        # often it was renewed.
        if renew is not None and current_call() is not None:
            renew()
        return blob

    return reports_errors(llm_embed, "llm_embed")


def _refuse_old_query(limits: Limits) -> None:
    """Refuse to embed once more for a query that embeds row after row.

    Each embed renews its time limit, so otherwise it would never end.

    Raises:
        EmbedError: the query began longer ago than one embed may take.
    """
    call = current_call()
    allowed = limits.timeout_seconds
    if call is not None and allowed is not None and perf_counter() - call.started_at > allowed:
        raise EmbedError(
            f"this query has been embedding texts for more than {allowed:g} seconds. Embed the "
            "table once instead, with: datasette embed create"
        )


def read_content(content: Any) -> Item | None:
    """Return an SQL value as what a model embeds, None for NULL, blank text and no bytes.

    A number is embedded as its text.
    """
    if isinstance(content, bytes):
        return content or None
    if content is None:
        return None
    text = content if isinstance(content, str) else str(content)
    return None if is_blank(text) else text


def read_kind(kind: Any) -> Kind:
    """Return the third argument of ``llm_embed``.

    Raises:
        EmbedError: it is neither of the two.
    """
    try:
        return Kind(kind)
    except ValueError:
        raise EmbedError(
            f"kind must be 'query' or 'document', not {kind!r}"
            if isinstance(kind, str)
            else "kind must be 'query' or 'document'"
        ) from None
