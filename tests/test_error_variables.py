"""What an error takes along besides its text: the variables of every frame it went through.

Datasette prints them all where the package rich is installed, and services that collect
errors send them away. So none of them may hold an API key.
"""

from __future__ import annotations

import asyncio
import traceback

import pytest
import pytest_asyncio
from datasette import hookimpl

from datasette_embed import EmbeddingModel, server
from datasette_embed.errors import ProviderError
from datasette_embed.redaction import forget_frames
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
    """Return where the key stands in a variable."""
    found = []
    for link in links(error):
        for frame, line in traceback.walk_tb(link.__traceback__):
            for variable, value in frame.f_locals.items():
                if KEY in repr(value):
                    found.append(
                        f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}: {variable}"
                    )
    return found


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
        ("GET", "/data.json?sql=select+llm_embed('keyed',+'a+dog')", None),
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
    assert [where for error in errors for where in frames_with_the_key(error)] == []
    assert "in embed_batch" in caplog.text and "the server said no" in caplog.text
    assert KEY not in response.text + caplog.text


def test_forget_frames_causes_contexts_and_members():
    """No frame is left in any of them; texts and chains stay."""

    def fail(key):
        try:
            raise ValueError(key[:2])
        except ValueError as error:
            raise KeyError("b") from error

    caught = []
    for _ in range(2):
        try:
            fail(KEY)
        except KeyError as error:
            caught.append(error)
    group = ExceptionGroup("several", caught)
    assert all(frames_with_the_key(error) for error in caught)
    forget_frames(group)
    assert [frames_with_the_key(error) for error in caught] == [[], []]
    assert [repr(error.__cause__) for error in caught] == ["ValueError('sk')"] * 2


@pytest.mark.asyncio
async def test_forgetting_ends_nobody_who_is_handling_the_same_error():
    """All who wait for one text are given one error, and each handles it in its own time."""
    shared = ProviderError("keyed", "refused")
    goes_on = asyncio.Event()

    def fail():
        raise shared

    async def handle():
        try:
            await server._in_daemon_thread(fail)
        except ProviderError as error:
            await goes_on.wait()
            return str(error)

    first = asyncio.create_task(handle())
    while shared.__traceback__ is None:
        await asyncio.sleep(0.001)
    with pytest.raises(ProviderError):
        await server._in_daemon_thread(fail)
    goes_on.set()
    async with asyncio.timeout(5):
        assert await first == "keyed: refused"


@pytest.mark.asyncio
async def test_mistake_of_ours_is_in_the_log_with_its_traceback(caplog):
    """Its frames are gone from what Datasette gets."""

    def mistaken():
        raise ZeroDivisionError("of ours")

    with pytest.raises(ZeroDivisionError) as caught:
        await server._in_daemon_thread(mistaken)
    assert "in mistaken" in caplog.text and "ZeroDivisionError: of ours" in caplog.text
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(caught.tb)]
    assert "mistaken" not in names
