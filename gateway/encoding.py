"""Pixels -> the bytes of a PNG, JPEG or WebP file: the same bytes for the same pixels, and no metadata."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from gateway.base_image.png_chunks import SIGNATURE

Encoder = Callable[[NDArray[np.uint8]], bytes]
# `python -m benchmarks.encoding`: ISA-L's level 1 with the filter Up makes files about as small as Pillow's
# level 1, in a ninth of the time. Level 2 saves less than 1 %; other filters are slower and worse on drawn
# pictures. fpng takes half the time again, but has had no release since 2022.
LEVEL = 1
UP = 2  # PNG's filter type: each byte less the one above it
EIGHT_BIT_RGB = bytes((8, 2, 0, 0, 0))  # bits, RGB, and the only compression, filtering, no interlacing
# 4:4:4, since halved colour smears a brand's colours where letters are small: 22 dB of PSNR instead of 37 on
# letters 14 pixels high. It costs a third more bytes on photographs.
JPEG = {"quality": 95, "subsampling": "4:4:4"}
# Lossy WebP always halves colour: it is for small files. Method 2 is twice as fast as 4 for 2 % more bytes.
WEBP = {"quality": 90, "method": 2}


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of RGB `pixels`, uint8 [height, width, 3], both at least 1. Other threads run meanwhile."""
    height, width, _ = pixels.shape
    return png_file(height, width, isal_zlib.compress(filtered(pixels), LEVEL))


def filtered(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [height, 1 + 3 * width]: rows less the row above, modulo 256, after the filter's number."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels)
    result = np.empty((height, 1 + width * channels), np.uint8)
    result[:, 0] = UP
    result[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=result[1:, 1:])
    return result


def png_file(height: int, width: int, data: bytes) -> bytes:
    """The PNG of `data`, the zlib stream of an RGB picture's filtered rows."""
    header = struct.pack(">II", width, height) + EIGHT_BIT_RGB
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = isal_zlib.crc32(data, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)))


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """JPEG of the same."""
    return _by_pillow(pixels, "JPEG", JPEG)


def encode_webp(pixels: NDArray[np.uint8]) -> bytes:
    """Lossy WebP of the same."""
    return _by_pillow(pixels, "WEBP", WEBP)


def _by_pillow(pixels: NDArray[np.uint8], form: str, options: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, form, **options)
    return buffer.getvalue()


# A format's name is also its files' extension, and their media type after "image/".
OUTPUT_FORMATS: Mapping[str, Encoder] = {"png": encode_png, "jpeg": encode_jpeg, "webp": encode_webp}
DEFAULT_FORMAT = "png"


def encode(pixels: NDArray[np.uint8], output_format: str) -> bytes:
    """A file of one of OUTPUT_FORMATS with RGB `pixels`, uint8 [height, width, 3]."""
    return OUTPUT_FORMATS[output_format](pixels)
