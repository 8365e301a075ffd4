"""Models of sentence-transformers: what they are told, what they say, and the contract."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasette_embed.collection import Collection
from datasette_embed.compat import is_version_one
from datasette_embed.errors import (
    CallRefusedError,
    MissingDependencyError,
    ProviderError,
)
from datasette_embed.job_records import JobStatus
from datasette_embed.model_entries import parse_model_entry
from datasette_embed.models import EmbeddingModel, Kind
from datasette_embed.models_file import add_model_entry
from datasette_embed.providers.load_failures import load_failure
from datasette_embed.providers.opening import open_model
from datasette_embed.providers.sentence_transformers import SentenceTransformersModel
from datasette_embed.records import CollectionRecord
from datasette_embed.registry import forget_registries, get_registry
from tests.checkpoints import modules, write_bert
from tests.contracts import EmbeddingModelContract
from tests.storage import embed, make_docs, query, refused, run_job


def opened(folder: Path, **options: Any) -> EmbeddingModel:
    """Return the model of an entry of the models file."""
    entry = {"provider": "sentence-transformers", "model": str(folder), "id": "tiny"}
    return open_model(parse_model_entry({**entry, "device": "cpu", **options}, "models[0]"))


@pytest.mark.torch
@pytest.mark.filterwarnings("default")  # of torch and transformers, which are not ours
class TestSentenceTransformersModel(EmbeddingModelContract):
    """Any model of the sentence-transformers package."""

    @pytest.fixture
    def model(self, tiny_bert):
        return SentenceTransformersModel(str(tiny_bert), model_id="tiny", device="cpu")

    def test_load_dimensions_and_longest_text_are_the_models(self, model):
        """Unknown until it is loaded; then what the model says."""
        assert (model.dimensions, model.max_tokens) == (None, None)
        model.warm()
        assert (model.dimensions, model.max_tokens) == (16, 32)

    def test_embed_same_as_the_package_itself(self, model, tiny_bert):
        """Vectors are those of encode_query and encode_document, prompts included."""
        from sentence_transformers import SentenceTransformer

        original = SentenceTransformer(str(tiny_bert), device="cpu")
        query = model.embed("a dog", kind=Kind.QUERY)
        document = model.embed("a dog", kind=Kind.DOCUMENT)
        assert np.allclose(query, original.encode_query("a dog"), atol=1e-6)
        assert np.allclose(document, original.encode_document("a dog"), atol=1e-6)
        assert not np.allclose(query, document, atol=1e-3)
        assert np.linalg.norm(document) == pytest.approx(1, abs=1e-5)

    def test_truncate_dim_shorter_vectors_and_another_fingerprint(self, tiny_bert):
        """Shortened vectors cannot be compared with whole ones."""
        whole = SentenceTransformersModel(str(tiny_bert), model_id="tiny", device="cpu")
        short = SentenceTransformersModel(
            str(tiny_bert), model_id="tiny", device="cpu", truncate_dim=4
        )
        assert len(short.embed("a dog")) == 4
        assert short.dimensions == 4
        assert short.fingerprint != whole.fingerprint

    def test_read_special_tokens_are_told_apart(self, model):
        """[CLS] and [SEP] are in every text, so they say nothing about this one."""
        (reading,) = model.read(["zebra"])
        assert (reading.tokens, reading.unknown_tokens, reading.special_tokens) == (3, 1, 2)
        assert reading.is_unknown

    def test_load_no_progress_bar_and_the_switch_is_left_as_it_was(self, tiny_bert, capfd):
        """A server's stderr is for what somebody has to read."""
        from transformers.utils import logging

        assert logging.is_progress_bar_enabled()
        SentenceTransformersModel(str(tiny_bert), model_id="tiny", device="cpu").warm()
        assert "Loading weights" not in capfd.readouterr().err
        assert logging.is_progress_bar_enabled()

    def test_read_text_beyond_its_length_and_vocabulary(self, model):
        """The whole text is counted, and unknown words are told."""
        assert model.read(["dog " * 50])[0].tokens == 52
        assert model.read(["dog zebra"])[0].unknown_tokens == 1

    def test_embed_no_such_model_provider_error(self, tmp_path):
        """A folder without one fails with our error and its cause, each time."""
        (tmp_path / "none").mkdir()
        model = SentenceTransformersModel(str(tmp_path / "none"), model_id="none")
        for _ in range(2):
            with pytest.raises(ProviderError, match="^none: ") as caught:
                model.embed("x")
            assert caught.value.__cause__ is not None

    def test_embed_folder_that_is_not_there_said(self, tmp_path):
        """Without the path, which is for whoever may read the log."""
        model = SentenceTransformersModel(str(tmp_path / "none"), model_id="none")
        with pytest.raises(CallRefusedError, match="^none: its folder is not there$") as caught:
            model.embed("x")
        assert caught.value.detail == f"none: there is no folder {tmp_path / 'none'}"

    def test_max_tokens_given_is_what_it_reads(self, tiny_bert):
        """A longer text has the vector of its beginning, and is told to be too long."""
        model = SentenceTransformersModel(str(tiny_bert), model_id="tiny", device="cpu")
        whole = model.embed("dog cat ball two three", kind=Kind.QUERY)
        short = opened(tiny_bert, max_tokens=5)
        before = short.fingerprint
        assert before != model.fingerprint
        assert np.allclose(short.embed("dog cat ball two three"), model.embed("dog cat ball"))
        assert not np.allclose(short.embed("dog cat ball two three"), whole, atol=1e-3)
        assert short.max_tokens == 5
        assert short.fingerprint == before
        assert short.read(["dog cat ball two three"])[0].tokens == 7

    def test_max_tokens_beyond_its_positions_refused(self, tiny_bert):
        """Or it would fail over the first long text, with an index."""
        with pytest.raises(CallRefusedError, match="max_tokens is 65, and the model has places"):
            opened(tiny_bert, max_tokens=65).warm()

    def test_prompts_given_are_put_before_each_text(self, tiny_bert):
        """Instead of the model's own; they take room, as every text's tokens do."""
        from sentence_transformers import SentenceTransformer

        original = SentenceTransformer(str(tiny_bert), device="cpu")
        model = opened(tiny_bert, query_prompt="", document_prompt="three four ")
        assert np.allclose(
            model.embed("a dog", kind=Kind.QUERY), original.encode("a dog"), atol=1e-6
        )
        assert np.allclose(model.embed("a dog"), original.encode("three four a dog"), atol=1e-6)
        (reading,) = model.read(["a zebra"])
        assert (reading.tokens, reading.unknown_tokens, reading.special_tokens) == (6, 1, 4)
        assert model.fingerprint != opened(tiny_bert).fingerprint

    def test_prompts_of_its_own_files_are_used(self, tmp_path):
        """For documents they may be called passage or corpus; they count as special tokens."""
        folder = write_bert(tmp_path, prompts={"query": "one ", "document": "two three "})
        model = opened(folder)
        (reading,) = model.read(["dog"])
        assert (reading.tokens, reading.special_tokens) == (5, 4)

    def test_prompts_known_for_its_name_where_its_files_have_none(self, tmp_path):
        """E5 without its prompts answers worse, in silence."""
        from sentence_transformers import SentenceTransformer

        folder = write_bert(tmp_path).rename(tmp_path / "multilingual-e5-small")
        original = SentenceTransformer(str(folder), device="cpu")
        model = opened(folder)
        for kind, prompt in ((Kind.QUERY, "query: "), (Kind.DOCUMENT, "passage: ")):
            expected = original.encode(prompt + "a dog")
            assert np.allclose(model.embed("a dog", kind=kind), expected, atol=1e-6)
        bare = opened(folder, document_prompt="", query_prompt="")
        assert np.allclose(bare.embed("a dog"), original.encode("a dog"), atol=1e-6)
        assert bare.fingerprint != model.fingerprint

    @pytest.mark.parametrize("is_normalized", [True, False])
    def test_normalize_forces_either(self, tmp_path, is_normalized):
        """Whatever the model's files say; the direction stays."""
        folder = write_bert(tmp_path, normalize=is_normalized)
        own, unit, raw = (
            opened(folder, normalize=value).embed("a dog") for value in (None, True, False)
        )
        assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
        assert abs(np.linalg.norm(raw) - 1) > 0.01
        assert np.allclose(own, unit if is_normalized else raw, atol=1e-6)
        assert np.allclose(np.array(raw) / np.linalg.norm(raw), unit, atol=1e-6)
        fingerprints = {opened(folder, normalize=v).fingerprint for v in (None, True, False)}
        assert len(fingerprints) == 3

    def test_backend_without_its_package_says_what_to_install(self, tiny_bert):
        """The package's own words for it are in a bare Exception."""
        if find_spec("optimum"):
            pytest.skip("the package for it is installed")
        model = opened(tiny_bert, backend="onnx")
        with pytest.raises(
            MissingDependencyError, match=r"Run: pip install 'sentence-transformers\[onnx\]'$"
        ):
            model.embed("a dog")

    def test_static_embeddings_have_no_longest_text(self, tmp_path):
        """Their tokenizer is another class, and their longest text infinite."""
        import tokenizers
        from sentence_transformers import SentenceTransformer

        vocabulary = {"[UNK]": 0, "dog": 1, "cat": 2}
        inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
        inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        static = modules().StaticEmbedding(inner, embedding_dim=4)
        SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"))
        model = opened(tmp_path / "static")
        assert len(model.embed("dog cat")) == 4
        assert (model.max_tokens, model.count_tokens("dog cat dog")) == (None, 3)

    def test_embed_image_for_a_model_of_texts_refused(self, tiny_bert):
        """By its name or by an option it was taken for another one."""
        with pytest.raises(CallRefusedError, match="it embeds no images: take 'images' out"):
            opened(tiny_bert, images=True).embed(b"x")

    def test_load_and_embed_say_nothing_on_stderr(self, tiny_bert, capfd):
        """A server's stderr is for what somebody has to read."""
        opened(tiny_bert).embed("dog " * 90)
        assert capfd.readouterr().err == ""


OWN_MODULE = """
from pathlib import Path
{imports}
from sentence_transformers.sentence_transformer.modules import Normalize

Path({marker!r}).touch()

class Own(Normalize):
    pass
"""


@pytest.fixture
def code_bearer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a model that comes with code, which leaves a file where it is run."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(imports: str = "") -> tuple[Path, Path]:
        folder, marker = write_bert(tmp_path), tmp_path / "was run"
        code = OWN_MODULE.format(imports=imports, marker=str(marker))
        (folder / "own_module.py").write_text(code, "utf-8")
        listed = json.loads((folder / "modules.json").read_text("utf-8"))
        listed[-1]["type"] = "own_module.Own"
        (folder / "modules.json").write_text(json.dumps(listed), "utf-8")
        return folder, marker

    return write


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_code_of_a_model_is_not_run_unless_its_entry_says_so(code_bearer):
    """The refusal says what to set and what that means; what is set runs it."""
    folder, marker = code_bearer()
    with pytest.raises(CallRefusedError, match="says trust_remote_code: true. That lets") as caught:
        opened(folder).embed("a dog")
    assert str(folder) not in str(caught.value)
    assert not marker.exists()
    vector = opened(folder, trust_remote_code=True).embed("a dog")
    assert marker.exists()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_older_package_that_would_run_the_code_refused(code_bearer, monkeypatch):
    """Before version 6 the code of a folder was run whatever was said."""
    folder, marker = code_bearer()
    monkeypatch.setattr("sentence_transformers.__version__", "5.9.1")
    with pytest.raises(CallRefusedError, match="5.9.1 would run the code .*Run: pip install -U"):
        opened(folder).embed("a dog")
    assert not marker.exists()


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_code_of_a_model_that_needs_a_package_says_which(code_bearer):
    """In one line, with the command."""
    folder, _ = code_bearer("import einops_of_nobody")
    with pytest.raises(
        MissingDependencyError,
        match=r"^einops_of_nobody is not installed. Run: pip install einops_of_nobody$",
    ):
        opened(folder, trust_remote_code=True).embed("a dog")


@pytest.mark.parametrize(
    ("error", "packages"),
    [
        (
            ImportError(
                "This modeling file requires the following packages that were not found in your "
                "environment: einops, timm. Run `pip install einops timm`"
            ),
            "einops timm",
        ),
        (
            ImportError(
                "\nCLIPImageProcessor requires the PIL library but it was not found in your "
                "environment. You can install it with pip:\n`pip install pillow`. Please note that "
                "you may need to restart your runtime after installation.\n"
            ),
            "pillow",
        ),
        (
            Exception(
                "Using the OpenVINO backend requires installing Optimum and OpenVINO. "
                "You can install them with pip: `pip install sentence-transformers[openvino]`"
            ),
            "'sentence-transformers[openvino]'",
        ),
        (ModuleNotFoundError("No module named 'mamba_ssm.ops'", name="mamba_ssm.ops"), "mamba_ssm"),
    ],
)
def test_load_failure_names_the_package(error, packages):
    """Libraries say it in many ways."""
    found = load_failure("m", error)
    assert isinstance(found, MissingDependencyError)
    assert str(found) == f"{packages} is not installed. Run: pip install {packages}"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find "
            "them in the cached files.",
            "its files are not on this machine, and the hub that has them cannot be reached",
        ),
        (
            "org/none is not a local folder and is not a valid model identifier listed on "
            "'https://huggingface.co/models'",
            "the hub has no model of this name, or shows it only to those who log in "
            "(hf auth login)",
        ),
    ],
)
def test_load_failure_of_the_hub_says_what_is_wrong(said, reason):
    """With transformers' own words in the log."""
    found = load_failure("m", OSError(said))
    assert isinstance(found, CallRefusedError)
    assert str(found) == f"m: {reason}"
    assert said in found.detail


def test_load_failure_of_another_kind_keeps_paths_for_the_log():
    """What anybody may read names the type only."""
    found = load_failure("m", OSError("/srv/secret has no config.json"))
    assert isinstance(found, CallRefusedError)
    assert str(found) == "m: it cannot be loaded (OSError). The log says why"
    assert "/srv/secret" in found.detail


def test_sentence_transformers_absent_error_names_the_command(monkeypatch):
    """Without the extra, the message ends with what installs it."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(
        MissingDependencyError, match=r"pip install 'datasette-embed\[sentence-transformers\]'$"
    ):
        SentenceTransformersModel("all-mpnet-base-v2", model_id="m").embed("x")


def fingerprint(model, **options):
    return SentenceTransformersModel(model, model_id="mine", **options).fingerprint


def test_sentence_transformers_fingerprint_names_the_weights():
    """One id given to other weights is another vector space."""
    assert fingerprint("org/a") == "mine@org/a"
    assert fingerprint("org/a", truncate_dim=64) == "mine@org/a:64d"
    assert fingerprint("a") == fingerprint("sentence-transformers/a") == "mine@a"
    different = ["org/a", "org/b", "/x/a", "/x/b", "C:\\x\\c"]
    assert len({fingerprint(model) for model in different}) == len(different)


def test_sentence_transformers_fingerprint_names_what_makes_other_vectors():
    """Each option that changes vectors is in it, and none that does not."""
    bare = fingerprint("org/a")
    assert fingerprint("org/a", revision="v2") == "mine@org/a@v2"
    assert fingerprint("org/a", normalize=True) == "mine@org/a:unit"
    assert fingerprint("org/a", normalize=False, truncate_dim=8) == "mine@org/a:8d:raw"
    # Another backend may take a quantised graph.
    assert fingerprint("org/a", backend="onnx") == "mine@org/a:onnx"
    for same in ({"device": "cuda"}, {"backend": "torch"}, {"trust_remote_code": True}):
        assert fingerprint("org/a", **same) == bare
    model = SentenceTransformersModel("org/a", model_id="mine")
    model.document_prompt = ""  # that of its own files is not to be used
    assert model.fingerprint == "mine@org/a+none"


def test_sentence_transformers_fingerprint_of_a_folder_holds_no_path():
    """It is stored in the database, which may be published."""
    found = fingerprint("/srv/models/mini")
    assert found.startswith("mine@mini-")
    assert "srv" not in found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder laid out as a model's, with a large file of weights."""
    folder = tmp_path / "mini"
    for name, content in {
        "modules.json": b"[]",
        "config.json": b"{}",
        "vocab.txt": b"a",
        "model.safetensors": bytes(range(256)) * 16 * 1024,
        "1_Pooling/config.json": b"{}",
        "2_Dense/pytorch_model.bin": b"dense",
        "onnx/model.onnx": b"graph",
        "checkpoint-5/model.safetensors": b"earlier",
        "README.md": b"# Mini",
        "training_args.bin": b"arguments",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "modules.json",
        "config.json",
        "vocab.txt",
        "model.safetensors",
        "1_Pooling/config.json",
        "2_Dense/pytorch_model.bin",
        "own_module.py",
    ],
)
def test_sentence_transformers_fingerprint_changes_with_each_file_that_is_read(folder, name):
    """Other weights under the path of the old ones are another vector space."""
    before = fingerprint(str(folder))
    path = folder / name
    content = path.read_bytes() if path.exists() else b"x"
    # Weights that were trained further have the length of the old ones.
    path.write_bytes(bytes(byte ^ 1 for byte in content))
    assert fingerprint(str(folder)) != before


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "onnx/model.onnx",
        "openvino/openvino_model.xml",
        "checkpoint-5/model.safetensors",
        "training_args.bin",
        ".cache/huggingface/x.json",
    ],
)
def test_sentence_transformers_fingerprint_stays_with_what_is_not_read(folder, name):
    """A card that is written later makes no collection outdated."""
    before = fingerprint(str(folder))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"other")
    assert fingerprint(str(folder)) == before


def test_sentence_transformers_fingerprint_of_another_backend_has_its_graph(folder):
    """It is the graph that is run."""
    before = fingerprint(str(folder), backend="onnx")
    (folder / "onnx" / "model.onnx").write_bytes(b"other")
    assert fingerprint(str(folder), backend="onnx") != before


def test_sentence_transformers_fingerprint_stays_when_the_folder_is_moved(folder, tmp_path):
    """The same weights elsewhere make no collection outdated."""
    before = fingerprint(str(folder))
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "mini")
    assert fingerprint(str(moved)) == before


def test_sentence_transformers_folder_that_is_gone_is_no_other_version(folder, tmp_path):
    """Nothing is to be embedded again because a disk is not there."""
    model = SentenceTransformersModel(str(folder), model_id="mini")
    record = CollectionRecord.new("c", model, dimensions=4)
    record.check_current(model)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(CallRefusedError, match="its folder is not there"):
        record.check_current(SentenceTransformersModel(str(folder), model_id="mini"))


def test_sentence_transformers_registering_reads_nothing_of_the_folder(folder, monkeypatch):
    """A site with many models starts as fast as one with none; what is asked for is read."""
    opened_files = []
    original = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *args: opened_files.append(path) or original(path, *args)
    )
    model = opened(folder)
    assert (model.model_id, str(model), opened_files) == (
        "tiny",
        "SentenceTransformersModel: tiny",
        [],
    )
    assert model.fingerprint.startswith("tiny@mini-")
    assert folder / "model.safetensors" in opened_files


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_sentence_transformers_fingerprint_is_of_the_weights_that_are_loaded(tmp_path):
    """Before it is loaded the folder's, after that no other's until it is loaded again."""
    folder = write_bert(tmp_path)
    model = opened(folder)
    before = model.fingerprint
    weights = next(folder.rglob("*.safetensors"))
    change_weights(weights)
    changed = model.fingerprint
    assert changed != before
    vector = model.embed("a dog")
    change_weights(weights)
    assert model.fingerprint == changed
    again = opened(folder)
    assert not np.allclose(again.embed("a dog"), vector, atol=1e-4)
    assert again.fingerprint != changed


def change_weights(path: Path) -> None:
    """Write other weights of the same shape."""
    from safetensors.torch import load_file, save_file

    found = load_file(path)
    name = next(name for name in found if "word_embeddings" in name)
    found[name] = found[name].roll(1, dims=0) * 1.5
    save_file(found, path, metadata={"format": "pt"})


DOCS = {"1": "dog", "2": "cat ball", "3": "one two three four", "4": "much longer text", "5": "ten"}


@pytest.fixture
def dot_model(tmp_path: Path) -> EmbeddingModel:
    """Register a model that was trained to be compared by the inner product."""
    folder = write_bert(tmp_path, normalize=False, similarity_fn_name="dot")
    entry = {"provider": "sentence-transformers", "model": str(folder), "id": "tiny-dot"}
    add_model_entry(parse_model_entry({**entry, "device": "cpu"}, "models[0]"))
    forget_registries()
    return get_registry().get("tiny-dot")


def order_by(model: EmbeddingModel, text: str, *, is_dot: bool) -> list[str]:
    """Return the ids of ``DOCS``, best first, in float64."""
    wanted = np.array(model.embed(text, kind=Kind.QUERY), dtype=np.float64)

    def score(content: str) -> float:
        vector = np.array(model.embed(content), dtype=np.float64)
        length = 1.0 if is_dot else float(np.linalg.norm(vector))
        return float(vector @ wanted) / length

    return sorted(DOCS, key=lambda entry_id: -score(DOCS[entry_id]))


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.asyncio
async def test_metric_of_the_model_is_its_collections(dot_model, tmp_path, make_datasette):
    """Known only when it is loaded: it ranks in the terminal, in SQL and on the page by it."""
    db = make_docs(tmp_path / "data.db", [(int(key), body) for key, body in DOCS.items()])
    embed("create", db, "docs", "--columns", "body", "--model", "tiny-dot")
    assert query(db, "select metric, dimensions from _embed_collections") == [("dot", 16)]

    text = "a dog chases"
    by_dot = order_by(dot_model, text, is_dot=True)
    assert by_dot != order_by(dot_model, text, is_dot=False)
    found = json.loads(embed("search", db, "docs", text, "--json").stdout)
    assert [hit["id"] for hit in found] == by_dot

    datasette = make_datasette([str(db)], config={"allow": {"tiny-dot": True}})
    await datasette.invoke_startup()
    sql = (
        "select id from embeddings order by llm_embed_dot(embedding,"
        " llm_embed('tiny-dot', :q)) desc"
    )
    page = "/data/-/query.json" if is_version_one(datasette) else "/data.json"
    answer = await datasette.client.get(page, params={"sql": sql, "q": text, "_shape": "objects"})
    assert [row["id"] for row in answer.json()["rows"]] == by_dot
    page = await datasette.client.get("/data/-/embed/c/docs.json", params={"q": text})
    assert [str(row["id"]) for row in page.json()["rows"]] == by_dot


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_metric_of_the_entry_comes_before_the_models(tmp_path):
    """Whoever registers it has the last word."""
    folder = write_bert(tmp_path, similarity_fn_name="dot")
    model = opened(folder, metric="cosine")
    model.warm()
    assert model.metric == "cosine"
    assert opened(folder).fingerprint == model.fingerprint


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_python_collection_has_the_metric_of_its_model(dot_model, tmp_path):
    """A collection that was made before its model was loaded has it with its first entry."""
    with Collection("docs", tmp_path / "v.db", model=dot_model) as collection:
        collection.embed_multi(DOCS.items())
        found = [entry.id for entry in collection.similar("a dog chases")]
    assert found == order_by(dot_model, "a dog chases", is_dot=True)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_job_of_a_collection_made_before_its_model_was_loaded(dot_model, tmp_path):
    """As on a server, where a collection is made at once and embedded later."""
    path = make_docs(tmp_path / "v.db", [(int(key), body) for key, body in DOCS.items()])
    assert dot_model.dimensions is None
    assert run_job(path, dot_model).status is JobStatus.FINISHED
    assert query(path, "select metric, dimensions from _embed_collections") == [("dot", 16)]


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_collection_of_a_folder_with_other_weights_is_outdated_and_mended(tmp_path):
    """Moved, the folder is the same model; its weights exchanged, no vectors are mixed."""

    def register(folder):
        entry = {"provider": "sentence-transformers", "model": str(folder), "id": "tiny"}
        add_model_entry(parse_model_entry({**entry, "device": "cpu"}, "models[0]"))
        forget_registries()

    folder = write_bert(tmp_path)
    register(folder)
    db = make_docs(tmp_path / "data.db", [(int(key), body) for key, body in DOCS.items()])
    embed("create", db, "docs", "--columns", "body", "--model", "tiny")
    before = query(db, "select embedding from embeddings")
    (tmp_path / "elsewhere").mkdir()
    folder = folder.rename(tmp_path / "elsewhere" / folder.name)
    register(folder)
    assert len(json.loads(embed("search", db, "docs", "dog", "--json").stdout)) == 5
    change_weights(next(folder.rglob("*.safetensors")))
    forget_registries()
    assert "was embedded with another version of its model" in refused("search", db, "docs", "dog")
    embed("sync", db, "docs")
    assert not set(query(db, "select embedding from embeddings")) & set(before)
    assert len(json.loads(embed("search", db, "docs", "dog", "--json").stdout)) == 5
