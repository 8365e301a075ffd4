"""Parts of entry ids: the columns of a compound key, taken out of an id by SQL.

Layer 1: imports nothing of ours. An entry's id is the text of its row's key; that of a key
of several columns is in Datasette's form, each part encoded and a comma between them. With
the parts, and the numbers that they are the text of, a query joins to the table by its index.
"""

from __future__ import annotations

from typing import Any

from datasette.utils import tilde_decode

_LARGEST_INTEGER = 2**63 - 1


def id_part(entry_id: Any, n: Any) -> str | None:
    """Return the n-th part of an entry id, decoded, the first being 1; NULL without one.

    An id without a comma is one part. The form is that of ``path_from_row_pks`` in
    datasette/utils of 0.65.5 and 1.0a41.
    """
    if not isinstance(entry_id, str) or not isinstance(n, int) or n < 1:
        return None
    parts = entry_id.split(",")
    return str(tilde_decode(parts[n - 1])) if n <= len(parts) else None


def id_number(text: Any) -> int | float | None:
    """Return the number of a key whose text this is; NULL where it is that of none.

    Exactly the text that an id has of it: 07 is the text of no number, and SQLite itself
    writes some numbers in another way than Python, of which an id is made.
    """
    if not isinstance(text, str):
        return None
    try:
        number: int | float = float(text)
    except ValueError:
        return None
    # Neither has a form in JSON.
    if number != number or number in (float("inf"), float("-inf")):
        return None
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal():
        if len(digits) > 19 or abs(int(text)) > _LARGEST_INTEGER:
            return None
        number = int(text)
    return number if str(number) == text else None
