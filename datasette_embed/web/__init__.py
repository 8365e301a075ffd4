"""Web: the pages of this package and their JSON twins.

Layer 11. One module per page; this one lists their routes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .about_api import about_view
from .collections_api import delete_view, rename_view
from .forms import View, by_accept, by_content, by_method
from .images import image_view
from .jobs_api import act_view, job_view, jobs_view
from .lists_api import database_view, site_view
from .making_api import estimate_view, new_view, sync_view
from .models_page import models_page
from .nothing import nothing_view
from .openai_api import embeddings_view, model_view, models_view
from .pages.about_page import about_page, delete, rename, sync
from .pages.button_page import button_page
from .pages.collections_page import database_page, site_page
from .pages.image_search_page import image_search_page
from .pages.job_page import act, job_page
from .pages.jobs_page import jobs_page
from .pages.new_page import make, new_page, new_twin
from .pages.related_page import related_page
from .pages.search_page import search_page
from .results_api import collection_or_rows_view, like_view, rows_csv_view
from .search_api import similar_view

__all__ = ["routes"]


_DATABASE = r"^/(?P<database>[^/.]+)/-/embed"
_COLLECTION = rf"{_DATABASE}/c/(?P<collection>[^/]+)"
#: A name in an address has no dot that is not encoded: the dot begins the format.
_COLLECTION_PAGE = rf"{_DATABASE}/c/(?P<collection>[^/.]+)"
_LIKE = rf"{_COLLECTION_PAGE}/like/(?P<entry>.+?)"
_JOB = rf"{_DATABASE}/jobs/(?P<job>[^/.]+)"

#: What is left below ours, last of all. Datasette goes on from an address that ends in /.
ELSEWHERE = (r"^/-/embed(/.*[^/])?$", r"^/[^/]+/-/embed(/.*[^/])?$")


def _button(program: View, person: View) -> View:
    """Return the view of what is only done: whoever opens it in a browser is led to its button."""
    return by_method(by_accept(program, button_page), by_content(program, person))


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
        (rf"{_DATABASE}/new\.json$", new_twin),
        (rf"{_DATABASE}/new$", by_method(new_page, by_content(new_view, make))),
        (rf"{_DATABASE}/jobs\.json$", jobs_view),
        (rf"{_JOB}\.json$", job_view),
        (rf"{_JOB}/(?P<action>pause|resume|cancel|retry)$", _button(act_view, act)),
        (rf"{_LIKE}(?P<format>\.json|\.csv)$", like_view),
        (rf"{_COLLECTION}\.json$", collection_or_rows_view),
        (rf"{_COLLECTION_PAGE}\.csv$", rows_csv_view),
        (rf"{_COLLECTION}/about\.json$", about_view),
        (rf"{_COLLECTION}/similar\.json$", similar_view),
        (rf"{_COLLECTION}/sync$", _button(sync_view, sync)),
        (rf"{_COLLECTION}/rename$", _button(rename_view, rename)),
        (rf"{_COLLECTION}/delete$", _button(delete_view, delete)),
        (r"^/-/embed$", site_page),
        (rf"{_DATABASE}$", database_page),
        (rf"{_DATABASE}/jobs$", jobs_page),
        (rf"{_JOB}$", job_page),
        (rf"{_COLLECTION_PAGE}$", by_method(search_page, image_search_page)),
        (rf"{_COLLECTION_PAGE}/image/(?P<entry>.+)$", image_view),
        (rf"{_LIKE}$", related_page),
        (rf"{_COLLECTION_PAGE}/about$", about_page),
        *((pattern, nothing_view) for pattern in ELSEWHERE),
    ]
