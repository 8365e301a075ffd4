"""Export: a folder that ``OnnxModel`` reads, made of any model of sentence-transformers.

Layer 3: imports ``errors``, ``prompts`` and, of this folder, ``onnx``, ``onnx_files`` and
``sentence_transformers``. torch, sentence-transformers and the packages of torch's exporter
(onnx, onnxscript) are imported when something is exported. What is written has been loaded and
compared with the original before it gets its name; a half-written folder is never left.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import (
    CallRefusedError,
    EmbedError,
    MissingDependencyError,
    ProviderError,
    SourceError,
)
from ..prompts import known_prompts
from .onnx import OnnxModel
from .onnx_files import GRAPHS
from .sentence_transformers import import_loader

EXTRA = "onnx-export"
#: Difference of a vector from the original's that is taken for rounding.
TOLERANCE = 1e-3
#: A graph with its weights may be this large in one file (protobuf's limit is 2 GiB).
LARGEST_FILE_BYTES = 1_800_000_000
#: What is embedded both ways: short, long, code, other scripts, longer than most models read.
SAMPLES = (
    "a cat",
    "How do I undo my last commit?",
    "A checkpoint copies the write-ahead log back into the database file, page by page.",
    "def embed(text: str) -> list[float]:\n    return model.encode(text).tolist()",
    "naïve café 🎉 100% — Zürich, Москва, 東京",
    "The quick brown fox jumps over the lazy dog near the bank of the river. " * 60,
)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where it is.
        size_bytes: of all its files.
        dimensions: length of its vectors.
        max_tokens: longest text it reads; None for no limit.
        worst_cosine: smallest similarity of a sample's vector to the original's.
    """

    folder: Path
    size_bytes: int
    dimensions: int
    max_tokens: int | None
    worst_cosine: float


def export_onnx(name: str, folder: Path) -> Exported:
    """Write the ONNX graph and the files of a model into a new folder.

    Args:
        name: name on a hub, or a folder, of a model for sentence-transformers.
        folder: does not exist yet, or is empty.

    Raises:
        SourceError: there is something in the folder, or it cannot be written.
        MissingDependencyError: sentence-transformers, onnx or onnxscript is not installed.
        CallRefusedError: the model is none that can be exported, or its export differs.
        ProviderError: the model cannot be loaded.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SourceError(str(folder), "is not empty. Name a folder that does not exist yet")
    for package in ("sentence_transformers", "onnx", "onnxscript"):
        try:
            import_module(package)
        except ImportError as error:
            raise MissingDependencyError(package, EXTRA) from error
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise SourceError(str(folder), f"cannot be written: {error.strerror}") from error
    try:
        with _quiet():
            exported = _write(name, partial, folder)
        partial.chmod(0o755)  # mkdtemp's is for its owner alone
        if folder.exists():
            folder.rmdir()
        os.rename(partial, folder)
    except OSError as error:
        raise SourceError(str(folder), f"cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return exported


def _write(name: str, partial: Path, folder: Path) -> Exported:
    loader = import_loader(name)
    try:
        original = loader(os.path.expanduser(name), device="cpu").eval().float()
    except Exception as error:
        raise ProviderError.from_exception(name, error) from error
    _check(name, original)
    try:
        original.save(str(partial))
        _write_graph(original, partial / GRAPHS[0])
    except (EmbedError, OSError):
        raise
    except Exception as error:  # torch's exporter raises whatever a model's own code does
        raise CallRefusedError(
            name,
            f"torch cannot export this model ({type(error).__name__}). The log says why",
            detail=f"torch cannot export this model: {' '.join(str(error).split())[:500]}",
        ) from error
    for pattern in ("*.safetensors", "*.bin"):
        for weights in partial.rglob(pattern):  # they are in the graph
            weights.unlink()
    _write_known_prompts(name, partial / "config_sentence_transformers.json")
    copy = OnnxModel(str(partial), model_id=name)
    worst = _compare(name, original, copy)
    files = [path for path in partial.rglob("*") if path.is_file()]
    return Exported(
        folder=folder,
        size_bytes=sum(path.stat().st_size for path in files),
        dimensions=copy.dimensions or 0,
        max_tokens=copy.max_tokens,
        worst_cosine=worst,
    )


def _check(name: str, original: Any) -> None:
    """Refuse what is no text model of a transformer and modules after it."""
    first = type(original[0]).__name__
    if first != "Transformer":
        raise CallRefusedError(name, f"begins with {first}, and only transformers are exported")
    leaves_out = [m for m in original if getattr(m, "include_prompt", True) is False]
    if leaves_out and any(type(m).__name__ not in _AFTER for m in list(original)[1:]):
        raise CallRefusedError(
            name,
            "leaves its prompt out of the average before another module, which no graph can know. "
            "Use it with the provider sentence-transformers",
        )


#: Modules that ``OnnxModel`` computes by itself.
_AFTER = ("Pooling", "Normalize")


def _write_graph(original: Any, target: Path) -> None:
    """Export transformer and all modules after it, for any number and length of texts."""
    import torch

    module = _wrapped(original)
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]])
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    size = sum(tensor.numel() * tensor.element_size() for tensor in original.parameters())
    target.parent.mkdir(exist_ok=True)
    outputs = ["last_hidden_state", "sentence_embedding"]
    with torch.no_grad():
        torch.onnx.export(
            module,
            (ids, torch.ones_like(ids)),
            str(target),
            input_names=["input_ids", "attention_mask"],
            output_names=outputs[: module.outputs],
            dynamic_shapes={name: {0: batch, 1: length} for name in ("ids", "mask")},
            dynamo=True,
            external_data=size > LARGEST_FILE_BYTES,
            verbose=False,
        )


def _wrapped(original: Any) -> Any:
    """Return a torch module: token ids and mask in, vectors of tokens and of texts out."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = original[0].auto_model
            self.others = torch.nn.ModuleList(list(original)[1:])
            leaves_out = any(getattr(m, "include_prompt", True) is False for m in self.others)
            self.outputs = 1 if leaves_out else 2

        def forward(self, ids: Any, mask: Any) -> Any:
            tokens = self.transformer(input_ids=ids, attention_mask=mask)[0]
            features = {"input_ids": ids, "attention_mask": mask, "token_embeddings": tokens}
            if self.outputs == 1:
                return tokens
            for module in self.others:
                features = module(features)
            return tokens, features["sentence_embedding"]

    return Whole().eval()


def _write_known_prompts(name: str, path: Path) -> None:
    """Write down prompts that are known by the model's name, which a folder need not have."""
    known = known_prompts(name)
    own = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if known is None or any((own.get("prompts") or {}).values()):
        return
    own["prompts"] = {"query": known.query, "document": known.document}
    path.write_text(json.dumps(own, indent=2) + "\n", "utf-8")


def _compare(name: str, original: Any, copy: OnnxModel) -> float:
    """Return the smallest cosine of a sample's two vectors; what differs is refused."""
    import numpy as np

    copy.query_prompt = copy.document_prompt = ""
    expected = np.asarray(original.encode(list(SAMPLES), prompt="", show_progress_bar=False))
    found = copy.embed_checked(list(SAMPLES)).vectors
    if found.shape != expected.shape:
        raise CallRefusedError(
            name, f"its export has {found.shape[1]} dimensions, not {expected.shape[1]}"
        )
    ours, theirs = (np.linalg.norm(vectors, axis=1) for vectors in (found, expected))
    cosines = (found * expected).sum(axis=1) / (ours * theirs)
    worst = min(1.0, float(cosines.min()))
    if not (1 - worst <= TOLERANCE and np.abs(ours / theirs - 1).max() <= TOLERANCE):
        raise CallRefusedError(
            name, f"its export differs: the cosine of one of {len(SAMPLES)} texts is {worst:.4f}"
        )
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's and the loaders' remarks off stderr; progress of a download stays.

    transformers has one switch for all bars, and huggingface_hub one of its own for downloads.
    """
    bars, hub = import_module("transformers.utils.logging"), import_module("huggingface_hub.utils")
    had_bars, had_hub_bars = bars.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    names = ("torch.onnx", "torch.export", "onnxscript", "sentence_transformers")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        bars.disable_progress_bar()
        if had_hub_bars:
            hub.enable_progress_bars()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if had_bars:
                bars.enable_progress_bar()
