"""Images in a real browser: thumbnails that load, a search by an image by clicks.

Needs Chromium, as ``test_browser_pages``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import datasette_embed
from tests.browser_site import (
    DESKTOP,
    PHONE,
    ROOT,
    BrowserSite,
    Visit,
    accessibility_faults,
    running,
    sideways_overflow,
    small_targets,
    started_browser,
)
from tests.colours import COLOURS, ColourModel, make_pictures
from tests.conftest import ModelsPlugin
from tests.images import SVG, png

pytestmark = pytest.mark.browser

BOTH_WIDTHS = pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
PAGE = "/data/-/embed/c/photos"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The machine's Chromium."""
    with started_browser() as browser:
        yield browser


@pytest.fixture
def site(tmp_path: Path, add_plugin: Any) -> Iterator[BrowserSite]:
    """A server over a file with 24 pictures that are embedded."""
    folder = tmp_path / "site"
    folder.mkdir()
    add_plugin(ModelsPlugin((ColourModel(), ())))
    path = make_pictures(folder / "data.db")
    datasette_embed.create(path, "photos", image="photo", model_id="colours")
    with running(BrowserSite(folder)) as site:
        yield site


@pytest.fixture
def visit(browser: Any, site: BrowserSite) -> Iterator[Any]:
    """Open a browser on the site; what went wrong in it fails the test at its end."""
    visits: list[Visit] = []

    def begin(**options: Any) -> Visit:
        visits.append(Visit(browser, site, **options))
        return visits[-1]

    yield begin
    for begun in visits:
        begun.close()


def loaded_images(page: Any) -> list[str]:
    """Scroll through the page, and return the labels of its images; each must be loaded."""
    images = page.locator(".embed-images img, .embed-image-alone img")
    labels = []
    for image in images.all():
        image.scroll_into_view_if_needed()
        page.wait_for_function(
            "image => image.complete && image.naturalWidth > 0", arg=image.element_handle()
        )
        labels.append(image.get_attribute("alt"))
    return labels


def assert_sound(page: Any, site: BrowserSite) -> None:
    """Check what holds for every page."""
    assert sideways_overflow(page) == 0
    assert accessibility_faults(page, site.version) == []


@BOTH_WIDTHS
@pytest.mark.parametrize("actor", [None, ROOT], ids=["visitor", "root"])
def test_images_are_found_by_words_and_by_one_another(visit, site, viewport, actor):
    """The four red pictures come first, each is really shown, and leads on to its like."""
    page = visit(viewport=viewport, actor=actor).page
    page.goto(PAGE)
    page.get_by_label("Search by meaning").fill("something red")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("heading", name="10 closest rows").wait_for()
    labels = loaded_images(page)
    assert len(labels) == 10
    assert [label.split(",")[0] for label in labels[:4]] == ["Red"] * 4
    assert re.fullmatch(r"\d+\.\d%", page.locator(".embed-image-score").first.inner_text())
    assert_sound(page, site)
    boxes = [cell.bounding_box() for cell in page.locator("a.embed-image").all()]
    assert all(abs(box["width"] - box["height"]) <= 2 for box in boxes), boxes
    in_a_line = sum(abs(box["y"] - boxes[0]["y"]) < 2 for box in boxes)
    assert in_a_line == 2 if viewport == PHONE else in_a_line >= 4
    page.get_by_role("link", name=re.compile("more like this ?: Red")).first.click()
    page.get_by_role("heading", name=re.compile("closest rows")).wait_for()
    labels = loaded_images(page)
    assert [label.split(",")[0] for label in labels[:4]] == ["Red"] * 4
    assert_sound(page, site)
    assert viewport == DESKTOP or small_targets(page) == []
    page.locator("a.embed-image").first.click()
    page.wait_for_url("**/data/photos/*")


@BOTH_WIDTHS
@pytest.mark.parametrize("actor", [None, ROOT], ids=["visitor", "root"])
def test_search_by_an_image_by_clicks(visit, site, viewport, actor, tmp_path):
    """Choose a file, press the button; what is no image is refused beside the field."""
    (tmp_path / "sky.png").write_bytes(png(*COLOURS["blue"], width=100))
    (tmp_path / "drawing.svg").write_bytes(SVG)
    page = visit(viewport=viewport, actor=actor).page
    page.goto(PAGE)
    page.get_by_label("Or by an image").set_input_files(str(tmp_path / "sky.png"))
    page.get_by_role("button", name="Search by image").click()
    page.get_by_role("heading", name="10 closest rows to sky.png").wait_for()
    labels = loaded_images(page)
    assert [label.split(",")[0] for label in labels[:4]] == ["Blue"] * 4
    assert page.locator(".embed-image-score").first.inner_text() == "100.0%"
    assert_sound(page, site)
    assert viewport == DESKTOP or small_targets(page) == []
    page.get_by_label("Or by an image").set_input_files(str(tmp_path / "drawing.svg"))
    page.get_by_role("button", name="Search by image").click()
    page.get_by_role("alert").wait_for()
    assert "no image by its first bytes" in page.get_by_role("alert").inner_text()
    assert_sound(page, site)


def test_search_by_an_image_links_its_sql(visit, site, tmp_path):
    """The query runs on Datasette's own page, vector and all."""
    (tmp_path / "sky.png").write_bytes(png(*COLOURS["blue"]))
    page = visit().page
    page.goto(PAGE)
    page.get_by_label("Or by an image").set_input_files(str(tmp_path / "sky.png"))
    page.get_by_role("button", name="Search by image").click()
    page.get_by_role("link", name="View and edit SQL").click()
    page.locator("table.rows-and-columns").wait_for()
    assert "Blue, 640 by 480" in page.locator("table.rows-and-columns").inner_text()


def test_images_without_scripts(browser, site, tmp_path):
    """All of it works where a browser runs none."""
    (tmp_path / "sky.png").write_bytes(png(*COLOURS["blue"]))
    someone = Visit(browser, site, actor=None, java_script_enabled=False)
    page = someone.page
    page.goto(PAGE)
    page.get_by_label("Or by an image").set_input_files(str(tmp_path / "sky.png"))
    page.get_by_role("button", name="Search by image").click()
    page.get_by_role("heading", name="10 closest rows to sky.png").wait_for()
    someone.close()


@BOTH_WIDTHS
def test_collection_of_images_is_made_by_clicks(visit, site, viewport):
    """Choose the column and a model that reads images; the preview says what there is."""
    page = visit(viewport=viewport).page
    page.goto("/data/-/embed/new?table=photos")
    page.get_by_label("Or embed the images in a column").select_option("photo")
    page.get_by_label("Model", exact=True).select_option("words")
    page.get_by_role("button", name="Check what it takes").first.click()
    page.get_by_text("The model words reads texts only").first.wait_for()
    assert_sound(page, site)
    page.get_by_label("Model", exact=True).select_option("colours")
    page.get_by_role("button", name="Check what it takes").first.click()
    page.get_by_text(re.compile(r"An image of [\d.]+ kB")).first.wait_for()
    assert_sound(page, site)
    page.get_by_role("button", name=re.compile(r"^Embed \d+ rows?")).first.click()
    page.wait_for_url("**/-/embed/jobs/*")
    page.get_by_text(re.compile("no image by its first bytes")).wait_for()
    page.goto("/data/-/embed/c/photos-2?n=25")
    assert len(loaded_images(page)) == 24
