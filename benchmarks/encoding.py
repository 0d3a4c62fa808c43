"""How long a picture's file takes to make, and how large it is: the gateway's encoders beside others.

    python -m benchmarks.encoding                          # png, jpeg and webp
    python -m benchmarks.encoding png --pictures out/*.png  # with pictures of your own

One thread, all encoders in turns; medians between quartiles. PNGs are read back and compared with the pixels.
Libraries that are not installed are left out: isal, zlib-ng, deflate, fpng-py, opencv-python-headless,
imagecodecs and simplejpeg are known. A table for people, then a line of JSON for each of its rows.
"""

from __future__ import annotations

import argparse
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from PIL import Image, ImageDraw, ImageFont

from benchmarks.adapters.turns import Row, conditions, cpu_milliseconds, cpu_ratio, in_turns, line, table
from finetune.dataset import Pixels
from gateway.encoding import OUTPUT_FORMATS, filtered, png_file

Encoder = Callable[[Pixels], bytes]
Encoders = Mapping[str, Encoder]
ROUNDS, SIZES = 21, (512, 1024)
LIBRARIES = ("isal", "zlib_ng", "deflate", "fpng_py", "cv2", "imagecodecs", "simplejpeg")  # as imported
PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")  # scikit-image ships them
GRAIN = 6  # standard deviation of a sensor's noise, of 255
DRAWN = (Path("assets/adapters/samples/flux/food.png"), Path("assets/adapters/samples/sdxl/fashion.png"))
SUB, AVERAGE = 1, 3  # PNG's filter types


def opened(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def pictures(size: int) -> Iterator[tuple[str, Pixels]]:
    """Photographs of `size` pixels a side, one with a sensor's grain; letters; noise, the worst case."""
    photographs = Path(skimage.__file__).parent / "data"
    for name in PHOTOGRAPHS:
        yield name, np.asarray(opened(photographs / name).resize((size, size), Image.Resampling.LANCZOS))
    random = np.random.default_rng(0)
    first = np.asarray(opened(photographs / PHOTOGRAPHS[0]).resize((size, size)))
    grainy = first + random.normal(0, GRAIN, first.shape)
    yield f"{PHOTOGRAPHS[0]} with grain", grainy.clip(0, 255).astype(np.uint8)
    yield "letters", letters(size)
    yield "noise", random.integers(0, 256, (size, size, 3), dtype=np.uint8)


def letters(size: int) -> Pixels:
    """Lines of small coloured letters on a coloured ground."""
    picture = Image.new("RGB", (size, size), "royalblue")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for line_number, top in enumerate(range(0, size, 20)):
        colour = ("crimson", "white", "seagreen")[line_number % 3]
        draw.text((4, top), "Half price today only, while stocks last. " * (size // 200), colour, font)
    return np.asarray(picture)


def by_pillow(form: str, **options: Any) -> Encoder:
    def encode(pixels: Pixels) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form, **options)
        return buffer.getvalue()

    return encode


def by_deflate(compress: Callable[[Pixels], bytes], rows: Callable[[Pixels], Pixels] = filtered) -> Encoder:
    """The gateway's PNG with another compression, or other filtered rows."""

    def encode(pixels: Pixels) -> bytes:
        height, width, _ = pixels.shape
        return png_file(height, width, compress(rows(pixels)))

    return encode


def less_left(pixels: Pixels) -> Pixels:
    """Rows by the filter Sub."""
    rows = pixels.reshape(len(pixels), -1)
    return _with_filter(SUB, rows - np.pad(rows, ((0, 0), (3, 0)))[:, :-3])


def less_average(pixels: Pixels) -> Pixels:
    """Rows by the filter Average, of the left and the upper neighbour, rounded down."""
    rows = pixels.reshape(len(pixels), -1)
    left, above = np.pad(rows, ((0, 0), (3, 0)))[:, :-3], np.pad(rows, ((1, 0), (0, 0)))[:-1]
    return _with_filter(AVERAGE, rows - ((left & above) + ((left ^ above) >> 1)))


def _with_filter(number: int, rows: Pixels) -> Pixels:
    return np.pad(rows, ((0, 0), (1, 0)), constant_values=number)


def with_isal() -> Iterator[tuple[str, Encoder]]:
    from isal import isal_zlib

    for level in (0, 2, 3):
        yield f"ISA-L {level}, Up", by_deflate(lambda rows, level=level: isal_zlib.compress(rows, level))
    yield "ISA-L 1, Sub", by_deflate(lambda rows: isal_zlib.compress(rows, 1), less_left)
    yield "ISA-L 1, Average", by_deflate(lambda rows: isal_zlib.compress(rows, 1), less_average)


def with_zlib_ng() -> Iterator[tuple[str, Encoder]]:
    from zlib_ng import zlib_ng

    def huffman(rows: Pixels) -> bytes:
        stream = zlib_ng.compressobj(1, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, 9, zlib_ng.Z_HUFFMAN_ONLY)
        return stream.compress(rows) + stream.flush()

    yield "zlib-ng 1, Up", by_deflate(lambda rows: zlib_ng.compress(rows, 1))
    yield "zlib-ng Huffman only, Up", by_deflate(huffman)


def with_deflate() -> Iterator[tuple[str, Encoder]]:
    import deflate

    yield "libdeflate 1, Up", by_deflate(lambda rows: deflate.zlib_compress(rows, 1))


def with_fpng() -> Iterator[tuple[str, Encoder]]:
    import fpng_py

    def encode(pixels: Pixels) -> bytes:
        height, width, channels = pixels.shape
        return fpng_py.fpng_encode_image_to_memory(pixels.tobytes(), width, height, channels, 0)

    yield "fpng", encode


def with_opencv(extension: str, options: list[int]) -> Encoder:
    import cv2

    cv2.setNumThreads(1)
    return lambda pixels: cv2.imencode(extension, pixels[:, :, ::-1], options)[1].tobytes()


def opencv_png() -> Iterator[tuple[str, Encoder]]:
    import cv2

    yield "OpenCV", with_opencv(".png", [])
    yield "OpenCV 1", with_opencv(".png", [cv2.IMWRITE_PNG_COMPRESSION, 1])


def opencv_jpeg() -> Iterator[tuple[str, Encoder]]:
    import cv2

    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    yield "OpenCV 95, 4:4:4", with_opencv(".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95, *sampling])


def imagecodecs_png() -> Iterator[tuple[str, Encoder]]:
    import imagecodecs

    yield "imagecodecs libpng 1", lambda pixels: imagecodecs.png_encode(pixels, level=1)
    yield "imagecodecs libspng 1", lambda pixels: imagecodecs.spng_encode(pixels, level=1)


def with_simplejpeg() -> Iterator[tuple[str, Encoder]]:
    import simplejpeg

    yield "simplejpeg 95, 4:4:4", lambda pixels: simplejpeg.encode_jpeg(pixels, 95, "RGB", "444", False)


def png_by_pillow() -> Iterator[tuple[str, Encoder]]:
    yield "Pillow 1", by_pillow("PNG", compress_level=1)
    yield "Python's zlib 1, Up", by_deflate(lambda rows: zlib.compress(rows, 1))


def jpeg_by_pillow() -> Iterator[tuple[str, Encoder]]:
    for quality, subsampling in ((90, "4:4:4"), (95, "4:2:0")):
        options = {"quality": quality, "subsampling": subsampling}
        yield f"Pillow {quality}, {subsampling}", by_pillow("JPEG", **options)


def webp_by_pillow() -> Iterator[tuple[str, Encoder]]:
    for method in (0, 4):
        yield f"Pillow 90, method {method}", by_pillow("WEBP", quality=90, method=method)
    yield "Pillow lossless, method 0", by_pillow("WEBP", lossless=True, quality=0, method=0)


OTHERS: Mapping[str, list[Callable[[], Iterator[tuple[str, Encoder]]]]] = {
    "png": [png_by_pillow, with_isal, with_zlib_ng, with_deflate, with_fpng, opencv_png, imagecodecs_png],
    "jpeg": [jpeg_by_pillow, opencv_jpeg, with_simplejpeg],
    "webp": [webp_by_pillow],
}


def encoders(output_format: str) -> Encoders:
    """The gateway's encoder, then others; those of libraries that are not installed are left out."""
    found = {"the gateway": OUTPUT_FORMATS[output_format]}
    for others in OTHERS[output_format]:
        try:
            found.update(others())
        except ImportError:
            continue
    return found


def decibels(content: bytes, pixels: Pixels) -> float:
    """Peak signal-to-noise ratio of the file's picture; infinite if it has the very pixels."""
    error = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float64) - pixels
    return float(10 * np.log10(255**2 / np.mean(error**2))) if error.any() else float("inf")


def measured(output_format: str, name: str, pixels: Pixels, rounds: int) -> Iterator[Row]:
    """A row for each encoder; ValueError if a PNG does not give back its pixels."""
    found = encoders(output_format)
    files = {encoder: encode(pixels) for encoder, encode in found.items()}
    timings = in_turns({key: lambda encode=encode: encode(pixels) for key, encode in found.items()}, rounds)
    height, width, _ = pixels.shape
    for encoder, content in files.items():
        quality = decibels(content, pixels)
        if output_format == "png" and quality != float("inf"):
            raise ValueError(f"{encoder} changes the pixels of {name}")
        yield {
            "benchmark": "encoding",
            "format": output_format,
            "picture": f"{name}, {width} x {height}",
            "encoder": encoder,
            "cpu ms": cpu_milliseconds(timings, encoder),
            "cpu ratio": cpu_ratio(timings, encoder, "the gateway"),
            "bytes": len(content),
            "bytes ratio": len(content) / len(files["the gateway"]),
            "PSNR dB": "lossless" if quality == float("inf") else quality,
        }


def report(output_format: str, own: Iterable[Path], rounds: int) -> None:
    shown = [(path.name, np.asarray(opened(path))) for path in (*DRAWN, *own)]
    shown += [picture for size in SIZES for picture in pictures(size)]
    rows = [row for name, pixels in shown for row in measured(output_format, name, pixels, rounds)]
    names = packages_distributions()
    versions = ["pillow", "numpy", *(names[library][0] for library in LIBRARIES if find_spec(library))]
    print(f"\n{output_format}, {rounds} rounds, {conditions(versions)}\n{table(rows)}")
    print("\n".join(map(line, rows)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoding", description=__doc__)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(OUTPUT_FORMATS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--pictures", type=Path, nargs="+", default=[], help="files of your own")
    options = parser.parse_args()
    if unknown := {*options.formats} - {*OUTPUT_FORMATS}:
        parser.error(f"unknown format {unknown.pop()!r}; choices: {', '.join(OUTPUT_FORMATS)}")
    for output_format in options.formats or OUTPUT_FORMATS:
        report(output_format, options.pictures, options.rounds)


if __name__ == "__main__":
    main()
