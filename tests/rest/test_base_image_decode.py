"""Good pictures of every kind become the right pixels, and nothing else of them leaves the decoder."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from decoder_child import Pixels, answered, asking, decoded
from hostile_images import SCRIPT, SECRET, chunk, photo, saved, with_exif
from PIL import Image

UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_orientation_is_applied(kind: str, orientation: int) -> None:
    """Equal pixel by pixel; the meaning of 1 to 8 is EXIF's (CIPA DC-008, 4.6.4.A)."""
    exif = with_exif(orientation=orientation)
    upright = UPRIGHT[orientation](np.asarray(photo()))
    pixels = decoded(saved(photo(), kind, exif=exif, lossless=True), asking(*upright.shape[:2]))
    assert np.array_equal(pixels, upright)


def test_a_turned_jpeg_is_sized_upright() -> None:
    content = saved(photo(2000, 1000), "JPEG", exif=with_exif(orientation=6))
    pixels = decoded(content)
    upright = photo(2000, 1000).transpose(Image.Transpose.ROTATE_270)
    expected = upright.resize((96, 176), Image.Resampling.LANCZOS, (0, 83.3, 1000, 1916.7))
    assert pixels.shape == (176, 96, 3)
    assert np.abs(pixels.astype(int) - np.asarray(expected)).mean() < 1.5


def test_orientation_after_the_pixels_counts() -> None:
    plain = saved(photo(), "PNG")
    content = plain[:-12] + chunk(b"eXIf", with_exif(orientation=3)[6:]) + plain[-12:]
    assert np.array_equal(decoded(content, asking(96, 160)), np.asarray(photo())[::-1, ::-1])


def gray16(value: int) -> Image.Image:
    return Image.fromarray(np.full((64, 64), value, np.uint16))


def flat(mode: str, colour: int | tuple[int, ...]) -> Image.Image:
    return Image.new(mode, (64, 64), colour)


PALETTE = flat("P", 0)
PALETTE.putpalette([200, 100, 50, 1, 2, 3])


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (saved(flat("1", 1), "PNG"), (255, 255, 255)),
        (saved(flat("L", 100), "PNG"), (100, 100, 100)),
        (saved(flat("L", 100), "PNG", transparency=100), (255, 255, 255)),
        (saved(flat("LA", (10, 128)), "PNG"), (132, 132, 132)),
        (saved(PALETTE, "PNG"), (200, 100, 50)),
        (saved(PALETTE, "PNG", transparency=0), (255, 255, 255)),
        (saved(PALETTE, "PNG", transparency=1), (200, 100, 50)),
        (saved(flat("RGB", (9, 8, 7)), "PNG", transparency=(9, 8, 7)), (255, 255, 255)),
        (saved(flat("RGBA", (255, 0, 0, 128)), "PNG"), (255, 127, 127)),
        (saved(flat("RGBA", (255, 0, 0, 0)), "PNG"), (255, 255, 255)),
        (saved(flat("RGBA", (255, 0, 0, 128)), "WEBP", lossless=True), (255, 127, 127)),
        (saved(gray16(0), "PNG"), (0, 0, 0)),
        (saved(gray16(255), "PNG"), (1, 1, 1)),
        (saved(gray16(32_896), "PNG"), (128, 128, 128)),
        (saved(gray16(65_535), "PNG"), (255, 255, 255)),
        (saved(flat("L", 100), "JPEG"), (100, 100, 100)),
        (saved(flat("CMYK", (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
        (saved(flat("CMYK", (0, 0, 0, 255)), "JPEG"), (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb_on_white(content: bytes, colour: tuple[int, int, int]) -> None:
    pixels = decoded(content).astype(int)
    assert np.abs(pixels - colour).max() <= 1


def test_a_supported_picture_is_returned_as_it_is() -> None:
    assert np.array_equal(decoded(saved(photo(), "PNG"), asking(96, 160)), np.asarray(photo()))


def test_the_centre_is_kept_unstretched() -> None:
    stripes = Image.new("RGB", (384, 128), "red")
    stripes.paste("green", (128, 0, 256, 128))
    stripes.paste("blue", (256, 0, 384, 128))
    pixels = decoded(saved(stripes, "PNG"), asking(128, 128))
    assert np.array_equal(pixels, np.asarray(Image.new("RGB", (128, 128), "green")))


def test_a_large_jpeg_looks_the_same_as_without_the_fast_reduction() -> None:
    content = saved(photo(3000, 3000), "JPEG", quality=95)
    expected = photo(3000, 3000).resize((128, 128), Image.Resampling.LANCZOS)
    assert np.abs(decoded(content).astype(int) - np.asarray(expected)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_nothing_but_pixels_leaves_the_child(kind: str) -> None:
    """EXIF, GPS, XMP, profile and comments, and a web page behind the picture."""
    note = SECRET.encode()
    options = {"exif": with_exif(description=SECRET), "xmp": note, "icc_profile": note, "comment": note}
    loaded = saved(photo(), kind, **options) + SCRIPT
    assert loaded.count(note) >= 2  # a PNG compresses its profile
    sizing = asking(96, 160)
    output = answered(loaded, sizing).output
    ready, header, pixels = output.split(b"\n", 2)
    assert (ready, json.loads(header), len(pixels)) == (b"ready", {"height": 96, "width": 160}, 96 * 160 * 3)
    assert output == answered(saved(photo(), kind), sizing).output


def test_a_png_s_texts_do_not_leave_the_child() -> None:
    plain = saved(photo(), "PNG")
    note = SECRET.encode()
    packed = chunk(b"zTXt", b"name\0\0" + zlib.compress(note))
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + note)
    texts = chunk(b"tEXt", b"name\0" + note) + packed + xmp + chunk(b"prVt", note)
    assert np.array_equal(decoded(plain[:33] + texts + plain[33:]), decoded(plain))
