"""CLIP: texts and images in one space, from files, blobs and SQL; and Instructor's prompts."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasette_embed
from datasette_embed.compat import is_version_one
from datasette_embed.database import sqlite3
from datasette_embed.errors import CallRefusedError, MissingDependencyError, UnreadableTextError
from datasette_embed.model_entries import parse_model_entry
from datasette_embed.models import EmbeddingModel, Kind
from datasette_embed.models_file import add_model_entry
from datasette_embed.providers import images as image_module
from datasette_embed.providers.images import embeds_images, image_groups, read_image
from datasette_embed.providers.opening import open_model
from datasette_embed.registry import forget_registries, get_registry
from datasette_embed.schema_sql import LLM_TABLES
from tests.checkpoints import image, image_bytes, write_clip
from tests.contracts import EmbeddingModelContract, ImageModelContract
from tests.storage import embed, query, stored

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),  # of torch and transformers, which are not ours
]


def opened(folder: Path, **options: Any) -> EmbeddingModel:
    """Return the model of an entry of the models file."""
    entry = {"provider": "sentence-transformers", "model": str(folder), "id": "clip"}
    return open_model(parse_model_entry({**entry, "device": "cpu", **options}, "models[0]"))


@pytest.fixture(scope="module")
def loaded_clip(tiny_clip: Path) -> EmbeddingModel:
    """Loaded once for the module."""
    return opened(tiny_clip, images=True)


@pytest.fixture
def images() -> list[bytes]:
    """Files of three formats with other pictures."""
    return [
        image_bytes(),
        image_bytes(image("blue", shape="bar"), "JPEG", quality=95),
        image_bytes(image("yellow", (30, 70)), "WEBP", lossless=True),
    ]


class TestTinyClip(EmbeddingModelContract):
    """It is a model of texts like any other."""

    @pytest.fixture
    def model(self, loaded_clip):
        return loaded_clip


class TestTinyClipImages(ImageModelContract):
    """And of images."""

    @pytest.fixture
    def model(self, loaded_clip):
        return loaded_clip

    @pytest.fixture
    def images(self, images):
        return images


@pytest.fixture(scope="module")
def original(tiny_clip: Path) -> Any:
    """The package's own object."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_clip), device="cpu")


def pictures(files: list[bytes]) -> list[Any]:
    """Return what Pillow reads."""
    from PIL import Image

    return [Image.open(BytesIO(file)) for file in files]


def test_embed_same_as_the_package_itself(loaded_clip, original, images):
    """Alone and mixed, for either side of a search."""
    expected = [*original.encode(pictures(images)), *original.encode(["a dog", "a cat"])]
    for kind in Kind:
        mixed = loaded_clip.embed_checked([*images, "a dog", "a cat"], kind=kind).vectors
        assert np.allclose(mixed, expected, atol=1e-5)
        assert np.allclose(loaded_clip.embed(images[1], kind=kind), expected[1], atol=1e-5)


def test_layout_of_clip_vit_b_32_has_the_same_vectors(tmp_path, original, images):
    """Whose module for CLIP is older than the package's own way."""
    old = opened(write_clip(tmp_path, old=True), images=True)
    assert np.allclose(old.embed(images[0]), original.encode(pictures(images))[0], atol=1e-5)
    assert np.allclose(old.embed("a dog"), original.encode("a dog"), atol=1e-5)


def test_text_that_looks_like_an_image_is_a_text(loaded_clip, original, tmp_path):
    """Whoever sends one must not make the server open a file or an address."""
    path = tmp_path / "secret.png"
    path.write_bytes(image_bytes())
    for text in (str(path), "http://127.0.0.1:9/x.png", "data:image/png;base64,AAAA"):
        vector = loaded_clip.embed(text)
        assert np.allclose(vector, original.encode([{"text": text}])[0], atol=1e-5)
        assert not np.allclose(vector, loaded_clip.embed(path.read_bytes()), atol=1e-3)


def test_text_that_looks_like_an_image_for_a_model_said_to_embed_none(tiny_clip, tmp_path):
    """The option refuses bytes; what a text is does not hang on it."""
    path = tmp_path / "secret.png"
    path.write_bytes(image_bytes())
    model = opened(tiny_clip, images=False)
    assert np.allclose(
        model.embed(str(path)), opened(tiny_clip, images=True).embed(str(path)), atol=1e-6
    )
    with pytest.raises(ValueError, match="does not support binary data"):
        model.embed(image_bytes())


def test_read_text_beyond_77_tokens_is_told(loaded_clip):
    """CLIP reads short texts; its token for the end is no unknown word."""
    (short, long) = loaded_clip.read(["dog", "dog cat " * 50])
    assert (short.tokens, short.unknown_tokens, short.special_tokens) == (3, 0, 2)
    assert (long.tokens, loaded_clip.max_tokens) == (102, 77)
    assert loaded_clip.embed("dog cat " * 50) == pytest.approx(
        loaded_clip.embed("dog cat " * 49), abs=1e-5
    )


def test_images_of_an_unknown_name_are_found_out_by_loading(tiny_clip):
    """A folder of another name says nothing before."""
    model = opened(tiny_clip)
    assert not model.supports_binary
    model.warm()
    assert model.supports_binary
    assert len(model.embed(image_bytes())) == 12


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip-ViT-B-32", True),
        ("sentence-transformers/clip-ViT-L-14", True),
        ("openai/clip-vit-base-patch32", True),
        ("google/siglip-base-patch16-224", True),
        ("google/siglip2-base-patch16-224", True),
        ("jinaai/jina-clip-v2", True),
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", True),
        ("nomic-ai/nomic-embed-vision-v1.5", True),
        ("sentence-transformers/clip-ViT-B-32-multilingual-v1", False),
        ("all-MiniLM-L6-v2", False),
        ("nomic-ai/nomic-embed-text-v1.5", False),
        ("/srv/clips/mini", False),
    ],
)
def test_images_by_usual_name(name, expected):
    """The multilingual CLIP embeds texts only."""
    assert embeds_images(name) is expected
    assert opened(Path(name)).supports_binary is expected


def test_images_said_of_a_model_of_texts_refused(tiny_bert):
    """The entry is wrong for every image, and says so once."""
    with pytest.raises(CallRefusedError, match="it embeds no images"):
        opened(tiny_bert, images=True).warm()
    guessed = opened(tiny_bert)
    guessed.supports_binary = True  # as of a usual name
    with pytest.raises(CallRefusedError, match="embeds text only, not images"):
        guessed.embed(image_bytes())


def test_load_and_embed_say_nothing_on_stderr(tiny_clip, images, capfd):
    """A server's stderr is for what somebody has to read."""
    opened(tiny_clip, images=True).embed_checked([*images, "dog " * 90])
    assert capfd.readouterr().err == ""


# -- what an image is ------------------------------------------------------------------


def read(file: bytes) -> np.ndarray:
    """Return the pixels of an image as a model is given them."""
    found = read_image(file, "clip")
    assert found.mode == "RGB"
    return np.asarray(found, dtype=int)


@pytest.mark.parametrize(
    ("mode", "format", "tolerance"),
    [("P", "GIF", 12), ("P", "PNG", 12), ("CMYK", "JPEG", 12), ("RGBA", "PNG", 0), ("L", "PNG", 0)],
)
def test_read_modes_show_the_same_picture(mode, format, tolerance):
    """Palettes, printers' colours and opaque layers are the picture that they show."""
    expected = np.asarray(image().convert("L" if mode == "L" else "RGB").convert("RGB"), dtype=int)
    options = {"quality": 98} if format == "JPEG" else {}
    picture = image().quantize(32) if mode == "P" else image(mode=mode)
    found = read(image_bytes(picture, format, **options))
    assert np.abs(found - expected).mean() <= tolerance


@pytest.mark.parametrize("format", ["BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG"])
def test_read_formats_of_photographs(format):
    """Those that are named in the manual."""
    from PIL import Image, features

    Image.init()
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    found = read(image_bytes(image(), format))
    assert np.abs(found - np.asarray(image(), dtype=int)).mean() < 12


def test_read_transparent_shows_white():
    """As on a page, and not whatever colour lies beneath."""
    from PIL import Image

    picture = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    picture.putpixel((1, 2), (255, 0, 0, 255))
    found = read(image_bytes(picture))
    assert found[2, 1].tolist() == [255, 0, 0]
    assert found[0, 0].tolist() == [255, 255, 255]
    palette = picture.convert("P")
    assert read(image_bytes(palette, transparency=palette.getpixel((0, 0))))[0, 0].min() == 255


def test_read_16_bit_grey_is_scaled():
    """Pillow itself would cut every level at 255."""
    from PIL import Image

    levels = np.array([[0, 32_896], [65_535, 257]], dtype=np.uint16)
    assert read(image_bytes(Image.fromarray(levels)))[..., 0].tolist() == [[0, 128], [255, 1]]


@pytest.mark.parametrize(("top", "middle"), [(1.0, 0.5), (200.0, 127.5), (60_000.0, 32_767.5)])
def test_read_fractions_are_scaled_by_the_likely_white(top, middle):
    """A TIFF of floating point numbers may mean 1, 255 or 65,535 by white."""
    from PIL import Image

    levels = np.array([[0.0, middle], [top, np.nan]], dtype=np.float32)
    found = read(image_bytes(Image.fromarray(levels), "TIFF"))[..., 0]
    assert (found[0, 0], found[0, 1], found[1, 1]) == (0, 128, 0)


def test_read_photo_taken_sideways_is_upright():
    """Cameras store how they were held (EXIF orientation 6: a quarter turn)."""
    from PIL import Image

    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (0, 0, 40, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read(image_bytes(picture, "PNG", exif=exif.tobytes()))
    assert found.shape == (40, 20, 3)
    assert found[0, -1].tolist() == [0, 0, 255]  # what was the top is at the right


def test_read_animation_is_its_first_frame():
    """One entry is one picture."""
    from PIL import Image

    frames = [Image.new("P", (8, 8), n) for n in (0, 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 0, 255])
    file = image_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read(file)[0, 0].tolist() == [255, 0, 0]


def test_read_bomb_and_line_refused_by_their_headers():
    """A few bytes that would be gigabytes; what the model would scale to as much."""
    from PIL import Image

    bomb = image_bytes(Image.new("1", (20_000, 20_000)))
    assert len(bomb) < 100_000
    with pytest.raises(UnreadableTextError, match="is too large to be read: at most 89,478,485"):
        read_image(bomb, "clip")
    large = image_bytes(Image.new("1", (10_000, 10_000)))
    with pytest.raises(UnreadableTextError, match="of 10,000 x 10,000 pixels is too large"):
        read_image(large, "clip")
    with pytest.raises(UnreadableTextError, match="of 1 x 5,000 pixels is too narrow"):
        read_image(image_bytes(Image.new("RGB", (1, 5_000))), "clip")


def test_read_postscript_refused():
    """Pillow would run another program over it."""
    file = image_bytes(image(), "EPS")
    with pytest.raises(UnreadableTextError, match="no image that can be read"):
        read_image(file, "clip")


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 200), (2, 300)])
def test_embed_tiny_images(loaded_clip, size):
    """However small, they have a vector."""
    assert all(np.isfinite(loaded_clip.embed(image_bytes(image("red", size)))))


def test_image_groups_hold_few_pixels_at_once(monkeypatch):
    """A batch of photographs must not fill the memory."""
    monkeypatch.setattr(image_module, "GROUP_PIXELS", 100)
    sizes = [(5, 5), (8, 8), (40, 40), (2, 2)]
    files = [image_bytes(image("red", size)) for size in sizes]
    groups = [(positions, [i.size for i in held]) for positions, held in image_groups(files, "m")]
    assert groups == [([0, 1], sizes[:2]), ([2], sizes[2:3]), ([3], sizes[3:])]


def test_pillow_absent_error_names_the_command(monkeypatch):
    """Without it the message ends with what installs it."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        MissingDependencyError, match=r"Run: pip install 'datasette-embed\[clip\]'$"
    ):
        read_image(b"x", "clip")


# -- in the terminal and in SQL ---------------------------------------------------------


@pytest.fixture
def clip(tiny_clip: Path) -> EmbeddingModel:
    """Register the model under the id that llm-clip gives it."""
    entry = {"provider": "sentence-transformers", "model": str(tiny_clip), "id": "clip"}
    add_model_entry(parse_model_entry({**entry, "device": "cpu", "images": True}, "models[0]"))
    forget_registries()
    return get_registry().get("clip")


@pytest.fixture
def folder(tmp_path: Path, images: list[bytes]) -> Path:
    """Three photographs in two folders, and one that was cut off while it was copied."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "red.png").write_bytes(images[0])
    (folder / "blue.png").write_bytes(images[1])
    (folder / "more" / "yellow.png").write_bytes(images[2])
    (folder / "broken.png").write_bytes(images[0][: len(images[0]) // 2])
    return folder


def test_multi_folder_of_images_with_a_broken_one(clip, folder, tmp_path, images):
    """The good ones are stored and found by words; the bad one is named."""
    db = tmp_path / "photos.db"
    said = embed(
        "multi",
        "photos",
        "--files",
        folder,
        "**/*.png",
        "--binary",
        "--store",
        "-m",
        "clip",
        "-d",
        db,
        expect=0,
    )
    assert "broken.png" in said.stdout + said.stderr or query(db, "select * from _embed_failures")
    found = stored(db, "photos")
    assert sorted(found) == ["blue.png", "more/yellow.png", "red.png"]
    for name, file in zip(("red.png", "blue.png", "more/yellow.png"), images, strict=True):
        vector = np.frombuffer(found[name], "<f4")
        assert np.allclose(vector, clip.embed(file), atol=1e-5)
    ((entry_id, message),) = query(db, "select entry_id, message from _embed_failures")
    assert entry_id == "broken.png"
    assert "no image that can be read" in message
    contents = query(db, "select content_blob from embeddings where id = 'red.png'")
    assert contents == [(images[0],)]

    hits = json.loads(embed("search", db, "photos", "a dog", "--json").stdout)
    wanted = np.array(clip.embed("a dog", kind=Kind.QUERY))
    scores = {
        name: float(np.array(clip.embed(file)) @ wanted)
        / float(np.linalg.norm(clip.embed(file)) * np.linalg.norm(wanted))
        for name, file in zip(("red.png", "blue.png", "more/yellow.png"), images, strict=True)
    }
    assert [hit["id"] for hit in hits] == sorted(scores, key=lambda name: -scores[name])
    for hit in hits:
        assert hit["score"] == pytest.approx(scores[hit["id"]], abs=1e-4)

    # A photograph, which need not be one of the collection, finds those like it.
    file = str(folder / "red.png")
    lines = embed("similar", db, "photos", "--input", file, "--binary").stdout.splitlines()
    best = json.loads(lines[0])
    assert (best["id"], best["score"]) == ("red.png", pytest.approx(1, abs=1e-5))


def test_file_made_with_llm_clip_is_searched(clip, original, tmp_path, images):
    """LLM's tables, a collection of the model ``clip``, and the package's own vectors."""
    db = tmp_path / "llm.db"
    conn = sqlite3.connect(db)
    conn.executescript(LLM_TABLES)
    conn.execute("insert into collections values (1, 'photos', 'clip')")
    for number, vector in enumerate(original.encode(pictures(images))):
        conn.execute(
            "insert into embeddings (collection_id, id, embedding) values (1, ?, ?)",
            (str(number), vector.astype("<f4").tobytes()),
        )
    conn.commit()
    conn.close()
    wanted = original.encode("a dog")
    scores = original.similarity(wanted, original.encode(pictures(images)))[0].tolist()
    hits = json.loads(embed("search", db, "photos", "a dog", "--json").stdout)
    assert [int(hit["id"]) for hit in hits] == sorted(range(3), key=lambda n: -scores[n])


def test_sql_image_blob_beside_texts(clip, images):
    """``llm_embed`` takes a BLOB; cosine orders texts by an image and images by a text."""
    conn = sqlite3.connect(":memory:")
    datasette_embed.register(conn)
    (blob,) = conn.execute("select llm_embed('clip', ?)", (images[0],)).fetchone()
    vector = np.frombuffer(blob, "<f4")
    assert np.allclose(vector, clip.embed(images[0]), atol=1e-5)
    texts = ["a dog", "sqlite", "an emoji", "seven"]
    conn.execute("create table texts (body text)")
    conn.executemany("insert into texts values (?)", [(text,) for text in texts])
    rows = conn.execute(
        "select body from texts order by"
        " llm_embed_cosine(llm_embed('clip', body), llm_embed('clip', ?)) desc",
        (images[0],),
    ).fetchall()

    def cosine(text: str) -> float:
        other = np.array(clip.embed(text, kind=Kind.QUERY))
        return float(other @ vector) / float(np.linalg.norm(other) * np.linalg.norm(vector))

    assert [body for (body,) in rows] == sorted(texts, key=lambda text: -cosine(text))
    conn.close()


@pytest.mark.asyncio
async def test_sql_on_a_site_bytes_that_are_no_image_refused(clip, make_datasette):
    """In words, and without a trace of what they are."""
    datasette = make_datasette(config={"allow": {"clip": True}})
    await datasette.invoke_startup()
    sql = "select llm_embed('clip', x'0102') is null as answer"
    page = "/_memory/-/query.json" if is_version_one(datasette) else "/_memory.json"
    answer = await datasette.client.get(page, params={"sql": sql})
    assert answer.status_code == 400
    assert "clip: the content is no image that can be read" in answer.json()["error"]


# -- Instructor -------------------------------------------------------------------------

INSTRUCTIONS = {
    "query_prompt": "Represent the Computer Science question for retrieving: ",
    "document_prompt": "Represent the Computer Science documentation or question: ",
}


def pooled_by_hand(folder: Path, prompt: str, text: str) -> np.ndarray:
    """Return the mean of the text's tokens only, through the layer, of length 1, in float64."""
    from sentence_transformers import SentenceTransformer

    original = SentenceTransformer(str(folder), device="cpu")
    tokens = original.encode(prompt + text, output_value="token_embeddings").numpy()
    before = len(original.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    mean = tokens[before:].astype(np.float64).mean(axis=0)
    weights = original[2].linear.weight.detach().numpy().astype(np.float64)
    vector = weights @ mean
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def loaded_instructor(tiny_instructor: Path) -> EmbeddingModel:
    """Loaded once for the module."""
    return opened(tiny_instructor, **INSTRUCTIONS)


class TestTinyInstructor(EmbeddingModelContract):
    """With instructions it is a model like any other."""

    @pytest.fixture
    def model(self, loaded_instructor):
        return loaded_instructor


@pytest.mark.parametrize("kind", list(Kind))
def test_instruction_is_outside_the_pooling(tiny_instructor, kind):
    """The model reads it, and its tokens are not in the mean."""
    model = opened(tiny_instructor, **INSTRUCTIONS)
    prompt = INSTRUCTIONS[f"{kind.value}_prompt"]
    vector = model.embed("a dog chases the ball", kind=kind)
    assert np.allclose(
        vector, pooled_by_hand(tiny_instructor, prompt, "a dog chases the ball"), atol=1e-5
    )
    bare = opened(tiny_instructor, query_prompt="", document_prompt="")
    assert not np.allclose(vector, bare.embed("a dog chases the ball", kind=kind), atol=1e-3)
    joined = bare.embed(prompt + "a dog chases the ball", kind=kind)
    assert not np.allclose(vector, joined, atol=1e-3)


def test_instruction_takes_room_in_what_is_read(tiny_instructor):
    """A text that fits alone may be too long behind an instruction."""
    model = opened(tiny_instructor, **INSTRUCTIONS)
    text = "dog " * 34
    (reading,) = model.read([text])
    assert model.max_tokens == 40
    assert reading.special_tokens == 9
    assert reading.tokens == 34 + 9
    assert model.embed(text) == pytest.approx(model.embed("dog " * 31), abs=1e-6)
    (alone,) = opened(tiny_instructor, document_prompt="").read([text])
    assert alone.tokens == 35


def test_instructions_are_other_vector_spaces(tiny_instructor):
    """So that a collection knows when its instruction was changed."""
    texts = ("", *INSTRUCTIONS.values())
    found = {opened(tiny_instructor, document_prompt=text).fingerprint for text in texts}
    assert len(found) == 3
