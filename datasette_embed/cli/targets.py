"""Where ``text`` and ``multi`` put vectors, and with which model: what LLM's users expect.

Layer 11: imports what it decides about. Nothing is embedded here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from click.core import ParameterSource

from ..errors import ConfigError, ModelMismatchError, SourceError
from ..llm_files import embeddings_path
from ..model_names import default_model
from ..models import EmbeddingModel
from ..registry import get_registry
from ..store import Store
from .arguments import not_empty, reading

MODEL_VARIABLE = "LLM_EMBEDDING_MODEL"

model_option = click.option(
    "-m",
    "--model",
    "model_id",
    envvar=MODEL_VARIABLE,
    callback=not_empty,
    help=f"Model id or alias (default: the collection's, {MODEL_VARIABLE}, or the default model)",
)
key_option = click.option("--key", callback=not_empty, help="API key for the model")
database_option = click.option(
    "-d",
    "--database",
    type=click.Path(dir_okay=False, allow_dash=False),
    callback=not_empty,
    help="File the vectors go to (default: LLM_EMBEDDINGS_DB, or LLM's embeddings.db)",
)


def model_for(
    ctx: click.Context, db: str, collection: str | None, model_id: str | None
) -> EmbeddingModel:
    """Return the model to embed with: a collection keeps the one it was made with.

    The environment is what somebody wants where nothing else is said, so it makes no
    difference to a collection that is there; ``-m`` is meant for this very command.

    Args:
        db: the file the collection is in, or will be in.
        collection: its name; None when nothing is stored.
        model_id: the value of ``model_option``.

    Raises:
        ModelMismatchError: ``-m`` names another model than the collection's.
        UnknownModelError: no such model.
        ConfigError: LLM's default model is not one that can be called here.
        SourceError: the file cannot be read.
    """
    registry = get_registry()
    record = None
    if collection and Path(db).exists():
        with reading(db) as conn:
            record = Store(conn).find_collection(collection)
    is_wish = ctx.get_parameter_source("model_id") is ParameterSource.COMMANDLINE
    if record is None:
        if model_id and not is_wish and registry.find(model_id) is None:
            known = ", ".join(registry.known_names())
            raise ConfigError(MODEL_VARIABLE, f"unknown model: {model_id}. Known models: {known}")
        return default_model(registry, model_id)
    if model_id and is_wish:
        named = registry.find(model_id)
        wanted = named.model_id if named else model_id
        if wanted != record.model_id:
            raise ModelMismatchError(record.name, record.model_id, wanted)
    return registry.get(record.model_id)


@contextmanager
def folder_for(db: str) -> Iterator[None]:
    """Have LLM's own folder there during the block; it stays if the block makes the file.

    Other folders are for their owners to make: one that is missing is a mistyped path.

    Raises:
        SourceError: it cannot be made.
    """
    folder = Path(db).absolute().parent
    if folder.exists() or Path(db) != embeddings_path():
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise SourceError(str(folder), f"cannot be made: {error.strerror or error}") from error
    try:
        yield
    finally:
        if not Path(db).exists():
            for path in made:
                with suppress(OSError):  # somebody else put something there
                    path.rmdir()
