"""Looks through a PNG's chunks before Pillow does, whose time and memory grow with their number."""

import struct
import zlib
from collections.abc import Iterator

from gateway.base_image.errors import BaseImageRefused
from gateway.base_image.limits import LIMITS

SIGNATURE = b"\x89PNG\r\n\x1a\n"
METADATA = {b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf"}
FRAME = 12  # bytes of length, kind and checksum around each chunk's data


def check_chunks(content: bytes) -> None:
    """BaseImageRefused if a chunk is damaged, the end is missing, or chunks or metadata are too many."""
    metadata = 0
    for number, (kind, length) in enumerate(_chunks(content), start=1):
        metadata += length if kind in METADATA else 0
        if number > LIMITS.max_png_chunks:
            raise BaseImageRefused(f"the base image has more than {LIMITS.max_png_chunks} PNG chunks")
        if metadata > LIMITS.max_png_metadata_bytes:
            limit = LIMITS.max_png_metadata_bytes
            raise BaseImageRefused(f"the base image has more than {limit} bytes of text, profile and EXIF")


def _chunks(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Kind and length in bytes of each chunk up to the end; what follows the end is no part of it."""
    view, start, kind = memoryview(content), len(SIGNATURE), b""
    while kind != b"IEND":
        if start + FRAME > len(content):
            raise BaseImageRefused("the base image is truncated: its PNG end is missing")
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + FRAME + length
        # Pillow itself checks no checksum of pixel data.
        if end > len(content) or zlib.crc32(view[start + 4 : end - 4]) != _number(content, end - 4):
            raise BaseImageRefused("the base image is damaged or truncated: bad PNG chunk")
        yield kind, length
        start = end


def _number(content: bytes, start: int) -> int:
    return int.from_bytes(content[start : start + 4], "big")
