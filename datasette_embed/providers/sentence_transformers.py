"""SentenceTransformersModel: any model of the sentence-transformers package.

Layer 3: imports ``errors``, ``model_entries``, ``models``, ``prompts`` and of its folder
``folder_digest``, ``hub_files``, ``images``, ``load_failures`` and ``token_counts``. The
package, and torch with it, is imported when the model is first used. Which models are
registered under which ids is decided in ``settings`` and ``registry``.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import CallRefusedError, EmbedError, MissingDependencyError, ProviderError
from ..model_entries import is_path, last_part
from ..models import Batch, EmbeddingModel, Item, Kind, Reading
from ..prompts import known_prompts
from . import hub_files
from .folder_digest import checkpoint_digest
from .images import embeds_images, image_groups
from .load_failures import check_folder, load_failure
from .token_counts import as_limit, read_tokens, token_ids_of

#: Version of the package from which on code that comes with a model, in a folder too, is run
#: only if that is asked for (docstring of its ``import_module_class``, 6.2).
OLDEST = 6

#: Under which of these names a model's own files have the prompt of a kind.
_PROMPT_NAMES = {Kind.QUERY: ("query",), Kind.DOCUMENT: ("document", "passage", "corpus")}


class SentenceTransformersModel(EmbeddingModel):
    """A model that sentence-transformers loads, from a hub or from a folder.

    What is not said by whoever registers it (prompts, metric, longest text) is what the
    model's own files say; prompts that they do not name are those known for its name. All of
    that, and whether it takes images, is settled once it has been loaded. Bytes are images.
    """

    is_local = True
    counts_exactly = True

    def __init__(
        self,
        model: str,
        *,
        model_id: str,
        device: str | None = None,
        truncate_dim: int | None = None,
        revision: str | None = None,
        backend: str = "torch",
        normalize: bool | None = None,
        images: bool | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Describe the model without loading it.

        Args:
            model: name on a hub, or path of a folder.
            model_id: the id it is registered under.
            device: ``cpu``, ``cuda``, ``mps`` …; None lets torch choose.
            truncate_dim: cut vectors to this many dimensions; None keeps them whole.
            revision: branch, tag or commit of the weights on the hub.
            backend: ``torch``, ``onnx`` or ``openvino``.
            normalize: vectors of length 1, or as long as the model makes them before it
                normalises; None leaves that to the model.
            images: it embeds images; None goes by its name until it is loaded.
            trust_remote_code: run code that comes with the model.
        """
        self.model = model
        self.model_id = model_id
        self.device = device
        self.truncate_dim = truncate_dim
        self.backend = backend
        self.normalize = normalize
        self.images = images
        self.trust_remote_code = trust_remote_code
        self.supports_binary = embeds_images(model) if images is None else images
        package = ("sentence_transformers", "sentence-transformers")
        self.requires = (package, ("PIL", "clip")) if self.supports_binary else (package,)
        self._git_revision = revision
        #: What the weights that are loaded are called; None before.
        self._loaded_weights: str | None = None
        #: Attributes that the loaded model has set, as nobody else had.
        self._learned: set[str] = set()
        self._loaded: Any = None
        # Also held while encoding: fast tokenizers refuse a second thread ("Already
        # borrowed"), and torch uses all cores for one batch anyway.
        self._lock = threading.RLock()

    @property
    def revision(self) -> str:  # type: ignore[override]
        """Name the weights and what is made of their vectors.

        An id can be given to other weights, a folder may get other files, and shortened
        vectors are another vector space. Nothing is read of a folder before this is asked for.
        """
        found = self._loaded_weights or _weights(self.model, self.backend)
        if self._git_revision:
            found += f"@{self._git_revision}"
        if self.truncate_dim:
            found += f":{self.truncate_dim}d"
        if self.normalize is None:
            return found
        return f"{found}:{'unit' if self.normalize else 'raw'}"

    @property
    def fingerprint(self) -> str:
        """Name the vector space, for which texts are cut where, and put after what, counts."""
        found = super().fingerprint
        if (limit := self._given("max_tokens")) and self.registered_limit is None:
            found += f":{limit}t"
        if self.backend not in (None, "torch"):
            found += f":{self.backend}"
        if self.document_prompt == "":
            found += "+none"
        known = known_prompts(self.model) if self.document_prompt is None else None
        if known and known.document:
            found += f"+{hashlib.sha256(known.document.encode()).hexdigest()[:8]}"
        return found

    def check_there(self) -> None:
        """Refuse a folder that is not there.

        Raises:
            CallRefusedError: only its ``detail`` holds the path.
        """
        if is_path(self.model):
            check_folder(self.model_id, Path(os.path.expanduser(self.model)))

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | Iterable[Sequence[float]]:
        """Return a Batch of the vectors, whichever of the items are texts and which images.

        Raises:
            MissingDependencyError: sentence-transformers, or what else it takes, is not
                installed.
            CallRefusedError: the model cannot be loaded.
            UnreadableTextError: an item is no image that can be read.
            ProviderError: the model failed, or takes no items of this type.
        """
        import numpy as np

        with self._lock:
            loaded = self._load()
            vectors: list[Any] = [None] * len(items)
            for positions, inputs in self._inputs(items):
                encoded = self._translated(self._encoder(loaded, kind, inputs))
                for position, vector in zip(positions, encoded, strict=True):
                    vectors[position] = vector
            return Batch(np.stack(vectors))

    def warm(self) -> None:
        """Import the package and load the weights."""
        with self._lock:
            self._load()

    def count_tokens(self, text: str) -> int:
        """Return the length of the text in the model's own tokens, its prompt included."""
        return self.read([text])[0].tokens

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Return how long each text is and how much of it the model has no token for.

        The prompt of documents is among the special tokens: what of a text is stored is cut
        where prompt and text together are too long.
        """
        with self._lock:
            loaded = self._load()
            tokenizer = getattr(loaded, "tokenizer", None)
            token_ids = token_ids_of(tokenizer)
            if token_ids is None:  # words of its own, or an image model
                return [Reading(EmbeddingModel.count_tokens(self, text)) for text in texts]
            prompt = self._prompt(loaded, Kind.DOCUMENT)
            readable = [_readable(text) for text in texts]
            readings: list[Reading] = self._translated(
                lambda: read_tokens(tokenizer, token_ids, readable, prompt)
            )
            return readings

    def _given(self, name: str) -> Any:
        """Return an attribute as it was registered, None where nothing was said about it."""
        return None if name in self._learned else vars(self).get(name)

    def _learn(self, name: str, value: Any) -> None:
        """Take an attribute from the loaded model, if nobody has said anything else."""
        if self._given(name) is None:
            setattr(self, name, value)
            self._learned.add(name)

    def _prompt_option(self, loaded: Any, kind: Kind) -> str | None:
        """Return the prompt to tell the package; None where it is to use the model's own."""
        said = self.query_prompt if kind is Kind.QUERY else self.document_prompt
        if said is not None:
            return said
        own = [name for names in _PROMPT_NAMES.values() for name in names]
        if loaded.default_prompt_name or any(loaded.prompts.get(name) for name in own):
            return None
        known = known_prompts(self.model)
        return (known.query if kind is Kind.QUERY else known.document) if known else None

    def _prompt(self, loaded: Any, kind: Kind) -> str:
        """Return what stands before each text of a kind, whoever puts it there."""
        told = self._prompt_option(loaded, kind)
        if told is not None:
            return told
        prompts = loaded.prompts
        name = next((name for name in _PROMPT_NAMES[kind] if name in prompts), None)
        return prompts.get(name or loaded.default_prompt_name) or ""

    def _inputs(self, items: Sequence[Item]) -> Iterator[tuple[list[int], list[Any]]]:
        """Yield texts together and images together, each with its positions.

        Most models take either kind but not both in one batch.
        """
        texts = [n for n, item in enumerate(items) if isinstance(item, str)]
        blobs = [n for n, item in enumerate(items) if isinstance(item, bytes)]
        if texts:
            if not self.supports_text:
                raise CallRefusedError(self.model_id, "embeds images only, not text")
            # A model of images would open a text that looks like the path or the address of one,
            # whoever has sent it.
            wrap = self._loaded.modalities != ["text"]
            readable = [_readable(str(items[n])) for n in texts]
            yield texts, [{"text": text} for text in readable] if wrap else readable
        if blobs:
            if not self.supports_binary:
                raise CallRefusedError(self.model_id, "embeds text only, not images")
            contents = [bytes(items[n]) for n in blobs]  # type: ignore[arg-type]
            for positions, images in image_groups(contents, self.model_id):
                yield [blobs[n] for n in positions], images

    def _encoder(self, loaded: Any, kind: Kind, inputs: list[Any]) -> Callable[[], Any]:
        """Return the call for this kind."""
        encode = loaded.encode_query if kind is Kind.QUERY else loaded.encode_document
        return lambda: encode(
            inputs,
            prompt=self._prompt_option(loaded, kind),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=bool(self.normalize),
        )

    def _load(self) -> Any:
        """Return the loaded model; the caller holds the lock."""
        if self._loaded is None:
            loader = import_loader(self.model_id)
            self.check_there()
            try:
                options: dict[str, Any] = {
                    "device": self.device,
                    "truncate_dim": self.truncate_dim,
                    "revision": self._commit(),
                    "backend": self.backend,
                    "trust_remote_code": self.trust_remote_code,
                }
                with _no_bar_for_loading():
                    loaded = loader(os.path.expanduser(self.model), **options)
            except Exception as error:
                raise load_failure(
                    self.model_id, error, trusts_code=self.trust_remote_code
                ) from error
            self._settle_with(loaded)
            self._loaded_weights = _weights(self.model, self.backend)
            self._loaded = loaded
        return self._loaded

    def _commit(self) -> str | None:
        """Return the revision to load: of a hub that of which files are here already.

        Else the package would ask for a newer one with each start of a site, and vectors of
        two versions would be compared.
        """
        if is_path(self.model):
            return self._git_revision
        cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")  # the package's own
        return hub_files.cached_commit(self.model, self._git_revision, cache) or self._git_revision

    def _settle_with(self, loaded: Any) -> None:
        """Take over what the loaded model says of itself, and tell it what is said of it.

        Raises:
            CallRefusedError: the two contradict each other.
        """
        takes = set(loaded.modalities)
        if self.images and "image" not in takes:
            raise CallRefusedError(
                self.model_id, "it embeds no images: take 'images' out of its entry"
            )
        self.supports_binary = "image" in takes and self.images is not False
        self.supports_text = bool(takes & {"text", "message"})
        if self.normalize is False:
            while len(loaded) > 1 and type(loaded[-1]).__name__ == "Normalize":
                del loaded[-1]
        if limit := self._given("max_tokens"):
            _set_longest(loaded, limit, self.model_id)
        self.dimensions = loaded.get_embedding_dimension()
        self.counts_exactly = token_ids_of(getattr(loaded, "tokenizer", None)) is not None
        self._learn("max_tokens", as_limit(loaded.max_seq_length))
        self._learn("metric", "dot" if loaded.similarity_fn_name == "dot" else "cosine")

    def _translated(self, call: Callable[[], Any]) -> Any:
        """Return what the call returns, its exceptions as ProviderError."""
        try:
            return call()
        except EmbedError:
            raise
        except Exception as error:
            raise ProviderError.from_exception(self.model_id, error) from error


def import_loader(model_id: str) -> Any:
    """Import the package and return its class of models, whoever is to be loaded.

    Raises:
        MissingDependencyError: it is not installed.
        CallRefusedError: it is one that runs the code of a model unasked.
    """
    try:
        from sentence_transformers import SentenceTransformer, __version__
    except ImportError as error:
        raise MissingDependencyError("sentence_transformers", "sentence-transformers") from error
    if int(__version__.partition(".")[0]) < OLDEST:
        raise CallRefusedError(
            model_id,
            f"sentence-transformers {__version__} would run the code of a model unasked. "
            "Run: pip install -U 'datasette-embed[sentence-transformers]'",
        )
    return SentenceTransformer


def _set_longest(loaded: Any, limit: int, model_id: str) -> None:
    """Let the model read this many tokens of a text.

    Raises:
        CallRefusedError: it has no place for so many.
    """
    most = _positions(loaded)
    if most is not None and limit > most:
        raise CallRefusedError(
            model_id, f"max_tokens is {limit:,}, and the model has places for {most:,} tokens"
        )
    loaded.max_seq_length = limit


def _positions(loaded: Any) -> int | None:
    """Return how many tokens a model has learned positions for; None where it needs none."""
    config: Any = getattr(getattr(loaded[0], "auto_model", None), "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    most = as_limit(getattr(config, "max_position_embeddings", None))
    # RoBERTa's children number positions from behind the padding token's.
    kind = getattr(config, "model_type", "")
    starts_late = any(name in kind for name in ("roberta", "camembert", "mpnet"))
    return most - config.pad_token_id - 1 if most and starts_late else most


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


def _weights(model: str, backend: str) -> str:
    """Return what the fingerprint calls the weights, which ends up in files that are published.

    Of a folder its last part and a digest of what is in it, never the path itself. Of a hub
    the name: its files are those that were downloaded first, for as long as they are kept.
    """
    if not is_path(model):
        # With the owner or without, it is one model.
        return model.removeprefix(f"{hub_files.DEFAULT_OWNER}/")
    return f"{last_part(model)}-{checkpoint_digest(Path(os.path.expanduser(model)), backend)}"


def _readable(text: str) -> str:
    """Return the text without lone surrogates, which SQLite hands out and tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")
