"""OnnxFiles: what the files beside an ONNX graph say about the model.

Layer 3: imports ``prompts`` and, of its folder, ``folder_digest``. The layout is that of
sentence-transformers (``modules.json`` and a folder per module, as its
``SentenceTransformer.save`` writes them, version 6.2), with the graph as ``onnx/model.onnx`` or
``model.onnx``. A folder without ``modules.json`` is a bare transformer, of which
sentence-transformers takes the mean too.
Nothing is loaded here, and no damage is an exception of Python's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..prompts import Prompts
from .folder_digest import is_file, sampled_digest

GRAPHS = ("onnx/model.onnx", "model.onnx")
NO_GRAPH = "is missing. A model without one is exported by: datasette embed models export-onnx"
#: What else is read of a repository, as patterns of paths.
SMALL_FILES = (
    "modules.json",
    "config.json",
    "*/config.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "tokenizer_config.json",
    "README.md",
)
TOKENIZERS = ("tokenizer.json", "onnx/tokenizer.json")
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
#: As sentence-transformers before 6 wrote them, in the order in which vectors are joined.
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: Tokenizers say 10**30 where they have no limit; no model reads this many tokens.
ABSURD_TOKENS = 1_000_000
#: Models whose first positions are taken: padding, and all before it.
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl")


class OnnxFilesError(Exception):
    """A file is missing, damaged or asks for what cannot be done.

    Attributes:
        detail: what the library that reads it said, which may name paths; "" for nothing.
    """

    def __init__(self, file: str, reason: str, detail: str = "") -> None:
        self.detail = detail
        super().__init__(f"{file} {reason}")


@dataclass(frozen=True)
class OnnxFiles:
    """One model's files, and what they say.

    Attributes:
        graph: path of the ONNX file.
        tokenizer: path of ``tokenizer.json``.
        poolings: how vectors of tokens become one, joined if there are several.
        pools_prompt: whether the prompt's own tokens are pooled too.
        normalize: whether vectors are brought to length 1.
        other_modules: types of modules that are neither transformer, pooling nor Normalize.
        max_tokens: longest text; None where nothing is said.
        dimensions: length of the vectors where the files say it; None else.
        prompts: those of the model's own configuration; None where it has none.
        metric: ``cosine`` or ``dot``.
        licence: as the model card's front matter has it.
        lower_case: whether texts are to be written small first.
    """

    graph: Path
    tokenizer: Path
    poolings: tuple[str, ...]
    pools_prompt: bool
    normalize: bool
    other_modules: tuple[str, ...]
    max_tokens: int | None
    dimensions: int | None
    prompts: Prompts | None
    metric: str
    licence: str | None
    lower_case: bool


def read_onnx_files(folder: Path, file: str | None = None) -> OnnxFiles:
    """Return what a folder's files say.

    Args:
        folder: the model's.
        file: path of the graph inside it; None for the usual ones.

    Raises:
        OnnxFilesError: a file is missing or damaged.
    """
    graph = _found(folder, (file,) if file else GRAPHS, "is missing" if file else NO_GRAPH)
    tokenizer = _found(folder, TOKENIZERS, "is missing")
    modules = list(_modules(folder))
    poolings, pools_prompt, token_dimensions = _pooling(folder, modules)
    config = _config(folder, graph)
    own = _read(folder / "config_sentence_transformers.json")
    settings = _transformer_settings(folder, modules)
    other = tuple(kind for kind, _ in modules[1:] if kind not in ("Pooling", "Normalize"))
    size = token_dimensions or config.get("hidden_size") or config.get("d_model")
    return OnnxFiles(
        graph=graph,
        tokenizer=tokenizer,
        poolings=poolings,
        pools_prompt=pools_prompt,
        normalize=any(kind == "Normalize" for kind, _ in modules),
        other_modules=other,
        max_tokens=_max_tokens(folder, tokenizer, config, settings),
        dimensions=size * len(poolings) if isinstance(size, int) and not other else None,
        prompts=_prompts(own),
        metric="dot" if own.get("similarity_fn_name") in ("dot", "dot_score") else "cosine",
        licence=_licence(folder),
        lower_case=settings.get("do_lower_case") is True,
    )


def digest_of(folder: Path, file: str | None = None) -> str:
    """Return 16 characters that change with what is in a model's files, not with their place.

    Of a large file only its length and a sample are looked at: weights that were trained
    further differ everywhere. The files need not be there.
    """
    graphs = [path for name in ((file,) if file else GRAPHS) if is_file(path := folder / name)]
    weights = [path for graph in graphs[:1] for path in (graph, *_external(graph))]
    patterns = (*SMALL_FILES[:-1], *TOKENIZERS)
    small = [path for pattern in patterns for path in folder.glob(pattern) if is_file(path)]
    return sampled_digest(folder, [*weights, *sorted(set(small))])


def _external(graph: Path) -> list[Path]:
    """Return the files of weights beside a graph that is too large for one file."""
    names = [f"{graph.name}{ending}" for ending in ("_data", ".data")]
    return sorted(path for name in names for path in graph.parent.glob(f"{name}*") if is_file(path))


def _found(folder: Path, names: tuple[str, ...], otherwise: str) -> Path:
    for name in names:
        if is_file(folder / name):
            return folder / name
    raise OnnxFilesError(names[0], otherwise)


def _read(path: Path, name: str | None = None) -> Mapping[str, Any]:
    """Return a JSON object, ``{}`` where there is no such file."""
    value = _read_json(path, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise OnnxFilesError(name or path.name, "is not a JSON object")
    return value


def _read_json(path: Path, name: str | None = None) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise OnnxFilesError(name or path.name, "is damaged: it is not JSON") from error


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (class, folder inside the model's) of each module; a bare transformer has two."""
    found = _read_json(folder / "modules.json")
    if found is None:
        yield from (("Transformer", ""), ("Pooling", "1_Pooling"))
        return
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise OnnxFilesError("modules.json", "is not a list of modules")
    for module in found:
        path = str(module.get("path", ""))
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise OnnxFilesError("modules.json", "names a folder outside the model's")
        yield str(module.get("type", "")).rpartition(".")[2], path


def _pooling(
    folder: Path, modules: list[tuple[str, str]]
) -> tuple[tuple[str, ...], bool, int | None]:
    """Return how tokens are pooled, whether the prompt's are too, and the length of theirs."""
    path = next((path for kind, path in modules if kind == "Pooling"), None)
    if path is None:
        return (), True, None
    name = f"{path}/config.json"
    config = _read(folder / path / "config.json", name)
    found = config.get("pooling_mode")
    if found is None:
        found = [mode for old, mode in _OLD_POOLINGS.items() if config.get(old)] or "mean"
    poolings = tuple(found) if isinstance(found, list) else (found,)
    for mode in poolings:
        if mode not in POOLINGS:
            raise OnnxFilesError(name, f"names the pooling {mode!r}, not {', '.join(POOLINGS)}")
    size = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    return poolings, config.get("include_prompt") is not False, _whole(size)


def _config(folder: Path, graph: Path) -> Mapping[str, Any]:
    """Return ``config.json``, beside the graph where the model's folder has none."""
    return _read(folder / "config.json") or _read(graph.parent / "config.json")


def _transformer_settings(folder: Path, modules: list[tuple[str, str]]) -> Mapping[str, Any]:
    """Return ``sentence_bert_config.json``, whose name has followed the kind of model."""
    path = folder / (modules[0][1] if modules else "")
    for found in sorted(path.glob("sentence_*_config.json")):
        return _read(found)
    return {}


def _max_tokens(
    folder: Path, tokenizer: Path, config: Mapping[str, Any], settings: Mapping[str, Any]
) -> int | None:
    """Return the longest text: as sentence-transformers finds it, and never beyond positions."""
    positions = _whole(config.get("max_position_embeddings"))
    padding = config.get("pad_token_id")
    if positions and config.get("model_type") in _POSITIONS_AFTER_PADDING:
        positions -= (padding if isinstance(padding, int) else 1) + 1
    said = _whole(settings.get("max_seq_length"))
    if said is None:
        own = _read(folder / "tokenizer_config.json") or _read(
            tokenizer.with_name("tokenizer_config.json")
        )
        said = _whole(own.get("model_max_length"))
    found = [limit for limit in (said, positions) if limit]
    return min(found) if found else None


def _whole(value: Any) -> int | None:
    """Return a whole number above 0 that is one, however it is written."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 < value < ABSURD_TOKENS else None


def _prompts(own: Mapping[str, Any]) -> Prompts | None:
    """Return the prompts by the names that sentence-transformers looks for, in its order.

    Prompts that are all empty say nothing: it writes those by itself.
    """
    found = own.get("prompts")
    if not isinstance(found, dict) or not any(found.values()):
        return None
    document = next((found[n] for n in ("document", "passage", "corpus") if n in found), None)
    default = found.get(str(own.get("default_prompt_name")), "")
    query = found.get("query", default)
    return Prompts(str(query or ""), str(default if document is None else document or ""))


def _licence(folder: Path) -> str | None:
    """Return ``license`` of the front matter of the model card, or the licence's own name."""
    try:
        card = (folder / "README.md").read_text("utf-8", "replace")
    except OSError:
        return None
    front = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    found = dict(re.findall(r"^(license\w*):[ \t]*(\S.*?)[ \t]*$", front[1] if front else "", re.M))
    licence = found.get("license", "").strip("'\"[] ")
    if licence == "other":
        licence = found.get("license_name", "").strip("'\"") or licence
    return licence or None
