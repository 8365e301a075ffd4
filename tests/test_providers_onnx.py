"""Models with an ONNX graph: what their files say, and the vectors that come of it.

``tests/data/tiny_onnx`` is made by ``scripts/build_tiny_onnx.py``; its ``golden.json`` has what
sentence-transformers makes of the same weights. Hubs are in test_hub_files.py, exports in
test_onnx_export.py.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from datasette_embed.errors import (
    CallRefusedError,
    ConfigError,
    MissingDependencyError,
    ProviderError,
)
from datasette_embed.model_entries import parse_model_entry
from datasette_embed.models import Kind
from datasette_embed.providers import token_runs
from datasette_embed.providers.onnx import OnnxModel
from datasette_embed.providers.opening import missing_package, open_model
from tests.contracts import EmbeddingModelContract

TINY = Path(__file__).parent / "data" / "tiny_onnx"
GOLDEN = json.loads((TINY / "golden.json").read_text("utf-8"))
TEXTS = GOLDEN["texts"]


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny model, to be changed."""
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def write(folder, name, value):
    """Write a JSON file of a model."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(value), "utf-8")


def change(folder, name, **changes):
    """Change some keys of a JSON file of a model."""
    path = folder / name
    found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    write(folder, name, {**found, **changes})


def opened(folder, **options):
    """Return the model of a folder as the models file names it."""
    entry = {"provider": "onnx", "model": str(folder), "id": "tiny", **options}
    return open_model(parse_model_entry(entry, "the entry"))


class TestOnnxModel(EmbeddingModelContract):
    """The tiny model, pooled and normalised by us."""

    @pytest.fixture
    def model(self):
        return opened(TINY)


class TestOnnxModelWholeGraph(EmbeddingModelContract):
    """The same with all modules in the graph."""

    @pytest.fixture
    def model(self):
        return opened(TINY, file="onnx/whole.onnx")


@pytest.mark.parametrize("pooling", GOLDEN["vectors"])
@pytest.mark.parametrize("kind", list(Kind))
def test_embed_pooling_as_sentence_transformers(folder, pooling, kind):
    """Of every pooling, with the prompts of the model's own files, cut at its 32 tokens."""
    modes = pooling.split("+")
    change(folder, "1_Pooling/config.json", pooling_mode=modes if modes[1:] else pooling)
    model = opened(folder, normalize=False)
    found = model.embed_checked(TEXTS, kind=kind).vectors
    assert np.allclose(found, GOLDEN["vectors"][pooling][kind], atol=1e-5)
    assert model.dimensions == 16 * len(modes)


def test_embed_old_pooling_keys_same_vectors(folder):
    """Models of before version 6 name a pooling by a flag each."""
    flags = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True}
    write(folder, "1_Pooling/config.json", {**flags, "pooling_mode_mean_tokens": True})
    model = opened(folder, normalize=False)
    assert model.dimensions == 32
    found = model.embed_checked(TEXTS).vectors
    assert np.allclose(found, GOLDEN["vectors"]["cls+mean"]["document"], atol=1e-5)


def test_embed_normalize_said_by_the_files(folder):
    """The module Normalize makes vectors of length 1, and without it they keep theirs."""
    assert np.linalg.norm(opened(folder).embed("dog")) == pytest.approx(1, abs=1e-6)
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    write(folder, "modules.json", modules[:2])
    found = opened(folder).embed_checked(TEXTS).vectors
    assert np.allclose(found, GOLDEN["vectors"]["mean"]["document"], atol=1e-5)


def test_embed_no_modules_file_mean_of_tokens(folder):
    """A bare transformer is pooled as sentence-transformers does it: the mean."""
    for name in ("modules.json", "1_Pooling/config.json"):
        (folder / name).unlink()
    found = opened(folder).embed_checked(TEXTS).vectors
    assert np.allclose(found, GOLDEN["vectors"]["mean"]["document"], atol=1e-5)


def test_embed_whole_graph_its_own_vectors():
    """The Dense in the graph is not computed a second time."""
    model = opened(TINY, file="onnx/whole.onnx")
    assert np.allclose(model.embed_checked(TEXTS).vectors, GOLDEN["whole"], atol=1e-5)
    assert (model.dimensions, model.max_tokens) == (8, 32)


def test_options_pooling_and_normalize_before_the_files():
    """What the registration says decides, and is another vector space."""
    model = opened(TINY, pooling="cls", normalize=False)
    found = model.embed_checked(TEXTS).vectors
    assert np.allclose(found, GOLDEN["vectors"]["cls"]["document"], atol=1e-5)
    assert model.fingerprint != opened(TINY).fingerprint


def test_truncate_dim_cut_and_of_length_one():
    """As sentence-transformers with truncate_dim and normalize_embeddings."""
    model = opened(TINY, truncate_dim=4)
    assert model.dimensions == 4
    expected = np.asarray(GOLDEN["vectors"]["mean"]["document"])[:, :4]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(model.embed_checked(TEXTS).vectors, expected, atol=1e-5)
    assert model.fingerprint == f"{opened(TINY).fingerprint}:4d"


@pytest.mark.parametrize("is_said", [True, False])
def test_truncate_dim_without_normalising_cuts_only(folder, is_said):
    """As sentence-transformers; a model of the inner product has its lengths for a reason."""
    if not is_said:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        write(folder, "modules.json", modules[:2])
    model = opened(folder, truncate_dim=4, normalize=False if is_said else None)
    expected = np.asarray(GOLDEN["vectors"]["mean"]["document"])[:, :4]
    assert np.allclose(model.embed_checked(TEXTS).vectors, expected, atol=1e-5)


def test_prompts_option_before_the_files_before_the_table(folder, tmp_path):
    """What is registered counts first, then the model's own, then its usual name."""
    assert opened(folder).prompt(Kind.QUERY) == "one two "
    assert opened(folder, query_prompt="").prompt(Kind.QUERY) == ""
    assert opened(folder, document_prompt="dog ").prompt(Kind.DOCUMENT) == "dog "
    named = Path(shutil.copytree(folder, tmp_path / "multilingual-e5-small"))
    # sentence-transformers writes empty prompts where a model has none.
    write(named, "config_sentence_transformers.json", {"prompts": {"query": "", "document": ""}})
    assert opened(named).prompt(Kind.DOCUMENT) == "passage: "
    change(named, "config_sentence_transformers.json", prompts={"query": "cat "})
    assert [opened(named).prompt(kind) for kind in Kind] == ["cat ", ""]


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({"query": "one ", "passage": "two "}, None, ("one ", "two ")),
        ({"corpus": "two "}, None, ("", "two ")),
        ({"query": "one ", "all": "two "}, "all", ("one ", "two ")),
        ({"classify": "one "}, None, ("", "")),
    ],
)
def test_prompts_found_by_the_names_sentence_transformers_looks_for(
    folder, prompts, default, expected
):
    """Its encode_query and encode_document, version 6."""
    changes = {"prompts": prompts, "default_prompt_name": default}
    change(folder, "config_sentence_transformers.json", **changes)
    model = opened(folder)
    assert (model.prompt(Kind.QUERY), model.prompt(Kind.DOCUMENT)) == expected


def test_prompt_left_out_of_the_average(folder):
    """include_prompt false: its tokens are read and not pooled, [CLS] among them."""
    change(folder, "1_Pooling/config.json", include_prompt=False)
    model = opened(folder, normalize=False, document_prompt="three ")
    whole = opened(TINY, normalize=False, pooling="mean", document_prompt="three ")
    found, averaged = model.embed("two cat"), whole.embed("two cat")
    assert not np.allclose(found, averaged, atol=1e-3)
    # With no prompt there is nothing to leave out.
    model.document_prompt = whole.document_prompt = ""
    assert np.allclose(model.embed("two cat"), whole.embed("two cat"), atol=1e-6)


def test_fingerprint_no_prompt_is_another_space(folder):
    """Registered without its prompt, a model must not pass for the one with it."""
    prompts = [None, "", "dog "]
    found = {opened(folder, document_prompt=prompt).fingerprint for prompt in prompts if prompt}
    model = opened(folder)
    model.document_prompt = ""
    assert len(found | {opened(folder).fingerprint, model.fingerprint}) == 3


def test_fingerprint_changes_with_the_weights_and_not_with_the_place(folder, tmp_path):
    """It is stored in files that are published, so no path is in it."""
    before = opened(folder).fingerprint
    assert before.startswith("tiny@tiny-")
    assert str(tmp_path) not in before
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "tiny"))
    assert opened(moved).fingerprint == before
    graph = moved / "onnx" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert opened(moved).fingerprint != before
    change(folder, "1_Pooling/config.json", pooling_mode="cls")
    assert opened(folder).fingerprint != before


def test_fingerprint_of_a_hub_name_is_known_before_it_is_loaded():
    """With its revision, and the options that change vectors."""
    assert opened("org/a").fingerprint == "tiny@org/a"
    model = opened("org/a", revision="abc", file="onnx/model_quantized.onnx", pooling="cls")
    assert model.fingerprint == "tiny@org/a:file=onnx/model_quantized.onnx:revision=abc:pooling=cls"
    names = ("a", "sentence-transformers/a")
    assert {opened(name).fingerprint for name in names} == {"tiny@a"}


def test_described_before_it_is_loaded(folder):
    """A page of models says what the files say, and loads nothing."""
    card = "---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n"
    (folder / "README.md").write_text(card, "utf-8")
    change(folder, "config_sentence_transformers.json", similarity_fn_name="dot")
    model = opened(folder)
    assert (model.dimensions, model.metric, model.licence) == (16, "dot", "apache-2.0")
    assert model.max_tokens == 32
    assert opened(folder, max_tokens=10).max_tokens == 10
    assert opened(folder, metric="cosine").metric == "cosine"
    assert model.is_local and model.counts_exactly
    assert missing_package(model) is None


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: mit", "mit"),
        ('license: "cc-by-nc-4.0"', "cc-by-nc-4.0"),
        ("license: other\nlicense_name: gemma", "gemma"),
        ("tags: [a]", None),
    ],
)
def test_licence_from_the_model_card(folder, front, licence):
    """In the words of its maker; a card need not have one."""
    (folder / "README.md").write_text(f"---\n{front}\n---\nlicense: not this\n", "utf-8")
    assert opened(folder).licence == licence


@pytest.mark.parametrize(
    ("files", "longest"),
    [
        ({"sentence_bert_config.json": {"max_seq_length": 12}}, 12),
        ({"sentence_bert_config.json": {"max_seq_length": None}}, 32),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, 64),
        ({"tokenizer_config.json": {"model_max_length": int(1e30)}}, 64),
        ({"tokenizer_config.json": {}}, 64),
        # A model that was saved with more than it has positions for.
        ({"sentence_bert_config.json": {"max_seq_length": 512}}, 64),
        # The first positions of RoBERTa's are the padding's.
        (
            {
                "tokenizer_config.json": {},
                "config.json": {
                    "model_type": "xlm-roberta",
                    "max_position_embeddings": 50,
                    "pad_token_id": 1,
                },
            },
            48,
        ),
    ],
    ids=["own", "null", "absurd float", "absurd int", "positions", "too much", "roberta"],
)
def test_max_tokens_as_the_files_say(folder, files, longest):
    """The longest text is found where models say it, and never beyond what the graph takes."""
    for name, value in files.items():
        write(folder, name, value)
    model = opened(folder)
    model.warm()
    assert model.max_tokens == longest
    assert model.embed_checked(["one two " * 100]).tokens == longest


def test_max_tokens_option_shortens(folder):
    """Registered with less, a model reads less; with more it cannot."""
    for wanted, expected in ((10, 10), (1000, 32)):
        model = opened(folder, max_tokens=wanted)
        model.warm()
        assert model.max_tokens == expected


def test_embed_batch_any_order_and_company_same_vector():
    """A vector that depended on its batch would change when a job is resumed."""
    model = opened(TINY)
    texts = [*TEXTS, *(f"{'one two ' * (n % 9)}cat" for n in range(90)), ""]
    alone = np.concatenate([model.embed_checked([text]).vectors for text in texts])
    order = random.Random(3).sample(range(len(texts)), len(texts))
    shuffled = model.embed_checked([texts[position] for position in order]).vectors
    assert np.abs(model.embed_checked(texts).vectors - alone).max() < 1e-5
    assert np.abs(shuffled - alone[order]).max() < 1e-5


def test_embed_graph_scaled_by_batch_each_text_alone(folder, monkeypatch):
    """Dynamically quantised graphs have one scale for a batch, so each text is its own."""
    graph = folder / "onnx" / "model.onnx"
    # In ONNX a later field of the same number wins: 2 is the producer's name.
    name = b"DynamicQuantizeLinear"
    graph.write_bytes(graph.read_bytes() + b"\x12" + bytes([len(name)]) + name)
    model = opened(folder)
    model.warm()
    sizes = []
    vectors = model._graph.vectors

    def watched(ids, left_out):
        sizes.append(len(ids))
        return vectors(ids, left_out)

    monkeypatch.setattr(model._graph, "vectors", watched)
    model.embed_checked(["cat", "dog", "ball"])
    assert sizes == [1, 1, 1]
    model._graph.needs_solitude = False
    model.embed_checked(["cat", "dog", "ball"])
    assert sizes[3:] == [3]


def test_read_whole_text_prompt_and_special_tokens():
    """[CLS], [SEP] and the prompt are in every text, so they say nothing about this one."""
    model = opened(TINY)  # its document prompt is one word
    zebra, long = model.read(["zebra", "dog " * 50])
    assert (zebra.tokens, zebra.unknown_tokens, zebra.special_tokens) == (4, 1, 3)
    assert zebra.is_unknown
    assert (long.tokens, long.unknown_tokens) == (53, 0)
    assert opened(TINY, document_prompt="zebra zebra ").read(["dog"])[0].unknown_tokens == 0
    assert model.count_tokens("") == 3


def test_read_long_text_in_pieces_counts_what_the_whole_counts(monkeypatch):
    """Cutting at white space loses no token and adds none."""
    model = opened(TINY)
    texts = ["", "a cat", "zebra one two three " * 40, "dog " * 500, "x" * 300]
    whole = model.read(texts)
    monkeypatch.setattr(token_runs, "PIECE_CHARACTERS", 150)
    monkeypatch.setattr(token_runs, "GROUP_CHARACTERS", 400)
    assert model.read(texts)[:4] == whole[:4]
    assert whole[3].tokens == 503


def test_embed_long_text_read_in_part_same_vector(monkeypatch):
    """Only the head of a long text is tokenized, and that must not show."""
    model = opened(TINY)
    texts = ["dog" + " " * 2000 + "cat " * 300, "one two " * 900, "x" * 4000 + " cat" * 90]
    fast = model.embed_checked(texts).vectors
    monkeypatch.setattr(token_runs, "HEAD_CHARACTERS_PER_TOKEN", 10**6)
    assert np.array_equal(model.embed_checked(texts).vectors, fast)


def test_embed_empty_and_broken_texts_finite_vectors():
    """Each has the vector of something, and bytes are refused."""
    model = opened(TINY)
    found = model.embed_checked(["", "\ud83d", " \n", "dog"]).vectors
    assert np.isfinite(found).all()
    with pytest.raises(ValueError, match="only text strings"):
        model.embed(b"dog")


def test_load_from_several_threads_loaded_once(monkeypatch):
    """The first calls of a server come at the same time."""
    loads = []
    load = OnnxModel._open_graph

    def counting(self, files):
        loads.append(threading.get_ident())
        return load(self, files)

    monkeypatch.setattr(OnnxModel, "_open_graph", counting)
    model = opened(TINY)
    threads = [threading.Thread(target=model.warm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def _cut(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), r"^tiny: its folder is not there$"),
        (
            lambda f: (f / "onnx/model.onnx").unlink(),
            r"^tiny: onnx/model\.onnx is missing\. A model without",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), r"^tiny: tokenizer\.json is missing$"),
        (lambda f: _cut(f, "onnx/model.onnx"), r"^tiny: model\.onnx is damaged, or too new for"),
        (lambda f: (f / "onnx/model.onnx").write_bytes(b""), r"^tiny: model\.onnx is damaged"),
        (lambda f: _cut(f, "tokenizer.json"), r"^tiny: tokenizer\.json is damaged$"),
        (lambda f: _cut(f, "modules.json"), r"^tiny: modules\.json is damaged: it is not JSON$"),
        (lambda f: write(f, "modules.json", {}), r"^tiny: modules\.json is not a list of modules$"),
        (lambda f: write(f, "config.json", []), r"^tiny: config\.json is not a JSON object$"),
        (
            lambda f: write(f, "modules.json", [{"type": "x.Pooling", "path": "../1_Pooling"}]),
            r"^tiny: modules\.json names a folder outside the model's$",
        ),
        (
            lambda f: write(f, "1_Pooling/config.json", {"pooling_mode": "median"}),
            r"^tiny: 1_Pooling/config\.json names the pooling 'median', not cls, max",
        ),
        (
            lambda f: write(f, "modules.json", [{"type": "x.Transformer", "path": ""}]),
            r"^tiny: modules\.json names no pooling\. Say one with 'pooling'$",
        ),
    ],
)
def test_load_damaged_or_missing_file_is_named(folder, damage, message):
    """One line, the same each time, that no retry follows; paths are a detail."""
    damage(folder)
    model = opened(folder)
    for _ in range(2):
        with pytest.raises(CallRefusedError, match=message) as caught:
            model.embed("dog")
        assert str(folder) not in str(caught.value)
        assert str(folder) in caught.value.detail
        assert not caught.value.retryable


@pytest.mark.parametrize("odd", [None, [], {}, 7, "x", [None], [[]], 1e400, True, -1])
def test_describe_odd_values_one_of_ours_or_none(folder, odd):
    """Whatever a stranger's files hold, describing a model raises nothing, loading it only ours."""
    names = [path.relative_to(folder) for path in folder.rglob("*.json")]
    for name in [*names, Path("1_Pooling/config.json")]:
        if name.name in ("golden.json", "tokenizer.json"):
            continue
        whole = json.loads((folder / name).read_text("utf-8"))
        objects = [{**whole, key: odd} for key in whole] if isinstance(whole, dict) else []
        lists = (
            [[{**m, key: odd} for m in whole] for key in ("path", "type")] if not objects else []
        )
        for changed in (odd, *objects, *lists):
            write(folder, name, changed)
            model = opened(folder)
            try:
                model.embed("dog")
            except ProviderError as error:
                assert isinstance(error, CallRefusedError), (name, changed)
        write(folder, name, whole)
    assert opened(folder).embed("dog")


def test_load_module_outside_the_graph_refused(folder):
    """A Dense that nobody computes would be another model, in silence."""
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    dense = {"idx": 3, "name": "3", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    write(folder, "modules.json", [*modules, dense])
    with pytest.raises(
        CallRefusedError,
        match=r"ends before the model's Dense, .* datasette embed models export-onnx$",
    ):
        opened(folder).embed("dog")
    found = opened(folder, file="onnx/whole.onnx").embed_checked(TEXTS).vectors
    assert np.allclose(found, GOLDEN["whole"], atol=1e-5)


def test_load_whole_graph_cannot_leave_the_prompt_out(folder):
    """Where the graph pools, what it pools cannot be chosen."""
    change(folder, "1_Pooling/config.json", include_prompt=False)
    with pytest.raises(CallRefusedError, match="averages prompt and text, where the text alone"):
        opened(folder, file="onnx/whole.onnx").embed("dog")


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd", "~/x.onnx", "C:\\x.onnx", "a\\b"])
def test_file_outside_the_model_refused(file):
    """An entry of a site's configuration names a part of the model, not any file."""
    with pytest.raises(ConfigError, match="^file: must be a path inside the model's folder, not"):
        opened(TINY, file=file)


def test_embed_package_missing_error_names_pip_command(monkeypatch):
    """Where a wheel is missing the model says so when it is used."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="Run: pip install onnxruntime$"):
        opened(TINY).embed("text")


def test_embed_graph_that_fails_provider_error(folder):
    """Tokens that the graph has no row for: a tokenizer of another model."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["vocab"]["walrus"] = 5000
    write(folder, "tokenizer.json", tokenizer)
    model = opened(folder)
    model.warm()
    with pytest.raises(ProviderError, match=r"^tiny: the model failed \(\w+\)\. The log says why"):
        model.embed("walrus")


def test_new_model_nothing_is_loaded():
    """Describing a model costs a Datasette command nothing."""
    script = (
        "import sys\n"
        "from datasette_embed.providers.onnx import OnnxModel\n"
        f"model = OnnxModel({str(TINY)!r}, model_id='x')\n"
        "assert model.dimensions == 16\n"
        "OnnxModel('org/name', model_id='x')\n"
        "heavy = {'numpy', 'onnxruntime', 'tokenizers', 'huggingface_hub', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
