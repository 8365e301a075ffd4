"""Every page in every state: the files that show them, and where each is seen.

``python -m tests.browser_states FOLDER`` writes the files. The tests look at each state with
axe, and ``scripts/screenshots.py`` makes a picture of each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasette.app import Datasette
from datasette.plugins import pm

from datasette_embed.database import sqlite3
from datasette_embed.runner import get_runner
from datasette_embed.sources import SourceSpec
from tests.browser_site import ROOT, SECRET, BrowserSite, SiteModels, make_articles
from tests.colours import COLOURS, make_pictures
from tests.images import SVG, png

#: What the site says: who may search by ``shut``, and where visitors may not run SQL.
CONFIG = {
    "plugins": {
        "datasette-embed": {
            "warm_models": [],
            "calls_per_minute": 10_000,
            "calls_per_minute_total": 10_000,
            "job_workers": 4,
            "allow": {"shut": {"id": "root"}},
        }
    },
    "databases": {
        "locked": {"allow_sql": {"id": "root"}},
        "data": {"queries": {"food": {"sql": "select * from articles where section = 'food'"}}},
    },
}
IMMUTABLE = ("frozen",)
_WITH_COLLECTIONS = ("data", "jobs", "frozen", "locked", "pictures")


@dataclass(frozen=True)
class State:
    """One page as one person sees it.

    Attributes:
        name: of its picture.
        path: where it is.
        status: what the page answers with before anything is done there.
        actor: who looks.
        act: what the person does there before looking.
    """

    name: str
    path: str
    status: int = 200
    actor: Mapping[str, Any] | None = None
    act: Callable[[Any], None] | None = None


# -- files -------------------------------------------------------------------------


def write_files(folder: Path) -> None:
    """Write databases whose collections and jobs are in every state there is."""
    _write_sources(folder)
    paths = [str(folder / f"{name}.db") for name in _WITH_COLLECTIONS]
    runner = get_runner(Datasette(paths, secret=SECRET))
    finished = [
        ("data", "articles", _of("articles"), "words"),
        ("data", "pairs", SourceSpec(table="pairs", columns=("body",)), "words"),
        ("data", "gone", _of("leaving"), "words"),
        ("data", "by_shut", _of("letters"), "shut"),
        ("data", "of_query", SourceSpec(sql="select id, title, body from letters"), "words"),
        ("jobs", "finished", _of("texts"), "words"),
        ("jobs", "stopped", _of("texts"), "broken"),
        ("frozen", "articles", _of("articles"), "words"),
        ("locked", "articles", _of("articles"), "words"),
        ("pictures", "photos", SourceSpec(table="photos", image="photo"), "colours"),
    ]
    for database, name, spec, model in finished:
        runner.create(database, name, spec, model, actor_id="root")
    assert runner.wait(60)
    runner.sync("jobs", "finished", actor_id="root")
    assert runner.wait(60)
    # From here on nothing runs: the server goes on with what is left.
    runner._workers.stop()
    runner.create("jobs", "running", _of("texts"), "held", actor_id="root")
    runner.create("jobs", "failed", _of("leaving"), "words", actor_id="root")
    for name, steer in (("paused", runner.pause), ("cancelled", runner.cancel)):
        job = runner.create("jobs", name, _of("texts"), "words", actor_id="root")
        steer("jobs", job.id)
    for name in ("data", "jobs"):
        with closing(sqlite3.connect(folder / f"{name}.db")) as conn, conn:
            conn.execute("drop table leaving")
    with closing(sqlite3.connect(folder / "data.db")) as conn, conn:
        conn.execute("insert into articles values (9001, 'Later', 'Added later.', 'food')")


def _of(table: str) -> SourceSpec:
    return SourceSpec(table=table, columns=("title", "body"))


def _write_sources(folder: Path) -> None:
    data = make_articles(folder / "data.db")
    make_articles(data, 20, "leaving")
    make_articles(data, 30, "letters")
    make_articles(make_articles(folder / "jobs.db", 120, "texts"), 20, "leaving")
    make_articles(folder / "frozen.db", 60)
    make_articles(folder / "locked.db", 60)
    make_articles(folder / "empty.db", 20)
    make_pictures(folder / "pictures.db")
    long = "A text that is longer than what the model reads. " * 30
    with closing(sqlite3.connect(data)) as conn, conn:
        conn.executescript(
            "create table pairs (a text, b integer, body text, primary key (a, b));"
            "insert into pairs values ('x/y', 1, 'dogs and cats'), ('x/y', 2, 'bread and soup'),"
            " ('z', 1, 'storms and snow');"
            "create view recent as select id, title, body from articles where id > 400;"
            "create table numbers (id integer primary key, amount integer);"
            "insert into numbers values (1, 5), (2, 7);"
        )
        more = [
            (8001, "Refused", "An unspeakable text.", "food"),
            (8002, "<b>Bold</b> {{ 7*7 }}", "<script>alert(1)</script> and 'quotes' \"too\"", "a"),
            (8003, None, "", None),
            (8004, "Long", long, "food"),
        ]
        conn.executemany("insert into articles values (?, ?, ?, ?)", more)
    with closing(sqlite3.connect(folder / "bare.db")) as conn, conn:
        conn.execute("create table numbers (id integer primary key, amount integer)")
        conn.execute("insert into numbers values (1, 5), (2, 7)")


def states_site(folder: Path, python: str = sys.executable) -> BrowserSite:
    """Return the site over the files in a folder, not started."""
    return BrowserSite(folder, immutable=IMMUTABLE, config=CONFIG, python=python)


# -- what a person does on a page before looking -------------------------------------


def submit(name: str, **fields: str) -> Callable[[Any], None]:
    """Return the act that fills fields, found by their labels, and presses a button."""

    def act(page: Any) -> None:
        for label, text in fields.items():
            page.get_by_label(label.replace("_", " ")).first.fill(text)
        with page.expect_navigation():
            page.get_by_role("button", name=name).first.click()

    return act


def sign_out_and_submit(page: Any) -> None:
    """Fill the form, sign out as in another tab, and press the button."""
    page.get_by_label("Name of the collection").fill("my own name")
    page.context.clear_cookies(name="ds_actor")
    submit("Check what it takes")(page)


def open_menu(page: Any) -> None:
    """Open the menu of actions beside the title of a page of Datasette's own."""
    page.locator("details.actions-menu-links summary").first.click()


# -- states ------------------------------------------------------------------------


def _job(site: BrowserSite, name: str, order: str = "desc") -> str:
    """Return the path of the newest or the first job of a collection."""
    database = "data" if name == "articles" else "jobs"
    ((job_id,),) = site.query(
        database,
        "select j.id from _embed_jobs as j join collections as c on c.id = j.collection_id"
        f" where c.name = '{name}' order by j.id {order} limit 1",
    )
    return f"/{database}/-/embed/jobs/{job_id}"


def list_states(site: BrowserSite) -> list[State]:
    """Return every state of a site whose server runs."""
    return [
        *_collections_states(),
        *_new_states(),
        *_job_states(site),
        *_search_states(),
        *_related_states(),
        *_image_states(),
        *_about_states(),
        *_datasette_states(),
    ]


def _collections_states() -> list[State]:
    return [
        State("collections-site", "/-/embed", actor=ROOT),
        State("collections-site-anonymous", "/-/embed"),
        State("collections-data", "/data/-/embed", actor=ROOT),
        State("collections-jobs", "/jobs/-/embed", actor=ROOT),
        State("collections-empty", "/empty/-/embed", actor=ROOT),
        State("collections-empty-anonymous", "/empty/-/embed"),
        State("collections-bare", "/bare/-/embed", actor=ROOT),
        State("collections-immutable", "/frozen/-/embed", actor=ROOT),
        State("models", "/-/embed/models"),
    ]


def _new_states() -> list[State]:
    new = "/empty/-/embed/new"
    return [
        State("new-choose", new, actor=ROOT),
        State("new-table", f"{new}?table=articles", actor=ROOT),
        State("new-filtered", f"{new}?table=articles&section=food", actor=ROOT),
        State(
            "new-sql", f"{new}?sql=select+id,+title,+body+from+articles+where+id+<+9", actor=ROOT
        ),
        State(
            "new-error",
            f"{new}?table=articles",
            actor=ROOT,
            act=submit("Check what it takes", Text_of_each_row="{{ nothing }}"),
        ),
        State("new-signed-out", f"{new}?table=articles", actor=ROOT, act=sign_out_and_submit),
        State("new-again", "/data/-/embed/new?table=articles", actor=ROOT),
        State("new-numbers", "/bare/-/embed/new?table=numbers", actor=ROOT),
        State("new-unknown-table", f"{new}?table=nothing", status=404, actor=ROOT),
        State("new-anonymous", f"{new}?table=articles", status=403),
        # The vectors go into another file.
        State("new-immutable", "/frozen/-/embed/new?table=articles", actor=ROOT),
    ]


def _job_states(site: BrowserSite) -> list[State]:
    names = ("running", "paused", "stopped", "failed", "cancelled")
    return [
        *(State(f"job-{name}", _job(site, name), actor=ROOT) for name in names),
        State("job-failures", _job(site, "articles"), actor=ROOT),
        State("job-finished", _job(site, "finished", "asc"), actor=ROOT),
        State("job-nothing-to-do", _job(site, "finished"), actor=ROOT),
        State("job-unknown", "/jobs/-/embed/jobs/999", status=404, actor=ROOT),
        State("job-anonymous", _job(site, "running"), status=403),
    ]


def _search_states() -> list[State]:
    articles = "/data/-/embed/c/articles"
    return [
        State("search-start", articles),
        State("search-results", f"{articles}?q=storms+worry+sailors", actor=ROOT),
        State("search-anonymous", f"{articles}?q=storms+worry+sailors"),
        State("search-filtered", f"{articles}?q=bread&section=food"),
        State("search-weak", f"{articles}?q=zebra+violins"),
        State("search-hostile", f"{articles}?q=script+alert+1+and+quotes+too"),
        State("search-model-fails", f"{articles}?q=unspeakable", status=502),
        State("search-too-long", f"{articles}?q={'word+' * 600}", status=413),
        State("search-no-sql", "/locked/-/embed/c/articles?q=storms"),
        State("search-closed-model", "/data/-/embed/c/by_shut?q=storms", status=403),
        State("search-closed-model-start", "/data/-/embed/c/by_shut"),
        State("search-gone", "/data/-/embed/c/gone?q=storms", actor=ROOT),
        State("search-pairs", "/data/-/embed/c/pairs?q=soup"),
        State("search-of-query", "/data/-/embed/c/of_query?q=soup"),
        State("search-running", "/jobs/-/embed/c/running?q=storms", actor=ROOT),
        State("search-nothing-embedded", "/jobs/-/embed/c/paused?q=storms"),
        State("search-immutable", "/frozen/-/embed/c/articles?q=storms", actor=ROOT),
        State("search-unknown", "/data/-/embed/c/nothing", status=404),
    ]


def _related_states() -> list[State]:
    articles = "/data/-/embed/c/articles/like"
    return [
        State("related", f"{articles}/1", actor=ROOT),
        State("related-anonymous", f"{articles}/1"),
        State("related-not-embedded", f"{articles}/9001", actor=ROOT),
        State("related-not-embedded-anonymous", f"{articles}/9001"),
        State("related-unknown", f"{articles}/123456", status=404),
        State("related-pairs", "/data/-/embed/c/pairs/like/x~2Fy,1"),
        State("related-gone", "/data/-/embed/c/gone/like/1", actor=ROOT),
        State("related-immutable", "/frozen/-/embed/c/articles/like/1", actor=ROOT),
    ]


def send_image(name: str, data: bytes) -> Callable[[Any], None]:
    """Return the act that searches by an image."""

    def act(page: Any) -> None:
        file = {"name": name, "mimeType": "image/png", "buffer": data}
        page.get_by_label("Or by an image").set_input_files([file])
        with page.expect_navigation():
            page.get_by_role("button", name="Search by image").click()
        wait_for_images(page)

    return act


def wait_for_images(page: Any) -> None:
    """Wait until every image that can be seen is there."""
    page.wait_for_function(
        "() => [...document.querySelectorAll('main img, .embed-images img')].every("
        "image => image.complete || image.getBoundingClientRect().top > innerHeight)"
    )


def _image_states() -> list[State]:
    photos = "/pictures/-/embed/c/photos"
    return [
        State("images-start", photos, act=wait_for_images),
        State("images-search", f"{photos}?q=something+red", actor=ROOT, act=wait_for_images),
        State("images-related", f"{photos}/like/1", act=wait_for_images),
        State("images-related-none", f"{photos}/like/25"),
        State("images-sent", photos, act=send_image("blue.png", png(*COLOURS["blue"]))),
        State("images-sent-none", photos, act=send_image("drawing.svg", SVG)),
        State("images-about", f"{photos}/about", actor=ROOT),
    ]


def _about_states() -> list[State]:
    return [
        State("about", "/data/-/embed/c/articles/about", actor=ROOT),
        State(
            "about-checked",
            "/data/-/embed/c/articles/about",
            actor=ROOT,
            act=submit("Check for changes"),
        ),
        State(
            "about-wrong-name",
            "/data/-/embed/c/articles/about",
            actor=ROOT,
            act=submit("Delete this collection", To_delete_it="another"),
        ),
        State("about-anonymous", "/data/-/embed/c/articles/about"),
        State("about-gone", "/data/-/embed/c/gone/about", actor=ROOT),
        State("about-running", "/jobs/-/embed/c/running/about", actor=ROOT),
        State("about-failed", "/jobs/-/embed/c/failed/about", actor=ROOT),
        State("about-of-query", "/data/-/embed/c/of_query/about", actor=ROOT),
        State("about-immutable", "/frozen/-/embed/c/articles/about", actor=ROOT),
    ]


def _datasette_states() -> list[State]:
    """Datasette's own pages, which lead to ours."""
    return [
        State("table-menu", "/data/articles", actor=ROOT, act=open_menu),
        State("table-anonymous", "/data/articles"),
        State("database-menu", "/data", actor=ROOT, act=open_menu),
        State("row", "/data/articles/1", actor=ROOT),
        State("row-anonymous", "/data/articles/1"),
        State("home", "/", actor=ROOT),
    ]


def main() -> None:
    """Write the files into the folder that is named."""
    folder = Path(sys.argv[1])
    pm.register(SiteModels(folder))
    write_files(folder)


if __name__ == "__main__":
    main()
