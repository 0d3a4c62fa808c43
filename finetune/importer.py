"""A user's folder of pictures and captions (ai-toolkit's convention) as a data set, with what was refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from families.hashes import sha256_of_file
from finetune.manifest import SIZE, SPLITS, Manifest, Pair, slug

PICTURES, CAPTION = (".jpg", ".jpeg", ".png", ".webp"), ".txt"
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 100_000_000
TRIGGER = "[trigger]"
HELD_OUT_EVERY = 10  # one pair in ten is kept from training
REPORT = "import.json"


class Refused(ValueError):
    """Why a file is not taken."""


@dataclass(frozen=True)
class Refusal:
    """A file that was not taken, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Terms:
    """What every imported pair gets: industry, trigger (None: captions stay as they are) and licence."""

    industry: str
    trigger: str | None
    licence: str


@dataclass
class Import:
    """`pairs` were taken, `refusals` were not."""

    pairs: list[Pair] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def report(self) -> str:
        """A line for each refusal, then the counts."""
        lines = [f"refused {refusal.file}: {refusal.reason}" for refusal in self.refusals]
        return "\n".join([*lines, f"{len(self.pairs)} pairs imported, {len(self.refusals)} files refused"])


def run(source: Path, output: Path, terms: Terms) -> Import:
    """Standardises what lies in `source` (not in folders below it) into `output`, with manifest and report.

    ValueError if `source` is no folder, `output` is not empty, or not one pair can be taken.
    """
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder")
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty: an import needs a folder of its own")
    result, seen = Import(), dict[str, str]()
    for split in SPLITS:
        (output / slug(terms.industry) / split).mkdir(parents=True)
    for path in sorted(source.iterdir()):
        try:
            if not _is_caption_of_a_picture(path):
                result.pairs.append(_imported(path, output, terms, len(result.pairs), seen))
        except Refused as reason:
            result.refusals.append(Refusal(path.name, str(reason)))
    if not result.pairs:
        shutil.rmtree(output)  # nothing else was there: see above
        raise ValueError(f"{source} has no pair that can be taken\n{result.report()}")
    (output / REPORT).write_text(json.dumps([asdict(refusal) for refusal in result.refusals], indent=1))
    Manifest(tuple(result.pairs)).write(output)
    return result


def _is_caption_of_a_picture(path: Path) -> bool:
    return path.suffix.lower() == CAPTION and any(_pictures_of(path))


def _pictures_of(caption: Path) -> Iterator[Path]:
    yield from (
        path
        for path in caption.parent.iterdir()
        if path.stem == caption.stem and path.suffix.lower() in PICTURES
    )


def _imported(path: Path, output: Path, terms: Terms, number: int, seen: dict[str, str]) -> Pair:
    words, picture = _caption(path, terms.trigger), standardised(path)
    pixels = hashlib.sha256(picture.tobytes()).hexdigest()
    if pixels in seen:
        raise Refused(f"is a duplicate of {seen[pixels]}")
    seen[pixels] = path.name
    split = SPLITS[number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
    target = output / slug(terms.industry) / split / f"{number:04}.png"
    picture.save(target)
    target.with_suffix(CAPTION).write_text(words + "\n")
    file, caption = target.relative_to(output).as_posix(), sha256_of_file(target.with_suffix(CAPTION))
    return Pair(file, terms.industry, split, sha256_of_file(target), caption, terms.licence, source=path.name)


def _caption(path: Path, trigger: str | None) -> str:
    """The caption beside a picture, with its trigger; Refused says what is wrong with either."""
    if path.suffix.lower() == CAPTION:
        raise Refused(f"there is no picture of that name; choices: {', '.join(PICTURES)}")
    if path.suffix.lower() not in PICTURES or not path.is_file():
        raise Refused(f"is not a picture; choices: {', '.join(PICTURES)}")
    beside = path.with_suffix(CAPTION)
    if not beside.is_file():
        raise Refused(f"has no caption {beside.name}")
    try:
        words = " ".join(beside.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError:
        raise Refused(f"its caption {beside.name} is not UTF-8") from None
    if not words:
        raise Refused(f"its caption {beside.name} is empty")
    return with_trigger(words, trigger)


def with_trigger(words: str, trigger: str | None) -> str:
    """`[trigger]` replaced, or the trigger put first if it is missing, as ai-toolkit does."""
    if trigger is None:
        if TRIGGER in words:
            raise Refused(f"its caption has {TRIGGER}, and no trigger was given")
        return words
    words = words.replace(TRIGGER, trigger)
    return words if trigger in words else f"{trigger} {words}"


def standardised(path: Path) -> Image.Image:
    """RGB, SIZE x SIZE: upright, scaled to cover, cut at both ends alike, on white, without metadata."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            _check(opened)
            opened.load()
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except Refused:
        raise
    except Image.UnidentifiedImageError:
        raise Refused(f"is not a picture; choices: {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as bomb:
        raise Refused(str(bomb)) from None
    except (OSError, SyntaxError, ValueError) as broken:
        raise Refused(f"cannot be read to its end: {broken}") from None
    white = Image.new("RGBA", upright.size, "white")
    return ImageOps.fit(
        Image.alpha_composite(white, upright).convert("RGB"), (SIZE, SIZE), Image.Resampling.LANCZOS
    )


def _check(picture: Image.Image) -> None:
    width, height = picture.size
    if min(width, height) < SIZE:
        raise Refused(f"is too small: {width} x {height} pixels, both must be at least {SIZE}")
    if width * height > MAX_PIXELS:
        raise Refused(f"is too large: {width} x {height} pixels are more than {MAX_PIXELS}")
    if getattr(picture, "n_frames", 1) > 1:
        raise Refused(f"has {picture.n_frames} frames")
