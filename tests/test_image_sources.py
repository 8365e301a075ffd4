"""Images as sources: in a column, in files, at addresses, and how each of them may be reached."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import datasette_embed
from datasette_embed import image_types, image_values, input_rows
from datasette_embed.database import open_database, sqlite3
from datasette_embed.draining import drain
from datasette_embed.errors import ProviderError, SourceError
from datasette_embed.image_types import find_image_type
from datasette_embed.image_values import FolderImages, ImageError, UrlImages, image_of
from datasette_embed.models import Kind
from datasette_embed.registry import get_registry
from datasette_embed.source_specs import SourceSpec
from datasette_embed.sources import Source
from tests.conftest import ModelsPlugin
from tests.fakes import CountingModel
from tests.images import GIF, HTML, JPEG, SVG, png
from tests.storage import blob_of, embed, execute, query, read_source, refused, stored
from tests.test_watching import watch

RED, BLUE = png(200, 0, 0), png(0, 0, 200)


class TextModel(CountingModel):
    """A model of texts alone."""

    supports_binary = False


def make_photos(path: Path, values: list[object], kind: str = "blob") -> Path:
    """Make a file with a table ``photos(id, title, photo)``."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(f"create table photos (id integer primary key, title text, photo {kind})")
        rows = [(n, f"photo {n}", value) for n, value in enumerate(values, 1)]
        conn.executemany("insert into photos values (?, ?, ?)", rows)
    return path


def failures(path: Path) -> dict[str, str]:
    """Return ``entry id -> why`` of what could not be embedded."""
    return dict(query(path, "select entry_id, message from _embed_failures"))


# -- what is an image ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (RED, "image/png"),
        (JPEG, "image/jpeg"),
        (GIF, "image/gif"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "image/avif"),
        (b"II*\0\x08\0\0\0", "image/tiff"),
        (b"BM" + bytes(4) + bytes(4) + bytes(4) + b"\x28\0\0\0" + bytes(20), "image/bmp"),
        (SVG, None),
        (HTML, None),
        (b"", None),
        (b"BMW is a car, and this is a text about it", None),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"%PDF-1.7", None),
    ],
)
def test_find_image_type_by_first_bytes(data, media_type):
    """What the bytes begin with decides, also where only the header is there."""
    assert find_image_type(data) == media_type
    assert find_image_type(data[: image_types.HEADER_BYTES]) == media_type


@pytest.mark.parametrize("value", [None, b"", "", " \n"])
def test_image_of_blank_is_nothing(value):
    """A row without an image is a blank row."""
    assert image_of(value) == b""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (SVG, "no image by its first bytes: expected PNG"),
        ("a.png", "paths take --image-files, and URLs --image-urls"),
        (7, "holds a number"),
    ],
)
def test_image_of_what_is_none_says_why(value, message):
    """One line, without the value."""
    with pytest.raises(ImageError, match=message) as raised:
        image_of(value)
    assert "a.png" not in str(raised.value)


# -- a column of images --------------------------------------------------------------


def test_create_image_column_embeds_bytes(tmp_path, counting_model):
    """Each row's own image; blanks are blank, what is none fails, and the rest goes on."""
    db = make_photos(tmp_path / "a.db", [RED, None, b"", BLUE, SVG, RED, 7, "x.png"])
    said = embed("create", db, "photos", "--image", "photo", "--model", "count")
    assert f"{db}: table photos: images in photo" in said.stderr
    assert "8 rows: 3 to embed, 0 up to date, 2 empty, 3 unusable" in said.stderr
    assert "tokens" not in said.stderr
    images = {"1": RED, "4": BLUE, "6": RED}
    assert stored(db, "photos") == {entry_id: blob_of(image) for entry_id, image in images.items()}
    assert counting_model.calls[-1] == [RED, BLUE]
    found = failures(db)
    assert found.keys() == {"5", "7", "8"}
    assert "no image by its first bytes" in found["5"]
    assert "a number, not an image" in found["7"]


def test_create_image_in_python_and_sync_again(tmp_path, counting_model):
    """The stored definition names the column, so a sync needs nothing else said."""
    db = make_photos(tmp_path / "a.db", [RED, BLUE, GIF])
    outcome = datasette_embed.create(db, "photos", image="photo", model_id="count", store=True)
    assert outcome.counts.embedded == 3
    [(source,)] = query(db, "select source from _embed_collections")
    assert source == '{"table": "photos", "image": "photo"}'
    kept = query(db, "select content, content_blob from embeddings order by id")
    assert kept == [(None, RED), (None, BLUE), (None, GIF)]
    counting_model.calls.clear()
    execute(db, "delete from photos where id = 1", "update photos set photo = null where id = 2")
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("insert into photos values (9, 'new', ?)", (JPEG,))
    [outcome] = datasette_embed.sync(db)
    assert (outcome.counts.embedded, outcome.counts.removed) == (1, 2)
    assert counting_model.calls == [[JPEG]]
    assert stored(db, "photos").keys() == {"3", "9"}


@pytest.mark.parametrize(
    "choices", [{"columns": ["title"]}, {"template": "{{ title }}"}], ids=["columns", "template"]
)
def test_create_image_and_text_is_refused(tmp_path, counting_model, choices):
    """A row is one or the other; a stored definition that says both is refused too."""
    db = make_photos(tmp_path / "a.db", [RED])
    with pytest.raises(ValueError, match="give image= or (columns|template)=, not both"):
        datasette_embed.create(db, "photos", image="photo", model_id="count", **choices)
    with pytest.raises(SourceError, match="its image or its text, not both"):
        read_source(db, SourceSpec.from_json({"table": "photos", "image": "photo", **choices}))


def test_create_image_of_unknown_column_or_kind(tmp_path, counting_model):
    """The columns there are, and a definition of another kind, are said."""
    db = make_photos(tmp_path / "a.db", [RED])
    error = refused("create", db, "photos", "--image", "phto", "--model", "count", files=[db])
    assert "no column named 'phto'. Columns: id, title, photo" in error
    with pytest.raises(SourceError, match="'image_from' is not what it should be"):
        SourceSpec.from_json({"table": "photos", "image": "photo", "image_from": "shell"})


def test_create_image_with_model_of_texts_is_refused(tmp_path, add_plugin):
    """Before anything is written."""
    add_plugin(ModelsPlugin((TextModel("texts"), ())))
    db = make_photos(tmp_path / "a.db", [RED])
    error = refused("create", db, "photos", "--image", "photo", "--model", "texts", files=[db])
    assert error == (
        "texts: embeds text only, not images or other bytes: choose a model that reads them"
    )
    with pytest.raises(ProviderError, match="embeds text only"):
        datasette_embed.create(db, "photos", image="photo", model_id="texts")


def test_create_image_of_a_query_says_that_pages_show_none(tmp_path, counting_model):
    """Once, when the collection is made without ``--store``; images of a table are found."""
    db = make_photos(tmp_path / "a.db", [RED])
    query = ("--sql", "select id, photo from photos", "--image", "photo", "--model", "count")
    told = "The pages of a site will not show these images"
    first = embed("create", db, *query, "--collection", "query")
    assert told in first.stderr and "--store" in first.stderr
    assert told not in embed("create", db, *query, "--collection", "query").stderr
    assert told not in embed("create", db, *query, "--collection", "kept", "--store").stderr
    options = ("--image", "photo", "--model", "count")
    assert told not in embed("create", db, "photos", *options).stderr


def test_image_that_another_code_cannot_read_may_be_damaged(tmp_path, add_plugin):
    """What Pillow raises in somebody's model is told as what it likely is."""
    image_module = pytest.importorskip("PIL.Image")

    class ReadingModel(CountingModel):
        def embed_batch(self, items, *, kind=Kind.DOCUMENT, key=None):
            for item in items:
                with image_module.open(io.BytesIO(item)) as image:
                    image.load()
            return super().embed_batch(items, kind=kind, key=key)

    add_plugin(ModelsPlugin((ReadingModel("reading"), ())))
    whole = png(width=90, height=90)
    file = io.BytesIO()
    with image_module.open(io.BytesIO(whole)) as image:
        image.save(file, "JPEG")
    broken = [file.getvalue()[:-200], whole[:20] + HTML]
    db = make_photos(tmp_path / "a.db", [whole, *broken])
    datasette_embed.create(db, "photos", image="photo", model_id="reading")
    assert set(stored(db, "photos")) == {"1"}
    assert failures(db) == {
        "2": "reading: the model failed (OSError): the image may be damaged. The log says why",
        "3": "reading: the model failed (UnidentifiedImageError): the image may be damaged. "
        "The log says why",
    }


def test_create_image_from_other_column_is_another_source(tmp_path, counting_model):
    """Two kinds of images, or images and texts, are not mixed in one collection."""
    db = make_photos(tmp_path / "a.db", [RED])
    embed("create", db, "photos", "--image", "photo", "--model", "count")
    for more in ([], ["--image", "photo", "--image-files", tmp_path]):
        error = refused("create", db, "photos", *more, files=[db])
        assert "was made from something else (table photos: images in photo)" in error


def test_iter_windows_of_images_are_bounded_in_bytes(tmp_path, monkeypatch):
    """Not a thousand images at once, each row once and in order, whatever the key."""
    monkeypatch.setattr(input_rows, "WINDOW_BYTES", 3 * len(RED))
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("create table t (a text, b integer, image blob, primary key (a, b))")
        conn.executemany(
            "insert into t values (?, ?, ?)", [(f"é/{n % 3}", n, png(n)) for n in range(10)]
        )
        conn.execute("create view v as select a || b as id, image from t order by b")
    for table in ("t", "v"):
        spec = SourceSpec(table=table, image="image")
        with closing(open_database(path)) as conn:
            windows = list(Source(conn, spec, str(path)).iter_windows())
        assert len(windows) >= 3
        images = [row.content for window in windows for row in window]
        assert sorted(images) == sorted(png(n) for n in range(10))


def test_image_larger_than_is_read_fails_alone(tmp_path, counting_model, monkeypatch):
    """It is not read at all, and the rest goes on."""
    monkeypatch.setattr(image_types, "MOST_IMAGE_BYTES", 1_000)
    monkeypatch.setattr("datasette_embed.image_rows.MOST_IMAGE_BYTES", 1_000)
    monkeypatch.setattr(image_values, "MOST_IMAGE_BYTES", 1_000)
    db = make_photos(tmp_path / "a.db", [RED, RED + bytes(2_000)])
    embed("create", db, "photos", "--image", "photo", "--model", "count")
    assert stored(db, "photos").keys() == {"1"}
    assert "the image is larger than" in failures(db)["2"]


def test_watch_of_images_embeds_what_changes(tmp_path, counting_model):
    """Only rows whose image changed; a change of another column is none."""
    db = make_photos(tmp_path / "a.db", [RED, BLUE])
    datasette_embed.create(db, "photos", image="photo", model_id="count")
    watch(db, "photos")
    drain(str(db), "photos", get_registry())
    counting_model.calls.clear()
    execute(db, "update photos set title = 'other'")
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("update photos set photo = ? where id = 2", (GIF,))
    assert query(db, "select key from _embed_changes") == [("2",)]
    drain(str(db), "photos", get_registry())
    assert counting_model.calls == [[GIF]]
    assert stored(db, "photos")["2"] == blob_of(GIF)


def test_search_and_similar_of_images_print_ids(tmp_path, counting_model):
    """By words, by an image and by a row; no bytes in the terminal, and nothing to excuse."""
    db = make_photos(tmp_path / "a.db", [RED, BLUE])
    (tmp_path / "red.png").write_bytes(RED)
    embed("create", db, "photos", "--image", "photo", "--model", "count", "--store")
    for command in (
        ["search", db, "photos", "red things"],
        ["similar", db, "photos", "-i", tmp_path / "red.png", "--binary"],
        ["similar", db, "photos", "-i", tmp_path / "red.png", "--binary", "--table"],
        ["similar", db, "photos", "1"],
        ["similar", db, "photos", "1", "--plain"],
    ):
        said = embed(*command)
        assert "PNG" not in said.stdout
        assert "not shown" not in said.stderr
        assert "No text" not in said.stderr
        assert said.stdout
    assert counting_model.calls[-1] == [RED]


# -- files ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder of images beside a secret one that links lead to."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    (folder / "red.png").write_bytes(RED)
    (folder / "sub" / "blau é.png").write_bytes(BLUE)
    (folder / "text.png").write_text("no image", "utf-8")
    (folder / "empty.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(GIF)
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "in.png").symlink_to("red.png")
    (folder / "circle.png").symlink_to("circle.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def test_create_image_files_reads_below_the_folder(tmp_path, folder, counting_model):
    """Paths with folders, spaces and links inside; a blank one is a blank row."""
    db = make_photos(tmp_path / "a.db", ["red.png", "sub/blau é.png", "in.png", "", None], "text")
    said = embed(
        "create", db, "photos", "--image", "photo", "--image-files", folder, "--model", "count"
    )
    assert "files of images in photo" in said.stderr
    assert stored(db, "photos") == {"1": blob_of(RED), "2": blob_of(BLUE), "3": blob_of(RED)}
    [(source,)] = query(db, "select source from _embed_collections")
    assert source == '{"table": "photos", "image": "photo", "image_from": "files"}'
    assert str(folder) not in source


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../secret.png", "leads out of the folder"),
        ("sub/../../secret.png", "leads out of the folder"),
        ("sub/../red.png", "leads out of the folder"),
        ("/etc/passwd", "leads out of the folder"),
        ("out.png", "leads out of the folder"),
        ("up/secret.png", "leads out of the folder"),
        ("C:\\secret.png", "leads out of the folder"),
        ("..\\secret.png", "leads out of the folder"),
        ("\\\\host\\share\\x.png", "leads out of the folder"),
        ("red.png\0.txt", "the character NUL"),
        ("gone.png", "No such file"),
        ("sub", "not that of a regular file"),
        ("pipe.png", "not that of a regular file"),
        ("circle.png", "cannot be read"),
        ("x" * 5_000, "cannot be read"),
        ("~/secret.png", "No such file"),
        ("file:///etc/passwd", "No such file"),
    ],
)
def test_folder_images_leave_nothing_out_of_the_folder(folder, path, message):
    """However it is written; what is said names no path."""
    with pytest.raises(ImageError, match=message) as raised:
        FolderImages(str(folder))(path)
    assert "secret" not in str(raised.value)


def test_create_image_files_failures_are_rows(tmp_path, folder, counting_model):
    """The rest goes on."""
    values = ["red.png", "../secret.png", "gone.png", "text.png", "empty.png"]
    db = make_photos(tmp_path / "a.db", values, "text")
    datasette_embed.create(db, "photos", image="photo", image_files=folder, model_id="count")
    assert stored(db, "photos").keys() == {"1"}
    found = failures(db)
    assert found.keys() == {"2", "3", "4", "5"}
    assert found["5"] == "the file of the image is empty"


def test_sync_of_image_files_needs_the_folder_again(tmp_path, folder, counting_model):
    """One line says so; with it, files that changed are embedded again."""
    db = make_photos(tmp_path / "a.db", ["red.png", "in.png"], "text")
    datasette_embed.create(db, "photos", image="photo", image_files=folder, model_id="count")
    error = refused("sync", db, "photos", files=[db])
    assert error == (
        "collection 'photos': its images are files, which only a command that says so reads: run "
        "datasette embed sync with --image-files FOLDER"
    )
    assert "its images are files" in refused("sync", db, "--image-urls", files=[db])
    (folder / "red.png").write_bytes(GIF)
    counting_model.calls.clear()
    embed("sync", db, "--image-files", folder)
    assert counting_model.calls == [[GIF]]
    assert stored(db, "photos") == {"1": blob_of(GIF), "2": blob_of(GIF)}


def test_watch_of_image_files_is_refused(tmp_path, folder, counting_model):
    """Whoever writes the table cannot have a server read files."""
    db = make_photos(tmp_path / "a.db", ["red.png"], "text")
    datasette_embed.create(db, "photos", image="photo", image_files=folder, model_id="count")
    assert "its images are files" in refused("watch", db, "photos", files=[db])


def test_image_files_without_folder_or_column(tmp_path, counting_model):
    """Each is said before anything is written."""
    db = make_photos(tmp_path / "a.db", ["red.png"], "text")
    again = ["create", db, "photos", "--model", "count"]
    error = refused(*again, "--image", "photo", "--image-files", tmp_path / "no", files=[db])
    assert "there is no such folder" in error
    error = refused(*again, "--image-files", tmp_path, files=[db], code=2)
    assert error == "--image-files goes with --image, which names the column"
    error = refused(
        *again, "--image", "photo", "--image-files", tmp_path, "--image-urls", files=[db], code=2
    )
    assert error == "Give --image-files or --image-urls, not both"


# -- addresses -----------------------------------------------------------------------


class Pictures(BaseHTTPRequestHandler):
    """Serves images, and what goes wrong with them."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/drip.png":
            self.send_response(200)
            self.end_headers()
            self.server.drip.wait(20)  # type: ignore[attr-defined]
            return
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        found = {"/red.png": RED, "/big.png": RED + bytes(5_000), "/page.html": HTML}
        data = found.get(self.path)
        self.send_response(404 if data is None else 200)
        if self.path != "/big.png":
            self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def pictures() -> Iterator[ThreadingHTTPServer]:
    """A server of images on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    server.drip = threading.Event()  # type: ignore[attr-defined]
    Pictures.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.drip.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_create_image_urls_fetches_each_once(tmp_path, pictures, counting_model):
    """A plan and a run are two readings, and one request; failures are rows."""
    url = pictures.url
    values = [f"{url}/red.png", f"{url}/gone.png", f"{url}/page.html", f"{url}/red.png"]
    db = make_photos(tmp_path / "a.db", values, "text")
    said = embed("create", db, "photos", "--image", "photo", "--image-urls", "--model", "count")
    assert "addresses of images in photo" in said.stderr
    assert stored(db, "photos") == {"1": blob_of(RED), "4": blob_of(RED)}
    assert sorted(Pictures.asked) == ["/gone.png", "/page.html", "/red.png"]
    found = failures(db)
    assert found["2"] == "the image cannot be fetched: its server answers 404"
    assert "no image by its first bytes" in found["3"]
    assert "its images are on the web" in refused("sync", db, files=[db])
    assert "its images are on the web" in refused("sync", db, "--image-files", tmp_path)
    counting_model.calls.clear()
    datasette_embed.sync(db, image_urls=True)
    assert counting_model.calls == []


def test_database_that_names_urls_has_nobody_fetch_them(tmp_path, pictures, counting_model):
    """A definition in a stranger's file alone sends no request, whoever reads it."""
    db = make_photos(tmp_path / "a.db", [f"{pictures.url}/red.png"], "text")
    datasette_embed.create(db, "photos", image="photo", image_urls=True, model_id="count")
    Pictures.asked.clear()
    spec = SourceSpec(table="photos", image="photo", image_from="urls")
    with pytest.raises(SourceError, match="its images are on the web"):
        read_source(db, spec)
    embed("search", db, "photos", "red")
    embed("check", db)
    assert Pictures.asked == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file:///etc/passwd", "must begin with http:// or https://"),
        ("ftp://127.0.0.1/x.png", "must begin with http:// or https://"),
        ("red.png", "must begin with http:// or https://"),
        ("http://", "must begin with http:// or https://"),
        ("http://[::1/x.png", "is none"),
        ("http://127.0.0.1:70000/x.png", "is none"),
        ("{url}/to/https://127.0.0.1/red.png", "sends on to another port"),
        ("{url}/to/http://localhost:{port}/red.png", "sends on to another host"),
        ("{url}/to/file:///etc/passwd", "must begin with http:// or https://"),
        ("http://127.0.0.1:1/x.png", "cannot be fetched: ConnectionRefusedError"),
        ("{url}/big.png", "larger than"),
    ],
)
def test_url_images_refuses(pictures, monkeypatch, path, message):
    """Other schemes, other hosts, what is too large: each with its reason, without the address."""
    monkeypatch.setattr(image_values, "MOST_IMAGE_BYTES", 4_000)
    address = path.replace("{url}", pictures.url).replace("{port}", str(pictures.server_port))
    with pytest.raises(ImageError, match=message) as raised:
        UrlImages()(address)
    assert "127.0.0.1" not in str(raised.value)


def test_url_images_follow_to_no_other_port(tmp_path, pictures, counting_model):
    """Another service of the same machine is not asked, and the row says why."""
    other = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    try:
        leads = f"{pictures.url}/to/http://127.0.0.1:{other.server_port}/red.png"
        db = make_photos(tmp_path / "a.db", [leads, f"{pictures.url}/red.png"], "text")
        datasette_embed.create(db, "photos", image="photo", image_urls=True, model_id="count")
    finally:
        other.server_close()
    assert failures(db) == {"1": "the address of the image sends on to another port"}
    assert stored(db, "photos") == {"2": blob_of(RED)}


@pytest.mark.parametrize(
    ("before", "after", "refusal"),
    [
        ("http://a.org/x", "https://a.org/y", None),
        ("http://a.org:80/x", "https://A.org:443/y", None),
        ("https://a.org/x", "https://a.org:443/y", None),
        ("http://a.org:8001/x", "https://a.org:8001/y", None),
        ("https://a.org/x", "http://a.org/y", "from https:// to http://"),
        ("https://a.org/x", "http://a.org:443/y", "from https:// to http://"),
        ("http://a.org:8001/x", "https://a.org/y", "to another port"),
        ("http://a.org/x", "http://a.org:443/y", "to another port"),
        ("http://a.org/x", "http://a.org:0/y", "to another port"),
        ("http://a.org/x", "https://b.org/y", "to another host"),
        ("http://a.org/x", "http://a.org.b.org/y", "to another host"),
    ],
)
def test_redirect_stays_with_its_server(before, after, refusal):
    """Scheme, host and port are the same; an address may become its encrypted one."""
    server, other = image_values._server_of(before), image_values._server_of(after)
    if refusal is None:
        assert server.sent_on(other) is other
    else:
        with pytest.raises(ImageError, match=refusal):
            server.sent_on(other)


def test_url_images_follow_their_own_host(pictures):
    """To another path of it, absolute or not; in a circle it ends."""
    fetch = UrlImages()
    assert fetch(f"{pictures.url}/to//red.png") == RED
    assert fetch(f"{pictures.url}/to/{pictures.url}/red.png") == RED
    with pytest.raises(ImageError, match="more than 5 times"):
        fetch(f"{pictures.url}/to/" + f"{pictures.url}/to/" * 8)


def test_url_images_that_never_end_are_given_up(pictures, monkeypatch):
    """After the time one image may take, whatever its server sends meanwhile."""
    monkeypatch.setattr(image_values, "FETCH_SECONDS", -0.8)
    with pytest.raises(ImageError, match="did not arrive within"):
        UrlImages()(f"{pictures.url}/drip.png")
