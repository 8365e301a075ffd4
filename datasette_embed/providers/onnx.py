"""OnnxModel: any text model that has an ONNX graph, from a folder or from a hub.

Layer 3: imports ``errors``, ``model_entries``, ``models``, ``prompts`` and, of this folder,
``hub_files``, ``load_failures``, ``onnx_files``, ``onnx_graph``, ``onnx_text`` and
``token_runs``. onnxruntime, tokenizers and numpy do all the work and are imported when the
model is first used; torch is not needed.
What its files say is read in ``onnx_files``, what the graph computes is in ``onnx_graph``.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..errors import (
    CallRefusedError,
    ConfigError,
    EmbedError,
    MissingDependencyError,
    ProviderError,
)
from ..model_entries import is_path, last_part
from ..models import Batch, EmbeddingModel, Item, Kind, Reading
from ..prompts import Prompts, known_prompts
from . import hub_files
from .load_failures import check_folder
from .onnx_files import OnnxFiles, OnnxFilesError, digest_of, read_onnx_files
from .onnx_graph import Graph
from .onnx_text import TextReader
from .token_runs import import_onnxruntime, new_session, run_by_length

T = TypeVar("T")


class OnnxModel(EmbeddingModel):
    """A model in sentence-transformers' layout whose transformer is an ONNX graph.

    Pooling, normalisation, the longest text, prompts and the metric are what the model's own
    files say. A text has the same vector alone and in any batch. ``max_tokens`` and
    ``dimensions`` are known once it is loaded, and of a folder before that where its files
    say them.
    """

    requires = (("onnxruntime", ""), ("tokenizers", ""))
    is_local = True
    counts_exactly = True

    def __init__(
        self,
        model: str,
        *,
        model_id: str,
        file: str | None = None,
        revision: str | None = None,
        pooling: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        """Describe the model without loading it.

        Args:
            model: name on a hub, or path of a folder.
            model_id: the id it is registered under.
            file: path of the graph inside it, for example ``onnx/model_quantized.onnx``.
            revision: branch, tag or commit on the hub.
            pooling: how vectors of tokens become one, instead of what the files say.
            normalize: whether vectors are brought to length 1, instead of what the files say.
            truncate_dim: cut vectors to this many dimensions; they are brought to length 1
                where whole ones are.

        Raises:
            ConfigError: ``file`` is no path inside the model.
        """
        if file and (
            ".." in PurePosixPath(file).parts or file[0] in "/~" or re.search(r"[\\:]", file)
        ):
            raise ConfigError("file", f"must be a path inside the model's folder, not {file!r}")
        self.model = model
        self.model_id = model_id
        self.file = file
        self.hub_revision = revision
        self.pooling = pooling
        self.normalize = normalize
        self.truncate_dim = truncate_dim
        self._own_prompts: Prompts | None = None
        self._text: TextReader | None = None
        self._graph: Graph | None = None
        self._lock = threading.Lock()
        self.revision = self._weights()
        self._foresee()

    @property
    def fingerprint(self) -> str:
        """Name the vector space; to ask for no prompt is to ask for another one."""
        found = super().fingerprint
        return f"{found}+none" if self.document_prompt == "" else found

    def with_prompt(self, items: Iterable[Item], kind: Kind) -> list[Item]:
        """Return the items with what the model wants before a text of this kind."""
        prompt = self.prompt(kind)
        return [f"{prompt}{item}" if isinstance(item, str) else item for item in items]

    def prompt(self, kind: Kind) -> str:
        """Return what is put before a text: as registered, else the model's own, else known."""
        given = self.query_prompt if kind is Kind.QUERY else self.document_prompt
        if given is not None:
            return given
        found = self._own_prompts or known_prompts(self.model) or Prompts()
        return found.query if kind is Kind.QUERY else found.document

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch:
        """Return the texts' vectors, float32 (n, dimensions), and the tokens read.

        Of a text longer than ``max_tokens`` the beginning is read. A text of no token at all
        has a vector of zeros.

        Raises:
            ValueError: an item is not text.
            MissingDependencyError: onnxruntime, tokenizers or numpy is not installed.
            CallRefusedError: the model cannot be loaded: a name, a file or a setting is wrong.
            ProviderError: the hub cannot be reached, or the model failed.
        """
        self.check_items(items)
        text, graph = self._load()
        import numpy as np

        prompt = self.prompt(kind)
        texts = [f"{prompt}{item}" for item in items if isinstance(item, str)]
        ids = self._translated(lambda: text.ids(texts))
        left_out = 0 if graph.pools_prompt else text.prompt_length(prompt)
        vectors = np.zeros((len(items), self.dimensions or 0), dtype=np.float32)

        def run(positions: list[int]) -> None:
            batch = np.array([ids[position] for position in positions], dtype=np.int64)
            vectors[positions] = self._translated(lambda: graph.vectors(batch, left_out))

        run_by_length(ids, run, tokens_per_run=1 if graph.needs_solitude else None)
        return Batch(vectors, sum(map(len, ids)))

    def warm(self) -> None:
        """Download what is missing, load tokenizer and graph, and run them once."""
        self._load()

    def count_tokens(self, text: str) -> int:
        """Return the exact length of the whole text in tokens, prompt and special ones too."""
        return self.read([text])[0].tokens

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Return how long each whole text is and how much of it is unknown.

        The prompt's tokens are in its length, and count as special ones.

        Raises:
            MissingDependencyError, CallRefusedError, ProviderError: as ``embed_batch``.
        """
        text, _ = self._load()
        return self._translated(lambda: text.read(texts, self.prompt(Kind.DOCUMENT)))

    def _weights(self) -> str:
        """Return what the fingerprint calls the weights, which ends up in published files.

        Of a folder its last part and a digest of what is in it, never the path.
        """
        parts = [self.model.removeprefix(f"{hub_files.DEFAULT_OWNER}/")]
        if is_path(self.model):
            parts = [f"{last_part(self.model)}-{digest_of(self._folder, self.file)}"]
        options = {
            "file": self.file,
            "revision": None if is_path(self.model) else self.hub_revision,
            "pooling": self.pooling,
            "normalize": self.normalize,
        }
        parts += [f"{key}={value}" for key, value in options.items() if value is not None]
        return ":".join([*parts, *([f"{self.truncate_dim}d"] if self.truncate_dim else [])])

    @property
    def _folder(self) -> Path:
        return Path(os.path.expanduser(self.model))

    def _foresee(self) -> None:
        """Take what a folder's files say before it is loaded; damage is told by loading it."""
        if not is_path(self.model):
            return
        with suppress(OnnxFilesError):
            files = read_onnx_files(self._folder, self.file)
            self._describe(files)
            self.max_tokens = files.max_tokens

    def _describe(self, files: OnnxFiles) -> None:
        """Take over what the files say, except where the registration has said it already."""
        self._own_prompts = files.prompts
        self.licence = files.licence
        if "metric" not in vars(self):
            self.metric = files.metric
        poolings = 1 if self.pooling else max(1, len(files.poolings))
        if files.dimensions and poolings == len(files.poolings):
            self.dimensions = min(files.dimensions, self.truncate_dim or files.dimensions)

    def _load(self) -> tuple[TextReader, Graph]:
        """Load tokenizer and graph once, whichever thread comes first."""
        if self._graph is None:
            with self._lock:
                if self._graph is None:
                    self._load_all()
        assert self._text is not None and self._graph is not None
        return self._text, self._graph

    def _load_all(self) -> None:
        try:
            import numpy  # noqa: F401
            import tokenizers  # noqa: F401

            import_onnxruntime()
        except ImportError as error:
            raise MissingDependencyError(error.name or "onnxruntime", "") from error
        folder = self._folder
        if is_path(self.model):
            check_folder(self.model_id, folder)
        else:
            folder = hub_files.fetch(
                self.model_id, self.model, file=self.file, revision=self.hub_revision
            )
        try:
            files = read_onnx_files(folder, self.file)
            self._describe(files)
            self.max_tokens = min(
                (n for n in (self.max_tokens, files.max_tokens) if n), default=None
            )
            text = TextReader(files, self.max_tokens)
            graph = self._open_graph(files)
            self.dimensions = self._first_run(files, text, graph)
        except OnnxFilesError as error:
            raise CallRefusedError(
                self.model_id,
                str(error),
                detail=f"{folder}: {error}. {error.detail}".rstrip(". "),
            ) from error
        except OSError as error:
            raise CallRefusedError(
                self.model_id,
                f"its files cannot be read: {error.strerror}",
                detail=f"its files cannot be read: {error}",
            ) from error
        if is_path(self.model):
            self.revision = self._weights()
        self._text = text
        # Last, as the other threads take it for the sign that all is loaded.
        self._graph = graph

    def _open_graph(self, files: OnnxFiles) -> Graph:
        """Return the loaded graph; what onnxruntime raises names the file that is missing."""
        try:
            session = new_session(files.graph, is_optimised=False)
        except Exception as error:
            weights = re.search(rf"{re.escape(files.graph.name)}[._]data\w*", str(error))
            reason = "is damaged, or too new for this onnxruntime"
            if weights and not files.graph.with_name(weights[0]).is_file():
                reason = f"needs the file {weights[0]} beside it, which is missing"
            raise OnnxFilesError(files.graph.name, reason, str(error)) from error
        return Graph(session, files, self.pooling, self.normalize, self.truncate_dim)

    def _first_run(self, files: OnnxFiles, text: TextReader, graph: Graph) -> int:
        """Return the dimensions of the vector of a first text."""
        import numpy as np

        ids = np.array([text.ids(["a"])[0] or [0]], dtype=np.int64)
        try:
            return int(graph.vectors(ids, 0).shape[1])
        except Exception as error:
            raise OnnxFilesError(files.graph.name, "cannot be run", str(error)) from error

    def _translated(self, call: Callable[[], T]) -> T:
        """Return what the call returns, foreign exceptions as ProviderError."""
        try:
            return call()
        except EmbedError:
            raise
        except Exception as error:
            raise ProviderError.from_exception(self.model_id, error) from error
