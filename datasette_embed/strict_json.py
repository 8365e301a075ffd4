"""JSON as its standard has it, where Python's own reader takes more.

Layer 1: imports nothing of ours. What a value means is said by those who read it.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn


def json_value(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: it is no JSON (RFC 8259 has neither NaN nor Infinity, which Python would
            take), or is nested more deeply than Python can read.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
