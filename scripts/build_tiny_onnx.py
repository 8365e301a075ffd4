"""Build the tiny ONNX models that the tests run, in ``tests/data/tiny_onnx``.

Run it from the root of the repository::

    pip install -e '.[onnx-export]'
    python scripts/build_tiny_onnx.py

A BERT of one layer with random weights and a vocabulary of some sixty words, as
sentence-transformers saves one, with its graph beside it: ``onnx/model.onnx`` ends with the
transformer, ``onnx/whole.onnx`` has the modules after it too, one of them a Dense. The
weights stay, so that sentence-transformers can be asked what it makes of the same model; what
it says of a few texts is written into ``golden.json``, for tests where it is not installed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from datasette_embed.providers.onnx_export import _write_graph
from datasette_embed.providers.onnx_files import POOLINGS

TARGET = Path(__file__).parent.parent / "tests" / "data" / "tiny_onnx"
SIZE, DENSE_SIZE, MAX_TOKENS = 16, 8, 32
WORDS = (
    "a the dog cat ball chases sqlite much longer text about nothing in particular with few "
    "more words than others one two three four five six seven eight nine ten half an emoji"
).split()
TEXTS = ["a dog chases a ball", "sqlite", "two cat", "zebra", "one two three four " * 12]
PROMPTS = {"query": "one two ", "document": "three "}


def main() -> None:
    """Write the folder anew and say how large it is."""
    torch.manual_seed(7)
    with tempfile.TemporaryDirectory() as folder:
        bert = save_bert(Path(folder))
        shutil.rmtree(TARGET, ignore_errors=True)
        built = build(bert, "mean", modules.Normalize())
        built.save(str(TARGET))
        (TARGET / "README.md").unlink()
        write_graph(built, "model.onnx", keeps=1)
        dense = modules.Dense(SIZE, DENSE_SIZE)
        whole = build(bert, "mean", dense, modules.Normalize())
        write_graph(whole, "whole.onnx", keeps=2)
        golden = {"texts": TEXTS, "vectors": {}, "whole": vectors(whole, "document")}
        for pooling in (*POOLINGS, ["cls", "mean"]):
            name = pooling if isinstance(pooling, str) else "+".join(pooling)
            original = build(bert, pooling)
            golden["vectors"][name] = {kind: vectors(original, kind) for kind in PROMPTS}
    (TARGET / "golden.json").write_text(json.dumps(golden) + "\n", "utf-8")
    size = sum(path.stat().st_size for path in TARGET.rglob("*") if path.is_file())
    print(f"{TARGET}: {size:,} bytes")


def save_bert(folder: Path) -> Path:
    """Write a transformer with random weights and its tokenizer."""
    vocabulary = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    transformers.BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).eval().save_pretrained(folder)
    return folder


def build(bert: Path, pooling: Any, *others: Any) -> SentenceTransformer:
    """Return a model of sentence-transformers over the transformer."""
    first = modules.Transformer(str(bert), max_seq_length=MAX_TOKENS)
    return SentenceTransformer(
        modules=[first, modules.Pooling(SIZE, pooling), *others], device="cpu", prompts=PROMPTS
    )


def write_graph(model: SentenceTransformer, name: str, *, keeps: int) -> None:
    """Write a graph with its first outputs, without what the exporter remembers of its code."""
    path = TARGET / "onnx" / name
    _write_graph(model, path)
    found = onnx.load(str(path))
    del found.graph.output[keeps:]
    del found.graph.value_info[:]
    for node in found.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del found.graph.metadata_props[:], found.metadata_props[:]
    onnx.save(found, str(path))


def vectors(model: SentenceTransformer, kind: str) -> list[list[float]]:
    """Return what sentence-transformers makes of the texts, to six digits."""
    encode = model.encode_query if kind == "query" else model.encode_document
    return [[round(float(number), 6) for number in row] for row in encode(TEXTS)]


if __name__ == "__main__":
    main()
