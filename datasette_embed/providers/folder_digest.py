"""Folder digest: what a fingerprint calls the files of a model that lies in a folder.

Layer 3: imports nothing of ours. Two folders of the same files have the same digest, wherever
they are; other weights in the same folder have another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

#: Of a large file these many places are looked at, of this many bytes each.
_PLACES, _PLACE_BYTES = 256, 4096
#: Endings of what sentence-transformers and transformers read beside a model's graphs.
_READ = (".json", ".safetensors", ".bin", ".txt", ".model", ".tiktoken", ".jinja", ".gguf", ".py")
#: What a backend reads as well. It also has a folder of its own.
_READ_BY_BACKEND = {"onnx": (".onnx", ".onnx_data", ".data"), "openvino": (".xml",)}
#: Written by a training, and read by the next one only.
_OF_TRAINING = ("training_args.bin", "trainer_state.json")
#: Folders of no module of the model: they are written beside it.
_OTHER_FOLDERS = (".", "_", "checkpoint-", "eval", "runs", "logs")
#: How deep modules lie: a router has folders for modules, in its own.
_DEPTH = 2


def sampled_digest(folder: Path, paths: Iterable[Path]) -> str:
    """Return 16 characters that change with what is in these files, not with their place.

    Of a large file only its length and a sample are looked at: weights that were trained
    further differ everywhere. The files need not be there.

    Args:
        folder: the model's.
        paths: files in it, in an order that does not depend on the machine.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode("utf-8", "replace"))
            _add_sample(digest, path)
        except OSError:
            continue  # said when it is loaded
    return digest.hexdigest()[:16]


def _add_sample(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{size}\0".encode())
    with path.open("rb") as stream:
        if size <= _PLACES * _PLACE_BYTES:
            digest.update(stream.read())
            return
        for place in range(_PLACES):
            stream.seek((size - _PLACE_BYTES) * place // (_PLACES - 1))
            digest.update(stream.read(_PLACE_BYTES))


def is_file(path: Path) -> bool:
    """Return whether there is such a file; what may not be looked at is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def checkpoint_digest(folder: Path, backend: str = "torch") -> str:
    """Return the digest of what sentence-transformers reads of a folder: its configuration,
    its tokenizer, its code and its weights, those of each module in a folder below too.

    Args:
        folder: the model's; it need not be there.
        backend: ``torch``, ``onnx`` or ``openvino``: the graphs of others do not count.
    """
    endings = (*_READ, *_READ_BY_BACKEND.get(backend, ()))
    left_out = {"onnx", "openvino"} - {backend}
    if not is_file(folder / "config.json") and not is_file(folder / "modules.json"):
        return sampled_digest(folder, ())  # whatever this is, it is not to be walked through
    found = [path for path in _walk(folder, left_out, _DEPTH) if path.name.endswith(endings)]
    return sampled_digest(folder, sorted(found, key=lambda path: path.relative_to(folder).parts))


def _walk(folder: Path, left_out: set[str], depth: int) -> Iterator[Path]:
    """Yield the files of a folder and of those below that may be modules; links are followed."""
    try:
        inside = list(folder.iterdir())
    except OSError:
        return
    for path in inside:
        if is_file(path):
            if not path.name.startswith(".") and path.name not in _OF_TRAINING:
                yield path
        elif depth and path.name not in left_out and not path.name.startswith(_OTHER_FOLDERS):
            yield from _walk(path, left_out, depth - 1)
