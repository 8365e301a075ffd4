"""Graph: the vectors that an ONNX graph and the modules after it make of token ids.

Layer 3: imports ``onnx_files``. Where the graph ends with the transformer, pooling and
normalisation are computed here, as sentence-transformers 6.2 does (``Pooling``, ``Normalize``);
where it has an output ``sentence_embedding``, all modules are in it. numpy is imported when
vectors are computed.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .onnx_files import OnnxFiles, OnnxFilesError

if TYPE_CHECKING:
    import numpy as np

#: What a text can give a graph.
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
_POOLED_OUTPUT = "sentence_embedding"
_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
#: What a graph is told to do that has one scale for all numbers of a batch.
_SCALED_BY_BATCH = b"DynamicQuantize"


class Graph:
    """A loaded graph. Several threads may call it at once.

    Attributes:
        pools_prompt: whether the prompt's tokens are to be pooled like the text's.
        needs_solitude: whether a text's vector would change with what else is in its batch,
            because the graph rounds all of them to one scale.
    """

    def __init__(
        self,
        session: Any,
        files: OnnxFiles,
        pooling: str | None,
        normalize: bool | None,
        truncate_dim: int | None,
    ) -> None:
        """Check that the graph can be given what it wants, and gives what is wanted.

        Args:
            session: of onnxruntime.
            files: what the model's files say.
            pooling: instead of what they say; None for that.
            normalize: instead of what they say; None for that.
            truncate_dim: cut vectors to this many dimensions, before they are normalised.

        Raises:
            OnnxFilesError: it cannot.
        """
        self._session = session
        self._types = {given.name: given.type for given in session.get_inputs()}
        self._output = _chosen_output(session, pooling)
        is_pooled = self._output == _POOLED_OUTPUT
        self._poolings = (pooling,) if pooling else files.poolings
        self._normalize = files.normalize if normalize is None else normalize
        self._truncate_dim = truncate_dim
        self.pools_prompt = files.pools_prompt
        self.needs_solitude = _holds(files.graph, _SCALED_BY_BATCH)
        self._check(files, is_pooled)

    def vectors(self, ids: np.ndarray, left_out: int) -> np.ndarray:
        """Return the vectors of texts of one length: float32, (n, dimensions).

        Args:
            ids: token ids, int64 (n, length).
            left_out: how many tokens at the beginning are not pooled.
        """
        import numpy as np

        found = self._session.run([self._output], self._inputs(ids))[0].astype(np.float32)
        vectors = found if found.ndim == 2 else self._pooled(found, left_out)
        if self._truncate_dim is not None:
            vectors = vectors[:, : self._truncate_dim]
        return _normalised(vectors) if self._normalize else vectors

    def _inputs(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the graph is given: no more than it has, in its own types."""
        import numpy as np

        given = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
        }
        return {
            name: given[name].astype(np.int32 if kind == "tensor(int32)" else np.int64)
            for name, kind in self._types.items()
        }

    def _pooled(self, tokens: np.ndarray, left_out: int) -> np.ndarray:
        """Return one vector for the tokens of each text, (n, length, d): nothing is padded."""
        import numpy as np

        length = tokens.shape[1]
        start = left_out if left_out < length else 0
        kept = tokens[:, start:]
        found = []
        for pooling in self._poolings:
            if pooling == "cls":
                found.append(kept[:, 0])
            elif pooling == "lasttoken":
                found.append(kept[:, -1])
            elif pooling == "max":
                found.append(kept.max(axis=1))
            elif pooling == "weightedmean":
                weights = np.arange(start + 1, length + 1, dtype=np.float32)
                found.append(np.tensordot(kept, weights / weights.sum(), axes=(1, 0)))
            else:
                divisor = kept.shape[1] if pooling == "mean" else np.sqrt(kept.shape[1])
                found.append(kept.sum(axis=1) / np.float32(divisor))
        return np.concatenate(found, axis=1)

    def _check(self, files: OnnxFiles, is_pooled: bool) -> None:
        name = files.graph.name
        again = "Make another one with: datasette embed models export-onnx"
        unknown = [given for given in self._types if given not in _INPUTS]
        if unknown or "input_ids" not in self._types:
            raise OnnxFilesError(
                name, f"wants {', '.join(unknown) or 'no input_ids'}, which no text gives. {again}"
            )
        if files.other_modules and not is_pooled:
            raise OnnxFilesError(
                name,
                f"ends before the model's {', '.join(files.other_modules)}, which can only be run "
                f"as a part of it. {again}",
            )
        if is_pooled and not files.pools_prompt:
            raise OnnxFilesError(
                name, "averages prompt and text, where the text alone is to be averaged"
            )
        if not is_pooled and not self._poolings:
            raise OnnxFilesError("modules.json", "names no pooling. Say one with 'pooling'")


def _chosen_output(session: Any, pooling: str | None) -> str:
    """Return the output to take: a vector for each text where there is one, else tokens'."""
    outputs: dict[str, list[Any]] = {found.name: found.shape for found in session.get_outputs()}
    if pooling is None and _POOLED_OUTPUT in outputs:
        return _POOLED_OUTPUT
    for name in _TOKEN_OUTPUTS:
        if name in outputs:
            return name
    ranks = {name: len(shape or ()) for name, shape in outputs.items()}
    return next((name for name, rank in ranks.items() if rank == 3), next(iter(outputs)))


def _normalised(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors with length 1; those of length 0 stay as they are."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    divided: np.ndarray = vectors / np.maximum(lengths, np.float32(1e-12))
    return divided


def _holds(path: Path, words: bytes) -> bool:
    """Return whether a file holds these bytes."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return view.find(words) >= 0
