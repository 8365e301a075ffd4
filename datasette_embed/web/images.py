"""Images: those of a collection's entries, found in their rows or beside their vectors.

Layer 11: imports ``image_types``, ``sources`` and its neighbours. Who may see the collection is
decided before. No path and no address that stands in a row is followed here: a row may be a
stranger's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from datasette import Response
from datasette.database import QueryInterrupted

from ..database import quoted, translated
from ..errors import SourceError
from ..image_types import HEADER_BYTES
from ..sources import SourceSpec
from .http import Answer, RequestError, json_view, require_method
from .results import Searched
from .results_api import searched_of
from .thumbnails import can_show, picture_of

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

#: What an image may do in a browser that takes it for something else: nothing.
_POLICY = "default-src 'none'; sandbox"
#: Longest image that is read to be shown, in bytes.
_MOST_BYTES = 20 * 1024 * 1024
_BLOBS = "embeddings.content_blob"


class Images:
    """The images of one collection.

    Attributes:
        is_source: whether the entries were made of images, for all that is known.
    """

    def __init__(self, searched: Searched) -> None:
        self._searched = searched
        spec = None
        with suppress(SourceError):
            spec = SourceSpec.from_json(searched.record.source or {})
        self.is_source = spec is not None and spec.image is not None
        # Vectors of texts have no image beside them, and nobody has to look.
        self._may_have = self.is_source or searched.record.source is None
        rows = searched.rows
        self._column = None
        if spec and spec.image and not spec.image_from and rows and spec.image in rows.all_columns:
            self._column = f"{rows.called_in_sql}.{quoted(spec.image)}"

    async def find_shown(self, entry_ids: Sequence[str]) -> set[str]:
        """Return those of some entries whose image can be shown.

        Raises:
            SourceError: the file cannot be read.
        """
        if not self._may_have or not entry_ids:
            return set()
        columns = ", ".join(
            f"{_if_small(place, f'substr({place}, 1, {HEADER_BYTES})')}, length({place})"
            for place in self._places
        )
        found = await self._select(f"entry.value, {columns}", list(entry_ids))
        return {
            entry_id
            for entry_id, *values in found or ()
            if any(
                header and can_show(header, size)
                for header, size in zip(values[::2], values[1::2], strict=True)
            )
        }

    async def find_bytes(self, entry_id: str) -> bytes | None:
        """Return the image of an entry, whatever bytes these are; None where it has none.

        Raises:
            RequestError: reading it takes longer than a query may on this site.
            SourceError: the file cannot be read.
        """
        if not self._may_have:
            return None
        columns = ", ".join(_if_small(place, place) for place in self._places)
        found = await self._select(columns, [entry_id])
        if found is None:
            raise RequestError("Reading this image takes longer than a query may on this site")
        return next((bytes(value) for row in found for value in row if value), None)

    @property
    def _places(self) -> list[str]:
        return [self._column, _BLOBS] if self._column else [_BLOBS]

    async def _select(self, columns: str, entry_ids: list[str]) -> list[Any] | None:
        """Return what stands in some entries' rows; None where that takes too long."""
        rows, database = self._searched.rows, self._searched.database
        join = f"left join {rows.source} on {rows.join('embeddings.id')}" if rows else ""
        sql = (
            f"select {columns} from json_each(:ids) as entry join embeddings"
            " on embeddings.collection_id = :collection_id"
            f" and embeddings.id = entry.value collate binary {join if self._column else ''}"
        )
        params = {"ids": json.dumps(entry_ids), "collection_id": self._searched.record.id}
        try:
            with translated(database.name):
                found = await database.execute(sql, params, log_sql_errors=False)
        except QueryInterrupted:
            return None
        return [tuple(row) for row in found.rows]


def _if_small(place: str, value: str) -> str:
    """Return SQL for a value of a blob that is not too long; its length alone is quickly read."""
    return (
        f"case when typeof({place}) = 'blob' and length({place}) <= {_MOST_BYTES} then {value} end"
    )


@json_view
async def image_view(request: Request, datasette: Datasette) -> Answer:
    """Return the image of an entry, small where Pillow is installed."""
    require_method(request, "GET", "HEAD")
    searched = await searched_of(request, datasette)
    entry_id = searched.entry_id_in_url()
    if not await searched.has_entry(entry_id):
        raise searched.not_found(entry_id)
    data = await Images(searched).find_bytes(entry_id)
    digest = hashlib.sha256(data or b"").hexdigest()
    tag = f'"{digest[:32]}"'
    headers = {
        "ETag": tag,
        # Who may see it may change at any time.
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": _POLICY,
        "Content-Disposition": "inline",
    }
    picture = await picture_of(data, digest) if data else None
    if picture is None:
        raise RequestError(f"Entry '{entry_id}' has no image that can be shown", 404)
    if tag in request.headers.get("if-none-match", ""):
        return Response("", 304, headers)
    return Response(picture.data, 200, headers, content_type=picture.media_type)
