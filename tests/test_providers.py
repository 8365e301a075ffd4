"""Every provider of models: the contract, and what is particular to each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from datasette_embed.errors import ProviderError
from datasette_embed.providers.adapted import AdaptedModel
from datasette_embed.providers.bundled import bundled_model
from tests.contracts import EmbeddingModelContract
from tests.fakes import CountingModel, LlmStyleModel, vector_of


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
