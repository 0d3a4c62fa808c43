"""Pictures' files: PNGs that give back the very pixels, and the formats that a request may choose."""

import io
import zlib
from typing import Any

import numpy as np
import png as pypng
import pytest
from gateway_support import Gateway, is_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gateway.base_image.png_chunks import check_chunks
from gateway.encoding import OUTPUT_FORMATS, encode, encode_png

Pixels = NDArray[np.uint8]
SIDES = st.one_of(st.sampled_from([1, 2, 7, 8, 9, 64]), st.integers(1, 80))


def noise(height: int, width: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def gradient(height: int, width: int, seed: int) -> Pixels:
    step = np.arange(height)[:, None, None] * seed + np.arange(width)[:, None] * 3 + np.arange(3) * 90
    return step.astype(np.uint8)


def flat(height: int, width: int, seed: int) -> Pixels:
    return np.full((height, width, 3), seed % 256, np.uint8)


def read_by_pypng(content: bytes) -> Pixels:
    width, height, rows, info = pypng.Reader(bytes=content).read()
    assert (info["bitdepth"], info["planes"], info["interlace"]) == (8, 3, 0)
    return np.vstack([np.frombuffer(row, np.uint8) for row in rows]).reshape(height, width, 3)


def opened(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


@given(SIDES, SIDES, st.sampled_from([noise, gradient, flat]), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_two_readers_find_the_very_pixels_in_a_png(height: int, width: int, make: Any, seed: int) -> None:
    pixels = make(height, width, seed)
    content = encode_png(pixels)
    assert np.array_equal(np.asarray(opened(content)), pixels)
    assert np.array_equal(read_by_pypng(content), pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (1024, 1024), (641, 1537)])
def test_large_and_narrow_pngs_are_read_back(size: tuple[int, int]) -> None:
    pixels = noise(*size, seed=0)
    assert np.array_equal(np.asarray(opened(encode_png(pixels))), pixels)


def test_pixels_need_not_lie_in_one_piece() -> None:
    turned = noise(48, 32, seed=0).transpose(1, 0, 2)[::-1]
    assert np.array_equal(read_by_pypng(encode_png(turned)), turned)


def test_a_png_holds_its_pixels_and_nothing_else() -> None:
    content = encode_png(noise(33, 17, seed=0))
    check_chunks(content)  # every checksum
    assert [kind for kind, _ in pypng.Reader(bytes=content).chunks()] == [b"IHDR", b"IDAT", b"IEND"]
    ((_, data),) = [chunk for chunk in pypng.Reader(bytes=content).chunks() if chunk[0] == b"IDAT"]
    assert len(zlib.decompress(data)) == 33 * (1 + 17 * 3)


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_the_same_pixels_are_the_same_bytes_without_metadata(output_format: str) -> None:
    pixels = noise(48, 32, seed=0)
    content = encode(pixels, output_format)
    assert content == encode(pixels.copy(), output_format) != encode(pixels ^ 128, output_format)
    picture = opened(content)
    assert (picture.format, picture.mode, picture.size) == (output_format.upper(), "RGB", (32, 48))
    assert not picture.getexif() and not {"exif", "icc_profile", "comment", "xmp"} & {*picture.info}


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_a_lossy_picture_is_close_to_its_pixels(output_format: str) -> None:
    pixels = np.asarray(Image.fromarray(noise(16, 16, seed=0)).resize((128, 128), Image.Resampling.BICUBIC))
    difference = np.asarray(opened(encode(pixels, output_format)), np.float64) - pixels
    assert np.sqrt(np.mean(difference**2)) < 255 / 40  # 32 dB


def test_a_jpeg_keeps_colours_sharp() -> None:
    """A column of pure red on blue stays red: its colour is not averaged with its neighbours'."""
    pixels = np.full((64, 64, 3), (0, 0, 255), np.uint8)
    pixels[:, 31] = (255, 0, 0)
    column = np.asarray(opened(encode(pixels, "jpeg")), np.int64)[:, 31]
    assert np.abs(column - (255, 0, 0)).max() < 32


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_a_request_chooses_its_format(gateway: Gateway, output_format: str) -> None:
    before = gateway.stored
    answer = gateway.post(prompt="a mug", seed=1, output_format=output_format).json()
    assert answer["output_format"] == output_format
    (name,) = gateway.stored - before
    assert answer["generated_image_url"] == f"{gateway.url}/images/{name}"
    assert name.endswith(f".{output_format}")
    picture = gateway.http.get(answer["generated_image_url"])
    assert picture.headers["content-type"] == f"image/{output_format}"
    assert picture.headers["content-disposition"] == f'inline; filename="{name}"'
    assert opened(picture.content).format == output_format.upper()


@pytest.mark.parametrize("body", [{}, {"output_format": None}])
def test_the_default_is_png(gateway: Gateway, body: dict[str, Any]) -> None:
    assert gateway.post(prompt="a mug", **body).json()["output_format"] == "png"


def test_a_picture_is_given_out_in_its_own_format_only(gateway: Gateway) -> None:
    url = gateway.post(prompt="a mug", output_format="jpeg").json()["generated_image_url"]
    for name in (url.replace(".jpeg", ".png"), url.replace(".jpeg", ".jpg"), url.removesuffix(".jpeg")):
        is_problem(gateway.http.get(name), 404, "there is no image")
