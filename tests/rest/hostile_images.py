"""Pictures made to hurt a decoder, and odd but good ones, each made here from nothing."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

SECRET = "PRIVATE-NOTE"
SCRIPT = b"<script>alert(1)</script>"


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 160, height: int = 96) -> Image.Image:
    """Smooth, coloured, and unlike each of its mirror images."""
    across, down = (Image.linear_gradient("L").rotate(turn).resize((width, height)) for turn in (90, 0))
    return Image.merge("RGB", (across, down, across.point(lambda value: value * value // 255)))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, bits: int = 1, colour: int = 0, extra: bytes = b"") -> bytes:
    """All zeros, `bits` a pixel, PNG's number for the kind of colour; `extra` before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, min(bits, 8), colour, 0, 0, 0)
    size = (1 + (width * bits + 7) // 8) * height
    pixels = zlib.compress(bytes(size), 9 if bits == 1 else 1) if size < 2**30 else b""
    parts = chunk(b"IHDR", header), extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bomb(kind: bytes, megabytes: int = 200) -> bytes:
    """A compressed chunk of zeros; one block a megabyte, repeated, with no end that anyone would reach."""
    packer = zlib.compressobj(9)
    first, again = (packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return chunk(kind, b"name\0\0" + first + again * (megabytes - 1))


def jpeg_of_size(width: int, height: int, mode: str = "L", **options: Any) -> bytes:
    """A small JPEG whose header claims more pixels: libjpeg draws those that are missing gray."""
    content = saved(Image.new(mode, (16, 16)), "JPEG", **options)
    start = content.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0") + 5
    return content[:start] + struct.pack(">HH", height, width) + content[start + 4 :]


def jpeg_of_comments(number: int) -> bytes:
    """Empty comments of 4 bytes each, which Pillow reads one by one."""
    content = saved(photo(), "JPEG")
    return content[:2] + b"\xff\xfe\0\2" * number + content[2:]


def webp_of_canvas(width: int, height: int) -> bytes:
    """An extended WebP that claims a canvas and holds nothing."""
    size = b"".join(struct.pack("<I", side - 1)[:3] for side in (width, height))
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_of_size(width: int, height: int) -> bytes:
    """A small WebP whose header claims more pixels."""
    content = saved(Image.new("RGB", (16, 16)), "WEBP")
    return content[:26] + struct.pack("<HH", width, height) + content[30:]


def animation(kind: str, frames: int = 3) -> bytes:
    rest = [Image.new("RGB", (64, 64), (40 * number, 0, 0)) for number in range(1, frames)]
    return saved(Image.new("RGB", (64, 64)), kind, save_all=True, append_images=rest)


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def with_exif(**tags: int | str) -> bytes:
    exif = Image.Exif()
    for name, value in tags.items():
        exif[{"orientation": 0x0112, "description": 0x010E}[name]] = value
    exif.get_ifd(0x8825)[1] = SECRET  # GPS
    return exif.tobytes()


def broken_exif() -> bytes:
    """One entry whose data lies beyond the end: Pillow warns."""
    entry = struct.pack("<HHHII", 1, 0x010E, 2, 100, 5000)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry


def refused() -> dict[str, tuple[bytes, str]]:
    """Name -> content, and a part of the message."""
    small, jpeg = saved(photo(), "PNG"), saved(photo(), "JPEG")
    webp = saved(photo(), "WEBP")
    text = chunk(b"tEXt", b"name\0" + bytes(600_000))
    bad_frames = chunk(b"acTL", struct.pack(">II", 0, 0))
    sides, other, damaged = "sides: 16 to 8192", "at most 8 times", "damaged or truncated"
    none = "no PNG, JPEG or WebP"
    return {
        "PNG of 144 megapixels": (png(12_000, 12_000), sides),
        "PNG of 26 megapixels": (png(5200, 5000), "at most 25000000 pixels"),
        "JPEG of 169 megapixels": (jpeg_of_size(13_000, 13_000), sides),
        "JPEG of 26 megapixels": (jpeg_of_size(5200, 5000), "at most 25000000 pixels"),
        "WebP of 13 megapixels": (webp_of_size(4000, 3250), "at most 12500000 pixels"),
        "WebP of a canvas of 169 megapixels": (webp_of_canvas(13_000, 13_000), damaged),
        "PNG of 60000 x 1": (png(60_000, 1), sides),
        "PNG of 1 x 60000": (png(1, 60_000), sides),
        "PNG of 8193 x 2000": (png(8193, 2000), sides),
        "PNG of 15 x 15": (png(15, 15), sides),
        "PNG of 16 x 129": (png(16, 129), other),
        "PNG of 2 ** 31 - 1": (png(2**31 - 1, 2**31 - 1), sides),
        "JPEG of 65535 x 65535": (jpeg_of_size(65_535, 65_535), sides),
        "PNG of 100,000 texts": (png(64, 64, extra=chunk(b"tEXt", b"a\0b") * 100_000), "more than 4096 PNG"),
        "PNG of long texts": (png(64, 64, extra=text * 2), "bytes of text, profile and EXIF"),
        "PNG of a text bomb": (png(64, 64, extra=bomb(b"zTXt")), damaged),
        "PNG of a profile bomb": (png(64, 64, extra=bomb(b"iCCP")), damaged),
        "PNG animation": (animation("PNG"), "one frame"),
        "PNG of a broken animation": (png(64, 64, extra=bad_frames), damaged),
        "WebP animation": (animation("WEBP"), "one frame"),
        "JPEG of broken EXIF": (saved(photo(), "JPEG", exif=broken_exif()), damaged),
        "PNG, half": (small[: len(small) // 2], "damaged or truncated"),
        "PNG without end": (small[:-12], "end is missing"),
        "PNG of a wrong pixel checksum": (flipped(small, small.index(b"IEND") - 5), "bad PNG chunk"),
        "PNG of a wrong text checksum": (png(64, 64, extra=flipped(text, 20)), "bad PNG chunk"),
        "JPEG, half": (jpeg[: len(jpeg) // 2], damaged),
        "WebP, half": (webp[: len(webp) // 2], damaged),
        "JPEG, three bytes": (jpeg[:3], damaged),
        "nothing": (b"", none),
        "GIF": (saved(photo(), "GIF"), none),
        "GIF animation": (animation("GIF"), none),
        "TIFF": (saved(photo(), "TIFF"), none),
        "BMP": (saved(photo(), "BMP"), none),
        "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), none),
        "PSD": (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(64), none),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>', none),
        "PDF": (saved(photo(), "PDF"), none),
        "HTML": (b"<!DOCTYPE html><html>" + SCRIPT + b"</html>", none),
        "WAV": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(28), damaged),
    }


def accepted() -> dict[str, bytes]:
    jpeg, text = saved(photo(), "JPEG"), chunk(b"tEXt", b"a\0b")
    return {
        "PNG of 25 megapixels": png(5000, 5000),
        "PNG of 25 megapixels with alpha": png(5000, 5000, bits=32, colour=6),
        "JPEG of 25 megapixels": jpeg_of_size(5000, 5000, "RGB"),
        "JPEG of 25 megapixels, CMYK": jpeg_of_size(5000, 5000, "CMYK"),
        "JPEG of 25 megapixels, progressive": jpeg_of_size(
            5000, 5000, "RGB", progressive=True, subsampling=0
        ),
        "WebP of 12.5 megapixels": saved(Image.new("RGBA", (4096, 3050), (9, 9, 9, 9)), "WEBP", method=0),
        "PNG of 8192 x 1024": png(8192, 1024),
        "PNG of 16 x 16": png(16, 16),
        "PNG of 4,000 texts": png(64, 64, extra=text * 4000),
        "PNG before a web page": saved(photo(), "PNG") + SCRIPT,
        "JPEG before a web page": jpeg + SCRIPT,
        "WebP of one frame": saved(photo(), "WEBP", save_all=True),
        "JPEG of a camera, with its preview": saved(
            photo(), "MPO", save_all=True, append_images=[photo(64, 64)]
        ),
    }
