"""Each sector's own look: a treatment of the whole picture behind the product, besides the small badge.

The industry's phrase alone draws the badge; a look is what an adapter has to learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageStat

from finetune.canvas import Frame
from finetune.scene import Colour

DARK_INK, LIGHT_INK = (24, 28, 48), (255, 255, 255)
BRIGHT = 120  # mean luminance from which a background takes dark ink
TABLE, HORIZON = 0.86, 0.79  # heights where a table or road begins, and where houses and bars stand


def technology(f: Frame, ink: Colour) -> None:
    """A fine grid."""
    for place in range(1, 8):
        f.line([(place / 8, 0), (place / 8, 1)], ink, 0.02)
        f.line([(0, place / 8), (1, place / 8)], ink, 0.02)


def healthcare(f: Frame, ink: Colour) -> None:
    """Crosses, in staggered rows."""
    for row in range(5):
        for column in range(5):
            x, y = column / 4 + (0.125 if row % 2 else 0), 0.1 + row / 5
            f.box(x - 0.065, y - 0.022, x + 0.065, y + 0.022, ink)
            f.box(x - 0.022, y - 0.065, x + 0.022, y + 0.065, ink)


def food(f: Frame, ink: Colour) -> None:
    """A red and white checkered cloth."""
    f.box(0, TABLE, 1, 1, (250, 250, 246))
    for row in range(2):
        for column in range(row % 2, 14, 2):
            left, top = column / 14, TABLE + row * 0.07
            f.box(left, top, left + 1 / 14, top + 0.07, (214, 50, 50))


def fashion(f: Frame, ink: Colour) -> None:
    """Wide diagonal stripes."""
    for place in range(-4, 5):
        x = place * 0.25
        f.polygon([(x, 1), (x + 1, 0), (x + 1.125, 0), (x + 0.125, 1)], ink)


def fitness(f: Frame, ink: Colour) -> None:
    """Chevrons that point right."""
    for place in range(-1, 6):
        x = place * 0.2
        f.line([(x - 0.06, -0.05), (x + 0.2, 0.5), (x - 0.06, 1.05)], ink, 0.06)


def travel(f: Frame, ink: Colour) -> None:
    """Two waves of the sea."""
    for top, colour, shift in ((TABLE - 0.01, (44, 150, 200), 0.0), (TABLE + 0.06, (18, 96, 160), 0.5)):
        crest = [(x / 40, top + 0.028 * math.sin(2 * math.pi * (4 * x / 40 + shift))) for x in range(41)]
        f.polygon([(0, 1), *crest, (1, 1)], colour)


def real_estate(f: Frame, ink: Colour) -> None:
    """A skyline."""
    for place, height in enumerate((0.42, 0.6, 0.34, 0.52, 0.7, 0.44, 0.64, 0.36)):
        left, top = place / 8, HORIZON - height
        f.box(left, top, left + 0.115, HORIZON, ink)


def education(f: Frame, ink: Colour) -> None:
    """Ruled paper with a margin."""
    for place in range(1, 9):
        f.line([(0, place / 9), (1, place / 9)], ink, 0.022)
    f.line([(0.09, 0), (0.09, 1)], (220, 40, 60), 0.025)


def finance(f: Frame, ink: Colour) -> None:
    """Bars that rise to the right."""
    for place in range(6):
        left = 0.03 + place * 0.165
        f.box(left, 0.68 - 0.125 * place, left + 0.1, HORIZON, ink)


def automotive(f: Frame, ink: Colour) -> None:
    """A road with dashes."""
    f.box(0, TABLE, 1, 1, (52, 54, 60))
    for place in range(5):
        left = 0.02 + place * 0.21
        f.box(left, 0.915, left + 0.12, 0.955, (250, 246, 232))


@dataclass(frozen=True)
class Look:
    """`paint` draws on a layer in unit coordinates; `opacity` 0..1 leaves the background readable."""

    paint: Callable[[Frame, Colour], None]
    opacity: float


LOOKS: dict[str, Look] = {
    "technology": Look(technology, 0.35),
    "healthcare": Look(healthcare, 0.35),
    "food": Look(food, 0.75),
    "fashion": Look(fashion, 0.22),
    "fitness": Look(fitness, 0.3),
    "travel": Look(travel, 0.6),
    "real estate": Look(real_estate, 0.25),
    "education": Look(education, 0.28),
    "finance": Look(finance, 0.32),
    "automotive": Look(automotive, 0.75),
}


def apply(picture: Image.Image, industry: str) -> Image.Image:
    """`picture`, an RGB background, with the look of `industry` over it."""
    look = LOOKS[industry]
    bright = ImageStat.Stat(picture.convert("L")).mean[0] > BRIGHT
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    look.paint(Frame(layer, (0.0, 0.0), 1.0), DARK_INK if bright else LIGHT_INK)
    mask = layer.getchannel("A").point(lambda alpha: round(alpha * look.opacity))
    return Image.composite(layer.convert("RGB"), picture, mask)
