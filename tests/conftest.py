"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasette import hookimpl
from datasette.app import Datasette
from datasette.plugins import pm

import datasette_embed
from datasette_embed import redaction
from datasette_embed import registry as registry_module
from datasette_embed.query_embeddings import PROCESS_QUERIES
from datasette_embed.runner import wiring
from datasette_embed.threads import wait_for_threads
from tests.fakes import CountingModel

if not pm.is_registered(datasette_embed):
    pm.register(datasette_embed, name="embed")


@pytest.fixture(autouse=True)
def user_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user folder of the test's own, and nothing remembered from other tests."""
    directory = tmp_path / "user"
    monkeypatch.setenv("DATASETTE_EMBED_USER_PATH", str(directory))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    for name in ("LLM_EMBEDDING_MODEL", "LLM_EMBEDDINGS_DB"):
        monkeypatch.delenv(name, raising=False)
    # Where rich is installed, Datasette prints every error with it, which takes half a second.
    monkeypatch.setattr("datasette.handle_exception.rich", None)
    registry_module.forget_registries()
    PROCESS_QUERIES.clear()
    monkeypatch.setattr(redaction, "_secrets", redaction.OrderedDict())
    yield directory
    # What works in the background of one test must not go on during the next.
    wiring.stop_everything()
    wait_for_threads(5)
    registry_module.forget_registries()


class ModelsPlugin:
    """A Datasette plugin that registers the models of one test."""

    def __init__(self, *models: Any) -> None:
        self.models = models

    @hookimpl
    def register_embedding_models(self, register: Callable[..., None]) -> None:
        for model, aliases in self.models:
            register(model, aliases=aliases)


@pytest.fixture
def add_plugin() -> Iterator[Callable[[Any], None]]:
    """Register a plugin with Datasette for the length of the test."""
    added: list[Any] = []

    def add(plugin: Any) -> None:
        plugin.__name__ = type(plugin).__name__  # Datasette expects modules
        pm.register(plugin)
        added.append(plugin)

    yield add
    for plugin in added:
        pm.unregister(plugin)


@pytest.fixture
def counting_model(add_plugin: Callable[[Any], None]) -> CountingModel:
    """A fake model that every registry of this test knows, with the alias ``count``."""
    model = CountingModel()
    add_plugin(ModelsPlugin((model, ("count",))))
    return model


@pytest.fixture
def make_datasette() -> Callable[..., Datasette]:
    """Make a Datasette that warms nothing, with plugin config and ``site`` config.

    1.0 reads config where 0.65 reads metadata.
    """

    def make(files: Any = (), *, config: Any = None, site: Any = None, **options: Any) -> Datasette:
        plugins = {"datasette-embed": {"warm_models": [], **(config or {})}}
        where = "config" if hasattr(Datasette, "allowed") else "metadata"
        configured = {where: {"plugins": plugins, **(site or {})}}
        return Datasette(files, memory=not files, **configured, **options)

    return make


@pytest.fixture
def make_api_site(
    make_datasette: Callable[..., Datasette],
    add_plugin: Callable[[Any], None],
    counting_model: CountingModel,
    tmp_path: Path,
) -> Iterator[Callable[..., Any]]:
    """Make a site over ``data.db`` that takes actors from a header, and end its jobs."""
    from tests.api_site import EDITOR, HeaderActor, Site, make_file, site_config

    add_plugin(HeaderActor())
    made: list[Site] = []

    def make(
        *, is_immutable: bool = False, settings: Any = None, config: Any = None, **site: Any
    ) -> Site:
        path = tmp_path / "data.db"
        if not path.exists():
            make_file(path)
        datasette = make_datasette(
            [] if is_immutable else [str(path)],
            immutables=[str(path)] if is_immutable else (),
            config={"allow_create": EDITOR, **(config or {})},
            site={**site_config(), **site},
            settings=settings,
        )
        datasette.root_enabled = True  # as `--root` does on 1.0
        made.append(Site(datasette, path))
        return made[-1]

    yield make
    for site in made:
        site.stop()


@pytest.fixture
def api_site(make_api_site: Callable[..., Any]) -> Any:
    """A site with ``posts``, which is public, and ``secrets``, which is not."""
    return make_api_site()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT whose files have a prompt for queries."""
    from tests.checkpoints import write_bert

    prompts = {"query": "one two ", "document": ""}
    return write_bert(tmp_path_factory.mktemp("bert"), prompts=prompts)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP."""
    from tests.checkpoints import write_clip

    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def tiny_instructor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Instructor, whose pooling leaves the prompt out."""
    from tests.checkpoints import write_instructor

    return write_instructor(tmp_path_factory.mktemp("instructor"))
