"""JSON as its standard has it, where Python's own reader takes more.

Layer 1: imports nothing of ours. What a value means is said by those who read it.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def json_value(text: str, *, is_strict: bool = False) -> Any:
    """Return what a JSON text says.

    Args:
        is_strict: refuse also what is JSON, but means different things to different readers:
            a name twice in one object, half a character, a number too large for a float.

    Raises:
        ValueError: it is no JSON (RFC 8259 has neither NaN nor Infinity, which Python would
            take), or is nested more deeply than Python can read.
    """
    extra: dict[str, Any] = (
        {"object_pairs_hook": _object_of, "parse_float": _finite} if is_strict else {}
    )
    try:
        value = json.loads(text, parse_constant=_refuse_constant, **extra)
        if is_strict and "\\u" in text:
            _refuse_half_characters(value)
        return value
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{json.dumps(name[:100])} is there twice")
        found[name] = value
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _refuse_half_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half a character, a lone surrogate") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
