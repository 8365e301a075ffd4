"""Every link of our pages followed: what is there, what is offered, and that nothing is written."""

from __future__ import annotations

import pytest
from datasette.app import Datasette
from datasette.database import Database

from tests.api_site import AWKWARD, EDITOR, ROOT
from tests.crawler import Crawl
from tests.storage import execute

IS_ONE = hasattr(Datasette, "allowed")
pytestmark = [
    pytest.mark.asyncio,
    # Datasette has sqlite3 print what a function raises.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HERE = "/data/-/embed"
STARTS = (
    "/",
    "/data",
    "/data/posts",
    "/data/posts/1",
    "/-/embed",
    "/-/embed/models",
    HERE,
    f"{HERE}/c/posts?q=a+dog",
    f"{HERE}/c/posts/about",
    f"{HERE}/c/pairs",
)
FOR_MAKERS = (f"{HERE}/new", f"{HERE}/new?table=posts", f"{HERE}/jobs/1", f"{HERE}/jobs/2")


async def prepare(make_api_site):
    """Make collections of a plain table, one with awkward names and one with a compound key."""
    site = make_api_site()
    for table in ("posts", AWKWARD, "pairs", "secrets"):
        await site.make(table)
    execute(site.path, "insert into _embed_failures values (1, '2', null, 'too long', 1)")
    site.stop()
    return site.path


async def crawl(site, actor, prefix=""):
    """Follow every link as an actor."""
    await site.datasette.invoke_startup()
    more = FOR_MAKERS if actor in (ROOT, EDITOR) else ()
    return await Crawl(site.datasette.client, actor, prefix).walk(*STARTS, *more)


def files_of(site, folder):
    """Return every file there is, with what is in it."""
    files = [*site.path.parent.glob("data.db*"), *folder.rglob("*")]
    return {path: path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("actor", [None, ROOT], ids=str)
async def test_reading_every_page_writes_nothing(
    make_api_site, user_directory, monkeypatch, actor, counting_model
):
    """Not a byte of the file or of the user's folder, and no connection that could."""
    await prepare(make_api_site)
    site = make_api_site(config={"resume_jobs": False})
    await crawl(site, actor)  # what Datasette itself notes of a file, once
    before = files_of(site, user_directory)
    written = []
    monkeypatch.setattr(Database, "execute_write_fn", refusing(written))
    calls = len(counting_model.calls)
    found = await crawl(site, actor)
    assert written == []
    assert files_of(site, user_directory) == before
    assert len(found.ours()) >= 8
    # Words that are searched for are embedded; rows are not.
    assert not any(len(call) > 1 for call in counting_model.calls[calls:])


def refusing(written, original=Database.execute_write_fn):
    """Return a method that notes who would write to a file that is not Datasette's own."""

    async def execute_write_fn(self, *arguments, **options):
        if self.name == "data":
            written.append(arguments)
        return await original(self, *arguments, **options)

    return execute_write_fn


@pytest.mark.parametrize("actor", [None, EDITOR, ROOT], ids=str)
async def test_no_link_leads_nowhere(make_api_site, actor):
    """Nor where one is refused, nor to another server; and every page can be found by links."""
    await prepare(make_api_site)
    site = make_api_site(config={"resume_jobs": False})
    found = await crawl(site, actor)
    assert found.dead() == []
    assert found.leaving() == set()
    ours = {path.partition("?")[0] for path in found.linked}
    assert {HERE, f"{HERE}/c/posts", f"{HERE}/c/posts/about", f"{HERE}/c/posts/like/1"} <= ours
    makes = {f"{HERE}/new", f"{HERE}/jobs/1"}
    assert makes <= ours if actor else not makes & ours
    # What each page is called differs, and no name is lost on the way.
    assert any("like/x~2Fy,1~2C2" in path for path in ours), ours


@pytest.mark.parametrize("actor", [None, ROOT], ids=str)
async def test_immutable_file_is_read_and_offers_no_writing(make_api_site, user_directory, actor):
    """Search, related rows and about work; no form that would change it; its bytes stay."""
    await prepare(make_api_site)
    site = make_api_site(is_immutable=True)
    before = files_of(site, user_directory)
    found = await crawl_immutable(site, actor)
    assert files_of(site, user_directory) == before
    assert found.dead() == []
    assert [form for form in changing(found) if "/-/embed" in form.action] == []
    ours = {visit.path.partition("?")[0] for visit in found.ours()}
    assert {f"{HERE}/c/posts", f"{HERE}/c/posts/about", f"{HERE}/c/posts/like/1"} <= ours
    assert not [path for path in ours if path.startswith(f"{HERE}/new")]
    search = found.visits[f"{HERE}/c/posts?q=a+dog"]
    assert "a dog chases a ball" in search.response.text


def changing(found):
    """Return the forms but those that search by an image, which change nothing."""
    return [form for form in found.forms if "image" not in form.fields]


async def crawl_immutable(site, actor):
    await site.datasette.invoke_startup()
    return await Crawl(site.datasette.client, actor).walk(*STARTS)


@pytest.mark.parametrize("actor", [None, ROOT], ids=str)
async def test_every_address_has_the_prefix_of_the_site(make_api_site, actor):
    """With ``base_url``, behind a proxy that serves Datasette below a folder."""
    await prepare(make_api_site)
    site = make_api_site(settings={"base_url": "/below/"}, config={"resume_jobs": False})
    found = await crawl(site, actor, "/below")
    assert found.dead() == []
    assert len(found.ours()) >= 8
    forms = [form for form in found.forms if "/-/embed" in form.action]
    assert bool([form for form in changing(found) if form in forms]) == (actor is ROOT)
    assert [form for form in forms if not form.action.startswith("/below/data/-/embed/")] == []


async def test_every_twin_of_a_page_is_there(make_api_site):
    """The page says in its head where the same is as JSON, and what is refused is refused twice."""
    await prepare(make_api_site)
    site = make_api_site(config={"resume_jobs": False})
    found = await crawl(site, ROOT)
    twins = {}
    for visit in found.ours():
        link = visit.soup.find("link", rel="alternate", type="application/json+datasette")
        if link is not None:
            twins[visit.path.partition("?")[0]] = link["href"]
    for page in (
        "/-/embed",
        HERE,
        f"{HERE}/new",
        f"{HERE}/jobs/1",
        f"{HERE}/c/posts",
        f"{HERE}/c/posts/about",
        f"{HERE}/c/posts/like/1",
    ):
        assert page in twins
    for page, twin in twins.items():
        response = await found.ask(twin)
        assert response.status_code == 200, (page, twin, response.text)
        assert response.json()["ok"] is True
        for actor in (None, {"id": "plain"}):
            visitor = Crawl(site.datasette.client, actor)
            statuses = [(await visitor.ask(path)).status_code for path in (page, twin)]
            assert statuses[0] == statuses[1], (page, twin, statuses)
