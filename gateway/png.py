"""Pixels -> PNG bytes, the same bytes for the same pixels."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Level 1: half the time of level 4 for 15 % more bytes (124 ms against 249 ms at 1024 x 1024 with noise).
COMPRESS_LEVEL = 1


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of RGB `pixels`, uint8 [height, width, 3]; no metadata, hence no timestamp."""
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, "PNG", compress_level=COMPRESS_LEVEL)
    return buffer.getvalue()
