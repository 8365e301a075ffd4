"""Estimating: what it would take to bring a collection up to date.

Part of layer 10. Reads the rows as the job would, and writes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..planning import Plan
from ..runs import Run, RunOptions
from ..store import Store
from .rows import opened_rows, reading, rows_options
from .site import Site

if TYPE_CHECKING:
    from datasette.app import Datasette


def estimate_sync(datasette: Datasette, database: str, name: str) -> Plan:
    """Return what ``Runner.sync`` would do and cost; nothing is written.

    Raises:
        CollectionNotFoundError: there is no such collection.
        UnknownModelError: its model is not registered here.
        EmbedError: it cannot be done.
    """
    site = Site(datasette)
    path = site.get_file(database)
    with reading(path) as conn:
        record = Store(conn).get_collection(name)
        options = rows_options(site, conn, path, record)
    with opened_rows(site, path, record, options) as source:
        return Run(path, name, source, record.model_id, RunOptions(remove=True), site.registry).plan
