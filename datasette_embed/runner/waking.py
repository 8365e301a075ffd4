"""Waking: says whether a Datasette has anything that is to be looked after in the background.

Part of layer 10. Asked of every server, also of one that never embeds: imports nothing that
loads numpy.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING

from ..database import open_database, translated
from ..errors import SourceError
from ..schema import has_our_tables

if TYPE_CHECKING:
    from datasette.app import Datasette

logger = logging.getLogger(__name__)

#: How often the files of a server are looked at for the first collection in them.
WAKE_SECONDS = 10.0


def writable_files(datasette: Datasette) -> list[str]:
    """Return the paths of the databases that jobs can write to."""
    return [
        str(database.path)
        for database in list(datasette.databases.values())
        if database.path and database.is_mutable and not database.is_memory
    ]


def has_collections_of_ours(datasette: Datasette) -> bool:
    """Say whether any of these files has our tables."""
    return any(_has_ours(path) for path in writable_files(datasette))


def _has_ours(path: str) -> bool:
    try:
        with closing(open_database(path)) as conn, translated(path):
            return has_our_tables(conn)
    except SourceError as error:
        logger.debug("%s: nothing to look after: %s", path, error)
        return False
