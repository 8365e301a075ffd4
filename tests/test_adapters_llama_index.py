"""``DatasetteEmbedding`` inside the real LlamaIndex."""

from __future__ import annotations

import asyncio
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from datasette_embed.errors import ProviderError, UnknownModelError, UnreadableTextError
from datasette_embed.models import Kind
from datasette_embed.registry import get_registry
from tests.fakes import CountingModel, vector_of

pytest.importorskip("llama_index.core", reason="needs the extra llama-index")

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding

from datasette_embed.adapters.llama_index import DatasetteEmbedding

pytestmark = pytest.mark.adapters

TEXTS = ["A kitten asleep on a sofa", "The price of wheat fell again", "How to prune roses"]


def approx(vector):
    return pytest.approx(vector, abs=1e-6)


def test_index_retrieves_by_meaning_with_bundled_model():
    """An index over LlamaIndex's documents ranks as our own search would."""
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS], embed_model=DatasetteEmbedding()
    )
    found = index.as_retriever(similarity_top_k=2).retrieve("a young cat")
    assert found[0].node.get_content() == TEXTS[0]
    model = get_registry().get("minilm")
    query, document = model.embed("a young cat", kind=Kind.QUERY), model.embed(TEXTS[0])
    assert found[0].score == pytest.approx(sum(a * b for a, b in zip(query, document, strict=True)))


def test_values_are_those_of_the_bundled_model():
    """Nothing is lost or reordered on the way, and each number is a Python float."""
    embedding = DatasetteEmbedding("minilm")
    model = get_registry().get("minilm")
    got = embedding.get_text_embedding_batch(TEXTS)
    assert got == [approx(model.embed(text)) for text in TEXTS]
    assert {type(number) for vector in got for number in vector} == {float}
    assert embedding.get_text_embedding(TEXTS[0]) == approx(model.embed(TEXTS[0]))
    assert embedding.get_query_embedding("cats") == approx(model.embed("cats", kind=Kind.QUERY))
    assert embedding.model_name == "sentence-transformers/all-MiniLM-L6-v2"


def test_texts_and_queries_are_told_apart(counting_model):
    """A text to search for is of the kind query, one to be found of the kind document."""
    embedding = DatasetteEmbedding("count")
    assert embedding.get_text_embedding("a") == approx(vector_of("a", Kind.DOCUMENT))
    assert embedding.get_query_embedding("a") == approx(vector_of("a", Kind.QUERY))
    mean = embedding.get_agg_embedding_from_queries(["a", "b"])
    pairs = zip(vector_of("a", Kind.QUERY), vector_of("b", Kind.QUERY), strict=True)
    assert mean == approx([(a + b) / 2 for a, b in pairs])


def test_batches_are_as_large_as_asked(counting_model):
    """``embed_batch_size`` is the most texts of one call."""
    texts = [str(number) for number in range(7)]
    embedding = DatasetteEmbedding("count", embed_batch_size=3)
    assert embedding.get_text_embedding_batch(texts) == [approx(vector_of(t)) for t in texts]
    assert counting_model.batch_sizes == [3, 3, 1]


@pytest.mark.parametrize(("own", "expected"), [(None, 100), (16, 16), (5_000, 2_048)])
def test_batch_size_is_the_models_own_by_default(own, expected):
    """Not LlamaIndex's 10, and within what LlamaIndex allows."""
    assert DatasetteEmbedding(CountingModel(batch_size=own)).embed_batch_size == expected


def test_no_texts_give_no_vectors_and_call_nothing(counting_model):
    """An empty list is an empty list."""
    assert DatasetteEmbedding("count").get_text_embedding_batch([]) == []
    assert counting_model.calls == []


def test_asynchronous_methods_answer_the_same(counting_model):
    """All of them, and none shadows the synchronous one of its name."""
    embedding = DatasetteEmbedding("count")
    assert isinstance(embedding, BaseEmbedding)

    async def ask():
        return (
            await embedding.aget_text_embedding_batch(["a", "b"]),
            await embedding.aget_text_embedding("a"),
            await embedding.aget_query_embedding("a"),
        )

    batch, text, query = asyncio.run(ask())
    assert batch == embedding.get_text_embedding_batch(["a", "b"])
    assert text == embedding.get_text_embedding("a")
    assert query == embedding.get_query_embedding("a")


def test_asynchronous_index_and_retriever(counting_model):
    """LlamaIndex's asynchronous path from documents to results."""
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS],
        embed_model=DatasetteEmbedding("count"),
        use_async=True,
    )
    found = asyncio.run(index.as_retriever(similarity_top_k=1).aretrieve("a young cat"))
    query = vector_of("a young cat", Kind.QUERY)

    def score(text):
        vector = vector_of(text)
        product = sum(a * b for a, b in zip(query, vector, strict=True))
        return product / (sum(a * a for a in query) * sum(b * b for b in vector)) ** 0.5

    assert found[0].node.get_content() == max(TEXTS, key=score)
    assert found[0].score == pytest.approx(max(map(score, TEXTS)), abs=1e-6)


def test_written_and_read_again_is_the_same_model(counting_model):
    """LlamaIndex's own form and pickle name the model; a key is not written."""
    embedding = DatasetteEmbedding("count", embed_batch_size=3, key="sk-secret")
    written = embedding.to_dict()
    assert written["class_name"] == "DatasetteEmbedding"
    assert "sk-secret" not in str(written)
    for copy in (DatasetteEmbedding.from_dict(written), pickle.loads(pickle.dumps(embedding))):
        assert copy.model_name == "counting"
        assert copy.embed_batch_size == 3
        assert copy.get_text_embedding("a") == embedding.get_text_embedding("a")


def test_unknown_model_is_refused_when_made():
    """Early, and with the names there are."""
    with pytest.raises(UnknownModelError, match="Unknown model: nope. Known models: .*minilm"):
        DatasetteEmbedding("nope")


def test_bad_text_is_refused(counting_model):
    """What is no text is no text here either."""
    with pytest.raises(ValueError, match="An item must be str or bytes, not int"):
        DatasetteEmbedding("count").get_text_embedding(3)
    assert counting_model.calls == []


def test_query_of_unknown_words_is_refused():
    """Every such text has the same vector, so any answer would be chance."""
    with pytest.raises(UnreadableTextError, match="does not know a single word of this text"):
        DatasetteEmbedding("minilm").get_query_embedding("แมวนอนหลับ")


def test_failing_model_raises_its_error(counting_model):
    """Errors come through as they are."""
    counting_model.fails_with = ProviderError("counting", "the server is down")
    with pytest.raises(ProviderError, match="counting: the server is down"):
        DatasetteEmbedding("count").get_text_embedding("a")


def test_missing_package_is_named_with_the_command():
    """Without llama-index-core the import says what to install."""
    code = (
        "import sys; sys.modules['llama_index.core.base.embeddings.base'] = None\n"
        "import datasette_embed.adapters.llama_index"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("pip install 'datasette-embed[llama-index]'")


def test_example_of_the_readme_prints_what_it_says():
    """The README's example runs as it stands."""
    readme = Path(__file__).parent.parent.joinpath("README.md").read_text("utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    [example] = [block for block in blocks if "adapters.llama_index " in block]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert done.stdout == example.rpartition("# ")[2], done.stderr
