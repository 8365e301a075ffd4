"""Models of a hub: the real client, a hub on this machine, and a process for each load.

huggingface_hub reads where the hub and the cache are when it is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import write_bert
from tests.hub_server import running_hub
from tests.test_providers_onnx import GOLDEN, TEXTS, TINY, write

SCRIPT = """
import json, sys
from datasette_embed.errors import EmbedError
from datasette_embed.models import Kind
from datasette_embed.providers.onnx import OnnxModel
texts, name, options = json.loads(sys.argv[1])
model = OnnxModel(name, model_id="m", **options)
try:
    vectors = model.embed_checked(texts).vectors.tolist()
except EmbedError as error:
    found = {"class": type(error).__name__, "message": str(error), "detail": error.detail}
    print(json.dumps({**found, "retryable": error.retryable}))
else:
    found = {"vectors": vectors, "max_tokens": model.max_tokens, "licence": model.licence}
    print(json.dumps({**found, "prompts": [model.prompt(kind) for kind in Kind]}))
"""


@pytest.fixture
def hub(tmp_path):
    """A hub with the tiny model, and beside it what other programs read."""
    folder = Path(shutil.copytree(TINY, tmp_path / "repository"))
    card = "---\nlicense: mit\n---\n"
    (folder / "README.md").write_text(card, "utf-8")
    for name in ("pytorch_model.bin", "onnx/model_O4.onnx", "onnx/tokenizer.json", "vocab.txt"):
        (folder / name).write_bytes(b"not needed")
    with running_hub() as hub:
        hub.repositories["org/tiny"] = folder
        yield hub


@pytest.fixture
def load(hub, tmp_path):
    """Load a model in a process of its own; returns what it found, with its stderr."""

    def load(name="org/tiny", environment=(), script=SCRIPT, **options):
        done = subprocess.run(
            [sys.executable, "-c", script, json.dumps([TEXTS, name, options])],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_TELEMETRY": "1",
                **dict(environment),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return {**json.loads(done.stdout), "stderr": done.stderr}

    return load


def is_golden(found):
    """Return whether these are the vectors of the tiny model, normalised."""
    expected = np.asarray(GOLDEN["vectors"]["mean"]["document"])
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    return np.allclose(found["vectors"], expected, atol=1e-5)


def test_load_downloads_what_is_needed_then_reads_the_cache(hub, load):
    """Once with a bar on stderr; then without a hub, even one that has moved on."""
    found = load()
    assert is_golden(found)
    assert (found["max_tokens"], found["licence"]) == (32, "mit")
    assert hub.downloaded == {
        "1_Pooling/config.json",
        "2_Normalize/config.json",
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "modules.json",
        "onnx/model.onnx",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert "%" in found["stderr"]
    hub.requests.clear()
    hub.commit = "2" * 40
    (hub.repositories["org/tiny"] / "onnx" / "model.onnx").write_bytes(b"newer")
    assert is_golden(load())
    assert hub.downloaded == set()
    hub.is_down = True
    assert is_golden(load())
    assert is_golden(load(environment={"HF_HUB_OFFLINE": "1"}))


def test_load_graph_and_tokenizer_elsewhere_found(hub, load):
    """A graph at the root, a tokenizer beside another graph, and a graph by name."""
    folder = hub.repositories["org/tiny"]
    (folder / "onnx" / "model.onnx").rename(folder / "model.onnx")
    (folder / "tokenizer.json").replace(folder / "onnx" / "tokenizer.json")
    assert is_golden(load())
    assert {"model.onnx", "onnx/tokenizer.json"} <= hub.downloaded
    found = load(file="onnx/whole.onnx")
    assert np.allclose(found["vectors"], GOLDEN["whole"], atol=1e-5)
    assert "onnx/whole.onnx" in hub.downloaded
    assert "onnx/model_O4.onnx" not in hub.downloaded


def test_load_name_without_owner_and_revision(hub, load):
    """A short name is one of sentence-transformers', and a tag is asked for as it is."""
    hub.repositories["sentence-transformers/tiny"] = hub.repositories.pop("org/tiny")
    assert is_golden(load("tiny", revision="v1"))
    assert ("GET", "/api/models/sentence-transformers/tiny/revision/v1") in hub.requests
    found = load("tiny", revision="v2")
    message = "m: sentence-transformers/tiny has no revision 'v2' on the hub"
    assert (found["class"], found["message"]) == ("CallRefusedError", message)


def test_load_multilingual_e5_layout(hub, load, tmp_path):
    """Its repository: an XLM-R tokenizer twice, and prompts that only its card knows."""
    folder = hub.repositories.pop("org/tiny")
    hub.repositories["intfloat/multilingual-e5-small"] = folder
    (folder / "config_sentence_transformers.json").unlink()
    write(folder, "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    write_xlmr_tokenizer(folder / "tokenizer.json")
    write(folder, "tokenizer_config.json", {"model_max_length": 512, "unk_token": "<unk>"})
    shutil.copy(folder / "tokenizer.json", folder / "onnx" / "tokenizer.json")
    found = load("intfloat/multilingual-e5-small")
    assert found["prompts"] == ["query: ", "passage: "]
    assert found["max_tokens"] == 48
    assert "tokenizer.json" in hub.downloaded
    assert "onnx/tokenizer.json" not in hub.downloaded


def write_xlmr_tokenizer(path):
    """Write a small tokenizer of the kind that XLM-R has: Unigram, with its special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    words = ["query", "passage", ":", "a", "dog", "cat", "ball", "one", "two", "three", "four"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in words), *"abcdefg:"]
    vocabulary = [(piece, -1.0 - n / 10) for n, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(path))


def test_load_unknown_gated_or_odd_name_one_line(hub, load):
    """What no retry can mend is said once, with what to do."""
    hub.gated.add("org/gated")
    for name, message in {
        "org/none": "m: the hub has no model org/none, or not for everyone",
        "org/gated": "m: the hub shows org/gated only to those who accepted its terms. Accept "
        "them on its page, then sign in on this machine: hf auth login",
        "org/..": "m: 'org/..' cannot be the name of a model on a hub",
    }.items():
        found = load(name)
        assert (found["class"], found["message"]) == ("CallRefusedError", message)
        assert not found["retryable"]


def test_load_no_graph_in_the_repository_says_what_is_missing(hub, load):
    """Most repositories have none; their models can be exported."""
    shutil.rmtree(hub.repositories["org/tiny"] / "onnx")
    found = load()
    assert found["message"] == (
        "m: onnx/model.onnx is missing. A model without one is exported by: datasette embed models "
        "export-onnx"
    )


@pytest.mark.parametrize("how", ["down", "nobody there"])
def test_load_hub_out_of_reach_retryable_and_one_line(hub, load, how):
    """It may be there later; what the client said at length is a detail."""
    hub.is_down = True
    found = load(environment={"HF_ENDPOINT": "http://127.0.0.1:9"} if how != "down" else {})
    message = "m: org/tiny cannot be downloaded from the hub now. The log says why"
    assert (found["class"], found["message"]) == ("ProviderError", message)
    assert found["retryable"]
    assert "\n" not in found["detail"]


def test_load_what_is_missing_in_the_cache_is_fetched(hub, load, tmp_path):
    """Other programs share the cache, and need not have needed all of it."""
    load()
    snapshot = tmp_path / "hf" / "hub" / "models--org--tiny" / "snapshots" / hub.commit
    (snapshot / "modules.json").unlink()
    shutil.rmtree(snapshot.parent.parent / "trees", ignore_errors=True)
    hub.requests.clear()
    assert is_golden(load())
    assert hub.downloaded <= {"modules.json"}
    assert (snapshot / "modules.json").is_file()


@pytest.mark.torch
def test_load_weights_in_a_file_of_their_own(hub, load):
    """Graphs beyond 2 GB have one; the cache keeps it behind a link."""
    onnx = pytest.importorskip("onnx")
    graph = hub.repositories["org/tiny"] / "onnx" / "model.onnx"
    onnx.save(
        onnx.load(str(graph)),
        str(graph),
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=256,
    )
    assert is_golden(load())
    assert {"onnx/model.onnx", "onnx/model.onnx_data"} <= hub.downloaded
    graph.with_name("model.onnx_data").unlink()
    hub.repositories["org/other"] = hub.repositories["org/tiny"]
    found = load("org/other")
    assert found["message"] == (
        "m: model.onnx needs the file model.onnx_data beside it, which is missing"
    )


SENTENCE_TRANSFORMERS = """
import json, sys
from datasette_embed.providers.sentence_transformers import SentenceTransformersModel
texts, name, options = json.loads(sys.argv[1])
model = SentenceTransformersModel(name, model_id="m", device="cpu", **options)
before = model.fingerprint
vectors = model.embed_checked(texts).vectors.tolist()
print(json.dumps({"vectors": vectors, "fingerprints": [before, model.fingerprint]}))
"""


@pytest.mark.torch
@pytest.mark.parametrize("has_own_cache", [False, True])
def test_sentence_transformers_stays_with_the_files_it_has(hub, load, tmp_path, has_own_cache):
    """A hub that moves on changes no vectors of a name, nor what a fingerprint calls them."""
    cache = {"SENTENCE_TRANSFORMERS_HOME": str(tmp_path / "own")} if has_own_cache else {}
    hub.repositories["org/tiny"] = write_bert(tmp_path / "first")
    first = load(script=SENTENCE_TRANSFORMERS, environment=cache)
    assert "model.safetensors" in hub.downloaded
    hub.earlier[hub.commit] = dict(hub.repositories)
    hub.commit = "2" * 40
    hub.repositories["org/tiny"] = write_bert(tmp_path / "second", normalize=False)
    hub.requests.clear()
    again = load(script=SENTENCE_TRANSFORMERS, environment=cache)
    assert hub.downloaded == set()
    assert np.allclose(again["vectors"], first["vectors"], atol=1e-6)
    assert first["fingerprints"] == again["fingerprints"] == ["m@org/tiny"] * 2
    offline = load(script=SENTENCE_TRANSFORMERS, environment={**cache, "HF_HUB_OFFLINE": "1"})
    assert np.allclose(offline["vectors"], first["vectors"], atol=1e-6)
