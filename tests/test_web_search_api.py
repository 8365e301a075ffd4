"""Similar entries over HTTP: by text, id and vector, for whoever may see the collection."""

from __future__ import annotations

import base64
import struct
import threading

import pytest

from datasette_embed.database import sqlite3
from datasette_embed.models import Kind
from tests.api_site import (
    ANONYMOUS,
    AWKWARD,
    EDITOR,
    PLAIN,
    ROOT,
    as_said_to,
    error_of,
    hidden_message,
)
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel, vector_of
from tests.test_web_collections_api import AWKWARD_URL

pytestmark = pytest.mark.asyncio
SIMILAR = "/data/-/embed/c/posts/similar.json"
BODIES = {"1": "a dog chases a ball", "2": "cats sleep all day", "3": "the tax return is due"}


def cosine(a, b):
    """In plain Python, float64, of numbers as float32 keeps them."""
    a, b = (struct.unpack("<8f", struct.pack("<8f", *numbers)) for numbers in (a, b))
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def expected(query, without=None):
    """(id, score) of the posts, the nearest first."""
    scores = [(i, cosine(query, vector_of(body))) for i, body in BODIES.items() if i != without]
    return sorted(scores, key=lambda pair: -pair[1])


def found(response):
    assert response.status_code == 200, response.text
    return [(row["id"], pytest.approx(row["score"], abs=1e-9)) for row in response.json()["rows"]]


async def test_similar_to_a_text(api_site, counting_model):
    """The scores are those of the oracle; the text is embedded as a query, once."""
    await api_site.make()
    response = await api_site.get(f"{SIMILAR}?q=a+pet")
    assert found(response) == expected(vector_of("a pet", Kind.QUERY))
    answer = response.json()
    assert {key: answer[key] for key in ("ok", "database", "collection", "model", "unusable")} == {
        "ok": True,
        "database": "data",
        "collection": "posts",
        "model": "counting",
        "unusable": 0,
    }
    row = answer["rows"][0]
    assert row == {**row, "content": None, "metadata": None, "url": f"/data/posts/{row['id']}"}
    assert counting_model.calls[1:] == [["a pet"]]
    assert found(await api_site.post(SIMILAR, {"q": "a pet"}, None)) == found(response)
    assert len(counting_model.calls) == 2


async def test_similar_to_an_entry_leaves_it_out_and_calls_nothing(api_site, counting_model):
    """Its vector is there already."""
    await api_site.make()
    query = vector_of(BODIES["1"])
    assert found(await api_site.get(f"{SIMILAR}?id=1")) == expected(query, "1")
    assert found(await api_site.post(SIMILAR, {"id": "1"}, None)) == expected(query, "1")
    assert len(counting_model.calls) == 1


async def test_similar_to_a_vector_in_each_form(api_site, counting_model):
    """A list of numbers, or the base64 of float32."""
    await api_site.make()
    vector = vector_of("anything")
    encoded = base64.b64encode(struct.pack("<8f", *vector)).decode()
    for form in (vector, encoded):
        response = await api_site.post(SIMILAR, {"vector": form}, None)
        assert found(response) == expected(vector)
    assert len(counting_model.calls) == 1


async def test_similar_number_prefix_and_min_score(api_site):
    """Fewer, only some ids, only near ones."""
    await api_site.make()
    query = vector_of(BODIES["1"])
    first, second = expected(query, "1")
    assert found(await api_site.get(f"{SIMILAR}?id=1&number=1")) == [first]
    assert found(await api_site.get(f"{SIMILAR}?id=1&prefix={second[0]}")) == [second]
    between = (first[1] + second[1]) / 2
    assert found(await api_site.get(f"{SIMILAR}?id=1&min_score={between}")) == [first]
    body = {"id": "1", "min_score": between, "number": 1000}
    assert found(await api_site.post(SIMILAR, body, None)) == [first]


async def test_similar_shows_stored_text_and_metadata(api_site):
    """What is stored comes with the row."""
    await api_site.make(store=True)
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("""update embeddings set metadata = '{"a": [1]}' where id = '2'""")
    conn.close()
    rows = (await api_site.get(f"{SIMILAR}?id=1")).json()["rows"]
    by_id = {row["id"]: row for row in rows}
    assert (by_id["2"]["content"], by_id["2"]["metadata"]) == (BODIES["2"], {"a": [1]})
    assert (by_id["3"]["content"], by_id["3"]["metadata"]) == (BODIES["3"], None)


async def test_similar_id_with_a_plus_as_it_was_copied(api_site):
    """In a query string a + is a space, unless no entry has that id; in JSON it is itself."""
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("insert into pairs values ('p q', 'r', 'a text'), ('p', 'q r', 'a text')")
    conn.close()
    await api_site.make("pairs")
    similar = "/data/-/embed/c/pairs/similar.json"
    for path in (f"{similar}?id=p+q,r", f"{similar}?id=p%2Bq,r"):
        rows = (await api_site.get(path)).json()["rows"]
        assert {row["id"] for row in rows} == {"p,q+r", "x~2Fy,1~2C2", "z,2"}
    message = error_of(await api_site.get(f"{similar}?id=no+such"), 404)
    assert message == "Collection 'pairs' has no entry with the id 'no such'"
    error_of(await api_site.post(similar, {"id": "p q,r"}, None), 404)


async def test_similar_addresses_of_rows_work(api_site):
    """Compound keys, awkward ids, views without row pages."""
    await api_site.make("pairs")
    rows = (await api_site.get("/data/-/embed/c/pairs/similar.json?q=x")).json()["rows"]
    assert {row["url"] for row in rows} == {"/data/pairs/x~2Fy,1~2C2", "/data/pairs/z,2"}
    await api_site.make(AWKWARD)
    path = f"/data/-/embed/c/{AWKWARD_URL}/similar.json?q=x"
    rows += (awkward := (await api_site.get(path)).json()["rows"])
    assert [row["id"] for row in awkward] == [AWKWARD]
    for row in rows:
        assert (await api_site.get(row["url"])).status_code == 200, row
    await api_site.make("recent")
    rows = (await api_site.get("/data/-/embed/c/recent/similar.json?id=1")).json()["rows"]
    assert [row["url"] for row in rows] == [None, None]


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("", 400, "Give one of 'q' (a text), 'id' (an entry), 'vector' and 'image'"),
        ("q=a&id=1", 400, "Give one of 'q'"),
        ("q=", 400, "'q' must not be blank"),
        ("q=%20%0A", 400, "'q' must not be blank"),
        ("q=a%00b", 400, "'q' must not hold the character NUL"),
        ("vector=[1]", 400, "Send 'vector' with POST"),
        ("id=nope", 404, "Collection 'posts' has no entry with the id 'nope'"),
        ("id=1&number=0", 400, "'number' must be a whole number from 1 to 1000"),
        ("id=1&number=1001", 400, "'number' must be a whole number from 1 to 1000"),
        ("id=1&number=1e2", 400, "'number' must be"),
        ("id=1&min_score=nan", 400, "'min_score' must be a number"),
        ("q=" + "a" * 2_001, 413, "2,001 characters"),
        ("q=" + "a" * 60_000, 413, "60,000 characters"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_similar_wrong_question_refused(api_site, counting_model, query, status, message):
    """Nothing is embedded for it."""
    await api_site.make()
    assert message in error_of(await api_site.get(f"{SIMILAR}?{query}"), status)
    assert len(counting_model.calls) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Give one of"),
        ({"q": "a", "vector": [1]}, "Give one of"),
        ({"q": 1}, "'q' must be a text"),
        ({"id": 1}, "'id' must be a text"),
        ({"vector": {}}, "'vector' must be a list of numbers, or base64"),
        ({"vector": ["1"]}, "'vector' must be a list of numbers, or base64"),
        ({"vector": [True] * 8}, "'vector' must be a list of numbers, or base64"),
        ({"vector": [[1] * 8]}, "'vector' must be a list of numbers, or base64"),
        ({"vector": "é"}, "'vector' must be a list of numbers, or base64"),
        ({"vector": "AAA"}, "'vector' must be a list of numbers, or base64"),
        ({"vector": "AAAA"}, "3 bytes"),
        ({"vector": []}, "at least one number"),
        ({"vector": ""}, "empty"),
        ({"vector": [1, 2]}, "'vector' has 2 dimensions, those of the collection have 8"),
        ({"vector": [0] * 8}, "the vector is zero"),
        ({"vector": [1e39] * 8}, "too large for float32"),
        ({"vector": [10**400] * 8}, "'vector': "),
        ({"id": "1", "number": "5"}, "'number' must be"),
        ({"id": "1", "number": True}, "'number' must be"),
        ({"id": "1", "k": 5}, "Unknown field 'k'. Fields: q, id, vector"),
    ],
    ids=str,
)
async def test_similar_wrong_body_refused(api_site, counting_model, body, message):
    """Each field by its name."""
    await api_site.make()
    response = await api_site.post(SIMILAR, body, None)
    assert message in error_of(response, 400)
    assert len(counting_model.calls) == 1


async def test_similar_a_megabyte_of_text_is_413(api_site, counting_model):
    """Long before it reaches the model; and so is a body that is longer still."""
    await api_site.make()
    message = error_of(await api_site.post(SIMILAR, {"q": "a" * 1_000_000}, None), 413)
    assert "1,000,000 characters" in message
    message = error_of(await api_site.post(SIMILAR, {"q": "a" * 2_100_000}, None), 413)
    assert message.startswith("The body of the request is longer than")
    assert len(counting_model.calls) == 1


async def test_similar_nan_in_base64_refused(api_site):
    """Which JSON's numbers cannot hold."""
    await api_site.make()
    encoded = base64.b64encode(struct.pack("<8f", *[float("nan")] * 8)).decode()
    message = error_of(await api_site.post(SIMILAR, {"vector": encoded}, None), 400)
    assert message == "'vector': the vector is zero, or has NaN or infinity in it"


@pytest.mark.parametrize(
    ("actor", "is_seen"), [(ANONYMOUS, False), (PLAIN, False), (EDITOR, True), (ROOT, True)]
)
@pytest.mark.parametrize("question", [{"q": "text"}, {"id": "1"}, {"vector": [1.0] * 8}])
async def test_similar_of_a_private_table_follows_it(
    api_site, counting_model, actor, is_seen, question
):
    """By text, id or vector; nothing is embedded for whoever may not see."""
    await api_site.make("secrets", store=True)
    path = "/data/-/embed/c/secrets/similar.json"
    response = await api_site.post(path, question, actor)
    if is_seen:
        assert "private text" in response.text
    else:
        assert error_of(response, 403) == as_said_to(actor, hidden_message("secrets"))
        assert len(counting_model.calls) == 1


async def test_similar_with_a_closed_model_needs_no_model_by_id(make_api_site, add_plugin):
    """Its text costs money; its vectors are there for everybody who sees the table."""
    paid = CountingModel("paid")
    paid.price_per_million_tokens, paid.is_local = 1.0, False

    class Paid(ModelsPlugin):
        pass

    add_plugin(Paid((paid, ())))
    site = make_api_site()
    await site.make(model="paid")
    message = error_of(await site.get(f"{SIMILAR}?q=text", PLAIN), 403)
    assert message.startswith("You may not use the model paid here. Sign in")
    response = await site.get(f"{SIMILAR}?q=text", headers={"authorization": "Bearer x"})
    assert error_of(response, 401).startswith("This API token is not known here")
    assert len(found(await site.get(f"{SIMILAR}?id=1", PLAIN))) == 2
    assert len(found(await site.post(SIMILAR, {"vector": [1] * 8}, PLAIN))) == 3
    assert paid.batch_sizes == [3]
    assert len(found(await site.get(f"{SIMILAR}?q=text", ROOT))) == 3
    assert paid.calls[1:] == [["text"]]


async def test_similar_over_budget_is_429(make_api_site, counting_model):
    """Texts cost a call; ids, and texts that are known already, do not."""
    site = make_api_site(config={"calls_per_minute": 2})
    await site.make()
    for text in ("a", "b", "a", "b"):
        assert (await site.get(f"{SIMILAR}?q={text}", PLAIN)).status_code == 200
    response = await site.get(f"{SIMILAR}?q=c", PLAIN)
    error_of(response, 429)
    assert int(response.headers["retry-after"]) >= 1
    assert (await site.get(f"{SIMILAR}?q=a", PLAIN)).status_code == 200
    assert (await site.get(f"{SIMILAR}?id=1", PLAIN)).status_code == 200
    assert counting_model.calls[1:] == [["a"], ["b"]]


async def test_similar_model_fails_or_does_not_answer(make_api_site, counting_model, caplog):
    """502 and 504; what the model said is in the log."""
    site = make_api_site(config={"embed_timeout_seconds": 0.05})
    await site.make()
    counting_model.fails_with = RuntimeError("the secret detail")
    response = await site.get(f"{SIMILAR}?q=one")
    error_of(response, 502)
    assert "secret detail" not in response.text
    counting_model.fails_with, counting_model.gate = None, threading.Event()
    try:
        assert "no answer within" in error_of(await site.get(f"{SIMILAR}?q=two"), 504)
    finally:
        counting_model.gate.set()


async def test_similar_unregistered_model_is_404_by_text_only(api_site):
    """A file can name what it likes: only registered models are called."""
    await api_site.make()
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("update collections set model = 'strange'")
        conn.execute("update _embed_collections set model = 'strange'")
    conn.close()
    message = error_of(await api_site.get(f"{SIMILAR}?q=text"), 404)
    assert message.startswith("Unknown model: strange. Known models: ")
    assert len(found(await api_site.get(f"{SIMILAR}?id=1"))) == 2


async def test_similar_follows_what_was_just_written(api_site, counting_model):
    """Whoever wrote it."""
    await api_site.make()
    assert len(found(await api_site.get(f"{SIMILAR}?id=1"))) == 2
    conn = sqlite3.connect(api_site.path)
    with conn:
        conn.execute("delete from embeddings where id = '2'")
    conn.close()
    assert [entry for entry, _ in found(await api_site.get(f"{SIMILAR}?id=1"))] == ["3"]


async def test_similar_other_methods_refused(api_site):
    """GET and POST ask; nothing else."""
    await api_site.make()
    for method in ("HEAD", "PUT", "DELETE", "OPTIONS"):
        response = await api_site.ask(method, SIMILAR, None)
        assert response.status_code == 405
        assert response.headers["allow"] == "GET, POST"
