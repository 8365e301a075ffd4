"""OpenAI's embeddings protocol, asked by OpenAI's own client."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from datasette import hookimpl
from datasette.app import Datasette

from datasette_embed.errors import ProviderError
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel, Kind, vector_of

try:  # which of them openai uses depends on its version
    import httpx2 as httpx
except ImportError:
    import httpx

IS_ONE = hasattr(Datasette, "allowed")
PATH = "/-/embed/v1/embeddings"
BUNDLED = "sentence-transformers/all-MiniLM-L6-v2"


class Tokens:
    """What a plugin for API tokens does: one token is known, and whose it is."""

    @hookimpl
    def actor_from_request(self, datasette, request):
        if request.headers.get("authorization") == "Bearer good":
            return {"id": "a"}


@pytest.fixture
def tokens(add_plugin):
    add_plugin(Tokens())


class PaidPlugin(ModelsPlugin):
    """Another plugin than that of the model that costs nothing."""


@pytest.fixture
def paid(add_plugin):
    """A model that is closed to visitors."""
    model = CountingModel("paid")
    model.price_per_million_tokens, model.is_local = 0.02, False
    add_plugin(PaidPlugin((model, ("costly",))))
    return model


async def client_of(datasette, key="any", **options):
    """Return OpenAI's client, connected to a Datasette without a network."""
    await datasette.invoke_startup()
    transport = httpx.ASGITransport(app=datasette.app())
    return openai.AsyncOpenAI(
        api_key=key,
        base_url="http://localhost/-/embed/v1",
        http_client=openai.DefaultAsyncHttpxClient(transport=transport),
        max_retries=0,
        **options,
    )


def as_float32(numbers):
    return list(struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers)))


async def post(datasette, body, expect=200, **options):
    """Post JSON by hand; return the answer."""
    answer = await datasette.client.post(PATH, json=body, **options)
    assert answer.status_code == expect, answer.text
    return answer


async def refusal(datasette, body, status, **options):
    """Return the error of a request that must be refused, in OpenAI's shape."""
    answer = await post(datasette, body, status, **options)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return answer.json()["error"]


@pytest.mark.asyncio
@pytest.mark.parametrize("encoding_format", ["float", "base64", None])
async def test_client_texts_get_their_vectors(make_datasette, counting_model, encoding_format):
    """One vector a text, in order, bit by bit; base64 is what the client asks for by itself."""
    client = await client_of(make_datasette())
    options = {"encoding_format": encoding_format} if encoding_format else {}
    answer = await client.embeddings.create(
        model="count", input=["a red cat", "dog", "a red cat"], user="u", **options
    )
    assert answer.object == "list"
    assert answer.model == "counting"
    assert [item.object for item in answer.data] == ["embedding"] * 3
    assert [item.index for item in answer.data] == [0, 1, 2]
    for item, text in zip(answer.data, ["a red cat", "dog", "a red cat"], strict=True):
        given = item.embedding
        if isinstance(given, str):
            given = list(struct.unpack("<8f", base64.b64decode(given)))
        assert given == as_float32(vector_of(text))
    # The model counts a token a word, and two special ones a text.
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5 + 3 + 5, 13)
    assert counting_model.calls == [["a red cat", "dog"]]


@pytest.mark.asyncio
async def test_post_base64_is_little_endian_float32(make_datasette, counting_model):
    """What goes over the wire when it is asked for."""
    body = {"model": "counting", "input": "x", "encoding_format": "base64", "dimensions": 8}
    answer = (await post(make_datasette(), body)).json()
    blob = base64.b64decode(answer["data"][0]["embedding"], validate=True)
    assert blob == struct.pack("<8f", *vector_of("x"))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({}, Kind.DOCUMENT),
        ({"kind": "query"}, Kind.QUERY),
        ({"input_type": "query"}, Kind.QUERY),
        ({"kind": "document"}, Kind.DOCUMENT),
    ],
)
async def test_client_kind_says_the_side_of_the_search(make_datasette, counting_model, extra, kind):
    """OpenAI's protocol has no such field: a text is a document unless one is sent."""
    client = await client_of(make_datasette())
    answer = await client.embeddings.create(model="count", input="x", extra_body=extra)
    assert answer.data[0].embedding == as_float32(vector_of("x", kind))


@pytest.mark.asyncio
async def test_client_lists_models_it_may_use(make_datasette, counting_model, paid):
    """Each can be asked for by its id, slashes and all; a closed one is not listed."""
    client = await client_of(make_datasette())
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == ["counting", BUNDLED]
    assert {model.object for model in listed} == {"model"}
    assert (await client.models.retrieve(BUNDLED)).id == BUNDLED
    assert (await client.models.retrieve("count")).id == "counting"
    with pytest.raises(openai.NotFoundError, match="Unknown model: none"):
        await client.models.retrieve("none")
    with pytest.raises(openai.AuthenticationError, match="You may not use the model paid"):
        await client.models.retrieve("paid")


BAD = [
    ({"input": [1, 2, 3]}, "input", "input holds tokens"),
    ({"input": [[1, 2], [3]]}, "input", "OpenAIEmbeddings(check_embedding_ctx_length=False)"),
    ({"input": []}, "input", "a list of texts that is not empty"),
    ({"input": None}, "input", "input must be a text"),
    ({"input": 5}, "input", "input must be a text"),
    ({"input": {"a": "b"}}, "input", "input must be a text"),
    ({"input": ["a", None]}, "input", "input[1] must be a text"),
    ({"input": ["a", True]}, "input", "input[1] must be a text"),
    ({"input": ["a", " \n"]}, "input", "input[1] is blank"),
    ({"input": ""}, "input", "input[0] is blank"),
    ({"input": ["a"] * 2049}, "input", "2,049 texts, 2,048 is the most"),
    ({"model": None}, "model", "model must be the id of a model"),
    ({"model": 5}, "model", "model must be the id of a model"),
    ({"encoding_format": "int8"}, "encoding_format", "must be float or base64"),
    ({"dimensions": 4}, "dimensions", "makes vectors of 8 dimensions, not 4"),
    ({"dimensions": "8"}, "dimensions", "must be a whole number"),
    ({"dimensions": True}, "dimensions", "must be a whole number"),
    ({"kind": "both"}, "kind", "kind must be document or query"),
    ({"kind": ["query"]}, "kind", "kind must be document or query"),
    ({"inputs": "x"}, "inputs", "Unrecognized request argument supplied: inputs"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("change", "param", "message"), BAD)
async def test_post_bad_field_refused(make_datasette, counting_model, change, param, message):
    """400 with the name of the field and what it must be; no model is called."""
    error = await refusal(make_datasette(), {"model": "counting", "input": "x", **change}, 400)
    assert message in error.pop("message")
    assert error == {"type": "invalid_request_error", "param": param, "code": None}
    assert counting_model.calls == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"input": "x", "model": "counting"}', "text/plain", 400),
        (b'{"input": "' + b"x" * 3_000_000 + b'"}', "application/json", 413),
    ],
)
async def test_post_bad_body_refused(make_datasette, counting_model, content, kind, status):
    """What is no JSON object, or too much of it."""
    answer = await make_datasette().client.post(
        PATH, content=content, headers={"content-type": kind}
    )
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert counting_model.calls == []


@pytest.mark.asyncio
async def test_dimensions_of_a_closed_model_are_not_told(make_datasette, paid):
    """Whether one may use the model comes first."""
    body = {"model": "paid", "input": "x", "dimensions": 3}
    response = await make_datasette([]).client.post("/-/embed/v1/embeddings", json=body)
    assert response.status_code == 401
    assert "dimensions" not in response.text


@pytest.mark.asyncio
async def test_get_embeddings_not_allowed(make_datasette, counting_model):
    """Only POST embeds: a link cannot."""
    answer = await make_datasette().client.get(PATH)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.asyncio
async def test_client_unknown_model_not_found(make_datasette, counting_model):
    """404, and the models there are."""
    client = await client_of(make_datasette())
    with pytest.raises(openai.NotFoundError) as caught:
        await client.embeddings.create(model="text-embedding-9", input="x")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "Known models: " in str(caught.value)


@pytest.mark.asyncio
async def test_client_text_the_model_cannot_read_refused(make_datasette, counting_model):
    """Too long for the site, too long for the model, or in no script it knows."""
    counting_model.max_tokens = 5
    client = await client_of(make_datasette(config={"query_characters": 50}))
    for text, status, message in (
        ("x" * 51, 413, "the text is 51 characters long"),
        ("a b c d e f", 400, "the text has 8 tokens and the model reads 5"),
        ("語", 400, "counting"),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.embeddings.create(model="counting", input=["fine", text])
        assert caught.value.status_code == status, text
        assert message in str(caught.value)
        assert caught.value.param == "input"
    assert ["x" * 51] not in counting_model.calls


@pytest.mark.asyncio
async def test_client_more_texts_than_the_budget_refused_before_any_call(
    make_datasette, counting_model
):
    """All or nothing, with the time to wait; what is cached costs nothing."""
    client = await client_of(make_datasette(config={"calls_per_request": 3}))
    texts = ["a", "b", "c", "d"]
    with pytest.raises(openai.RateLimitError) as caught:
        await client.embeddings.create(model="counting", input=texts)
    assert counting_model.calls == []
    assert caught.value.code == "rate_limit_exceeded"
    assert "Send at most 3 texts a request" in str(caught.value)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.response.headers
    await client.embeddings.create(model="counting", input=texts[:3])
    await client.embeddings.create(model="counting", input=texts)
    assert counting_model.calls == [["a", "b", "c"], ["d"]]


@pytest.mark.asyncio
async def test_client_closed_model_needs_a_key(make_datasette, paid, tokens):
    """401 without a key or with an unknown one, 403 with a known one that is not enough."""
    datasette = make_datasette()
    body = {"model": "costly", "input": "x"}
    for headers in ({}, {"Authorization": "Bearer bad"}):
        error = await refusal(datasette, body, 401, headers=headers)
        assert "You may not use the model paid" in error["message"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    client = await client_of(datasette, "good")
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await client.embeddings.create(model="costly", input="x")
    assert caught.value.code == "model_not_allowed"
    assert paid.calls == []


@pytest.mark.asyncio
async def test_client_allowed_actor_uses_a_closed_model(make_datasette, paid, tokens):
    """An ``allow`` block opens it to those it names."""
    datasette = make_datasette(config={"allow": {"paid": {"id": "a"}}})
    answer = await (await client_of(datasette, "good")).embeddings.create(model="paid", input="x")
    assert answer.data[0].embedding == as_float32(vector_of("x"))
    with pytest.raises(openai.AuthenticationError):
        await (await client_of(datasette, "bad")).embeddings.create(model="paid", input="y")
    assert paid.calls == [["x"]]


@pytest.mark.asyncio
async def test_client_unknown_key_is_no_harm_where_none_is_needed(make_datasette, counting_model):
    """Clients must send a key, any key: an open model does not ask whose it is."""
    answer = await (await client_of(make_datasette(), "sk-nobody")).embeddings.create(
        model="counting", input="x"
    )
    assert len(answer.data) == 1


@pytest.mark.asyncio
@pytest.mark.skipif(not IS_ONE, reason="Datasette 0.65 has no API tokens of this kind")
async def test_client_datasette_token_is_the_key(make_datasette, paid):
    """A token made by the site itself, of an actor the model is open to."""
    datasette = make_datasette(config={"allow": {"paid": {"id": "a"}}})
    await datasette.invoke_startup()
    token = datasette.create_token("a")
    token = await token if hasattr(token, "__await__") else token
    assert token.startswith("dstok_")
    answer = await (await client_of(datasette, token)).embeddings.create(model="paid", input="x")
    assert len(answer.data) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("path", [PATH, "/-/embed/v1/models"])
async def test_private_site_needs_a_key(make_datasette, counting_model, tokens, path):
    """Who may not see the site may not use its models either."""
    datasette = make_datasette(site={"allow": {"id": "a"}})
    method = "POST" if path == PATH else "GET"
    body = {"json": {"model": "counting", "input": "x"}} if path == PATH else {}
    answer = await datasette.client.request(method, path, **body)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert counting_model.calls == []
    headers = {"Authorization": "Bearer good"}
    answer = await datasette.client.request(method, path, headers=headers, **body)
    assert answer.status_code == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "failure",
    [
        ProviderError("counting", "no answer", detail="/secret/path"),
        RuntimeError("/secret/path"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_client_model_fails_the_reason_stays_in_the_log(
    make_datasette, counting_model, caplog, failure
):
    """What a provider or a program said is for those who run the site."""
    counting_model.fails_with = failure
    client = await client_of(make_datasette())
    with pytest.raises(openai.InternalServerError) as caught:
        await client.embeddings.create(model="counting", input="x")
    assert (caught.value.status_code, caught.value.type) == (502, "api_error")
    assert "/secret/path" not in str(caught.value)
    assert "/secret/path" in caplog.text


@pytest.mark.asyncio
async def test_client_busy_service_behind_the_model_is_503(make_datasette, counting_model):
    """The caller is over no limit of its own, and is told when to ask again."""
    counting_model.fails_with = ProviderError(
        "counting", "busy", retryable=True, retry_after_seconds=0.5
    )
    client = (await client_of(make_datasette())).with_options(max_retries=0)
    with pytest.raises(openai.InternalServerError) as caught:
        await client.embeddings.create(model="counting", input="x")
    assert (caught.value.status_code, caught.value.type) == (503, "api_error")
    assert caught.value.response.headers["retry-after"] == "1"


@pytest.mark.asyncio
async def test_cross_site_form_and_cookie_refused(make_datasette, counting_model):
    """A page of another site can spend nothing in the name of somebody signed in."""
    datasette = make_datasette()
    cookies = {"ds_actor": datasette.sign({"a": {"id": "root"}}, "actor")}
    body = json.dumps({"model": "counting", "input": "x"})
    headers = {
        "origin": "https://elsewhere.example",
        "sec-fetch-site": "cross-site",
    }
    for kind in ("text/plain", "application/json"):
        answer = await datasette.client.post(
            PATH, content=body, cookies=cookies, headers={**headers, "content-type": kind}
        )
        assert answer.status_code in (400, 403), kind
    assert counting_model.calls == []


@pytest.mark.asyncio
async def test_cors_site_may_be_asked_by_others(make_datasette, counting_model):
    """With --cors a browser is told that it may send the key and JSON."""
    datasette = make_datasette(cors=True)
    answer = await datasette.client.options(PATH)
    assert answer.status_code == 200
    answer = await post(datasette, {"model": "counting", "input": "x"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == "Authorization, Content-Type"
    answer = await post(make_datasette(), {"model": "counting", "input": "x"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Run ``datasette serve`` as a person would; yield its address."""
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "datasette", "serve", "--memory", "--port", str(port)],
            cwd=folder,
            env={**os.environ, "DATASETTE_EMBED_USER_PATH": str(folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while not re.search(r"Uvicorn running", log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_client_real_server_answers(server):
    """The official client as its own documentation shows it, over a socket."""
    with openai.OpenAI(api_key="any", base_url=f"{server}/-/embed/v1", max_retries=0) as client:
        answer = client.embeddings.create(
            model="minilm", input=["a dog chases a ball", "puppies love to play", "tax returns"]
        )
        dog, puppies, taxes = (item.embedding for item in answer.data)
        assert {len(vector) for vector in (dog, puppies, taxes)} == {384}
        assert sum(a * b for a, b in zip(dog, puppies, strict=True)) > 0.4
        assert sum(a * b for a, b in zip(dog, taxes, strict=True)) < 0.2
        assert answer.model == BUNDLED
        # As its tokenizer counts, [CLS] and [SEP] included: "pup ##pies love to play".
        assert answer.usage.total_tokens == 7 + 7 + 4
        plain = client.embeddings.create(
            model="minilm", input="a dog chases a ball", encoding_format="float"
        )
        assert plain.data[0].embedding == dog
        with pytest.raises(openai.BadRequestError, match="input holds tokens"):
            client.embeddings.create(model="minilm", input=[[1, 2, 3]])


def test_example_of_the_readme_runs(server, capsys):
    """As it is printed, but for the address."""
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    [example] = [
        block for block in re.findall(r"```py\n(.*?)```", readme, re.S) if "import OpenAI" in block
    ]
    assert "http://127.0.0.1:8001/" in example
    exec(example.replace("http://127.0.0.1:8001", server), {})
    assert capsys.readouterr().out == "384 11\n"
