"""Images in the pages: thumbnails, who may see them, what is never served, search by an image."""

from __future__ import annotations

import base64
import io
from contextlib import closing
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio
from bs4 import BeautifulSoup
from datasette.utils import tilde_encode

import datasette_embed
from datasette_embed import compat
from datasette_embed.database import sqlite3
from datasette_embed.image_types import find_image_type
from datasette_embed.models import Kind
from datasette_embed.web import images, thumbnails
from datasette_embed.web.http import RequestError
from datasette_embed.web.multipart import parse_parts
from tests.api_site import ANONYMOUS, EDITOR, PLAIN, ROOT, error_of, hidden_message, make_file
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel, vector_of
from tests.images import GIF, HTML, JPEG, SVG, png
from tests.new_form import plan_of
from tests.storage import execute
from tests.test_pages_search import rows_of_link, soup_of
from tests.test_web_search_api import cosine

try:  # Datasette 1.0 has the one, 0.65 the other
    import httpx2 as httpx
except ImportError:
    import httpx

pytestmark = pytest.mark.asyncio

COLLECTION = "/data/-/embed/c/photos"
PHOTOS = {n: png(20 * n, 0, 255 - 20 * n, 600, 400) for n in range(1, 6)}
#: Ids of a table whose key is text.
IDS = ["a/b", "é ü", "x.json", "50%", "~", "a,b", '<b>"', "1", "01"]


def make_photos(path):
    """Add tables of images to a file: a public one, a private one, others with other keys."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("create table photos (id integer primary key, title text, photo blob)")
        conn.execute("create table faces (id integer primary key, photo blob)")
        conn.execute("create table named (id text primary key, photo blob)")
        conn.execute("create table pairs_of (a text, b integer, photo blob, primary key (a, b))")
        conn.executemany(
            "insert into photos values (?, ?, ?)",
            [(n, f"photo <{n}>", image) for n, image in PHOTOS.items()],
        )
        conn.executemany(
            "insert into photos values (?, 'bad', ?)", [(6, SVG), (7, HTML), (8, None)]
        )
        conn.execute("insert into faces values (1, ?)", (PHOTOS[1],))
        conn.executemany(
            "insert into named values (?, ?)", [(each, png(n)) for n, each in enumerate(IDS)]
        )
        conn.executemany(
            "insert into pairs_of values (?, ?, ?)", [("x/y", 1, GIF), ("z,", 2, JPEG)]
        )
    return path


def site_config():
    """What the site says of its tables: ``faces`` is for the editor."""
    allow = {"allow": {"id": ["editor", "root"]}}
    return {"databases": {"data": {"tables": {"secrets": allow, "faces": allow}}}}


@pytest_asyncio.fixture
async def site(make_api_site, tmp_path):
    """A site with collections of images, made as the command line makes them."""
    path = make_photos(make_file(tmp_path / "data.db"))
    site = make_api_site(**site_config())
    for table in ("photos", "faces", "named", "pairs_of"):
        datasette_embed.create(path, table, image="photo", model_id="count")
    return site


@pytest.fixture
def no_pillow(monkeypatch):
    """A machine without Pillow."""
    monkeypatch.setattr(thumbnails, "has_pillow", lambda: False)


async def send(site, files, actor=ANONYMOUS, path=COLLECTION, **options):
    """Send a form with files, as httpx writes it."""
    headers = {"x-actor": __import__("json").dumps(actor)} if actor else {}
    headers |= options.pop("headers", {})
    return await site.datasette.client.post(path, files=files, headers=headers, **options)


# -- the images themselves -----------------------------------------------------------


async def test_image_is_served_as_its_type_and_nothing_else(site, no_pillow):
    """The very bytes, under headers that keep a browser from taking them for something else."""
    response = await site.get(f"{COLLECTION}/image/2")
    assert response.status_code == 200
    assert response.content == PHOTOS[2]
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert response.headers["cache-control"] == "no-cache"
    tag = response.headers["etag"]
    again = await site.get(f"{COLLECTION}/image/2", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    other = await site.get(f"{COLLECTION}/image/3", headers={"if-none-match": tag})
    assert other.content == PHOTOS[3]
    signed_in = await site.get(f"{COLLECTION}/image/2", ROOT, headers={"cookie": "a=b"})
    assert signed_in.headers["cache-control"] == "private, no-store"


async def test_image_with_pillow_is_a_small_copy(site):
    """No side longer than 320 pixels, the colour of the original, and nothing else of it."""
    image_module = pytest.importorskip("PIL.Image")
    response = await site.get(f"{COLLECTION}/image/2")
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/jpeg"
    with image_module.open(io.BytesIO(response.content)) as image:
        assert image.size == (320, 213)
        red, green, blue = image.getpixel((160, 100))
    assert abs(red - 40) < 8 and green < 8 and abs(blue - 215) < 8
    assert (await site.get(f"{COLLECTION}/image/2")).content == response.content


@pytest.mark.parametrize("number", [6, 7, 8, 99])
async def test_image_that_is_none_is_404(site, number):
    """SVG, HTML and NULL are in the table, but no entries; 99 is nowhere."""
    error = error_of(await site.get(f"{COLLECTION}/image/{number}"), 404)
    assert "has no entry with the id" in error


@pytest.mark.parametrize(
    "content", [SVG, HTML, b"<svg", b"GIF8", b"%PDF-1.4", b"\0" * 40, "text", 5, None]
)
async def test_image_changed_to_something_else_is_404(site, content):
    """Whatever stands in the row since it was embedded; the page goes on without it."""
    with closing(sqlite3.connect(site.path)) as conn, conn:
        conn.execute("update photos set photo = ? where id = 2", (content,))
    response = await site.get(f"{COLLECTION}/image/2")
    assert error_of(response, 404) == "Entry '2' has no image that can be shown"
    soup = await soup_of(site, f"{COLLECTION}?n=10")
    assert f"{COLLECTION}/image/2" not in [img["src"] for img in soup.select("img")]
    assert "photo <2>: no image to show" in soup.get_text()


async def test_page_with_the_header_of_a_png_is_served_as_png_or_not_at_all(site, no_pillow):
    """What a browser may do with it is nothing."""
    with closing(sqlite3.connect(site.path)) as conn, conn:
        conn.execute("update photos set photo = ? where id = 2", (PHOTOS[2][:8] + HTML,))
    response = await site.get(f"{COLLECTION}/image/2")
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]


async def test_damaged_image_and_bomb_are_404_with_pillow(site):
    """What cannot be decoded, and what would fill the memory; the next one is served."""
    pytest.importorskip("PIL")
    bomb = png(1, 1, 1, 20_000, 20_000)
    assert len(bomb) < 2_000_000
    for content in (PHOTOS[2][:8] + HTML, PHOTOS[2][:60], bomb, JPEG):
        with closing(sqlite3.connect(site.path)) as conn, conn:
            conn.execute("update photos set photo = ? where id = 2", (content,))
        assert "no image that can be shown" in error_of(
            await site.get(f"{COLLECTION}/image/2"), 404
        )
    assert (await site.get(f"{COLLECTION}/image/3")).status_code == 200


async def test_large_image_is_not_shown(site, monkeypatch, no_pillow):
    """Neither one too large to be read, nor without Pillow one too large to be sent."""
    for module, name in ((thumbnails, "MOST_ORIGINAL_BYTES"), (images, "_MOST_BYTES")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, len(PHOTOS[2]) - 1)
            error_of(await site.get(f"{COLLECTION}/image/2"), 404)
            soup = await soup_of(site, COLLECTION)
            assert not soup.select(f"img[src='{COLLECTION}/image/2']")
    assert (await site.get(f"{COLLECTION}/image/2")).status_code == 200


@pytest.mark.parametrize("entry_id", IDS)
async def test_image_of_awkward_ids(site, no_pillow, entry_id):
    """Each is its own row's, as the page links it and as a browser writes it."""
    path = f"/data/-/embed/c/named/image/{tilde_encode(entry_id)}"
    expected = png(IDS.index(entry_id))
    assert (await site.get(path)).content == expected
    soup = await soup_of(site, "/data/-/embed/c/named?n=20")
    assert path in [img["src"] for img in soup.select("img")]
    assert entry_id in [img["alt"] for img in soup.select("img")]
    if "%" not in entry_id and "~" not in entry_id:
        quoted = f"/data/-/embed/c/named/image/{quote(entry_id, safe='')}"
        assert (await site.get(quoted)).content == expected


async def test_image_of_compound_key(site, no_pillow):
    """Written as in the address of its row."""
    soup = await soup_of(site, "/data/-/embed/c/pairs_of")
    found = {img["src"]: (await site.get(img["src"])).content for img in soup.select("img")}
    start = "/data/-/embed/c/pairs_of/image"
    assert found == {f"{start}/x~2Fy,1": GIF, f"{start}/z~2C,2": JPEG}


@pytest.mark.parametrize(
    ("actor", "status"), [(ANONYMOUS, 403), (PLAIN, 403), (EDITOR, 200), (ROOT, 200)]
)
async def test_image_of_a_private_table_follows_it(site, actor, status):
    """The image, the page and the search by an image; of no row more than of another."""
    path = "/data/-/embed/c/faces"
    response = await site.get(f"{path}/image/1", actor)
    assert response.status_code == status
    assert (find_image_type(response.content) is not None) == (status == 200)
    if status == 403:
        assert hidden_message("faces") in response.text
    assert (await site.get(f"{path}/image/9", actor)).status_code == (404 if status == 200 else 403)
    assert (await site.get(path, actor)).status_code == status
    sent = await send(site, {"image": ("a.png", PHOTOS[1])}, actor, path)
    assert sent.status_code == status


async def test_image_is_never_of_another_table(site):
    """A file that says its collection is of a table it may not show, or of the vectors, gets
    nothing served."""
    execute(
        site.path,
        "insert into faces values (2, x'47494638396101')",
        'update _embed_collections set source = \'{"table": "faces", "image": "photo"}\''
        " where name = 'photos'",
    )
    assert (await site.get(f"{COLLECTION}/image/1")).status_code == 403
    for source in (
        '{"table": "embeddings", "image": "embedding"}',
        '{"table": "photos", "image": "photo\\" from faces --"}',
        '{"table": "photos", "image": "nope"}',
        '{"table": "pragma_table_info", "image": "name"}',
        '{"table": "photos", "image": "photo", "image_from": "files"}',
        '{"table": "photos", "image": "title"}',
        '{"table": "photos", "image": 7}',
    ):
        with closing(sqlite3.connect(site.path)) as conn, conn:
            sql = "update _embed_collections set source = ? where name = 'photos'"
            conn.execute(sql, (source,))
        response = await site.get(f"{COLLECTION}/image/1")
        assert response.status_code in (403, 404), source
        assert find_image_type(response.content) is None


async def test_image_beside_its_vector_is_shown(site, counting_model, no_pillow):
    """A folder of images that were stored: no table has them."""
    with datasette_embed.Collection("folder", site.path, model=counting_model) as collection:
        collection.embed("cats/a.png", PHOTOS[1], store=True)
        collection.embed("cats/b.txt", b"no image", store=True)
        collection.embed("cats/c.png", PHOTOS[3])
    datasette = site.datasette
    page = compat_url(datasette, "folder")
    soup = await soup_of(site, f"{page}?n=10", ROOT)
    assert [img["src"] for img in soup.select("img")] == [f"{page}/image/cats~2Fa~2Epng"]
    assert (await site.get(soup.select_one("img")["src"], ROOT)).content == PHOTOS[1]
    assert (await site.get(f"{page}/image/cats~2Fb~2Etxt", ROOT)).status_code == 404


def compat_url(datasette, name):
    return datasette.urls.path(f"/data/-/embed/c/{name}")


async def test_images_of_an_immutable_file(make_api_site, tmp_path, no_pillow, counting_model):
    """Nothing is written for them, nor for a search by an image."""
    path = make_photos(make_file(tmp_path / "data.db"))
    datasette_embed.create(path, "photos", image="photo", model_id="count")
    before = path.read_bytes()
    site = make_api_site(is_immutable=True)
    assert (await site.get(f"{COLLECTION}/image/1")).content == PHOTOS[1]
    response = await send(site, {"image": ("a.png", PHOTOS[1])})
    assert response.status_code == 200, response.text
    assert path.read_bytes() == before


# -- pages ---------------------------------------------------------------------------


def grid_of(soup):
    """The label, the score and the addresses of each image."""
    return [
        (
            cell.select_one(".embed-image-label").get_text(),
            (cell.select_one(".embed-image-score") or cell.select_one("none") or _NO).get_text(),
            cell.select_one("a.embed-image")["href"],
            cell.select_one("img")["src"],
        )
        for cell in soup.select("ul.embed-images li")
    ]


_NO = BeautifulSoup("", "html.parser")


def nearest(blob_vector, *, without=()):
    """The photos by the oracle's cosine with a vector."""
    scores = {
        n: cosine(vector_of(image), blob_vector) for n, image in PHOTOS.items() if n not in without
    }
    return sorted(scores.items(), key=lambda pair: -pair[1])


def cells(found):
    return [
        (f"photo <{n}>", f"{round(score, 4):.1%}", f"/data/photos/{n}", f"{COLLECTION}/image/{n}")
        for n, score in found
    ]


async def test_search_of_images_by_words_shows_a_grid(site):
    """In the order of the oracle's cosines, each as a percentage that is explained."""
    soup = await soup_of(site, f"{COLLECTION}?q=red+things")
    assert grid_of(soup) == cells(nearest(vector_of("red things", Kind.QUERY)))
    assert "The percentage is the cosine similarity" in soup.get_text()
    assert soup.select("table.embed-rows") == []
    assert {img["alt"] for img in soup.select("img")} == {f"photo <{n}>" for n in PHOTOS}
    links = [a["href"] for a in soup.select(".embed-image-more a")]
    assert all(link.startswith(f"{COLLECTION}/like/") for link in links)
    assert len(await rows_of_link(site, soup)) == 5
    assert "images in photo" in soup.select_one(".embed-summary").get_text()


async def test_related_images_show_the_row_and_a_grid(site):
    """Its own image first."""
    soup = await soup_of(site, f"{COLLECTION}/like/2")
    assert soup.select_one(".embed-image-alone img")["src"] == f"{COLLECTION}/image/2"
    assert grid_of(soup) == cells(nearest(vector_of(PHOTOS[2]), without=(2,)))


async def test_collections_of_texts_show_no_images(api_site, counting_model):
    """As ever; a model that takes images can be asked with one."""
    await api_site.make(columns=["body"])
    soup = await soup_of(api_site, "/data/-/embed/c/posts?q=dog")
    assert soup.select("ul.embed-images") == []
    assert soup.select("table.embed-rows")
    assert soup.select("input[type=file]")


async def test_about_page_of_images_names_the_column(site):
    """As it does the columns of texts; the JSON too."""
    soup = await soup_of(site, f"{COLLECTION}/about")
    facts = {dt.get_text(): dt.find_next("dd").get_text() for dt in soup.select("dt")}
    assert facts["Image of a row"] == "photo"
    about = (await site.get(f"{COLLECTION}/about.json")).json()
    assert about["collection"]["source"]["image"] == "photo"


# -- search by an image --------------------------------------------------------------


async def test_search_by_an_image_finds_the_oracles_rows(site, counting_model):
    """Sent in a form; the SQL that is linked finds the same rows."""
    counting_model.calls.clear()
    response = await send(site, {"image": ("my <cat>.png", PHOTOS[4], "text/html")})
    assert response.status_code == 200, response.text
    assert "<cat>" not in response.text
    soup = BeautifulSoup(response.text, "html.parser")
    assert soup.select_one("h2").get_text() == "5 closest rows to my <cat>.png"
    assert grid_of(soup) == cells(nearest(vector_of(PHOTOS[4], Kind.QUERY)))
    assert counting_model.calls == [[PHOTOS[4]]]
    rows = await rows_of_link(site, soup)
    assert [row[1] for row in rows] == [
        str(n) for n, _ in nearest(vector_of(PHOTOS[4], Kind.QUERY))
    ]
    assert len(counting_model.calls) == 1
    assert soup.select(".export-links") == []


async def test_search_by_an_image_keeps_number_and_filters(site):
    """Those of the address, which the form leads to."""
    soup = await soup_of(site, f"{COLLECTION}?n=3&title__contains=photo&q=x")
    action = soup.select_one("form[method=post]")["action"]
    assert action == f"{COLLECTION}?n=3&title__contains=photo"
    response = await send(site, {"image": ("a.png", PHOTOS[1])}, path=action)
    soup = BeautifulSoup(response.text, "html.parser")
    assert len(grid_of(soup)) == 3
    assert "where title contains" in soup.get_text()


async def test_search_by_an_image_honours_the_rows_of_its_form(site):
    """Before those of the address, and the field then says so; what is no number is refused."""
    soup = await soup_of(site, COLLECTION)
    form = soup.select_one("form[method=post]")
    assert form.select_one("select[name=n] option[selected]").get_text() == "10"
    assert soup.select_one(f"label[for={form.select_one('select')['id']}]").get_text() == "Rows"
    assert len({each["id"] for each in soup.select("[id]")}) == len(soup.select("[id]"))
    files = {"image": ("a.png", PHOTOS[1])}
    response = await send(site, files, path=f"{COLLECTION}?n=4", data={"n": "2"})
    soup = BeautifulSoup(response.text, "html.parser")
    assert len(grid_of(soup)) == 2
    chosen = soup.select("select[name=n] option[selected]")
    assert [option.get_text() for option in chosen] == ["2", "2"]
    response = await send(site, files, data={"n": "many"})
    assert response.status_code == 400 and "&#39;n&#39;" in response.text


async def test_search_by_an_image_shows_it_and_names_the_api(site):
    """A small copy, inside the page; no copy is kept."""
    image_module = pytest.importorskip("PIL.Image")
    thumbnails._copies._kept.clear()
    response = await send(site, {"image": ("a.png", PHOTOS[4])})
    soup = BeautifulSoup(response.text, "html.parser")
    shown = soup.select_one("img.embed-sent-image")
    assert shown["alt"] == "The image that was sent"
    kind, _, data = shown["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    with image_module.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (320, 213)
        assert image.getpixel((100, 100))[0] == pytest.approx(80, abs=8)
    assert not thumbnails._copies._kept
    assert f"POST {COLLECTION}/similar.json" in [code.get_text() for code in soup.select("code")]


async def test_search_by_an_image_without_pillow_shows_no_copy(site, no_pillow):
    """It may be as large as it likes, and would be in the page."""
    response = await send(site, {"image": ("a.png", PHOTOS[4])})
    soup = BeautifulSoup(response.text, "html.parser")
    assert response.status_code == 200
    assert soup.select("img.embed-sent-image") == []


@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ({"other": ("a.png", PHOTOS[1])}, 400, "Choose an image to search with"),
        ({"image": ("", b"")}, 400, "Choose an image to search with"),
        ({"image": ("a.png", b"")}, 400, "The image is empty"),
        ({"image": ("a.png", SVG)}, 400, "This file is no image by its first bytes"),
        ({"image": ("a.png", HTML)}, 400, "This file is no image by its first bytes"),
        (
            [("image", ("a.png", PHOTOS[1])), ("image", ("b.png", PHOTOS[2]))],
            400,
            "Choose one image: several were sent",
        ),
        (
            {"image": ("a.png", PHOTOS[1] + bytes(11_000_000))},
            413,
            "larger than 10,485,760 bytes: make it",
        ),
    ],
)
async def test_search_by_no_image_says_so_beside_the_field(
    site, counting_model, files, status, message
):
    """On the page, which keeps its form; no model is called."""
    counting_model.calls.clear()
    response = await send(site, files)
    assert response.status_code == status
    soup = BeautifulSoup(response.text, "html.parser")
    assert message in soup.select_one("[role=alert]").get_text()
    assert soup.select_one("input[type=file]")["aria-describedby"] == "embed-q-problem"
    assert counting_model.calls == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--y\r\n\r\n--y--"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: a; name="image"\r\n\r\nab',
        ),
    ],
)
async def test_broken_form_is_refused(site, content_type, body):
    """Each with a sentence on the page, none with a 500."""
    headers = {"content-type": content_type}
    response = await site.ask("POST", COLLECTION, ANONYMOUS, content=body, headers=headers)
    assert response.status_code == 400, response.text
    soup = BeautifulSoup(response.text, "html.parser")
    assert "form" in soup.select_one("[role=alert]").get_text()


async def test_page_of_images_takes_nothing_but_an_image(site):
    """Other forms and methods are refused as on every page that only shows."""
    for kind in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
        headers = {"content-type": kind}
        response = await site.ask("POST", COLLECTION, ROOT, content=b"image=x", headers=headers)
        assert response.status_code == 405
    response = await send(site, {"image": ("a.png", PHOTOS[1])}, ROOT, f"{COLLECTION}/like/1")
    assert response.status_code == 405


async def test_image_form_of_another_site_is_refused(site, counting_model):
    """A browser says where a form is from; nothing is embedded for it."""
    counting_model.calls.clear()
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        response = await send(site, {"image": ("a.png", PHOTOS[1])}, headers=headers)
        assert response.status_code == 403
    assert counting_model.calls == []


async def test_image_form_with_cookies_is_taken_with_its_token(site):
    """As a signed-in browser sends it; without the token Datasette 0.65 refuses it."""
    token = site.datasette.sign("a token", "csrftoken")
    cookies = {"ds_actor": site.datasette.sign({"a": ROOT}, "actor"), "ds_csrftoken": token}
    headers = {
        "cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
        "sec-fetch-site": "same-origin",
        "origin": "http://localhost",
    }
    files = {"image": ("a.png", PHOTOS[1])}
    response = await send(site, files, headers=headers, data={"csrftoken": token})
    assert response.status_code == 200, response.text
    for sent, names in ((headers, ["csrftoken", "image"]), ({}, ["image"])):
        page = await site.get(COLLECTION, headers=sent)
        soup = BeautifulSoup(page.text, "html.parser")
        assert [tag["name"] for tag in soup.select("form[enctype] input[name]")] == names
    if not compat.is_version_one(site.datasette):
        other = site.datasette.sign("another token", "csrftoken")
        for data in ({}, {"csrftoken": "wrong"}, {"csrftoken": other}, {"csrftoken": token * 2}):
            response = await send(site, files, headers=headers, data=data)
            assert response.status_code == 403, data
        headers["cookie"] = headers["cookie"].replace(token, "no")
        response = await send(site, files, headers=headers, data={"csrftoken": token})
        assert response.status_code == 403


async def test_model_that_is_not_allowed_takes_no_image(make_api_site, tmp_path, counting_model):
    """Neither the form is there nor is one answered; nor beyond the budget."""
    path = make_photos(make_file(tmp_path / "data.db"))
    datasette_embed.create(path, "photos", image="photo", model_id="count")
    site = make_api_site(config={"allow": {"counting": {"id": "root"}}})
    soup = await soup_of(site, COLLECTION)
    assert soup.select("input[type=file]") == []
    counting_model.calls.clear()
    response = await send(site, {"image": ("a.png", PHOTOS[1])})
    assert response.status_code == 403
    assert counting_model.calls == []
    assert (await send(site, {"image": ("a.png", PHOTOS[1])}, ROOT)).status_code == 200


async def test_images_count_against_the_budget(make_api_site, tmp_path, counting_model):
    """As texts do; the same image once more costs nothing."""
    path = make_photos(make_file(tmp_path / "data.db"))
    datasette_embed.create(path, "photos", image="photo", model_id="count")
    site = make_api_site(config={"calls_per_minute": 2})
    for n, status in ((1, 200), (2, 200), (1, 200), (3, 429)):
        response = await send(site, {"image": ("a.png", PHOTOS[n])})
        assert response.status_code == status, response.text
    assert (
        "in a minute"
        in BeautifulSoup(response.text, "html.parser").select_one("[role=alert]").get_text()
    )
    assert (await site.get(f"{COLLECTION}?q=words")).status_code == 429


class TextModel(CountingModel):
    """A model of texts alone."""

    supports_binary = False


class ImageModel(CountingModel):
    """A model of images alone."""

    supports_text = False


class MorePlugin(ModelsPlugin):
    """A second plugin."""


async def test_model_of_texts_has_no_form_and_says_so(api_site, add_plugin):
    """To a program that sends one anyway."""
    add_plugin(MorePlugin((TextModel("texts"), ())))
    await api_site.make(columns=["body"], model="texts")
    page = "/data/-/embed/c/posts"
    assert (await soup_of(api_site, page)).select("input[type=file]") == []
    response = await send(api_site, {"image": ("a.png", PHOTOS[1])}, path=page)
    assert response.status_code == 400
    assert "texts: reads texts only" in BeautifulSoup(response.text, "html.parser").get_text()


async def test_model_of_images_has_no_words(make_api_site, tmp_path, add_plugin, counting_model):
    """The field for words is away, the one for an image is there."""
    add_plugin(MorePlugin((ImageModel("images"), ())))
    path = make_photos(make_file(tmp_path / "data.db"))
    datasette_embed.create(path, "photos", image="photo", model_id="images")
    site = make_api_site()
    soup = await soup_of(site, COLLECTION)
    assert soup.select("input[type=search]") == []
    assert "reads images only" in soup.select_one(".embed-words-off").get_text()
    response = await send(site, {"image": ("a.png", PHOTOS[1])})
    assert response.status_code == 200


async def test_long_vector_is_not_put_into_a_link(make_api_site, tmp_path, add_plugin):
    """But said to be too long for one."""
    add_plugin(MorePlugin((CountingModel("long", dimensions=2_000), ())))
    path = make_photos(make_file(tmp_path / "data.db"))
    datasette_embed.create(path, "photos", image="photo", model_id="long")
    site = make_api_site()
    response = await send(site, {"image": ("a.png", PHOTOS[1])}, ROOT)
    soup = BeautifulSoup(response.text, "html.parser")
    assert "Its vector is too long for a link" in soup.get_text()
    assert soup.select(".embed-edit-sql") == []
    assert "llm_embed_encode(:vector)" in soup.select_one("pre").get_text()


async def test_similar_json_takes_an_image_as_base64(site, counting_model):
    """The same neighbours as the page."""
    url = f"{COLLECTION}/similar.json"
    encoded = base64.b64encode(PHOTOS[4]).decode()
    response = await site.post(url, {"image": encoded}, ANONYMOUS)
    assert response.status_code == 200, response.text
    found = [(int(row["id"]), row["score"]) for row in response.json()["rows"]]
    expected = nearest(vector_of(PHOTOS[4], Kind.QUERY))
    assert [n for n, _ in found] == [n for n, _ in expected]
    assert [score for _, score in found] == pytest.approx([s for _, s in expected], abs=1e-6)
    for wrong in ("not base64!", 7, [1], base64.b64encode(SVG).decode()):
        error_of(await site.post(url, {"image": wrong}, ANONYMOUS), 400)
    assert "too long for a URL" in error_of(await site.get(f"{url}?image=abc"), 400)
    assert "Give one of" in error_of(await site.post(url, {"image": encoded, "q": "x"}), 400)


async def test_similar_json_of_a_model_of_texts_refuses_an_image(api_site, add_plugin, caplog):
    """With 400 and a sentence, and no traceback in the log; words for a model of images too."""
    add_plugin(MorePlugin((TextModel("texts"), ())))
    await api_site.make(columns=["body"], model="texts")
    image = {"image": base64.b64encode(PHOTOS[1]).decode()}
    caplog.clear()
    response = await api_site.post("/data/-/embed/c/posts/similar.json", image, ANONYMOUS)
    expected = "texts: This model does not support binary data, only text strings"
    assert error_of(response, 400) == expected
    assert caplog.records == []


async def test_similar_json_takes_an_image_as_large_as_the_form_does(site, monkeypatch):
    """Its base64 is longer than other bodies may be; what is in it may not be."""
    url = f"{COLLECTION}/similar.json"
    large = PHOTOS[1] + bytes(3_000_000)
    response = await site.post(url, {"image": base64.b64encode(large).decode()}, ANONYMOUS)
    assert response.status_code == 200, response.text
    larger = base64.b64encode(PHOTOS[1] + bytes(10_500_000)).decode()
    error = error_of(await site.post(url, {"image": larger}, ANONYMOUS), 413)
    assert "may have at most 10,485,760 here (max_image_bytes). Make it smaller" in error
    enormous = base64.b64encode(PHOTOS[1] + bytes(11_000_000)).decode()
    error = error_of(await site.post(url, {"image": enormous}, ANONYMOUS), 413)
    assert error == "The body of the request is longer than 14,081,016 bytes"


async def test_form_with_an_image_of_more_bytes_or_pixels_is_413(site, counting_model):
    """As large as a form may be, but not the image in it; few bytes that are many pixels."""
    pytest.importorskip("PIL")
    counting_model.calls.clear()
    for image, message in (
        (PHOTOS[1] + bytes(10_500_000), "may have at most 10,485,760"),
        (png(1, 1, 1, 5_001, 5_000), "the image has more than 25,000,000 pixels"),
    ):
        response = await send(site, {"image": ("a.png", image)})
        assert response.status_code == 413
        soup = BeautifulSoup(response.text, "html.parser")
        assert message in soup.select_one("[role=alert]").get_text()
    assert counting_model.calls == []


# sqlite3 tells what a function raised there too, where its tracebacks are asked for.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_sql_of_a_site_embeds_images_up_to_max_image_bytes(make_datasette, add_plugin):
    """Bytes have their own limit, not that of texts; beyond it the message names it."""
    add_plugin(MorePlugin((CountingModel("both"), ())))
    datasette = make_datasette(config={"max_text_characters": 1_000, "max_image_bytes": 200_000})
    await datasette.invoke_startup()
    page = "/_memory/-/query.json" if compat.is_version_one(datasette) else "/_memory.json"

    async def asked(content):
        sql = f"select length(llm_embed('both', {content})) as bytes"
        return await datasette.client.get(page, params={"sql": sql, "_shape": "objects"})

    answer = await asked("zeroblob(150000)")
    assert answer.json()["rows"] == [{"bytes": 32}], answer.text
    answer = await asked("zeroblob(200001)")
    expected = "the image has 200,001 bytes, and may have at most 200,000 here (max_image_bytes)"
    assert answer.status_code == 400 and expected in answer.json()["error"]
    answer = await asked("hex(zeroblob(501))")
    assert "1,002 characters long, and may have at most 1,000" in answer.json()["error"]


# -- forms with files ----------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n", b"\r\n--", bytes(range(256)) * 3, b"a\rb\nc\r\n", b"--x\r\n", PHOTOS[1]],
)
@pytest.mark.parametrize(
    "filename", ["a.png", 'a "b" ü.png', "é;=.gif", "c:\\x\\y.png", "../z.png"]
)
async def test_parse_parts_reads_what_httpx_writes(data, filename):
    """Byte for byte; of a name only the last part."""
    request = httpx.Request(
        "POST", "http://x/", data={"a": "1", "ü": "é"}, files={"image": (filename, data)}
    )
    parts = parse_parts(request.headers["content-type"], request.read())
    assert [(part.name, part.data) for part in parts] == [
        ("a", b"1"),
        ("ü", "é".encode()),
        ("image", data),
    ]
    assert [part.filename for part in parts[:2]] == [None, None]
    last = filename.replace("\\", "/").split("/")[-1].replace('"', "%22")
    assert parts[2].filename == last


async def test_parse_parts_has_bounds():
    """A form of a thousand fields, or of one endless header, is none of ours."""
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    with pytest.raises(RequestError, match="too many fields"):
        parse_parts("multipart/form-data; boundary=x", part * 1_000 + b"--x--")
    long = b"--x\r\nContent-Disposition: " + b"a" * 10_000 + b"\r\n\r\n1\r\n--x--"
    with pytest.raises(RequestError, match="no end of its header"):
        parse_parts("multipart/form-data; boundary=x", long)


# -- making a collection of images ---------------------------------------------------


async def test_new_page_offers_columns_of_images(site, counting_model):
    """Of a table that has one; the job embeds the images, and the page of the job is there."""
    soup = await soup_of(site, "/data/-/embed/new?table=photos", ROOT)
    options = [option["value"] for option in soup.select("select[name=image] option")]
    assert options == ["", "photo"]
    assert "reads images too" in soup.select_one("option[value=counting]").get_text()
    posts = await soup_of(site, "/data/-/embed/new?table=posts", ROOT)
    assert posts.select("select[name=image]") == []
    counting_model.calls.clear()
    chosen = {"table": "photos", "image": "photo", "collection": "made", "model": "counting"}
    looked = await send_form(site, "/data/-/embed/new", {**chosen, "check": "1"})
    soup = BeautifulSoup(looked.text, "html.parser")
    assert [row.get_text() for row in soup.select(".embed-preview-row pre")][0] == (
        f"An image of {len(PHOTOS[1]) / 1_000:.1f} kB"
    )
    assert soup.select_one("select[name=image] option[selected]")["value"] == "photo"
    plan = plan_of(soup)
    assert "1 without an image, left out" in plan["Rows"]
    assert "Text" not in plan
    of_texts = await send_form(site, "/data/-/embed/new", {**chosen, "model": "minilm"})
    said = BeautifulSoup(of_texts.text, "html.parser").select_one("#embed-plan").get_text()
    assert "MiniLM-L6-v2 reads texts only: choose one that reads images (counting)" in said
    response = await send_form(site, "/data/-/embed/new", {**chosen, "start": "1"})
    assert response.status_code == 303, response.text
    await site.settled()
    soup = await soup_of(site, "/data/-/embed/c/made?n=10")
    assert len(soup.select(".embed-images img")) == 5
    job = await soup_of(site, response.headers["location"], ROOT)
    assert "no image by its first bytes" in job.get_text()


async def send_form(site, path, fields):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return await site.ask("POST", path, ROOT, content=urlencode(fields), headers=headers)


async def test_new_collection_of_images_by_the_api(site, add_plugin):
    """Fields that do not fit each other are named; files and addresses are not to be had."""
    add_plugin(MorePlugin((TextModel("texts"), ()), (ImageModel("images"), ())))
    new = "/data/-/embed/new"
    wanted = {"table": "photos", "collection": "api", "image": "photo"}
    for more, message in (
        (
            {"model": "texts"},
            "the model texts reads texts only: choose one that reads images",
        ),
        ({"model": "count", "image": "phto"}, "'image': no column named 'phto'"),
        ({"model": "count", "columns": ["title"]}, "Give 'image' or 'columns', not both"),
        ({"model": "images", "image": None}, "the model images reads images only"),
        ({"model": "count", "image_files": "/etc"}, "Unknown field 'image_files'"),
        ({"model": "count", "image_from": "urls"}, "Unknown field 'image_from'"),
    ):
        assert message in error_of(await site.post(new, {**wanted, **more}), 400), more
    response = await site.post(new, {**wanted, "model": "images"})
    assert response.status_code == 201, response.text
    await site.settled()
    assert site.rows(
        "select count(*) from embeddings as e join collections as c on c.id ="
        " e.collection_id where c.name = 'api'"
    ) == [(5,)]


async def test_server_follows_no_path_and_no_address(site, tmp_path):
    """A collection that the command line made of files is not brought up to date here."""
    (tmp_path / "red.png").write_bytes(PHOTOS[1])
    execute(
        site.path,
        "create table files (id integer primary key, path text)",
        "insert into files values (1, 'red.png')",
    )
    datasette_embed.create(
        site.path, "files", image="path", image_files=tmp_path, model_id="count", store=True
    )
    before = site.rows("select count(*) from embeddings")
    response = await site.post("/data/-/embed/c/files/sync", {})
    await site.settled()
    reason = site.rows("select reason from _embed_jobs order by id desc limit 1")[0][0]
    assert "its images are files" in (reason or error_of(response, 400))
    assert site.rows("select count(*) from embeddings") == before
    shown = await site.get("/data/-/embed/c/files/image/1")
    assert find_image_type(shown.content) is not None
