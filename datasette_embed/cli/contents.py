"""The texts shown beside the ids of search results, within bounds.

Layer 11: imports what it reads. The definition of a source comes out of the file, which
may be a stranger's, and a view or a condition can be made to run for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ..database import DeadlineError, deadline, open_database
from ..errors import SourceError
from ..records import CollectionRecord
from ..sources import Source, SourceSpec
from ..store import Store
from .output import say

#: Longest the texts of one search may take, all together.
LIMIT_SECONDS = 1.0


def find_contents(
    db: str, store: Store, record: CollectionRecord, entry_ids: Sequence[str]
) -> dict[str, str]:
    """Return ``entry id -> text``: as stored, else from the rows; say why any is missing."""
    contents = store.find_contents(record.id, entry_ids)
    missing = [entry_id for entry_id in entry_ids if entry_id not in contents]
    if not missing:
        return contents
    reason = "their rows are gone, or have a key of several columns"
    try:
        spec = SourceSpec.from_json(record.source) if record.source else None
        if spec is None:
            reason = "the collection does not say what it was made from"
        elif spec.image:
            return contents  # what is shown of an image is its id
        elif spec.is_elsewhere:
            reason = "their rows are in another file (--store keeps the text beside the vector)"
        elif Path(db).exists():
            with closing(open_database(db)) as conn, deadline(conn, LIMIT_SECONDS):
                source = Source(conn, spec, db)
                for entry_id in missing:
                    if text := source.find_content(entry_id):
                        contents[entry_id] = text
    except DeadlineError:
        reason = "reading them takes too long"
    except SourceError as error:
        reason = str(error)
    if not contents.keys() >= set(missing):
        say(f"Some texts are not shown: {reason}" if contents else f"No text is shown: {reason}")
    return contents
