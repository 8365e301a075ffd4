"""SentenceTransformersModel: any model of the sentence-transformers package.

Layer 3: imports ``errors``, ``model_entries`` and ``models``. The package, and torch with it, is
imported when the model is first used. Which models are registered under which ids is
decided in ``settings`` and ``registry``.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..errors import EmbedError, MissingDependencyError, ProviderError
from ..model_entries import is_path, last_part
from ..models import Batch, EmbeddingModel, Item, Kind, Reading


class SentenceTransformersModel(EmbeddingModel):
    """A model that sentence-transformers loads, from a hub or from a folder.

    Prompts that the model's own configuration names for queries and for documents are
    used by kind; vectors are normalised if the model itself does so. ``dimensions`` and
    ``max_tokens`` are None until the model has been loaded. Code that comes with a model
    is never run.
    """

    requires = (("sentence_transformers", "sentence-transformers"),)
    is_local = True
    counts_exactly = True

    def __init__(
        self,
        model: str,
        *,
        model_id: str,
        device: str | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        """Describe the model without loading it.

        Args:
            model: name on a hub, or path of a folder.
            model_id: the id it is registered under.
            device: ``cpu``, ``cuda``, ``mps`` …; None lets torch choose.
            truncate_dim: cut vectors to this many dimensions; None keeps them whole.
        """
        self.model = model
        self.model_id = model_id
        self.device = device
        self.truncate_dim = truncate_dim
        # An id can be given to other weights, and shortened vectors are another vector space:
        # the fingerprint must say both.
        self.revision = _weights(model) + (f":{truncate_dim}d" if truncate_dim else "")
        self._loaded: Any = None
        # Also held while encoding: fast tokenizers refuse a second thread ("Already
        # borrowed"), and torch uses all cores for one batch anyway.
        self._lock = threading.RLock()

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | Iterable[Sequence[float]]:
        """Return a Batch of the texts' vectors; the package sorts them by length itself.

        Raises:
            MissingDependencyError: sentence-transformers is not installed.
            ProviderError: the model cannot be loaded, or failed.
        """
        with self._lock:
            loaded = self._load()
            encode = self._encoder(loaded, kind)
            return Batch(
                self._translated(
                    lambda: encode(
                        [_readable(item) for item in items],
                        show_progress_bar=False,
                        convert_to_numpy=True,
                    )
                )
            )

    def warm(self) -> None:
        """Import the package and load the weights."""
        with self._lock:
            self._load()

    def count_tokens(self, text: str) -> int:
        """Return the exact length of the text in the model's own tokens."""
        return self.read([text])[0].tokens

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Return how long each text is and how much of it the model has no token for."""
        with self._lock:
            loaded = self._load()
            tokenizer = loaded.tokenizer
            encoded = self._translated(
                lambda: tokenizer(
                    [_readable(text) for text in texts],
                    truncation=False,
                    padding=False,
                    verbose=False,
                )
            )
            unknown = getattr(tokenizer, "unk_token_id", None)
            special = tokenizer.num_special_tokens_to_add()
        return [
            Reading(len(ids), 0 if unknown is None else ids.count(unknown), special)
            for ids in encoded["input_ids"]
        ]

    def _encoder(self, loaded: Any, kind: Kind) -> Callable[..., Any]:
        """Return the method for this kind; versions before 5 have one for both."""
        name = "encode_query" if kind is Kind.QUERY else "encode_document"
        encode: Callable[..., Any] = getattr(loaded, name, loaded.encode)
        return encode

    def _load(self) -> Any:
        """Return the loaded model; the caller holds the lock."""
        if self._loaded is None:
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError as error:
                raise MissingDependencyError(
                    "sentence_transformers", "sentence-transformers"
                ) from error
            with _no_bar_for_loading():
                loaded = self._translated(
                    lambda: SentenceTransformer(
                        os.path.expanduser(self.model),
                        device=self.device,
                        truncate_dim=self.truncate_dim,
                    )
                )
            dimension = getattr(loaded, "get_embedding_dimension", None) or (
                loaded.get_sentence_embedding_dimension
            )
            self.dimensions = dimension()
            self.max_tokens = loaded.get_max_seq_length()
            self._loaded = loaded
        return self._loaded

    def _translated(self, call: Callable[[], Any]) -> Any:
        """Return what the call returns, its exceptions as ProviderError."""
        try:
            return call()
        except EmbedError:
            raise
        except Exception as error:
            raise ProviderError.from_exception(self.model_id, error) from error


@contextmanager
def _no_bar_for_loading() -> Iterator[None]:
    """Silence the progress bar over loading weights: a second's work, on a server's stderr.

    The bars over a download, which may take minutes, stay. Both have one switch in
    transformers, and the second one of its own in huggingface_hub.
    """
    hub = import_module("huggingface_hub.utils")
    transformers = import_module("transformers.utils.logging")
    if hub.are_progress_bars_disabled() or not transformers.is_progress_bar_enabled():
        yield
        return
    transformers.disable_progress_bar()
    hub.enable_progress_bars()
    try:
        yield
    finally:
        transformers.enable_progress_bar()


def _weights(model: str) -> str:
    """Return what the fingerprint calls the weights, which ends up in files that are published.

    Of a folder its last part and a digest of its path, never the path itself.
    """
    if not is_path(model):
        return model.removeprefix("sentence-transformers/")  # with or without, it is one model
    digest = hashlib.sha256(os.path.expanduser(model).encode("utf-8", "replace")).hexdigest()
    return f"{last_part(model)}-{digest[:16]}"


def _readable(item: Item) -> Item:
    """Return the text without lone surrogates, which SQLite hands out and tokenizers refuse."""
    return item.encode("utf-8", "replace").decode("utf-8") if isinstance(item, str) else item
