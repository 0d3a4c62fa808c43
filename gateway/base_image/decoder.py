"""The child that decodes one hostile picture: stdin to stdout, under limits that it sets on itself.

It says READY, reads the picture to the end, and answers with one line of JSON: `{"refused": "why"}`, or
`{"height": h, "width": w}` and the pixels, RGB uint8 [height, width, 3]. It imports Pillow and the standard
library only, for a quick start; and everything before the limits, which forbid opening a file.
"""

import io
import json
import math
import resource
import sys
import warnings

from PIL import ImageFile, TiffImagePlugin  # noqa: F401  Pillow imports the latter late, to read EXIF
from PIL.Image import Image, Resampling, Transpose, new
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from gateway.base_image.errors import BaseImageRefused
from gateway.base_image.fit import Sizing, cover_box, cover_scale, fitted_size
from gateway.base_image.limits import LIMITS
from gateway.base_image.png_chunks import SIGNATURE, check_chunks

READY = b"ready\n"
# The classes, not Image.open, which imports more readers and gives a JPEG of several pictures to another one.
# What cameras write as such is one picture with its preview, depth or gain map.
READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    SIGNATURE: PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"RIFF": WebPImageFile,
}
ORIENTATION = 0x0112
TRANSPOSES = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
TURNED = (5, 6, 7, 8)
# As Image.thumbnail: how many times larger than asked the cheap first reduction leaves the picture.
REDUCING_GAP = 2.0


def main() -> None:
    sizing = Sizing(**json.loads(sys.argv[-1]))
    warnings.simplefilter("error")
    limit_myself()
    _send(READY)
    content = sys.stdin.buffer.read()
    try:
        picture = decoded(content, sizing)
        header = {"height": picture.height, "width": picture.width}
        answer = json.dumps(header).encode() + b"\n" + picture.tobytes()
    except BaseImageRefused as refusal:
        answer = json.dumps({"refused": str(refusal)}).encode() + b"\n"
    except MemoryError:
        return  # as when a limit kills: the parent knows what no answer means
    except Exception:  # Pillow raises many kinds, with parts of the content in their messages
        answer = json.dumps({"refused": "the base image is damaged or truncated"}).encode() + b"\n"
    _send(answer)


def limit_myself() -> None:
    """Binds this process to LIMITS for good, and to the streams it has open."""
    limits = {
        resource.RLIMIT_AS: LIMITS.address_space,
        resource.RLIMIT_CPU: LIMITS.cpu_seconds,
        resource.RLIMIT_NOFILE: 3,  # the standard streams: no file or socket can be opened
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def decoded(content: bytes, sizing: Sizing) -> Image:
    """The RGB picture, upright and fitted; whatever else the file says is dropped.

    The colour profile too: pixels count as sRGB, since converting would hand a hostile profile to one more
    library. BaseImageRefused or any exception of Pillow's if the content is no good picture.
    """
    picture = _opened(content)
    _check(picture)
    orientation = picture.getexif().get(ORIENTATION)
    upright = (picture.width, picture.height) if orientation in TURNED else (picture.height, picture.width)
    height, width = fitted_size(*upright, sizing)
    stored = (width, height) if orientation in TURNED else (height, width)
    fitted = _covering(picture, *stored)
    return fitted.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else fitted


def _send(answer: bytes) -> None:
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


def _opened(content: bytes) -> ImageFile.ImageFile:
    for signature, reader in READERS.items():
        if content.startswith(signature):
            if reader is PngImageFile:
                check_chunks(content)
            return reader(io.BytesIO(content))
    raise BaseImageRefused("the base image is no PNG, JPEG or WebP picture")


def _check(picture: ImageFile.ImageFile) -> None:
    """BaseImageRefused unless frames, sides, aspect and area are within the limits; decodes nothing."""
    short, long = sorted(picture.size)
    size = f"the base image has {picture.height} x {picture.width} pixels (height x width)"
    max_pixels = LIMITS.max_webp_pixels if isinstance(picture, WebPImageFile) else LIMITS.max_pixels
    if getattr(picture, "n_frames", 1) != 1:
        raise BaseImageRefused("the base image is animated: it must have one frame")
    if short < LIMITS.min_side or long > LIMITS.max_side:
        raise BaseImageRefused(f"{size}; sides: {LIMITS.min_side} to {LIMITS.max_side}")
    if long > LIMITS.max_aspect * short:
        raise BaseImageRefused(f"{size}; one side is at most {LIMITS.max_aspect} times the other")
    if short * long > max_pixels:
        raise BaseImageRefused(f"{size}; {picture.format} pictures have at most {max_pixels} pixels")


def _covering(picture: ImageFile.ImageFile, height: int, width: int) -> Image:
    """The centre of `picture`, RGB, scaled to exactly these pixels."""
    scale = cover_scale(picture.height, picture.width, height, width) * REDUCING_GAP
    # A JPEG's decoder can halve a picture up to three times at a fraction of the time and memory.
    picture.draft(None, (math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
    picture.load()
    box = cover_box(picture.height, picture.width, height, width)
    return _rgb(picture).resize((width, height), Resampling.LANCZOS, box, REDUCING_GAP)


def _rgb(picture: Image) -> Image:
    """8 bits a channel, RGB, opaque.

    16-bit gray is divided by 257, so that white stays white; 16-bit colour loses its low bytes in Pillow.
    Alpha, transparent palette entries and transparent colours show white, the usual ground of product
    pictures; the transparent value of 16-bit gray is ignored. CMYK is converted without a profile.
    """
    if picture.mode == "I;16":
        return picture.point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    if picture.has_transparency_data:
        return _on_white(picture if picture.mode in ("LA", "RGBA") else picture.convert("RGBA"))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _on_white(picture: Image) -> Image:
    ground = new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture)
    return ground
