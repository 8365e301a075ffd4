"""Web: the pages of this package and their JSON twins.

Layer 10. One module per page; this one lists their routes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .models_page import models_page

__all__ = ["routes"]


def routes() -> list[tuple[str, Callable[..., Any]]]:
    """Return (pattern, view) of every page, as Datasette's ``register_routes`` wants them."""
    return [(r"^/-/embed/models(?P<format>\.json)?$", models_page)]
