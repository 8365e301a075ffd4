"""What an error takes along besides its text: the variables of every frame it went through.

Datasette prints them all where the package rich is installed, and services that collect
errors send them away. So none of them may hold an API key.
"""

from __future__ import annotations

import traceback

import pytest
import pytest_asyncio
from datasette import hookimpl

from datasette_embed import EmbeddingModel
from datasette_embed.redaction import forget_locals
from tests.api_site import ROOT
from tests.conftest import ModelsPlugin

KEY = "sk-a-very-secret-key-12345"


class KeyedModel(EmbeddingModel):
    """Needs a key and fails when told to, with the key in variables of its own."""

    model_id, needs_key, dimensions = "keyed", "keyed", 3
    fails = False

    def embed_batch(self, items, *, kind=None, key=None):
        header = {"Authorization": f"Bearer {key}"}
        if self.fails:
            raise RuntimeError(f"the server said no to {len(header)} header")
        return [[1.0, 2.0, float(len(item))] for item in items]


class Witness(ModelsPlugin):
    """A plugin with a model that keeps what Datasette is about to print."""

    def __init__(self, model):
        super().__init__((model, ()))
        self.errors = []

    @hookimpl(tryfirst=True)
    def handle_exception(self, exception):
        self.errors.append(exception)


def links(error):
    """Return an error, its causes and its contexts, suppressed or not."""
    found, queue = [], [error]
    while queue:
        link = queue.pop()
        if link is not None and link not in found:
            found.append(link)
            queue += [link.__cause__, link.__context__]
    return found


def frames_with_the_key(error):
    """Return where the key stands in a variable, and in how many frames that was looked for."""
    found, looked = [], 0
    for link in links(error):
        for frame, line in traceback.walk_tb(link.__traceback__):
            looked += 1
            for variable, value in frame.f_locals.items():
                if KEY in repr(value):
                    found.append(
                        f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}: {variable}"
                    )
    return found, looked


@pytest_asyncio.fixture
async def keyed(make_api_site, add_plugin):
    """A site with a collection of a model that needs a key, and fails from now on."""
    model = KeyedModel()
    witness = Witness(model)
    add_plugin(witness)
    site = make_api_site(config={"keys": {"keyed": KEY}, "allow": {"keyed": True}})
    await site.make(model="keyed")
    model.fails = True
    yield site, witness
    model.fails = False


# Datasette has sqlite3 print what a SQL function raises.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/data/posts?_similar=a+dog", None),
        ("GET", "/data/posts.json?_similar=a+dog", None),
        ("GET", "/data/-/embed/c/posts/similar.json?q=a+dog", None),
        ("GET", "/data?sql=select+llm_embed('keyed',+'a+dog')", None),
        ("GET", "/data/-/query.json?sql=select+llm_embed('keyed',+'a+dog')", None),
        ("POST", "/-/embed/v1/embeddings", {"model": "keyed", "input": ["a dog", "a cat"]}),
    ],
)
async def test_no_frame_of_a_failed_request_holds_the_key(keyed, caplog, method, path, body):
    """Neither of what Datasette handles nor of what goes into the log."""
    site, witness = keyed
    if method == "GET":
        response = await site.get(path, ROOT, follow_redirects=True)
    else:
        response = await site.post(path, body)
    assert response.status_code >= 400 or "failed" in response.text
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    errors = [error for error in (*witness.errors, *logged) if error is not None]
    results = [frames_with_the_key(error) for error in errors]
    assert sum(looked for _, looked in results) > 0
    assert [where for found, _ in results for where in found] == []
    assert KEY not in response.text + caplog.text


def test_forget_locals_causes_contexts_and_members():
    """Nothing that ends has variables left; a frame that goes on keeps its own."""

    def fail(key, error):
        raise error(key[:2])

    def fail_twice(key):
        try:
            fail(key, ValueError)
        except ValueError as error:
            raise KeyError("b") from error

    caught = []
    for _ in range(2):
        try:
            fail_twice(KEY)
        except KeyError as error:
            caught.append(error)
    group = ExceptionGroup("several", caught)
    here = KEY
    assert all(frames_of_fail(error) for error in caught)
    forget_locals(group)
    assert not any(frames_of_fail(error) for error in caught)
    assert here == KEY


def frames_of_fail(error):
    """Return the names of the frames of the test's own functions that hold the key."""
    return [
        frame.f_code.co_name
        for link in links(error)
        for frame, _ in traceback.walk_tb(link.__traceback__)
        if frame.f_code.co_name.startswith("fail") and KEY in repr(frame.f_locals)
    ]
