"""Budgets: who may call which model, how often. One decision, used by SQL and web.

Layer 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasette import Request


def note_request(request: Request) -> None:
    """Keep the request where a SQL function can see who is asking."""
