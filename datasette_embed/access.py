"""Access: who may see a collection and the tables it lives in, and who may make one.

Layer 8.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from .compat import Actor

if TYPE_CHECKING:
    from datasette.app import Datasette


def actions() -> list[Any]:
    """Return the actions of this package, for Datasette 1.0."""
    return []


def permission_rules(datasette: Datasette, actor: Actor, action: str) -> Awaitable[Any] | None:
    """Return the rules of an action as SQL, for Datasette 1.0."""
    return None


def default_verdict(
    datasette: Datasette, actor: Actor, action: str, resource: Any
) -> Awaitable[bool | None] | None:
    """Return who may use our actions unless somebody says otherwise, for Datasette 0.65."""
    return None


def hiding_verdict(
    datasette: Datasette, actor: Actor, action: str, resource: Any
) -> Awaitable[bool | None] | None:
    """Return False for what follows a source the actor may not see, for Datasette 0.65."""
    return None
