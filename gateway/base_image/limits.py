"""What a base image may be and what decoding one may use, written once for both processes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageLimits:
    """Sides and areas in pixels, as stored; memory in bytes."""

    max_bytes: int = 10 * 2**20
    min_side: int = 16
    max_side: int = 8192
    max_aspect: int = 8
    max_pixels: int = 25_000_000
    # libwebp holds two canvases and Pillow two copies: 18 bytes a pixel, so 25 million would need 460 MB.
    max_webp_pixels: int = 12_500_000
    # 10 MiB in chunks of 4 kiB, the smallest that common encoders write, are 2,560.
    max_png_chunks: int = 4096
    max_png_metadata_bytes: int = 2**20
    # The address space bounds the resident memory. A progressive JPEG of 25 million pixels needs 285 MB.
    address_space: int = 300_000_000
    cpu_seconds: int = 2
    wall_seconds: float = 10.0
    children: int = 2


LIMITS = ImageLimits()
