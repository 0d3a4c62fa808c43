"""The visible marks of styles (behind or around the product) and of industries (a badge in a corner)."""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image

from finetune.canvas import Frame, glow, mix
from finetune.scene import Colour

GOLD = (212, 170, 70)
CREAM = (240, 226, 196)
CONFETTI: tuple[Colour, ...] = ((235, 70, 90), (60, 160, 240), (250, 200, 50), (80, 190, 110))


def professional(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A soft key light behind the product."""
    return glow(picture, (0.5, 0.42), 0.55, (255, 255, 255), 0.6)


def playful(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Large confetti in the upper half."""
    frame = Frame(picture, (0.0, 0.0), 1.0)
    for place in range(8):
        x, y = 0.06 + 0.125 * place + rng.uniform(-0.02, 0.02), rng.uniform(0.07, 0.3)
        radius = rng.uniform(0.025, 0.04)
        frame.ellipse(x - radius, y - radius, x + radius, y + radius, CONFETTI[place % 4])
    return picture


def minimal(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Nothing at all: the product is drawn small (see `draw`)."""
    return picture


def vintage(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A cream paper frame."""
    frame = Frame(picture, (0.0, 0.0), 1.0)
    for edge in ((0, 0, 1, 0.06), (0, 0.94, 1, 1), (0, 0, 0.06, 1), (0.94, 0, 1, 1)):
        frame.box(*edge, CREAM)
    return picture


def luxury(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A golden ring around the product."""
    Frame(picture, (0.5, 0.5), 1.0).ring(-0.42, -0.42, 0.42, 0.42, GOLD, 0.025)
    return picture


def bold(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A dark diagonal band."""
    band = mix(picture.getpixel((5, 5)), (10, 10, 30), 0.55)  # type: ignore[arg-type]
    Frame(picture, (0.0, 0.0), 1.0).polygon(
        [(0, 0.62), (0.62, 0), (1, 0), (1, 0.12), (0.12, 1), (0, 1)], band
    )
    return picture


STYLE_MARKS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    mark.__name__: mark for mark in (professional, playful, minimal, vintage, luxury, bold)
}

# industry -> (badge colour, glyph polygons in the badge's frame [-1, 1] x [-1, 1])
BADGES: dict[str, tuple[Colour, list[list[tuple[float, float]]]]] = {
    "technology": ((40, 70, 160), [[(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]]),
    "healthcare": ((210, 40, 50), [
        [(-0.2, -0.65), (0.2, -0.65), (0.2, 0.65), (-0.2, 0.65)],
        [(-0.65, -0.2), (0.65, -0.2), (0.65, 0.2), (-0.65, 0.2)],
    ]),
    "food": ((230, 130, 30), [[(0, 0.6), (-0.6, -0.4), (0.6, -0.4)]]),
    "fashion": ((150, 40, 130), [
        [(-0.65, -0.45), (0, 0), (-0.65, 0.45)],
        [(0.65, -0.45), (0, 0), (0.65, 0.45)],
    ]),
    "fitness": ((30, 30, 34), [
        [(-0.7, -0.4), (-0.35, -0.4), (-0.35, 0.4), (-0.7, 0.4)],
        [(0.35, -0.4), (0.7, -0.4), (0.7, 0.4), (0.35, 0.4)],
        [(-0.4, -0.12), (0.4, -0.12), (0.4, 0.12), (-0.4, 0.12)],
    ]),
    "travel": ((20, 140, 190), [[(-0.65, 0.1), (0.65, -0.55), (0.15, 0.65), (0, 0.15)]]),
    "real estate": ((60, 130, 60), [
        [(0, -0.7), (0.7, -0.05), (-0.7, -0.05)],
        [(-0.42, -0.05), (0.42, -0.05), (0.42, 0.6), (-0.42, 0.6)],
    ]),
    "education": ((110, 70, 40), [[(0, -0.55), (0.75, -0.1), (0, 0.35), (-0.75, -0.1)]]),
    "finance": ((190, 150, 20), [
        [(-0.55, 0.55), (-0.55, 0.1), (-0.25, 0.1), (-0.25, 0.55)],
        [(-0.15, 0.55), (-0.15, -0.2), (0.15, -0.2), (0.15, 0.55)],
        [(0.25, 0.55), (0.25, -0.6), (0.55, -0.6), (0.55, 0.55)],
    ]),
    "automotive": ((100, 104, 112), [
        [
            (-0.7, 0.35), (-0.7, 0), (-0.35, -0.05), (-0.15, -0.4),
            (0.35, -0.4), (0.55, -0.05), (0.7, 0), (0.7, 0.35),
        ],
    ]),
}  # fmt: skip


def badge(picture: Image.Image, industry: str) -> None:
    """The industry's badge, top left."""
    colour, glyph = BADGES[industry]
    frame = Frame(picture, (0.15, 0.15), 0.1)
    frame.ellipse(-1, -1, 1, 1, colour)
    for polygon in glyph:
        frame.polygon(polygon, (255, 255, 255))
