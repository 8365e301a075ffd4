"""The pages in a real browser: as people use them, in every state, without a fault.

Needs Chromium (Debian's package ``chromium``, or the path in ``CHROMIUM``). Elements are found
as people find them, by their role and their words.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser_site import (
    DESKTOP,
    PHONE,
    REPOSITORY,
    ROOT,
    BrowserSite,
    Visit,
    accessibility_faults,
    make_articles,
    running,
    sideways_overflow,
    small_targets,
    started_browser,
)
from tests.browser_states import State, list_states, states_site

pytestmark = pytest.mark.browser

BOTH_WIDTHS = pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
#: What is asked in these tests, and a row that only it is close to.
QUESTION, ANSWER = "storms that worry sailors", "Storms worry sailors (427)"
#: What a job says while it is at work: some of the rows, not all.
UNDERWAY = re.compile(r"\b([1-9]\d?|[1-4]\d\d) of 500 rows")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The machine's Chromium."""
    with started_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserSite]:
    """A server over files in every state; no test changes them."""
    folder = tmp_path_factory.mktemp("states")
    site = states_site(folder)
    command = [sys.executable, "-m", "tests.browser_states", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, env=site.environment(), check=True)
    with running(site):
        yield site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[BrowserSite]:
    """A server over ``data.db``, with a table of 500 rows and no collection."""
    folder = tmp_path / "site"
    folder.mkdir()
    make_articles(folder / "data.db")
    with running(BrowserSite(folder)) as site:
        yield site


@pytest.fixture
def visit(browser: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Visit]]:
    """Open a browser on a site; what went wrong in it fails the test at its end."""
    if "site" in request.fixturenames:
        # Up before the pages and down after them: one that still loads would find no server.
        request.getfixturevalue("site")
    visits: list[Visit] = []

    def begin(site: BrowserSite, **options: Any) -> Visit:
        visits.append(Visit(browser, site, **options))
        return visits[-1]

    yield begin
    for begun in visits:
        begun.close()


# -- what people do ------------------------------------------------------------------


def open_new_page(page: Any) -> None:
    """Go from the first page to the embed-collection page of the table, by clicks."""
    page.goto("/")
    page.get_by_role("link", name="data", exact=True).first.click()
    page.get_by_role("link", name="articles", exact=True).first.click()
    page.locator("details.actions-menu-links summary").click()
    page.get_by_role("link", name=re.compile("Embed")).or_(
        page.get_by_role("menuitem", name=re.compile("Embed"))
    ).first.click()
    page.wait_for_url("**/-/embed/new?**")


def start_button(page: Any) -> Any:
    """Return the button that names what it starts, once the page knows what it takes."""
    named = page.get_by_role("button", name=re.compile(r"^Embed \d+ rows?"))
    check = page.get_by_role("button", name="Check what it takes")
    named.or_(check).first.wait_for()
    if not named.count():
        check.click()
    named.first.wait_for()
    return named.first


def start_job(page: Any) -> str:
    """Make a collection of the table by clicks; return the address of its job."""
    open_new_page(page)
    start_button(page).click()
    page.wait_for_url("**/-/embed/jobs/*")
    return str(page.url)


def wait_for_progress(page: Any, percent: float) -> float:
    """Wait until the bar on the page of a job is beyond this; return where it is."""
    is_beyond = "percent => (document.querySelector('progress') || {value: 0}).value > percent"
    page.wait_for_function(is_beyond, arg=percent)
    return float(page.get_by_role("progressbar").get_attribute("value"))


def wait_until_done(page: Any) -> None:
    """Wait until the page of a job says so, without a hand at it."""
    page.get_by_role("heading", name=re.compile("finished|done", re.I)).first.wait_for()


def search_for(page: Any, text: str) -> None:
    """Type a question and press the button."""
    page.get_by_role("searchbox").fill(text)
    with page.expect_navigation():
        page.get_by_role("button", name="Search", exact=True).click()


def first_row(page: Any) -> str:
    """Return the text of the best row of a result."""
    row = page.locator("table.rows-and-columns tbody tr").first
    row.wait_for()
    return str(row.inner_text())


def press_tab_until(page: Any, role: str, name: str | re.Pattern[str]) -> None:
    """Move the focus forward with the keyboard until it is on this."""
    wanted = page.get_by_role(role, name=name)
    for _ in range(150):
        page.keyboard.press("Tab")
        for handle in wanted.element_handles():
            if handle.evaluate("element => element === document.activeElement"):
                return
    raise AssertionError(f"the keyboard does not reach the {role} {name}")


def jobs_of(site: BrowserSite) -> list[tuple[Any, ...]]:
    """Return the states of all jobs in the file, and how many rows are embedded."""
    return site.query("data", "select status from _embed_jobs order by id")


# -- from a table to a result --------------------------------------------------------


@BOTH_WIDTHS
def test_clicks_lead_from_500_rows_to_a_search_result(visit, site, viewport):
    """From the first page on, only with a mouse or a finger; the progress is seen."""
    site.tell_model(holds_after=100)
    page = visit(site, viewport=viewport).page
    start_job(page)
    percent = wait_for_progress(page, 0)
    assert percent < 50
    site.tell_model(holds_after=300)
    assert wait_for_progress(page, percent) < 100
    site.tell_model()
    wait_until_done(page)
    assert "500 of 500 rows" in page.inner_text("body")
    page.get_by_role("link", name=re.compile("Search")).first.click()
    search_for(page, QUESTION)
    assert ANSWER in first_row(page)
    assert sideways_overflow(page) == 0
    assert jobs_of(site) == [("finished",)]
    assert site.query("data", "select count(*) from embeddings") == [(500,)]


def test_keyboard_alone_leads_from_a_table_to_a_search_result(visit, site):
    """No mouse: Tab, Enter and typing."""
    page = visit(site).page
    page.goto("/data/articles")
    page.locator("details.actions-menu-links summary").focus()
    page.keyboard.press("Enter")
    link = page.locator("details.actions-menu-links a", has_text="Embed")
    for _ in range(10):
        if link.first.evaluate("element => element === document.activeElement"):
            break
        page.keyboard.press("Tab" if site.version.startswith("0.") else "ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/-/embed/new?**")
    button = start_button(page)
    press_tab_until(page, "button", button.get_attribute("value"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/-/embed/jobs/*")
    wait_until_done(page)
    press_tab_until(page, "link", re.compile("^Search"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/-/embed/c/*")
    press_tab_until(page, "searchbox", re.compile("Search"))
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_url("**q=**")
    assert ANSWER in first_row(page)


def test_without_javascript_the_same_is_possible(visit, site):
    """Forms and links alone; the page of the job loads itself again until it is done."""
    site.tell_model(seconds=0.02)
    page = visit(site, java_script_enabled=False).page
    page.goto("/data/-/embed/new?table=articles")
    start_button(page).click()
    page.wait_for_url("**/-/embed/jobs/*")
    wait_until_done(page)
    page.get_by_role("link", name=re.compile("^Search")).first.click()
    search_for(page, QUESTION)
    assert ANSWER in first_row(page)


# -- jobs ------------------------------------------------------------------------------


def test_server_killed_in_a_job_page_catches_up_by_itself(visit, site):
    """The page says that it has lost its session, or the server, asks again, and shows the end."""
    site.tell_model(holds_after=200)
    someone = visit(site)
    someone.expect_fault("403|ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET")
    page = someone.page
    address = start_job(page)
    page.get_by_text(UNDERWAY).first.wait_for()
    cookies = someone.context.cookies()
    someone.context.clear_cookies()
    page.get_by_text("the link that datasette --root prints").wait_for()
    someone.context.add_cookies(cookies)
    page.get_by_text("the link that datasette --root prints").wait_for(state="hidden")
    site.kill()
    page.get_by_text(re.compile("Reconnecting")).first.wait_for()
    site.tell_model()
    site.start()
    wait_until_done(page)
    assert page.get_by_text("has begun").count() == 0
    assert page.url == address
    page.get_by_text(re.compile("Reconnecting")).first.wait_for(state="hidden")
    assert jobs_of(site) == [("finished",)]
    assert site.query("data", "select count(*), count(distinct id) from embeddings") == [(500, 500)]


def test_job_is_paused_resumed_and_cancelled_by_clicks(visit, site):
    """Each button does what it says, and those that make no sense are absent."""
    site.tell_model(seconds=0.4)
    page = visit(site).page
    start_job(page)
    # What is said twice goes on in both places, and the number of rows is not said a third time.
    page.wait_for_function(
        "() => { const text = id => document.getElementById(id).textContent;"
        " const shown = text('embed-job-summary');"
        " return /^[1-9]/.test(shown) && shown === text('embed-job-progress-text'); }"
    )
    assert page.locator(".embed-summary").inner_text().startswith("Rows of articles")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("heading", name=re.compile("paused", re.I)).first.wait_for()
    assert page.get_by_role("button", name="Pause").count() == 0
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name=re.compile("Cancel")).click()
    page.get_by_role("heading", name=re.compile("cancel", re.I)).first.wait_for()
    assert jobs_of(site) == [("cancelled",)]
    for name in ("Pause", "Cancel"):
        assert page.get_by_role("button", name=re.compile(name)).count() == 0
    ((kept,),) = site.query("data", "select count(*) from embeddings")
    assert 0 < kept < 500


def test_double_click_makes_one_job(visit, site):
    """Two clicks at once lead to the one job."""
    site.tell_model(seconds=0.02)
    page = visit(site).page
    open_new_page(page)
    start_button(page).dblclick()
    page.wait_for_url("**/-/embed/jobs/1")
    wait_until_done(page)
    assert jobs_of(site) == [("finished",)]
    assert site.query("data", "select name from collections") == [("articles",)]


def test_back_button_shows_what_was_there_and_makes_nothing_twice(visit, site):
    """Back from the job to the form, forward again, and from one result to the other."""
    site.tell_model(seconds=0.02)
    page = visit(site).page
    address = start_job(page)
    wait_until_done(page)
    page.go_back()
    page.wait_for_url("**/-/embed/new**")
    page.go_forward()
    page.wait_for_url(address)
    assert jobs_of(site) == [("finished",)]
    page.goto("/data/-/embed/c/articles")
    search_for(page, "bread")
    search_for(page, QUESTION)
    page.go_back()
    page.wait_for_url("**q=bread**")
    assert "Bread" in first_row(page)


def test_session_that_ends_in_the_form_keeps_what_was_typed(visit, site):
    """Signed out in between: the form is there again with its words, and nothing is made."""
    someone = visit(site)
    page = someone.page
    open_new_page(page)
    button = start_button(page)
    page.get_by_label(re.compile("name", re.I)).last.fill("my own name")
    someone.context.clear_cookies(name="ds_actor")
    button.click()
    page.wait_for_load_state()
    assert "my own name" in [
        field.input_value() for field in page.locator("input[type=text]").all()
    ]
    assert site.query("data", "select name from sqlite_master where name = 'collections'") == []


def test_form_that_loses_its_session_or_its_server_says_so_and_goes_on(visit, site):
    """What is shown of what was typed before looks old until the server has answered again."""
    someone = visit(site)
    someone.expect_fault("403|ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET")
    page = someone.page
    page.goto("/data/-/embed/new?table=articles")
    start_button(page)
    template, preview = page.locator("#template"), page.locator("#embed-preview")
    cookies = someone.context.cookies()

    def sign_in() -> None:
        someone.context.add_cookies(cookies)

    for text, lose, find, words in (
        ("First: {{ title }}", someone.context.clear_cookies, sign_in, "Sign in again"),
        ("Second: {{ title }}", site.kill, site.start, "Reconnecting…"),
    ):
        lose()
        template.fill(text)
        page.get_by_text(words).wait_for()
        stale = page.locator("form.is-stale")
        assert stale.count() == 1
        assert text[:6] not in preview.inner_text()
        find()
        preview.get_by_text(text[:6]).first.wait_for()
        page.get_by_text(words).wait_for(state="hidden")
        assert stale.count() == 0


# -- other tabs, other programs ---------------------------------------------------------


@pytest.fixture
def searchable(visit, site):
    """A person on the search page of a collection of the table."""
    someone = visit(site)
    start_job(someone.page)
    wait_until_done(someone.page)
    someone.page.goto("/data/-/embed/c/articles")
    return someone


def test_collection_deleted_in_another_tab_is_said_to_be_gone(searchable, site):
    """Delete asks for the name; the other tab then answers in words, not with a fault."""
    page, other = searchable.page, searchable.new_tab()
    other.goto("/data/-/embed/c/articles/about")
    other.get_by_role("textbox", name=re.compile("delete|type", re.I)).fill("articles")
    other.get_by_role("button", name=re.compile("Delete")).click()
    other.wait_for_url("**/-/embed")
    assert site.query("data", "select count(*) from embeddings") == [(0,)]
    search_for(page, QUESTION)
    page.get_by_role("heading", name="Error 404").wait_for()
    assert "articles" in page.inner_text("body")


def test_collection_of_a_table_that_is_gone_is_still_searched(searchable, site):
    """The rows are found in what is stored of them, and the page says what is missing."""
    page = searchable.page
    site.execute("data", "drop table articles")
    search_for(page, QUESTION)
    assert "no longer exists" in page.inner_text("body")
    assert page.locator("table.rows-and-columns tbody tr").count() > 0


def test_link_to_sql_shows_the_rows_of_the_page(searchable):
    """A click on the pencil, and Datasette's own page has the same ids in the same order."""
    page = searchable.page
    search_for(page, QUESTION)
    titles = re.findall(r"\w+ \w+ \w+ \(\d+\)", page.inner_text("table.rows-and-columns"))
    assert len(titles) >= 10
    page.get_by_role("link", name=re.compile("View and edit SQL")).click()
    page.get_by_role("button", name="Run SQL").wait_for()
    table = page.inner_text("table.rows-and-columns")
    assert re.findall(r"\w+ \w+ \w+ \(\d+\)", table) == titles


def test_row_leads_to_rows_like_it_and_on_to_others(searchable):
    """``More like this`` in a result, twice; then the row's own page of Datasette."""
    page = searchable.page
    search_for(page, QUESTION)
    for _ in range(2):
        before = page.url
        page.get_by_role("link", name=re.compile("more like this", re.I)).first.click()
        page.wait_for_url(lambda url, before=before: url != before and "/like/" in url)
    page.goto("/data/articles/1")
    page.get_by_text(re.compile("Rows like this one")).locator("visible=true").first.wait_for()


# -- every state -----------------------------------------------------------------------


def faults_in_state(visit: Visit, state: State) -> list[str]:
    """Go to a state and return what is wrong with it."""
    visit.page.goto("about:blank")  # so that no page of the state before asks on
    visit.sign_in(state.actor)
    visit.faults.clear()
    response = visit.page.goto(state.path)
    status = response.status
    if state.act is not None:
        state.act(visit.page)
    visit.page.wait_for_load_state()
    found = [] if status == state.status else [f"answers {status}, not {state.status}"]
    overflow = sideways_overflow(visit.page)
    found += [f"is {overflow} px too wide"] if overflow else []
    found += accessibility_faults(visit.page, visit.site.version) + small_targets(visit.page)
    # That a model fails is what one of the states shows.
    found += [fault for fault in visit.faults if state.status < 500 or "status" not in fault]
    visit.faults.clear()
    return [f"{state.name}: {fault}" for fault in found]


@BOTH_WIDTHS
def test_every_page_in_every_state_has_no_fault(visit, states, viewport):
    """The right status, nothing in the console, no wider than the window, clean for axe."""
    someone = visit(states, viewport=viewport)
    found = [f for state in list_states(states) for f in faults_in_state(someone, state)]
    assert found == []


def test_faults_of_a_page_are_seen(browser, states):
    """The checks above can fail: each kind of fault is found when it is put in."""
    visit = Visit(browser, states)
    page = visit.page
    page.goto("/data/-/embed/c/articles")
    assert accessibility_faults(page, states.version) == []
    page.evaluate(
        """() => {
          document.body.insertAdjacentHTML('beforeend',
            '<img src="http://192.0.2.1/x.png"><p style="width: 3000px">wide</p>');
          console.error('a word of the console');
          setTimeout(() => { throw new Error('a word of a script'); });
          return fetch('/data/-/embed/c/nothing.json');
        }"""
    )
    deadline = time.monotonic() + 10
    while len(visit.faults) < 4 and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    faults = "\n".join(visit.faults)
    for part in ("192.0.2.1", "a word of the console", "a word of a script", "status 404"):
        assert part in faults
    assert sideways_overflow(page) > 1000
    assert [f for f in accessibility_faults(page, states.version) if f.startswith("image-alt")]
    visit.context.close()


def test_targets_too_small_for_a_finger_are_seen(visit, states):
    """On a phone only, and only where they are on a page of ours."""
    page = visit(states, viewport=PHONE).page
    page.goto("/data/-/embed/c/articles")
    assert small_targets(page) == []
    page.add_style_tag(content="input[type=submit] { all: unset !important; }")
    assert [found for found in small_targets(page) if "Search" in found]


@BOTH_WIDTHS
def test_visitors_find_no_control_that_changes_anything(visit, states, viewport):
    """Anonymous, or on a file that cannot be written: what may not be done is absent."""
    someone = visit(states, viewport=viewport)
    for actor, base in [(None, "/data/-/embed"), (ROOT, "/frozen/-/embed")]:
        someone.sign_in(actor)
        for path in (
            "",
            "/c/articles",
            "/c/articles?q=storms",
            "/c/articles/about",
            "/c/articles/like/1",
        ):
            someone.page.goto(base + path)
            assert someone.page.locator("section.content form[method=post]").count() == 0, path
            assert someone.page.locator("section.content a[href*='/new']").count() == 0, path
