"""Image pixels: what an image takes while it is read, and that nothing of it is read wrongly."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from datasette_embed.errors import UnreadableTextError
from datasette_embed.image_pixels import (
    MOST_PIXELS_FROM_OUTSIDE,
    decoding_bytes,
    has_more_pixels,
    in_strips,
)
from datasette_embed.providers import images
from datasette_embed.providers.images import read_image
from datasette_embed.web import thumbnails
from tests.images import png

Image = pytest.importorskip("PIL.Image")
np = pytest.importorskip("numpy")

READ = "from datasette_embed.providers.images import read_image; read_image(data, 'm')"
SHOW = "from datasette_embed.web.thumbnails import _thumbnail; assert _thumbnail(data)"
#: Prints by how many MB the peak of a process grows (VmHWM: what ``ru_maxrss`` says includes
#: what the process that started this one had).
MEASURE = """
import sys, numpy
from PIL import Image
Image.init()
Image.linear_gradient("L").convert("RGBA").resize((9, 9))
from datasette_embed.providers import images
from datasette_embed.web import thumbnails
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
data = open(sys.argv[1], "rb").read()
before = peak()
{work}
print((peak() - before) / 1024)
"""


def saved(picture: Any, format: str = "PNG", **options: Any) -> bytes:
    """Return a picture as a file."""
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def gradient(mode: str, size: tuple[int, int]) -> Any:
    """Return a picture in which every place differs from its neighbours, and with it its alpha."""
    bands = [
        Image.linear_gradient("L").resize(size).rotate(90 * turn).point(lambda v, t=turn: v ^ t)
        for turn in range(len(mode))
    ]
    return Image.merge(mode, bands)


def palette(side: int) -> bytes:
    """Return a file of a few kilobytes: a list of colours, one of which is transparent."""
    picture = Image.new("P", (side, side), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(0, (0, 0, side // 2, side // 2))
    return saved(picture, transparency=0)


def photo(side: int) -> bytes:
    """Return a JPEG whose decoder must hold all of it."""
    return saved(Image.new("RGB", (side, side), "navy"), "JPEG", progressive=True, subsampling=0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("work", "limit", "make", "side"),
    [
        (READ, 420, palette, 9_450),
        (READ, 420, photo, 7_800),
        (READ, 300, palette, 5_000),
        (READ, 420, lambda side: saved(Image.new("RGB", (side, side)), "WEBP"), 5_000),
        (SHOW, 200, palette, 5_000),
        (SHOW, 200, lambda side: saved(Image.new("RGBA", (side, side), "#1234")), 5_000),
        (SHOW, 200, photo, 4_899),
        (SHOW, 200, lambda side: saved(Image.new("RGB", (side, side)), "WEBP"), 3_500),
    ],
)
def test_peak_of_memory_is_bounded(tmp_path: Path, work, limit, make, side):
    """The largest that are accepted, of the kinds that take most."""
    file = tmp_path / "image"
    file.write_bytes(make(side))
    script = MEASURE.format(work=work)
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < limit


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "CMYK"])
def test_ordinary_images_are_read_to_the_last_bit(mode):
    """Strips, and the picture itself where it is in RGB, are what Pillow makes of the whole."""
    picture = gradient("RGBA" if mode == "RGBA" else "RGB", (1_500, 1_100))
    if mode in ("P", "LA"):
        picture = picture.quantize(16) if mode == "P" else picture.convert("LA")
    if mode == "CMYK":
        picture = picture.convert("CMYK")
    options = {"transparency": 3} if mode == "P" else {}
    file = saved(picture, "TIFF" if mode == "CMYK" else "PNG", **options)
    with Image.open(io.BytesIO(file)) as opened:
        if mode in ("RGB", "CMYK"):
            expected = opened.convert("RGB")
        else:
            whole = opened.convert("RGBA")
            ground = Image.new("RGBA", whole.size, "white")
            expected = Image.alpha_composite(ground, whole).convert("RGB")
    found = read_image(file, "m")
    assert found.size == picture.size
    assert np.array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_image_is_made_smaller_and_shows_the_same(monkeypatch, format, orientation):
    """Within a few levels of the mean of the squares of the original, and upright."""
    monkeypatch.setattr(images, "LARGE_PIXELS", 1_000_000)
    monkeypatch.setattr(images, "SMALLER_PIXELS", 500_000)
    picture = gradient("RGB", (2_401, 1_600))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format == "JPEG" else {}
    found = read_image(saved(picture, format, exif=exif.tobytes(), **options), "m")
    expected = picture if orientation == 1 else picture.transpose(Image.Transpose.ROTATE_270)
    assert max(found.size) == 801 if format == "PNG" else max(found.size) <= 1_201
    assert (found.width > found.height) == (orientation == 1)
    small = np.asarray(expected.resize(found.size, Image.Resampling.BOX), dtype=int)
    assert np.abs(np.asarray(found, dtype=int) - small).mean() < 2


def test_large_strip_is_not_made_narrower_than_models_see(monkeypatch):
    """A panorama keeps the length of its shorter side."""
    monkeypatch.setattr(images, "LARGE_PIXELS", 1_000_000)
    monkeypatch.setattr(images, "SMALLER_PIXELS", 500_000)
    assert read_image(saved(gradient("RGB", (4_000, 600))), "m").size == (4_000, 600)


def test_in_strips_is_the_whole_made_smaller():
    """Whatever the height, which need be no multiple of anything."""
    for size in ((700, 3_001), (3_001, 700), (1_000_001, 2), (5, 7)):
        picture = Image.linear_gradient("L").resize(size)
        for factor in (1, 2, 3):
            found = in_strips(picture, "L", lambda strip: strip, factor)
            expected = picture.reduce(factor) if factor > 1 else picture
            assert np.array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize(
    ("format", "options", "needed"),
    [
        ("PNG", {}, 4),
        ("WEBP", {}, 16),
        ("JPEG", {}, 1),
        ("JPEG", {"progressive": True}, 6),
        ("TIFF", {}, 8),
    ],
)
def test_decoding_bytes_by_format(format, options, needed):
    """What a decoder keeps beside the image is counted before it keeps it."""
    file = saved(Image.new("RGB", (20, 20)), format, **options)
    with Image.open(io.BytesIO(file)) as opened:
        assert decoding_bytes(opened) == needed


@pytest.mark.parametrize("format", ["ICO", "ICNS"])
def test_icons_are_refused(format):
    """What they hold may be of any size, and their headers say another one."""
    file = saved(Image.new("RGB", (64, 64)), format)
    with pytest.raises(images.UnreadableTextError, match="no image that can be read"):
        read_image(file, "m")


def test_has_more_pixels_by_the_header():
    """Without decoding; of what is no image nothing is said."""
    assert has_more_pixels(png(width=5_000, height=5_001), MOST_PIXELS_FROM_OUTSIDE)
    assert not has_more_pixels(png(width=5_000, height=5_000), MOST_PIXELS_FROM_OUTSIDE)
    assert has_more_pixels(palette(20_000), MOST_PIXELS_FROM_OUTSIDE)
    assert has_more_pixels(palette(10_000), MOST_PIXELS_FROM_OUTSIDE)
    assert not has_more_pixels(b"no image", 1)


# -- thumbnails ------------------------------------------------------------------------


def tiled(side: int, tile: tuple[int, int]) -> bytes:
    """Return a grey TIFF of one tile, which may be larger than it is (TIFF 6.0, section 15)."""
    data = zlib.compress(bytes(tile[0] * tile[1]))
    tags = [(256, side), (257, side), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, tile[0]), (323, tile[1])]
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags += [(324, start), (325, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def test_tiles_of_a_tiff_count_as_they_are_decoded():
    """16 x 16 pixels may be 50 kB that take half a gigabyte."""
    fine, bomb = tiled(16, (16, 16)), tiled(16, (32768, 2048))
    assert read_image(fine, "m").size == (16, 16)
    assert thumbnails._thumbnail(fine) is not None
    assert has_more_pixels(bomb, MOST_PIXELS_FROM_OUTSIDE)
    assert not has_more_pixels(fine, MOST_PIXELS_FROM_OUTSIDE)
    with pytest.raises(UnreadableTextError, match="in such large tiles is too large"):
        read_image(bomb, "m")
    assert thumbnails._thumbnail(bomb) is None


def shown(file: bytes) -> Any:
    """Return the small copy of an image, opened."""
    found = thumbnails._thumbnail(file)
    assert found is not None
    return Image.open(io.BytesIO(found.data))


def test_thumbnail_of_a_photo_of_24_megapixels():
    """What phones take, in any way a JPEG is written."""
    for options in ({}, {"progressive": True}):
        file = saved(Image.new("RGB", (6_000, 4_000), "teal"), "JPEG", **options)
        assert shown(file).size == (320, 213)


def test_thumbnail_of_more_pixels_is_none():
    """However few bytes they are."""
    assert thumbnails._thumbnail(palette(5_001)) is None
    assert thumbnails._thumbnail(saved(Image.new("RGB", (4_000, 4_000)), "WEBP")) is None


@pytest.mark.parametrize(
    ("levels", "format"),
    [
        (np.array([[0, 32_896], [65_535, 257]], dtype=np.uint16), "PNG"),
        (np.array([[0, 32_896], [65_535, 257]], dtype=np.uint16), "TIFF"),
        (np.array([[0.0, 0.502], [1.0, np.nan]], dtype=np.float32), "TIFF"),
    ],
)
def test_thumbnail_of_deep_greys_is_scaled(levels, format):
    """Neither all white nor all black: the greys that a model is given."""
    file = saved(Image.fromarray(levels.repeat(8, 0).repeat(8, 1)), format)
    found = np.asarray(shown(file).convert("L"), dtype=int)[4::8, 4::8]
    expected = np.asarray(read_image(file, "m").convert("L"), dtype=int)[4::8, 4::8]
    assert np.abs(found - expected).max() <= 6
    assert abs(found[0, 1] - 128) <= 6 and found[1, 0] >= 249 and found[0, 0] <= 6


def test_thumbnail_of_a_transparent_image_stays_so():
    """Through the strips, and made smaller by whole factors before."""
    picture = Image.new("RGBA", (2_000, 1_400), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 1_000, 1_400))
    found = shown(saved(picture))
    assert (found.size, found.mode) == ((320, 224), "RGBA")
    assert found.getpixel((50, 100)) == (255, 0, 0, 255) and found.getpixel((300, 100))[3] == 0


def test_thumbnail_of_a_photo_taken_sideways_is_upright():
    """The copy itself has no EXIF that could say so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    found = shown(saved(Image.new("RGB", (1_000, 500)), "JPEG", exif=exif.tobytes()))
    assert (found.size, dict(found.getexif())) == ((160, 320), {})
