"""Contract suites: what every implementation of an interface has to do.

A test module subclasses a suite and overrides its one factory fixture.
"""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from datasette_embed.errors import UnreadableTextError
from datasette_embed.models import EmbeddingModel, Kind

TEXTS = [
    "a dog chases a ball",
    "SQLite",
    "a much longer text about nothing in particular, with a few more words than the others",
    "naïve café 🎉 100% of_it",
]


class EmbeddingModelContract:
    """What everything that embeds relies on."""

    #: Largest difference of one number between a text's vector alone and in a batch.
    batch_tolerance = 1e-5

    @pytest.fixture
    def model(self) -> EmbeddingModel:
        raise NotImplementedError("the subclass makes the model")

    def test_model_id_is_text(self, model):
        """The id names it everywhere, so it must be text."""
        assert isinstance(model.model_id, str)
        assert model.model_id.strip()

    def test_embed_batch_one_vector_per_item_in_order(self, model):
        """Each text's vector is nearest to the vector it has when embedded alone."""
        vectors = model.embed_checked(TEXTS).vectors
        assert vectors.shape == (len(TEXTS), model.dimensions or vectors.shape[1])
        assert vectors.dtype == np.float32
        for position, text in enumerate(TEXTS):
            alone = model.embed_checked([text]).vectors[0]
            assert np.allclose(vectors[position], alone, atol=self.batch_tolerance)
            distances = np.linalg.norm(vectors - alone, axis=1)
            assert int(np.argmin(distances)) == position

    def test_embed_same_text_twice_same_vector(self, model):
        """Nothing is random, or unchanged content would be embedded anew."""
        assert model.embed(TEXTS[0]) == model.embed(TEXTS[0])

    def test_embed_different_texts_different_vectors(self, model):
        """A model that answers the same to everything is none."""
        first, second = model.embed(TEXTS[0]), model.embed(TEXTS[2])
        assert not np.allclose(first, second, atol=1e-3)

    @pytest.mark.parametrize("kind", list(Kind))
    def test_embed_kind_finite_vector(self, model, kind):
        """Both sides of a search are embedded."""
        vector = model.embed(TEXTS[0], kind=kind)
        assert vector
        assert all(math.isfinite(number) for number in vector)
        assert any(vector)

    def test_embed_multi_generator_in_batches_same_vectors(self, model):
        """A generator works, whatever the batch size."""
        whole = list(model.embed_multi(iter(TEXTS)))
        single = list(model.embed_multi((text for text in TEXTS), 1))
        assert np.allclose(whole, single, atol=self.batch_tolerance)

    def test_embed_wrong_type_value_error(self, model):
        """Bytes for a model of texts are refused in LLM's words."""
        if model.supports_binary:
            pytest.skip("takes both")
        with pytest.raises(ValueError, match="does not support binary data, only text strings"):
            model.embed(b"\x00\x01")

    def test_embed_lone_surrogate_answers_or_refuses(self, model):
        """SQLite can hand out text that is no Unicode; it must not be another's crash."""
        vector = model.embed("half \ud83d an emoji")
        assert all(math.isfinite(number) for number in vector)

    def test_count_tokens_longer_text_more_tokens(self, model):
        """A longer text has more tokens, and read() agrees with count_tokens()."""
        short, long = "one two", "one two three four five six seven eight nine ten"
        assert 0 < model.count_tokens(short) < model.count_tokens(long)
        readings = model.read([short, long])
        assert [reading.tokens for reading in readings] == [
            model.count_tokens(short),
            model.count_tokens(long),
        ]
        assert [reading.unknown_tokens for reading in readings] == [0, 0]

    def test_embed_from_several_threads_same_vectors(self, model):
        """One instance serves several SQL threads at once."""
        expected = [model.embed(text) for text in TEXTS]
        found: dict[int, list[float]] = {}
        errors: list[BaseException] = []

        def embed(position: int) -> None:
            try:
                model.count_tokens(TEXTS[position])
                found[position] = model.embed(TEXTS[position])
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=embed, args=(n,)) for n in range(len(TEXTS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        for position, vector in enumerate(expected):
            assert np.allclose(found[position], vector, atol=self.batch_tolerance)

    def test_warm_called_twice_harmless(self, model):
        """Warming is optional and repeatable."""
        model.warm()
        model.warm()
        assert model.embed(TEXTS[0])


class ImageModelContract:
    """What a model of texts and images is relied on for, besides ``EmbeddingModelContract``."""

    #: Largest difference of one number between an item's vector alone and in a batch.
    batch_tolerance = 1e-5

    @pytest.fixture
    def model(self) -> EmbeddingModel:
        raise NotImplementedError("the subclass makes the model")

    @pytest.fixture
    def images(self) -> list[bytes]:
        """Files of different pictures."""
        raise NotImplementedError("the subclass has the pictures")

    def test_supports_text_and_binary_before_it_is_loaded(self, model):
        """Or its images would be refused before it could say that it takes them."""
        assert (model.supports_text, model.supports_binary) == (True, True)

    def test_embed_mixed_batch_in_order(self, model, images):
        """Texts and images of one batch each have the vector they have alone, where they were."""
        mixed = [images[0], TEXTS[0], *images[1:], TEXTS[2]]
        vectors = model.embed_checked(mixed).vectors
        assert len(vectors) == len(mixed)
        for position, item in enumerate(mixed):
            alone = model.embed_checked([item]).vectors[0]
            assert np.allclose(vectors[position], alone, atol=self.batch_tolerance)
            assert int(np.argmin(np.linalg.norm(vectors - alone, axis=1))) == position

    @pytest.mark.parametrize("kind", list(Kind))
    def test_embed_image_same_twice_and_one_space_with_texts(self, model, images, kind):
        """An image has one vector, as long as a text's."""
        vector = model.embed(images[0], kind=kind)
        assert vector == model.embed(images[0], kind=kind)
        assert len(vector) == len(model.embed(TEXTS[0], kind=kind))

    @pytest.mark.parametrize("bad", [b"no image", b"\x00", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
    def test_embed_what_is_no_image_refused(self, model, images, bad):
        """By an error of that item, which says nothing of its content."""
        with pytest.raises(UnreadableTextError, match="no image that can be read"):
            model.embed_checked([images[0], bad])
        with pytest.raises(UnreadableTextError, match="no image that can be read"):
            model.embed_checked([images[0][: len(images[0]) // 2]])
