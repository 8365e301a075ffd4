"""Site: what the runner needs to know of one Datasette, asked from any thread.

Part of layer 10: databases as files, models, keys, and the signature by which a job of this
site is told from a stranger's. Holds no strong reference to the Datasette.
"""

from __future__ import annotations

import json
import os
import weakref
from typing import TYPE_CHECKING, Any

from ..budgets import key_for
from ..errors import NotFoundError, ReadOnlyDatabaseError
from ..job_records import JobRecord
from ..model_names import default_model
from ..models import EmbeddingModel
from ..records import CollectionRecord
from ..registry import Registry, get_registry
from ..settings import Settings, get_settings
from ..signing import is_signed, sign

if TYPE_CHECKING:
    from datasette.app import Datasette


class SiteClosedError(NotFoundError):
    """The Datasette is gone; only threads that outlive it meet this."""


class MissingDatabaseError(NotFoundError):
    """The site has no database of this name; another start of it may have."""


class Site:
    """One Datasette, as jobs see it."""

    def __init__(self, datasette: Datasette) -> None:
        self._datasette = weakref.ref(datasette)

    @property
    def datasette(self) -> Datasette:
        """The Datasette.

        Raises:
            SiteClosedError: it is no longer there.
        """
        datasette = self._datasette()
        if datasette is None:
            raise SiteClosedError("this Datasette is closed")
        return datasette

    @property
    def settings(self) -> Settings:
        """What plugin config says."""
        return get_settings(self.datasette)

    @property
    def registry(self) -> Registry:
        """The models that may be called here."""
        return get_registry(self.datasette)

    def get_model(self, model: str | EmbeddingModel | None) -> EmbeddingModel:
        """Return a model by name; the default one for None.

        Raises:
            UnknownModelError: it is not registered here.
        """
        if isinstance(model, EmbeddingModel):
            return model
        return default_model(self.registry, model)

    def key_for(self, model: EmbeddingModel) -> str | None:
        """Return the API key to call a model with; None for the model's own way to find one."""
        return key_for(self.datasette, model)

    # -- databases -----------------------------------------------------------------

    def get_file(self, database: str, *, writable: bool = True) -> str:
        """Return the path of a database's file.

        Raises:
            MissingDatabaseError: the site has no such database.
            ReadOnlyDatabaseError: it is in memory, or immutable and to be written to.
        """
        found = self.datasette.databases.get(database)
        if found is None:
            raise MissingDatabaseError(f"There is no database '{database}'")
        source = f"database '{database}'"
        if found.is_memory or not found.path:
            raise ReadOnlyDatabaseError(source, "is in memory: jobs need a file")
        if writable and not found.is_mutable:
            raise ReadOnlyDatabaseError(
                source, "is immutable: serve it without -i, or keep the vectors in another one"
            )
        return str(found.path)

    def list_files(self) -> dict[str, str]:
        """Return ``database -> path`` of all that jobs can write to."""
        return {
            name: str(database.path)
            for name, database in list(self.datasette.databases.items())
            if database.path and database.is_mutable and not database.is_memory
        }

    # -- whose job it is -----------------------------------------------------------

    def sign(self, path: str, job: JobRecord, collection: CollectionRecord) -> str:
        """Return the signature of a job that a person asked this site for.

        Raises:
            SourceError: the secret can be neither read nor made.
        """
        return sign(*_signed_parts(path, job, collection))

    def is_ours(self, path: str, job: JobRecord, collection: CollectionRecord) -> bool:
        """Say whether a person asked this site for this job.

        Raises:
            SourceError: the secret cannot be read.
        """
        return is_signed(job.signature, *_signed_parts(path, job, collection))


def _signed_parts(path: str, job: JobRecord, collection: CollectionRecord) -> tuple[Any, ...]:
    """Return what a signature vouches for; of a stranger's file not all of it is text."""
    # The path too: a row copied into another file is not what anybody asked for.
    return (
        "job",
        os.path.realpath(path),
        str(job.id),
        job.created_at,
        # Not its name, which may be changed. SQLite gives the id of a deleted one to another.
        str(job.collection_id == collection.id and collection.id),
        collection.created_at,
        job.model_id,
        json.dumps(collection.source, sort_keys=True),
        json.dumps(dict(job.options), sort_keys=True),
        job.action or "",
        job.actor or "",
    )
