"""A real browser on a real server: what a person sees and does.

Needs Chromium (Debian's package ``chromium``, or the path in ``CHROMIUM``).
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser_site import DESKTOP, PHONE, started_browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run ``datasette embed demo`` as a person would, and yield the address it prints."""
    folder = tmp_path_factory.mktemp("demo")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "datasette", "embed", "demo", "--port", str(port)],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 300
        while "Uvicorn running" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        found = re.search(r"Search it at (\S+)", log.read_text())
        assert found is not None
        yield found.group(1)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The machine's Chromium."""
    with started_browser() as browser:
        yield browser


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page that fails the test on an error in its console or a request elsewhere."""
    context = browser.new_context(viewport=request.param)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda r: None if r.url.startswith("http://127.0.0.1:") else faults.append(r.url),
    )
    yield page
    context.close()
    # A wrong query is answered with status 400, which the browser's console mentions.
    assert [fault for fault in faults if "status of 400" not in fault] == []


def found(page: Any, column: str) -> list[str]:
    """Return the texts of one column of the rows on a search page."""
    cells = page.locator(f"td[data-column={column}]")
    cells.first.wait_for()
    return [text.strip() for text in cells.all_inner_texts()]


def cells(page: Any, column: str) -> list[str]:
    """Return the texts of one column of the result of a query."""
    return [text.strip() for text in page.locator(f"td.col-{column}").all_inner_texts()]


def test_demo_page_answers_the_question_in_its_address(page: Any, demo_url: str) -> None:
    """The printed address shows functions that remove folders, the best first."""
    page.goto(demo_url)
    ids = found(page, "id")
    assert len(ids) == 10
    assert {"os.removedirs", "pathlib.Path.rmdir", "shutil.rmtree"} & set(ids[:5])
    scores = [float(score) for score in found(page, "score")]
    assert scores == sorted(scores, reverse=True)


def test_demo_page_answers_a_question_that_is_typed(page: Any, demo_url: str) -> None:
    """A person types other words into the form, presses Enter and gets other rows."""
    page.goto(demo_url)
    field = page.get_by_role("searchbox")
    field.fill("pick something at random")
    field.press("Enter")
    page.wait_for_url("**q=pick+something+at+random**")
    assert any(name.startswith("random.") for name in found(page, "id")[:5])


def test_sql_page_shows_what_is_wrong_in_words(page: Any, demo_url: str) -> None:
    """An unknown model is named on the page, with the models there are."""
    origin, database = re.match(r"(http://[^/]+)(/\w+)/", demo_url).groups()  # type: ignore[union-attr]
    sql = "select+llm_embed('nope',+'hello')"
    response = page.goto(f"{origin}{database}?sql={sql}")
    assert "Unknown model: nope" in page.inner_text("body")
    assert "minilm" in page.inner_text("body")
    assert response is not None


def test_models_page_fits_its_width_and_its_link_works(page: Any, demo_url: str) -> None:
    """The page of models needs no sideways scrolling, and its link runs SQL."""
    origin = re.match(r"(http://[^/]+)/", demo_url).group(1)  # type: ignore[union-attr]
    page.goto(f"{origin}/-/embed/models")
    assert "all-MiniLM-L6-v2" in page.inner_text("table")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0
    empty = page.locator("td:visible").filter(has_not_text=re.compile(r"\S")).count()
    is_phone = page.viewport_size == PHONE
    assert (empty == 0) is is_phone  # there a label would stand before nothing
    page.get_by_text("try it in SQL").first.click()
    page.locator("td.col-similarity").wait_for()
    assert 0.3 < float(cells(page, "similarity")[0]) < 1
