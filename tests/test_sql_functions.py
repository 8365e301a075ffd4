"""SQL functions on a plain connection: inputs, errors, registration, and no leak."""

from __future__ import annotations

import gc
import inspect
import json
import os
import sqlite3
import struct
import sys
import weakref

import pytest

from datasette_embed import sql_functions
from datasette_embed.errors import (
    DimensionMismatchError,
    EmbedError,
    ProviderError,
    UnknownModelError,
    UnreadableTextError,
)
from datasette_embed.models import Kind
from datasette_embed.query_embeddings import Limits, QueryEmbeddings
from datasette_embed.registry import Registry
from tests.fakes import CountingModel, vector_of

# Datasette has sqlite3 report what callbacks raise; pytest would make errors of that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

GENERIC = "^user-defined function raised exception$"
NAMES = {
    ("llm_embed", 2),
    ("llm_embed", 3),
    ("llm_embed_add", 2),
    ("llm_embed_average", 1),
    ("llm_embed_cosine", 2),
    ("llm_embed_decode", 1),
    ("llm_embed_dimensions", 1),
    ("llm_embed_dot", 2),
    ("llm_embed_encode", 1),
    ("llm_embed_id_number", 1),
    ("llm_embed_id_part", 2),
    ("llm_embed_l2", 2),
    ("llm_embed_normalize", 1),
    ("llm_embed_scale", 2),
    ("llm_embed_subtract", 2),
    ("llm_embed_sum", 1),
    ("llm_embed_top", 4),
    ("llm_embed_truncate", 2),
}


@pytest.fixture
def model():
    return CountingModel()


@pytest.fixture
def registry(model):
    registry = Registry()
    registry.register(model, ("count",))
    return registry


@pytest.fixture
def conn(registry):
    connection = sqlite3.connect(":memory:")
    sql_functions.register(connection, registry=registry, queries=QueryEmbeddings())
    yield connection
    connection.close()


@pytest.fixture
def embed(registry):
    """llm_embed as a Python function, so that its errors are seen whole."""
    found = []

    class Recorder:
        def create_function(self, name, number_of_arguments, function, *, deterministic):
            if name == "llm_embed":
                found.append(function)

        def create_aggregate(self, *_args):
            pass

    sql_functions.register(Recorder(), registry=registry, queries=QueryEmbeddings())
    return found[0]


def one(conn, sql, *parameters):
    return conn.execute(sql, parameters).fetchone()[0]


def blob(*numbers):
    return struct.pack(f"<{len(numbers)}f", *numbers)


def test_register_every_name_and_number_of_arguments(conn):
    """What the manual lists is what a connection has, and nothing else of that name."""
    rows = conn.execute(
        "select name, narg from pragma_function_list where name like 'llm_embed%' and not builtin"
    )
    assert set(rows) == NAMES


def test_llm_embed_vector_of_another_length_than_said_names_the_model(embed, model):
    """And both lengths: the model is wrong, not the query."""
    model.embed_batch = lambda items: [[1.0] * 4] * len(items)
    with pytest.raises(
        DimensionMismatchError, match="^counting: a vector has 4 dimensions instead of 8. Was it"
    ):
        embed("count", "dog")


def test_llm_embed_blob_of_the_query_vector(conn):
    """Little-endian float32, the query side unless said otherwise."""
    query = blob(*vector_of("dog", Kind.QUERY))
    assert one(conn, "select llm_embed('count', 'dog')") == query
    assert one(conn, "select llm_embed('counting', 'dog', 'query')") == query
    document = blob(*vector_of("dog", Kind.DOCUMENT))
    assert one(conn, "select llm_embed('count', 'dog', 'document')") == document


@pytest.mark.parametrize("content", [None, "", " \n\t", b"", "\u200b", "\ufeff\x01\xa0"])
@pytest.mark.parametrize("model_id", ["count", "", None])
def test_llm_embed_nothing_to_embed_null(conn, model, content, model_id):
    """A stored query opened without its parameters binds empty text everywhere."""
    assert one(conn, "select llm_embed(?, ?)", model_id, content) is None
    assert model.calls == []


@pytest.mark.parametrize("content", [None, "", "text"])
def test_llm_embed_unknown_name_noticed_without_text_too(embed, content):
    """A wrong name over a column of NULLs would otherwise never be seen."""
    with pytest.raises(UnknownModelError, match="Unknown model: nope"):
        embed("nope", content)
    with pytest.raises(EmbedError, match="kind must be 'query'"):
        embed("count", content, "wrong")


def test_llm_embed_text_of_megabytes_refused_before_it_is_read(registry):
    """Counting the tokens of what nobody searches for takes gigabytes."""
    limits = Limits(characters=1_000)
    connection = sqlite3.connect(":memory:")
    embed_function = sql_functions._embed_function(
        lambda: registry, QueryEmbeddings(), lambda: limits, None
    )
    connection.close()
    with pytest.raises(UnreadableTextError, match="1,001 characters long.* at most 1,000 here"):
        embed_function("count", "a" * 1_001)
    assert len(embed_function("count", "a" * 1_000)) > 0


@pytest.mark.parametrize(("content", "item"), [(5, "5"), (2.5, "2.5"), (b"\xff", b"\xff")])
def test_llm_embed_number_as_text_bytes_as_bytes(conn, model, content, item):
    """SQLite's own types are all content."""
    assert one(conn, "select llm_embed('count', ?)", content) is not None
    assert model.calls == [[item]]


def test_llm_embed_bytes_for_a_model_of_texts_refused(embed, model):
    """In LLM's words, with the model's name."""
    model.supports_binary = False
    with pytest.raises(ProviderError, match="counting: This model does not support binary data"):
        embed("count", b"\xff")


@pytest.mark.parametrize("name", ["nope", "", None, 3, "COUNT"])
def test_llm_embed_unknown_model_error_lists_known(embed, name):
    """The message says which names there are."""
    with pytest.raises(UnknownModelError, match=r"Known models: counting \(count\)"):
        embed(name, "dog")


@pytest.mark.parametrize("kind", ["Query", "", None, 1, "passage"])
def test_llm_embed_unknown_kind_error_names_both(embed, kind):
    """The two kinds are named."""
    with pytest.raises(EmbedError, match="kind must be 'query' or 'document'"):
        embed("count", "dog", kind)


def test_llm_embed_error_in_sql_is_an_error_not_a_value(conn):
    """Outside a Datasette it is sqlite3's generic one."""
    with pytest.raises(sqlite3.OperationalError, match=GENERIC):
        one(conn, "select llm_embed('nope', 'dog')")


def test_llm_embed_constant_arguments_evaluated_once(conn, model):
    """Deterministic: once a statement, not once a row; and cached after that."""
    conn.execute("create table t (v blob)")
    conn.executemany("insert into t values (?)", [(blob(*vector_of(str(n))),) for n in range(50)])
    sql = "select count(*) from t where llm_embed_cosine(v, llm_embed('count', 'dog')) > -2"
    assert one(conn, sql) == 50
    assert one(conn, sql) == 50
    assert model.calls == [["dog"]]


def test_scalars_are_deterministic_usable_in_an_index(conn):
    """SQLite only lets deterministic functions into an index."""
    conn.execute("create table t (v blob, w blob)")
    calls = {1: "v", 2: "v, w", 3: "'count', v, 'query'"}
    scalars = NAMES - {("llm_embed_average", 1), ("llm_embed_sum", 1), ("llm_embed_top", 4)}
    for number, (name, number_of_arguments) in enumerate(sorted(scalars)):
        conn.execute(f"create index i{number} on t ({name}({calls[number_of_arguments]}))")


def test_vector_functions_in_sql(conn):
    """Each name is wired to its function."""
    a, b = blob(3, 4), blob(4, 3)
    assert one(conn, "select llm_embed_cosine(?, ?)", a, b) == pytest.approx(0.96)
    assert one(conn, "select llm_embed_dot(?, ?)", a, b) == pytest.approx(24)
    assert one(conn, "select llm_embed_l2(?, ?)", a, b) == pytest.approx(2**0.5)
    assert one(conn, "select llm_embed_decode(?)", a) == "[3.0, 4.0]"
    assert one(conn, "select llm_embed_encode('[3, 4]')") == a
    assert one(conn, "select llm_embed_dimensions(?)", a) == 2
    assert one(conn, "select llm_embed_normalize(?)", a) == blob(0.6, 0.8)
    assert one(conn, "select llm_embed_truncate(?, 1)", a) == blob(1)
    assert one(conn, "select llm_embed_add(?, ?)", a, b) == blob(7, 7)
    assert one(conn, "select llm_embed_subtract(?, ?)", a, b) == blob(-1, 1)
    assert one(conn, "select llm_embed_scale(?, 2)", a) == blob(6, 8)


def test_aggregates_in_sql(conn):
    """The three aggregates, over rows and over none."""
    values = [(1, blob(3, 4)), (2, blob(4, 3)), (3, None)]
    conn.execute("create table t (id integer primary key, v blob)")
    conn.executemany("insert into t values (?, ?)", values)
    assert one(conn, "select llm_embed_sum(v) from t") == blob(7, 7)
    assert one(conn, "select llm_embed_average(v) from t") == blob(3.5, 3.5)
    top = json.loads(one(conn, "select llm_embed_top(id, v, ?, 1) from t", blob(4, 3)))
    assert top == [{"id": 2, "score": pytest.approx(1)}]
    assert one(conn, "select llm_embed_average(v) from t where 0") is None


def test_row_functions_have_no_wrapper_of_their_own():
    """One Python call a row: an error-reporting wrapper would be a second."""
    assert sql_functions.ROW_FUNCTIONS.keys() == {
        "llm_embed_cosine",
        "llm_embed_dot",
        "llm_embed_l2",
    }
    for new_function in sql_functions.ROW_FUNCTIONS.values():
        assert not hasattr(new_function(), "__wrapped__")
        assert "datasette_embed/sql_vectors.py" in inspect.getsourcefile(new_function()).replace(
            os.sep, "/"
        )


def test_register_without_arguments_uses_this_process(counting_model):
    """A script needs one line."""
    connection = sqlite3.connect(":memory:")
    sql_functions.register(connection)
    assert one(connection, "select llm_embed('count', 'dog')") is not None
    connection.close()


class WatchedConnection(sqlite3.Connection):
    """A connection of which a test can ask whether it is still there."""


def test_register_dropped_connection_is_freed(registry, tmp_path):
    """Functions must not keep their connection open: SQLite holds them, unseen by gc."""
    path = tmp_path / "file.db"
    watched = []
    for _ in range(3):
        connection = sqlite3.connect(path, factory=WatchedConnection)
        watched.append(weakref.ref(connection))
        sql_functions.register(connection, registry=registry, queries=QueryEmbeddings())
        connection.execute("create table if not exists t (v)")
        a = blob(*vector_of("a"))
        assert one(connection, "select llm_embed_cosine(?, llm_embed('count', 'x'))", a)
        connection.execute("select llm_embed_top(1, ?, ?, 1)", (blob(1), blob(1))).fetchall()
        del connection
    gc.collect()
    assert [reference() for reference in watched] == [None] * 3
    if sys.platform == "linux":
        opened = [
            os.readlink(f"/proc/self/fd/{name}")
            for name in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{name}")
        ]
        assert str(path) not in opened
