"""``DatasetteEmbeddings`` inside the real LangChain."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from datasette_embed.errors import ProviderError, UnknownModelError, UnreadableTextError
from datasette_embed.models import Kind
from datasette_embed.registry import get_registry
from tests.fakes import LlmStyleModel, vector_of

pytest.importorskip("langchain_core", reason="needs the extra langchain")

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from datasette_embed.adapters.langchain import DatasetteEmbeddings

pytestmark = pytest.mark.adapters

TEXTS = ["A kitten asleep on a sofa", "The price of wheat fell again", "How to prune roses"]


def approx(vector):
    return pytest.approx(vector, abs=1e-6)


def test_vector_store_finds_by_meaning_with_bundled_model():
    """The default model ranks LangChain's documents as our own search would."""
    store = InMemoryVectorStore(DatasetteEmbeddings())
    store.add_documents([Document(text, metadata={"n": n}) for n, text in enumerate(TEXTS)])
    found = store.similarity_search_with_score("a young cat", k=2)
    assert found[0][0].page_content == TEXTS[0]
    assert found[0][0].metadata == {"n": 0}
    model = get_registry().get("minilm")
    query, document = model.embed("a young cat", kind=Kind.QUERY), model.embed(TEXTS[0])
    assert found[0][1] == pytest.approx(sum(a * b for a, b in zip(query, document, strict=True)))


def test_values_are_those_of_the_bundled_model():
    """Nothing is lost or reordered on the way, and each number is a Python float."""
    embeddings = DatasetteEmbeddings("minilm")
    model = get_registry().get("minilm")
    got = embeddings.embed_documents(TEXTS)
    assert got == [approx(model.embed(text)) for text in TEXTS]
    assert {type(number) for vector in got for number in vector} == {float}
    assert embeddings.embed_query("cats") == approx(model.embed("cats", kind=Kind.QUERY))


def test_documents_and_queries_are_told_apart(counting_model):
    """A text to search for is of the kind query, one to be found of the kind document."""
    embeddings = DatasetteEmbeddings("count")
    assert embeddings.embed_documents(["a"]) == [approx(vector_of("a", Kind.DOCUMENT))]
    assert embeddings.embed_query("a") == approx(vector_of("a", Kind.QUERY))
    assert type(embeddings.embed_query("a")[0]) is float
    with pytest.raises(ValueError, match="the text to search for: is empty"):
        embeddings.embed_query(" ")
    assert embeddings.model == "counting"
    assert repr(embeddings) == "DatasetteEmbeddings('counting')"


def test_batches_are_as_large_as_asked(counting_model):
    """One call for each batch, in order."""
    texts = [str(number) for number in range(7)]
    embeddings = DatasetteEmbeddings("count", batch_size=3)
    assert embeddings.embed_documents(texts) == [approx(vector_of(text)) for text in texts]
    assert counting_model.batch_sizes == [3, 3, 1]


def test_no_texts_give_no_vectors_and_call_nothing(counting_model):
    """An empty list is an empty list."""
    assert DatasetteEmbeddings("count").embed_documents([]) == []
    assert counting_model.calls == []


def test_model_can_be_an_instance(counting_model):
    """A model that nobody registered works, one written for LLM too."""
    assert isinstance(DatasetteEmbeddings(counting_model), Embeddings)
    embeddings = DatasetteEmbeddings(LlmStyleModel())
    assert embeddings.embed_documents(["a"]) == [approx(vector_of("a"))]


def test_asynchronous_methods_answer_the_same(counting_model):
    """LangChain runs them in a thread."""
    embeddings = DatasetteEmbeddings("count")

    async def ask():
        return await asyncio.gather(
            embeddings.aembed_documents(["a", "b"]), embeddings.aembed_query("a")
        )

    documents, query = asyncio.run(ask())
    assert documents == embeddings.embed_documents(["a", "b"])
    assert query == embeddings.embed_query("a")


def test_unknown_model_is_refused_when_made():
    """Early, and with the names there are."""
    with pytest.raises(UnknownModelError, match="Unknown model: nope. Known models: .*minilm"):
        DatasetteEmbeddings("nope")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "A list of texts is needed, not one text"),
        (["a", 3], "An item must be str or bytes, not int"),
        ([None], "An item must be str or bytes, not NoneType"),
    ],
)
def test_bad_documents_are_refused_before_any_call(counting_model, texts, message):
    """A mistake of the caller is said at once; no model is called for half of a list."""
    with pytest.raises(ValueError, match=message):
        DatasetteEmbeddings("count", batch_size=1).embed_documents(texts)
    assert counting_model.calls == []


def test_bytes_for_a_model_of_texts_are_refused():
    """The message is LLM's."""
    with pytest.raises(ValueError, match="does not support binary data, only text strings"):
        DatasetteEmbeddings("minilm").embed_documents([b"a"])


def test_batch_size_below_one_is_refused_when_made():
    """Not at the first call."""
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        DatasetteEmbeddings("minilm", batch_size=0)


def test_query_of_unknown_words_is_refused():
    """Every such text has the same vector, so any answer would be chance."""
    with pytest.raises(UnreadableTextError, match="does not know a single word of this text"):
        DatasetteEmbeddings("minilm").embed_query("แมวนอนหลับ")


def test_failing_model_raises_its_error(counting_model):
    """Errors come through as they are."""
    counting_model.fails_with = ProviderError("counting", "the server is down")
    with pytest.raises(ProviderError, match="counting: the server is down"):
        DatasetteEmbeddings("count").embed_documents(["a"])


def test_what_is_not_embedded_is_warned_of_once(counting_model, caplog):
    """The end of a long text, and a text of unknown words, are not lost in silence."""
    counting_model.max_tokens = 5
    embeddings = DatasetteEmbeddings("count")
    with caplog.at_level(logging.WARNING):
        embeddings.embed_documents(["a b", "a b c d", "แมว"])
        embeddings.embed_documents(["a b c d e f", "แมว"])
        embeddings.embed_query("a b c d e f g")
    assert [record.getMessage() for record in caplog.records] == [
        "counting reads only the beginning of a long text: split long texts (said once)",
        "counting does not know a single word of a text: use a multilingual model (said once)",
    ]


def test_model_that_only_estimates_tokens_is_not_asked(counting_model, caplog):
    """An estimate is no reason to warn."""
    counting_model.max_tokens, counting_model.counts_exactly = 5, False
    embeddings = DatasetteEmbeddings("count")
    with caplog.at_level(logging.WARNING):
        embeddings.embed_documents(["a b c d e f"])
    assert counting_model.readings == 0
    assert caplog.records == []


def test_query_of_bytes_for_a_model_of_bytes_is_embedded(counting_model):
    """A picture can be what is searched for; nobody counts its words."""
    embeddings = DatasetteEmbeddings("count")
    assert embeddings.embed_query(b"x") == approx(vector_of(b"x", Kind.QUERY))


def test_missing_package_is_named_with_the_command():
    """Without langchain-core the import says what to install."""
    code = (
        "import sys; sys.modules['langchain_core.embeddings'] = None\n"
        "import datasette_embed.adapters.langchain"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("pip install 'datasette-embed[langchain]'")


def test_example_of_the_readme_prints_what_it_says():
    """The README's example runs as it stands."""
    readme = Path(__file__).parent.parent.joinpath("README.md").read_text("utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    [example] = [block for block in blocks if "adapters.langchain " in block]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert done.stdout == example.rpartition("# ")[2], done.stderr
