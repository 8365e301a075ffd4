"""Runner: jobs in the background of a Datasette server.

Layer 9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasette.app import Datasette


def stop(datasette: Datasette) -> None:
    """End the jobs of this server with the batch in flight."""


def note_event(datasette: Datasette, event: Any) -> None:
    """Look at watched collections of a database in which rows were written."""
