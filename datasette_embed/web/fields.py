"""Fields: what a request asks for, as values of the right type, or a refusal by name.

Layer 11: imports ``errors`` and ``records``. Knows types and bounds; what a field is for is
said by the view that reads it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..records import is_storable
from .http import RequestError

if TYPE_CHECKING:
    from datasette import Request

#: What a form or a query string may say for yes and no; "on" is a tick without a value.
_FLAGS = {"on": True, "1": True, "true": True, "0": False, "false": False}

#: Characters of a collection's name: servers refuse addresses that are longer than theirs.
LONGEST_NAME = 500


class FieldError(RequestError):
    """What is wrong with one field of a request.

    Attributes:
        field: its name.
        reason: what is wrong, without the name.
    """

    def __init__(self, field: str, reason: str, status: int = 400) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"'{field}': {reason}", status)


class Fields:
    """The fields of one request, read one by one.

    Args:
        values: name -> value. One that is None, or that is not there, was not given.
        is_text: whether every value came as text, in the query string or from a form.
    """

    def __init__(self, values: Mapping[str, Any], *, is_text: bool = False) -> None:
        self.values = values
        self._is_text = is_text

    @classmethod
    def of_form(cls, pairs: Iterable[tuple[str, str]]) -> Fields:
        """Return the fields of a form; one that comes several times is a list of texts.

        A field that nobody filled in was not given. Datasette's token is not ours to read.
        """
        lists: dict[str, list[str]] = {}
        for name, value in pairs:
            if value and name != "csrftoken":
                # A browser ends the lines of a text area in its own way.
                lists.setdefault(name, []).append(value.replace("\r\n", "\n"))
        values = {name: each[0] if len(each) == 1 else each for name, each in lists.items()}
        return cls(values, is_text=True)

    @classmethod
    def of_query(cls, request: Request, *names: str) -> Fields:
        """Return the fields of the query string; of one given twice, the first.

        Those that begin with _ are left to Datasette and other plugins.

        Raises:
            RequestError: there is one of another name.
        """
        own = [name for name in request.args if not name.startswith("_")]
        fields = cls({name: request.args[name] for name in own}, is_text=True)
        fields.refuse_others(*names)
        return fields

    def refuse_others(self, *names: str) -> None:
        """Refuse a field of another name: it would be a mistake that nobody notices.

        Raises:
            RequestError: naming it, and those there are.
        """
        for name in self.values:
            if name not in names:
                known = ", ".join(names) or "none"
                raise RequestError(f"Unknown field {name[:100]!r}. Fields: {known}")

    def text(self, name: str) -> str | None:
        """Return a text, or None where none is given.

        Raises:
            RequestError: it is none, or SQLite would not keep it as it is.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise RequestError(f"'{name}' must be a text")
        if not is_storable(value):
            raise RequestError(f"'{name}' must not hold the character NUL")
        return value

    def name(self, name: str) -> str | None:
        """Return a text that names something, or None where none is given.

        Raises:
            RequestError: it is no text, or is blank.
        """
        value = self.text(name)
        if value is not None and not value.strip():
            raise RequestError(f"'{name}' must not be blank")
        return value

    def new_name(self, name: str) -> str | None:
        """Return the name of a collection to be, or None where none is given.

        Raises:
            RequestError: it is no text, is blank, or too long to be part of an address.
        """
        value = self.name(name)
        if value is not None and len(value) > LONGEST_NAME:
            raise FieldError(name, f"a name has at most {LONGEST_NAME} characters")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, empty where none is given.

        Raises:
            RequestError: it is no such list.
        """
        value = self.values.get(name)
        if value is None:
            return ()
        if self._is_text and isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            raise RequestError(f"'{name}' must be a list of texts")
        each = [Fields({name: item}).name(name) for item in value]
        if None in each:
            raise RequestError(f"'{name}' must be a list of texts")
        return tuple(text for text in each if text is not None)

    def flag(self, name: str) -> bool:
        """Return true or false; false where it is not given.

        Raises:
            RequestError: it is neither.
        """
        value = self.values.get(name)
        if value is None:
            return False
        if self._is_text and value in _FLAGS:
            value = _FLAGS[value]
        if not isinstance(value, bool):
            raise RequestError(f"'{name}' must be true or false")
        return value

    def integer(self, name: str, default: int, *, most: int) -> int:
        """Return a whole number from 1 to ``most``.

        Raises:
            RequestError: it is none, or is out of bounds.
        """
        value = self.values.get(name)
        if value is None:
            return default
        if self._is_text and isinstance(value, str) and re.fullmatch("[0-9]{1,19}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise RequestError(f"'{name}' must be a whole number from 1 to {most}")
        return value

    def number(self, name: str) -> float | None:
        """Return a number, or None where none is given.

        Raises:
            RequestError: it is none, or is not finite.
        """
        value = self.values.get(name)
        if value is None:
            return None
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError
            if isinstance(value, str) and not self._is_text:
                raise ValueError
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise RequestError(f"'{name}' must be a number")
        return number
