"""Every provider of models: the contract, and what is particular to each."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from datasette_embed.errors import MissingDependencyError, ProviderError
from datasette_embed.models import Kind
from datasette_embed.providers.adapted import AdaptedModel
from datasette_embed.providers.bundled import bundled_model
from datasette_embed.providers.sentence_transformers import SentenceTransformersModel
from tests.contracts import EmbeddingModelContract
from tests.fakes import CountingModel, LlmStyleModel, vector_of

WORDS = (
    "a the dog cat ball chases sqlite much longer text about nothing in particular with few "
    "more words than others one two three four five six seven eight nine ten half an emoji"
).split()


class TestCountingModel(EmbeddingModelContract):
    """The fake that other tests rely on is a model itself."""

    @pytest.fixture
    def model(self):
        return CountingModel()

    def test_count_tokens_longer_text_more_tokens(self, model):
        """Its words are its tokens."""
        assert model.count_tokens("one two") == 4

    def test_embed_lone_surrogate_answers_or_refuses(self, model):
        """Not asked of a fake."""


class TestAdaptedModel(EmbeddingModelContract):
    """A model written for LLM."""

    @pytest.fixture
    def model(self):
        return AdaptedModel(LlmStyleModel())

    def test_embed_lone_surrogate_answers_or_refuses(self, model):
        """What it raises is a ProviderError, with the original as cause."""
        with pytest.raises(
            ProviderError, match=r"^llm-style: the model failed \(UnicodeEncodeError\)"
        ) as caught:
            model.embed("\ud83d")
        assert "surrogates not allowed" in caught.value.detail
        assert "surrogates" not in str(caught.value)
        assert isinstance(caught.value.__cause__, UnicodeEncodeError)

    def test_adapted_attributes_of_wrapped_are_taken(self, model):
        """What the wrapped model says about itself stays true."""
        assert (model.model_id, model.batch_size, model.supports_binary) == ("llm-style", 3, False)
        assert model.embed("x") == vector_of("x")
        assert str(model) == "LlmStyleModel: llm-style"

    def test_adapted_embed_batch_takes_key_is_given_it(self):
        """LLM's newer signature has key=."""

        class Keyed:
            model_id = "keyed"
            seen: list[str | None] = []

            def embed_batch(self, items, *, key=None):
                self.seen.append(key)
                return [[1.0] for _ in items]

        AdaptedModel(Keyed()).embed("x", key="secret")
        assert Keyed.seen == ["secret"]


@pytest.fixture(scope="module")
def bundled():
    """Loaded once for the module."""
    return bundled_model()


class TestBundledModel(EmbeddingModelContract):
    """The model inside the package."""

    @pytest.fixture
    def model(self, bundled):
        return bundled


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny BERT with random weights, on disk as sentence-transformers saves one."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    try:  # where version 6 has them
        from sentence_transformers.sentence_transformer import modules
    except ImportError:
        modules = sentence_transformers.models
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("checkpoint")
    bert = folder / "bert"
    bert.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (bert / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n", "utf-8")
    transformers.BertTokenizerFast.from_pretrained(bert).save_pretrained(bert)
    config = transformers.BertConfig(
        vocab_size=len(dict.fromkeys(vocabulary)),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).eval().save_pretrained(bert)
    transformer = modules.Transformer(str(bert), max_seq_length=32)
    pooling = modules.Pooling(16)
    sentence_transformers.SentenceTransformer(
        modules=[transformer, pooling, modules.Normalize()],
        device="cpu",
        prompts={"query": "one two ", "document": ""},
    ).save(str(folder / "model"))
    return folder / "model"


@pytest.mark.torch
@pytest.mark.filterwarnings("default")  # of torch and transformers, which are not ours
class TestSentenceTransformersModel(EmbeddingModelContract):
    """Any model of the sentence-transformers package."""

    @pytest.fixture
    def model(self, checkpoint):
        return SentenceTransformersModel(str(checkpoint), model_id="tiny", device="cpu")

    def test_load_dimensions_and_longest_text_are_the_models(self, model):
        """Unknown until it is loaded; then what the model says."""
        assert (model.dimensions, model.max_tokens) == (None, None)
        model.warm()
        assert (model.dimensions, model.max_tokens) == (16, 32)

    def test_embed_same_as_the_package_itself(self, model, checkpoint):
        """Vectors are those of encode_query and encode_document, prompts included."""
        from sentence_transformers import SentenceTransformer

        original = SentenceTransformer(str(checkpoint), device="cpu")
        query = model.embed("a dog", kind=Kind.QUERY)
        document = model.embed("a dog", kind=Kind.DOCUMENT)
        assert np.allclose(query, original.encode_query("a dog"), atol=1e-6)
        assert np.allclose(document, original.encode_document("a dog"), atol=1e-6)
        assert not np.allclose(query, document, atol=1e-3)
        assert np.linalg.norm(document) == pytest.approx(1, abs=1e-5)

    def test_truncate_dim_shorter_vectors_and_another_fingerprint(self, checkpoint):
        """Shortened vectors cannot be compared with whole ones."""
        whole = SentenceTransformersModel(str(checkpoint), model_id="tiny", device="cpu")
        short = SentenceTransformersModel(
            str(checkpoint), model_id="tiny", device="cpu", truncate_dim=4
        )
        assert len(short.embed("a dog")) == 4
        assert short.dimensions == 4
        assert short.fingerprint != whole.fingerprint

    def test_read_special_tokens_are_told_apart(self, model):
        """[CLS] and [SEP] are in every text, so they say nothing about this one."""
        (reading,) = model.read(["zebra"])
        assert (reading.tokens, reading.unknown_tokens, reading.special_tokens) == (3, 1, 2)
        assert reading.is_unknown

    def test_load_no_progress_bar_and_the_switch_is_left_as_it_was(self, checkpoint, capfd):
        """A server's stderr is for what somebody has to read."""
        from transformers.utils import logging

        assert logging.is_progress_bar_enabled()
        SentenceTransformersModel(str(checkpoint), model_id="tiny", device="cpu").warm()
        assert "Loading weights" not in capfd.readouterr().err
        assert logging.is_progress_bar_enabled()

    def test_read_text_beyond_its_length_and_vocabulary(self, model):
        """The whole text is counted, and unknown words are told."""
        assert model.read(["dog " * 50])[0].tokens == 52
        assert model.read(["dog zebra"])[0].unknown_tokens == 1

    def test_embed_no_such_model_provider_error(self, checkpoint, tmp_path):
        """A folder that is none fails with our error and its cause, each time."""
        model = SentenceTransformersModel(str(tmp_path / "none"), model_id="none")
        for _ in range(2):
            with pytest.raises(ProviderError, match="^none: ") as caught:
                model.embed("x")
            assert caught.value.__cause__ is not None


def test_sentence_transformers_absent_error_names_the_command(monkeypatch):
    """Without the extra, the message ends with what installs it."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(
        MissingDependencyError, match=r"pip install 'datasette-embed\[sentence-transformers\]'$"
    ):
        SentenceTransformersModel("all-mpnet-base-v2", model_id="m").embed("x")


def fingerprint(model, **options):
    return SentenceTransformersModel(model, model_id="mine", **options).fingerprint


def test_sentence_transformers_fingerprint_names_the_weights():
    """One id given to other weights is another vector space."""
    assert fingerprint("org/a") == "mine@org/a"
    assert fingerprint("org/a", truncate_dim=64) == "mine@org/a:64d"
    assert fingerprint("a") == fingerprint("sentence-transformers/a") == "mine@a"
    different = ["org/a", "org/b", "/x/a", "/y/a", "C:\\x\\a"]
    assert len({fingerprint(model) for model in different}) == len(different)


def test_sentence_transformers_fingerprint_of_a_folder_holds_no_path():
    """It is stored in the database, which may be published."""
    found = fingerprint("/srv/models/mini")
    assert found.startswith("mine@mini-")
    assert "srv" not in found


def test_describing_a_model_imports_nothing_heavy():
    """Registering a torch model must not cost the import of torch."""
    script = (
        "import json, sys\n"
        "from datasette_embed.providers.sentence_transformers import SentenceTransformersModel\n"
        "SentenceTransformersModel('x', model_id='x')\n"
        "from datasette_embed.providers.bundled import bundled_model\n"
        "bundled_model()\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "sentence_transformers", "onnxruntime", "tokenizers", "numpy"}
