"""``cluster``: llm-cluster's options and output."""

from __future__ import annotations

import json
import sys

import pytest

from tests.storage import embed, execute, make_docs, refused

ROWS = [(n, f"text number {n}, " + "long " * 50) for n in range(9)]


@pytest.fixture
def db(tmp_path, counting_model):
    """A file whose table docs is embedded."""
    path = make_docs(tmp_path / "a.db", ROWS)
    embed("create", path, "docs", "--model", "count")
    return path


@pytest.fixture
def chat_model():
    """A chat model of LLM's, registered as a plugin does; it keeps what it was asked."""
    import llm

    class Titles(llm.Model):
        model_id = "titles"
        can_stream = False

        def __init__(self):
            self.asked = []
            self.fails = False

        def execute(self, prompt, stream, response, conversation):
            self.asked.append((prompt.system, prompt.prompt))
            if self.fails:
                raise RuntimeError("no connection")
            yield f" Title {len(self.asked)}\n"

    class Plugin:
        __name__ = "Plugin"

        def __init__(self, model):
            self.model = model

        @llm.hookimpl
        def register_models(self, register):
            register(self.model)

    model = Titles()
    plugin = Plugin(model)
    llm.plugins.pm.register(plugin)
    yield model
    llm.plugins.pm.unregister(plugin)


@pytest.mark.explore
def test_cluster_prints_llm_clusters_json(db):
    """Ids are strings, indent 4, texts of the rows cut at 100 characters."""
    before = db.read_bytes()
    said = embed("cluster", db, "docs", "3")
    found = json.loads(said.stdout)
    assert said.stdout == json.dumps(found, indent=4) + "\n"
    assert [sorted(c) for c in found] == [["id", "items"]] * len(found)
    assert [c["id"] for c in found] == [str(n) for n in range(len(found))]
    items = {item["id"]: item["content"] for c in found for item in c["items"]}
    assert items == {str(n): text[:100] for n, text in ROWS}
    assert db.read_bytes() == before


@pytest.mark.explore
@pytest.mark.parametrize(("length", "wanted"), [(0, None), (5, 5), (1_000, None)])
def test_cluster_truncate_cuts_texts(db, length, wanted):
    """0 cuts nothing."""
    found = json.loads(embed("cluster", db, "docs", "1", "--truncate", str(length)).stdout)
    items = {item["id"]: item["content"] for item in found[0]["items"]}
    assert items == {str(n): text[:wanted] for n, text in ROWS}


@pytest.mark.explore
def test_cluster_llms_arguments_and_no_texts(db):
    """``-d`` as in llm-cluster; where no text can be had, content is null, and it is said."""
    execute(db, "drop table docs", "update embeddings set content = 'stored' where id = '4'")
    said = embed("cluster", "docs", "1", "-d", db)
    items = {item["id"]: item["content"] for item in json.loads(said.stdout)[0]["items"]}
    assert items == {str(n): "stored" if n == 4 else None for n, _ in ROWS}
    assert "Some texts are not shown: " in said.stderr


@pytest.mark.explore
def test_cluster_left_out_and_equal_vectors_said(db):
    """Fewer clusters than asked for, and entries in none, are no secret."""
    execute(
        db,
        "update embeddings set embedding = (select embedding from embeddings where id = '0')",
        "update embeddings set embedding = null where id = '3'",
    )
    said = embed("cluster", db, "docs", "2")
    assert len(json.loads(said.stdout)) == 1
    assert "1 row left out: no usable vector" in said.stderr
    assert "1 of 2 clusters could be told apart" in said.stderr


@pytest.mark.explore
@pytest.mark.adapters
def test_cluster_summary_asks_the_chat_model_once_a_cluster(db, chat_model):
    """The prompt is the system prompt; the texts are what is printed, one a line."""
    found = json.loads(
        embed("cluster", db, "docs", "2", "--summary", "-m", "titles", "--truncate", "12").stdout
    )
    assert [c["summary"] for c in found] == ["Title 1", "Title 2"]
    prompt = "Short, concise title for this cluster of related documents."
    assert chat_model.asked == [
        (prompt, "\n".join(item["content"] for item in c["items"])) for c in found
    ]
    embed("cluster", db, "docs", "1", "--summary", "-m", "titles", "--prompt", "One word")
    assert chat_model.asked[-1][0] == "One word"


@pytest.mark.explore
@pytest.mark.adapters
def test_cluster_summary_without_texts_is_null_and_asks_nothing(db, chat_model):
    """There is nothing to ask about."""
    execute(db, "drop table docs")
    found = json.loads(embed("cluster", db, "docs", "1", "--summary", "-m", "titles").stdout)
    assert found[0]["summary"] is None
    assert chat_model.asked == []


@pytest.mark.explore
@pytest.mark.adapters
def test_cluster_summary_chat_model_fails_one_line_no_output(db, chat_model):
    """Half of a JSON list would be worse than none."""
    chat_model.fails = True
    error = refused("cluster", db, "docs", "2", "--summary", "-m", "titles", files=[db])
    assert error == "titles: RuntimeError: no connection"


@pytest.mark.adapters
def test_cluster_summary_unknown_chat_model_one_line(db):
    """It is LLM that knows chat models."""
    error = refused("cluster", db, "docs", "2", "--summary", "-m", "nope", files=[db])
    assert error == "nope: LLM has no such chat model. Which it has: llm models"


def test_cluster_summary_without_llm_names_the_package(db, monkeypatch):
    """The message ends with the command that installs it."""
    monkeypatch.setitem(sys.modules, "llm", None)
    error = refused("cluster", db, "docs", "2", "--summary", files=[db])
    assert error == "llm is not installed. Run: pip install llm"


def test_cluster_without_scikit_learn_names_the_extra(db, monkeypatch):
    """As every optional package."""
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    error = refused("cluster", db, "docs", "2", files=[db])
    assert error == "scikit-learn is not installed. Run: pip install 'datasette-embed[explore]'"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope", "2"), "Collection 'nope' does not exist. Collections in this file: docs"),
        (("docs", "10"), "collection 'docs': 10 clusters of 9 entries are too many: ask for fewer"),
    ],
)
def test_cluster_bad_input_one_line(db, arguments, words):
    """What is wrong, and what there is."""
    assert words in refused("cluster", db, *arguments, files=[db])


@pytest.mark.parametrize(
    "arguments", [("docs", "0"), ("docs", "-1"), ("docs", "two"), ("docs", "1.5"), ("docs",)]
)
def test_cluster_number_that_is_none_exit_code_2(db, arguments):
    """NUMBER is a number of clusters."""
    refused("cluster", db, *arguments, files=[db], code=2)
