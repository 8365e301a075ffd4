"""OpenAI's protocol: the real client against a real server, on good days and bad ones."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

from datasette_embed.errors import (
    CallRefusedError,
    ConfigError,
    DimensionMismatchError,
    InvalidVectorError,
    MissingKeyError,
    ProviderError,
    QuotaExceededError,
    UnreadableTextError,
)
from datasette_embed.model_calls import embed_items
from datasette_embed.model_entries import parse_model_entry
from datasette_embed.models import Kind
from datasette_embed.presets import PRESETS
from datasette_embed.providers import openai as provider
from datasette_embed.providers import openai_tokens
from datasette_embed.providers.openai import OpenAIModel, openai_models
from datasette_embed.providers.opening import open_model
from datasette_embed.registry import build_registry
from datasette_embed.settings import Settings, parse_settings
from tests.conftest import ModelsPlugin
from tests.contracts import EmbeddingModelContract
from tests.embedding_server import EmbeddingServer, Fault, bomb, http_date
from tests.fakes import CountingModel, vector_of

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def server():
    """A server that needs no key."""
    with EmbeddingServer() as running:
        yield running


@pytest.fixture
def model(server):
    """The one model of that server."""
    return make(server)


@pytest.fixture(autouse=True)
def no_key_outside(monkeypatch):
    """No key of whoever runs the tests, and no vocabulary that an earlier test has loaded."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(openai_tokens, "_loaded", [None])


def make(server, **options):
    return OpenAIModel("m", model_id="m", base_url=server.base_url, **options)


def make_official(server, monkeypatch, model="text-embedding-3-small", **options):
    """Make a model that takes the server for OpenAI's."""
    monkeypatch.setattr(provider, "OPENAI_URL", server.base_url)
    return OpenAIModel(model, model_id=model, **options)


def call(model, texts=("a", "b c"), key=None):
    """Call a model as the engine does, which tries again by itself."""
    return embed_items(model, list(texts), Kind.DOCUMENT, key=key, retries=True)


class TestOpenAIModel(EmbeddingModelContract):
    """What everything that embeds relies on, over HTTP."""

    @pytest.fixture
    def model(self, server):
        return make(server)


class TestOpenAIModelFloat(EmbeddingModelContract):
    """The same where vectors are sent in base64."""

    @pytest.fixture
    def model(self, server):
        return make(server, encoding_format="base64")


# What is sent


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_embed_vectors_and_tokens_are_the_servers(server, encoding_format):
    """Either form gives the same float32, and the tokens are those the server says."""
    answer = call(make(server, encoding_format=encoding_format))
    assert answer.vectors.dtype == np.float32
    assert answer.vectors.tolist() == [vector_of("a"), vector_of("b c")]
    assert answer.tokens == server.tokens_billed == 3
    (request,) = server.requests
    assert request.path == "/v1/embeddings"
    assert request.body == {
        "model": "m",
        "input": ["a", "b c"],
        "encoding_format": encoding_format,
    }


def test_embed_official_key_and_what_the_account_says_are_sent(monkeypatch):
    """OpenAI gets the key, the organisation of the environment, and asks for base64."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    with EmbeddingServer(key=KEY, dimensions=1536) as server:
        model = make_official(server, monkeypatch)
        assert call(model, ["a"]).vectors.shape == (1, 1536)
    (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["openai-organization"] == "org-1"
    assert request.body["encoding_format"] == "base64"
    assert "dimensions" not in request.body


def test_embed_other_server_nothing_of_openais_is_sent(server, model, monkeypatch):
    """Neither the key nor the organisation, nor what an environment variable adds."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Gateway: secret\nAuthorization: Bearer {KEY}")
    call(model)
    (request,) = server.requests
    assert request.headers["authorization"] == "Bearer none"
    sent = json.dumps(request.headers)
    assert KEY not in sent
    assert "secret" not in sent


def test_embed_environment_names_another_address_not_followed(server, model, monkeypatch):
    """An address is what the registration says."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    call(model)
    assert len(server.requests) == 1


def test_embed_dimensions_asked_for_and_known(server):
    """A length that is asked for is the model's own from the start."""
    model = make(server, dimensions=5)
    assert model.dimensions == 5
    assert call(model).vectors.shape == (2, 5)
    assert server.requests[0].body["dimensions"] == 5


def test_embed_parameters_by_kind(server):
    """What tells queries from documents goes beside what the protocol has."""
    model = make(
        server,
        query_parameters={"input_type": "query"},
        document_parameters={"input_type": "document", "truncate": False},
    )
    model.embed("a", kind=Kind.QUERY)
    model.embed("a")
    query, document = (request.body for request in server.requests)
    assert (query["input_type"], "truncate" in query) == ("query", False)
    assert (document["input_type"], document["truncate"]) == ("document", False)


def test_embed_known_prompts_sent_by_kind_unless_parameters_say_the_kind(server, monkeypatch):
    """A usual model's prompts stand before its texts, wherever it is hosted, but not twice."""
    entry = {"provider": "tei", "model": "intfloat/multilingual-e5-small"}
    model = open_model(parse_model_entry({**entry, "base_url": server.base_url}, ""))
    model.embed("a", kind=Kind.QUERY)
    model.embed("a")
    assert server.texts == ["query: a", "passage: a"]
    told = {**entry, "base_url": server.base_url, "query_parameters": {"task": "q"}}
    open_model(parse_model_entry(told, "")).embed("a")
    assert server.texts[2:] == ["a"]
    bare = {**entry, "base_url": server.base_url, "document_prompt": ""}
    open_model(parse_model_entry(bare, "")).embed("a")
    assert server.texts[3:] == ["a"]


def test_embed_calls_of_several_keys_each_its_own(server):
    """A key belongs to its call, also when calls run side by side."""
    model = make(server, key="other")
    keys = [f"sk-key-number-{number}" for number in range(8)]
    threads = [
        threading.Thread(target=model.embed, args=(key,), kwargs={"key": key}) for key in keys
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 8
    for request in server.requests:
        assert request.headers["authorization"] == f"Bearer {request.texts[0]}"


def test_embed_multi_limits_of_items_and_tokens_hold(server):
    """One request a call; who has more texts than one may have makes several."""
    model = make(server, max_batch_tokens=10)
    model.batch_size = 3
    texts = ["x" * 20] * 5 + ["y"] * 4  # 5 tokens each by the estimate, then 1 each
    assert len(list(model.embed_multi(texts))) == 9
    assert [len(request.texts) for request in server.requests] == [2, 1, 2, 1, 3]


# What it is called and what it may cost


def test_official_models_ids_aliases_and_numbers():
    """LLM's six ids and aliases (llm 0.36), with length, price and limits."""
    found = {
        model.model_id: (aliases, model.dimensions, model.price_per_million_tokens)
        for model, aliases in openai_models()
    }
    assert found == {
        "text-embedding-ada-002": (("ada", "ada-002"), 1536, 0.10),
        "text-embedding-3-small": (("3-small",), 1536, 0.02),
        "text-embedding-3-large": (("3-large",), 3072, 0.13),
        "text-embedding-3-small-512": (("3-small-512",), 512, 0.02),
        "text-embedding-3-large-256": (("3-large-256",), 256, 0.13),
        "text-embedding-3-large-1024": (("3-large-1024",), 1024, 0.13),
    }
    for model, _ in openai_models():
        assert (model.batch_size, model.max_batch_tokens, model.max_tokens) == (
            2048,
            300_000,
            8191,
        )
        assert (model.needs_key, model.key_env_var) == ("openai", "OPENAI_API_KEY")
        assert not model.is_local
        assert model.concurrency > 1
        assert model.fingerprint == model.model_id


def test_official_models_no_key_error_says_how_to_set_one():
    """Nothing is sent without a key."""
    model, _ = openai_models()[0]
    with pytest.raises(
        MissingKeyError, match="set the environment variable OPENAI_API_KEY, or run datasette"
    ):
        model.embed("a")


@pytest.mark.parametrize(
    ("base_url", "key", "is_local"),
    [
        ("http://localhost:1/v1", None, True),
        ("http://127.0.0.9:1/v1", None, True),
        ("http://[::1]:1/v1", None, True),
        ("http://localhost.example.com/v1", None, False),
        ("http://192.168.0.2:1/v1", None, False),
        ("https://api.example.com/v1", None, False),
        ("http://localhost:1/v1", "mine", False),
    ],
)
def test_is_local_this_machine_and_no_key(base_url, key, is_local):
    """What runs here and needs no key is free, and open to visitors."""
    model = OpenAIModel("m", model_id="m", base_url=base_url, key=key)
    assert model.is_local is is_local


@pytest.mark.parametrize(
    "base_url",
    [
        "localhost:8000",
        "ftp://example.com/v1",
        "http://",
        "http://[::1/v1",
        "https://user:hidden-word@example.com/v1",
        "https://example.com/v1?key=hidden-word",
        "https://example.com/v1#hidden-word",
    ],
)
def test_base_url_unusable_refused_without_quoting_it(base_url):
    """An address may hold a key, so the refusal does not repeat it."""
    with pytest.raises(ConfigError, match="^base_url: m") as caught:
        OpenAIModel("m", model_id="m", base_url=base_url)
    assert "hidden-word" not in str(caught.value)


def test_fingerprint_what_makes_another_vector_space():
    """Model, length, parameters and address; not the query's parameters, the key or the form."""

    def of(model="a", **options):
        options = {"base_url": "https://one.example/v1", **options}
        return OpenAIModel(model, model_id="mine", **options).fingerprint

    different = [
        of(),
        of("b"),
        of(dimensions=8),
        of(document_parameters={"input_type": "document"}),
        of(base_url="https://two.example/v1"),
        of(base_url="https://one.example/v2"),
        of(base_url=None),
        of(base_url=None, preset="ollama"),
        of(base_url=None, preset="tei"),
    ]
    assert len(set(different)) == len(different)
    assert of() == of(query_parameters={"q": 1}, key="k", encoding_format="base64", concurrency=3)
    assert of() == of(base_url="https://one.example/v1/")
    assert not any("one.example" in found or "v1" in found for found in different)


# Bad days, the model alone


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "40", "retry-after": "9"}, 0.04),
        ({"retry-after": "DATE 3600"}, pytest.approx(3600, abs=60)),
        ({"retry-after": "DATE -3600"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-1"}, None),
    ],
)
def test_busy_retryable_with_the_wait_it_asks_for(server, model, headers, seconds):
    """429 is passed on at once, with Retry-After in every form it has."""
    asked = headers.get("retry-after", "")
    if asked.startswith("DATE"):  # of now, not of when the tests were collected
        headers = {"retry-after": http_date(int(asked.removeprefix("DATE ")))}
    server.script = [Fault(status=429, headers=headers)]
    with pytest.raises(ProviderError, match=r"^m: the server is busy .* \(HTTP 429\)") as caught:
        call(model)
    assert caught.value.retryable
    assert caught.value.retry_after_seconds == seconds
    is_long = str(caught.value).endswith(("retry in 60 min", "retry in 1 h"))
    assert is_long is (asked == "DATE 3600")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504, 529])
def test_broken_retryable(server, model, status):
    """What passes is told from what does not."""
    server.script = [Fault(status=status)]
    with pytest.raises(ProviderError, match=rf"\(HTTP {status}\), retry in a moment") as caught:
        call(model)
    assert caught.value.retryable
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [Fault(status=429), Fault(status=503), Fault(kind="cut")])
def test_passing_trouble_of_a_single_search_tried_again_by_the_client(server, model, fault):
    """Where nobody else tries again, the client does, as the server asks."""
    fault.headers = {"retry-after-ms": "1"}
    server.script = [fault]
    assert model.embed("a") == pytest.approx(vector_of("a"))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, code="insufficient_quota"),
        Fault(status=429, code="billing_not_active"),
        Fault(status=400, code="billing_hard_limit_reached"),
        Fault(status=402),
        Fault(status=403, code="AUTHZ_INSUFFICIENT_BALANCE"),
    ],
)
def test_quota_error_of_its_own(server, model, fault):
    """An empty account is no rate limit: waiting a minute does not fill it."""
    server.script = [fault]
    with pytest.raises(QuotaExceededError, match="the account has nothing left") as caught:
        call(model)
    assert not caught.value.retryable
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_key_refused_says_which_and_how_to_set_it_and_never_the_key(
    server, monkeypatch, status, caplog
):
    """Neither message, detail nor log holds the key, though the server's answer does."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.script = [Fault(status=status, message=f"Incorrect API key provided: {KEY}")]
    with pytest.raises(
        CallRefusedError,
        match=r"does not take the key \(HTTP 40\d\): set another in OPENAI_API_KEY or with "
        r"datasette embed keys set openai$",
    ) as caught:
        call(make_official(server, monkeypatch))
    assert KEY not in caught.value.detail
    assert "Incorrect API key provided" in caught.value.detail
    assert "set another in" in caught.value.detail  # a terminal shows nothing else
    assert KEY not in str(caught.value.__cause__)
    assert KEY not in caplog.text


def test_key_wanted_by_a_server_without_one(model, server):
    """The option that names a key is named."""
    server.key = KEY
    with pytest.raises(CallRefusedError, match=r"asks for a key \(HTTP 401\): name one with"):
        call(model)


def test_key_with_characters_no_header_has_refused(server):
    """Nothing is sent, and nothing of it is said."""
    model = make(server, key="mine", key_env_var="MINE")
    with pytest.raises(CallRefusedError, match="set another in MINE or with datasette") as caught:
        call(model, key="sk-ünlawful\nkey")
    assert "lawful" not in f"{caught.value.detail}{caught.value}"
    assert server.requests == []


def test_unknown_model_or_address_refused(server, model):
    """404 has two meanings, and the message both."""
    server.script = [Fault(status=404, message="The model m does not exist")]
    with pytest.raises(CallRefusedError, match="knows no model m, or is at another address"):
        call(model)


def test_too_long_alone_is_unreadable_in_a_batch_is_not(server, model):
    """The one text that is too long can be recorded; a batch has to be cut first."""
    server.max_tokens = 3
    with pytest.raises(UnreadableTextError, match="takes no text of this length") as caught:
        call(model, ["one two three four"])
    assert caught.value.is_too_long
    with pytest.raises(ProviderError, match=r"refused the request \(HTTP 400\)") as batch:
        call(model, ["one", "one two three four"])
    assert not batch.value.retryable
    assert not isinstance(batch.value, UnreadableTextError)
    assert "four" not in f"{caught.value}{batch.value}"


def test_payload_too_large_alone_is_unreadable(server, model):
    """413 is how text-embeddings-inference says it."""
    server.script = [Fault(status=413, message="Input validation error")]
    with pytest.raises(UnreadableTextError, match="takes no text of this length"):
        call(model, ["one"])


def test_empty_text_refused_by_the_server_is_no_retry(server, model):
    """What the server said is for the log alone."""
    with pytest.raises(ProviderError, match=r"refused the request \(HTTP 400\). The log") as caught:
        call(model, [""])
    assert not caught.value.retryable
    assert "an empty string" in caught.value.detail


@pytest.mark.parametrize("kind", ["cut", "not json", "no data", "same index"])
def test_broken_body_retryable(server, model, kind):
    """Half an answer, none, or one that is numbered wrongly may be whole the next time."""
    server.script = [Fault(kind=kind)]
    with pytest.raises(ProviderError, match=r"^m: the server ") as caught:
        call(model)
    assert caught.value.retryable
    assert len(server.requests) == 1


def test_timeout_retryable(server):
    """A server that says nothing is given up in time."""
    model = make(server, timeout_seconds=0.2)
    server.script = [Fault(kind="sleep")]
    with pytest.raises(ProviderError, match="did not answer in time") as caught:
        call(model)
    assert caught.value.retryable


def test_nobody_there_retryable():
    """A server that is being started may be there in a moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    model = OpenAIModel("m", model_id="m", base_url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(ProviderError, match="cannot be reached") as caught:
        call(model)
    assert caught.value.retryable
    assert str(port) not in str(caught.value)
    assert f"Is it 127.0.0.1:{port}, and does it run?" in caught.value.detail


@pytest.mark.parametrize(("kind", "count"), [("fewer", 1), ("more", 3)])
def test_other_number_of_vectors_refused(server, model, kind, count):
    """Which text a vector is of would be a guess."""
    server.script = [Fault(kind=kind)]
    with pytest.raises(ProviderError, match=rf"^m: returned {count} vectors for 2 items"):
        call(model)


def test_nan_refused(server, model):
    """JSON as Python and others write it may hold what is no number."""
    server.script = [Fault(kind="nan")]
    with pytest.raises(InvalidVectorError, match="^m: row 0: NaN"):
        call(model)


def test_other_dimensions_than_asked_refused(server):
    """A server that ignores the length is found out."""
    server.script = [Fault(kind="dimensions", dimensions=3)]
    with pytest.raises(DimensionMismatchError, match="a vector has 3 dimensions instead of 5"):
        call(make(server, dimensions=5))


def test_shuffled_indexes_put_in_order(server, model):
    """Each text gets its own vector."""
    server.script = [Fault(kind="shuffled")]
    assert call(model).vectors.tolist() == [vector_of("a"), vector_of("b c")]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_never_followed_and_named(server, model, status):
    """Neither texts nor key go where the registration does not say."""
    with EmbeddingServer() as other:
        location = other.base_url.replace("127.0.0.1", "localhost") + "/embeddings?token=hidden"
        server.script = [Fault(kind="redirect", status=status, location=location)]
        with pytest.raises(CallRefusedError, match="on, which is not followed") as caught:
            call(model)
        assert other.requests == []
    # Where it leads is for whoever runs the server.
    assert "localhost" not in str(caught.value)
    assert "localhost" in caught.value.detail
    assert "hidden" not in caught.value.detail


@pytest.mark.parametrize("kind", ["endless", "gzip bomb"])
def test_body_too_large_given_up(server, model, kind):
    """Some megabytes are read, never 64 of them, and not a second time by the engine."""
    call(model)  # what is imported on the way is not counted, nor what the server makes
    assert len(bomb()) < 100_000
    server.script = [Fault(kind=kind)]
    tracemalloc.start()
    with pytest.raises(ProviderError, match="larger than any answer can be") as caught:
        call(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24_000_000
    assert not caught.value.retryable
    assert len(server.requests) == 2


def test_compressed_answer_that_was_not_asked_for_is_read(server, model):
    """Some proxies compress whatever is asked."""
    server.script = [Fault(kind="gzip")]
    assert call(model).vectors.tolist() == [vector_of("a"), vector_of("b c")]
    assert server.requests[0].headers["accept-encoding"] == "identity"


# Tokens


def test_estimate_cut_is_said_and_fits(server, monkeypatch, caplog):
    """Without the vocabulary: the engine tries again with less, others send what surely fits."""
    model = make_official(server, monkeypatch)
    model.dimensions = None
    short, long, chinese = "é" * 4095, "word " * 7_000, "字" * 8_000
    assert not model.counts_exactly
    readings = model.read([short, long])
    assert [reading.tokens > 8191 for reading in readings] == [False, True]
    embed_items(model, [short, long, chinese], Kind.DOCUMENT, key=KEY)
    assert server.texts == [short, long[: 2 * 8191], chinese[: 2 * 8191 // 3]]
    assert caplog.text.count("a text was cut to 16382 characters, for its tokens cannot") == 1
    embed_items(model, [long, chinese], Kind.DOCUMENT, key=KEY, retries=True)
    assert server.texts[3:] == [long[: 4 * 8191], chinese]


def test_estimate_cut_leaves_no_half_character():
    """A cut is one of characters, though it is measured in bytes."""
    assert openai_tokens.cut_bytes("é€é" * 10, 12) == "é€é" + "é€"


@pytest.fixture
def vocabulary(monkeypatch):
    """The true vocabulary, from the copy that llama-index-core carries."""
    core = pytest.importorskip("llama_index.core")
    pytest.importorskip("tiktoken")
    folder = core.__file__.replace("__init__.py", "_static/tiktoken_cache")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", folder)
    monkeypatch.setattr(openai_tokens, "_loaded", [])


@pytest.mark.adapters
@pytest.mark.filterwarnings("default")  # of llama-index, which are not ours
def test_exact_count_and_cut(server, monkeypatch, vocabulary):
    """Counts are tiktoken's, and a long text is cut to exactly what the model reads."""
    import tiktoken

    encoding = tiktoken.get_encoding("cl100k_base")
    model = make_official(server, monkeypatch)
    model.dimensions = None
    assert model.counts_exactly
    texts = ["a dog chases a ball", "naïve café 🎉 <|endoftext|>", "Straße 漢字 " * 2_000]
    for text in texts:
        expected = len(encoding.encode(text, disallowed_special=()))
        assert model.count_tokens(text) == expected
    long = "The quick brown fox jumps over the lazy dog. " * 1_000
    call(model, [texts[0], long], key=KEY)
    assert server.texts[0] == texts[0]
    assert long.startswith(server.texts[1])
    assert len(encoding.encode(server.texts[1])) == 8191
    emoji = "🎉漢" * 6_000  # cut in the middle of a character, where a token is half of one
    sent = openai_tokens.cut(emoji, 8191, encoding)
    assert emoji.startswith(sent)
    assert 8191 - 4 <= len(encoding.encode(sent)) <= 8191


@pytest.mark.adapters
@pytest.mark.filterwarnings("default")
def test_exact_count_of_one_long_word_ends(vocabulary):
    """A megabyte without a space does not stop everything, and is only too long."""
    encoding = openai_tokens.find_encoding()
    assert openai_tokens.count("a" * 1_000_000, encoding) > 8191


@pytest.mark.adapters
@pytest.mark.filterwarnings("default")
def test_vocabulary_not_to_be_had_estimate_said_once(monkeypatch, tmp_path, caplog):
    """A machine without the download goes on with the estimate, and says so once."""
    pytest.importorskip("tiktoken")
    (tmp_path / "none").write_text("a file where a folder should be", "utf-8")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    import tiktoken.registry

    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setattr(openai_tokens, "_loaded", [])
    model, _ = openai_models()[0]
    assert not model.counts_exactly
    assert model.count_tokens("x" * 40) == 10
    said = [record for record in caplog.records if "estimated" in record.message]
    assert len(said) == 1


# Presets


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_request_headers_and_parameters_by_kind(name, monkeypatch):
    """Each preset against a real server: path, key, form and what tells the kinds apart."""
    preset = PRESETS[name]
    if preset.key_env_var:
        monkeypatch.setenv(preset.key_env_var, KEY)
    with EmbeddingServer(key=KEY if preset.key else None) as server:
        entry = {"provider": name, "model": "some-passage", "base_url": server.base_url}
        model = open_model(parse_model_entry({**entry, "dimensions": 4}, ""))
        assert call(model).vectors.shape[0] == 2
        model.embed("q", kind=Kind.QUERY)
    document, query = server.requests
    for request, parameters in (
        (document, preset.document_parameters),
        (query, preset.query_parameters),
    ):
        assert request.path == "/v1/embeddings"
        asked = None if preset.encoding_format == "none" else preset.encoding_format
        assert request.body.get("encoding_format") == asked
        assert request.body[preset.dimensions_parameter] == 4
        assert {key: request.body[key] for key in parameters} == parameters
    assert document.body["model"] == "some-passage"
    assert query.body["model"] == ("some-query" if preset.query_model else "some-passage")
    assert model.model_id == f"{name}/some-passage-4"
    assert (model.batch_size, model.max_batch_tokens) == (
        preset.batch_size,
        preset.max_batch_tokens,
    )
    assert model.is_local is (preset.key is None)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_source_and_day(name):
    """Each says where it was read, and when."""
    preset = PRESETS[name]
    assert preset.source.startswith("https://")
    assert preset.read_on.startswith("2026-")
    assert (preset.key is None) == (preset.key_env_var is None)
    assert preset.base_url is None or not preset.base_url.endswith(("/", "/embeddings"))


def test_preset_without_address_demands_one():
    """Everybody has another Azure."""
    with pytest.raises(ConfigError, match="^base_url: is missing"):
        open_model(parse_model_entry({"provider": "azure", "model": "small"}, ""))
    base_url = "https://mine.openai.azure.com/openai/v1/"
    model = open_model(
        parse_model_entry({"provider": "azure", "model": "small", "base_url": base_url}, "")
    )
    assert (model.needs_key, model.key_env_var) == ("azure", "AZURE_OPENAI_API_KEY")


# In the registry


def test_registry_has_openais_models_and_imports_nothing_heavy():
    """They are always there, and cost nothing."""
    script = (
        "import json, sys\n"
        "from datasette_embed.registry import build_registry\n"
        "from datasette_embed.settings import Settings\n"
        "registry = build_registry(Settings())\n"
        "assert registry.get('3-small').model_id == 'text-embedding-3-small'\n"
        "assert registry.get('ada') is registry.get('text-embedding-ada-002')\n"
        "assert not registry.unavailable, registry.unavailable\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert not {"openai", "tiktoken", "torch", "onnxruntime"} & set(json.loads(done.stdout))


def test_registry_plugins_names_come_first(add_plugin):
    """A plugin that has an id or an alias keeps it, and that is no failure."""
    mine, other = CountingModel("text-embedding-3-small"), CountingModel("other")
    add_plugin(ModelsPlugin((mine, ()), (other, ("ada",))))
    registry = build_registry(Settings())
    assert registry.get("text-embedding-3-small") is mine
    assert registry.find("3-small") is None
    assert registry.get("ada") is other
    assert registry.get("ada-002").model_id == "text-embedding-ada-002"
    assert not registry.unavailable


def test_registry_own_entry_takes_the_place_with_its_options():
    """Registering one of OpenAI's models again changes what is said of it."""
    settings = parse_settings(
        {
            "models": [
                {"provider": "openai", "model": "text-embedding-3-small", "batch_size": 7},
                {
                    "provider": "openai",
                    "model": "text-embedding-3-large",
                    "dimensions": 256,
                    "aliases": ["3-large-256"],
                    "key": "work",
                },
            ]
        }
    )
    registry = build_registry(settings)
    assert registry.get("text-embedding-3-small").batch_size == 7
    assert registry.get("text-embedding-3-small").price_per_million_tokens == 0.02
    assert registry.get("3-large-256").needs_key == "work"
    assert registry.get("3-large").dimensions == 3072
    assert not registry.unavailable
