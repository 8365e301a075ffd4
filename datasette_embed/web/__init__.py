"""Web: the pages of this package and their JSON twins.

Layer 11. One module per page; this one lists their routes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .collections_api import (
    collection_view,
    database_view,
    delete_view,
    rename_view,
    site_view,
)
from .jobs_api import act_view, job_view, jobs_view
from .making_api import estimate_view, new_view, sync_view
from .models_page import models_page
from .nothing import nothing_view
from .openai_api import embeddings_view, model_view, models_view
from .search_api import similar_view

__all__ = ["routes"]


_DATABASE = r"^/(?P<database>[^/.]+)/-/embed"
_COLLECTION = rf"{_DATABASE}/c/(?P<collection>[^/]+)"
_JOB = rf"{_DATABASE}/jobs/(?P<job>[^/.]+)"

#: What is left below ours, last of all. Datasette goes on from an address that ends in /.
ELSEWHERE = (r"^/-/embed(/.*[^/])?$", r"^/[^/]+/-/embed(/.*[^/])?$")


def routes() -> list[tuple[str, Callable[..., Any]]]:
    """Return (pattern, view) of every page, as Datasette's ``register_routes`` wants them."""
    return [
        (r"^/-/embed/models(?P<format>\.json)?$", models_page),
        (r"^/-/embed/v1/embeddings$", embeddings_view),
        (r"^/-/embed/v1/models$", models_view),
        (r"^/-/embed/v1/models/(?P<model>.+)$", model_view),
        (r"^/-/embed\.json$", site_view),
        (rf"{_DATABASE}\.json$", database_view),
        (rf"{_DATABASE}/estimate$", estimate_view),
        (rf"{_DATABASE}/new$", new_view),
        (rf"{_DATABASE}/jobs\.json$", jobs_view),
        (rf"{_JOB}\.json$", job_view),
        (rf"{_JOB}/(?P<action>pause|resume|cancel|retry)$", act_view),
        (rf"{_COLLECTION}\.json$", collection_view),
        (rf"{_COLLECTION}/similar\.json$", similar_view),
        (rf"{_COLLECTION}/sync$", sync_view),
        (rf"{_COLLECTION}/rename$", rename_view),
        (rf"{_COLLECTION}/delete$", delete_view),
        *((pattern, nothing_view) for pattern in ELSEWHERE),
    ]
