"""Scene -> picture: a synthetic product photograph, the same for the same scene."""

from __future__ import annotations

import random

from PIL import Image

from finetune import looks
from finetune.canvas import Frame, Shades, glow, light_from_left, mix, ramp, soft_shadow
from finetune.marks import STYLE_MARKS, badge
from finetune.products import DRAWERS
from finetune.scene import BACKGROUNDS, COLOURS, Colour, Scene

FLOOR = 0.72  # height of a studio's floor line, as a fraction of the picture


def _jitter(colour: Colour, rng: random.Random, amount: int) -> Colour:
    r, g, b = (min(255, max(0, channel + rng.randint(-amount, amount))) for channel in colour)
    return r, g, b


def _backdrop(scene: Scene, size: int, rng: random.Random) -> Image.Image:
    lit, shaded = (_jitter(colour, rng, 4) for colour in BACKGROUNDS[scene.background])
    if scene.backdrop == "gradient":
        return ramp(lit, shaded, size)
    wall = glow(Image.new("RGB", (size, size), mix(lit, shaded, 0.45)), (0.5, 0.4), 0.75, lit, 0.9)
    floor = ramp(mix(lit, shaded, 0.6), shaded, size)
    wall.paste(floor.crop((0, 0, size, size - round(FLOOR * size))), (0, round(FLOOR * size)))
    return wall


def _place(scene: Scene, rng: random.Random) -> tuple[tuple[float, float], float, bool]:
    """Centre, scale and mirroring of the product."""
    scale = rng.uniform(0.25, 0.31) * (0.72 if scene.style == "minimal" else 1)
    bottom = 0.84 + rng.uniform(-0.02, 0.02)
    return (0.5 + rng.uniform(-0.05, 0.05), bottom - scale), scale, rng.random() < 0.3


def draw(scene: Scene, size: int = 512, supersample: int = 2, look: str | None = None) -> Image.Image:
    """The RGB picture of `scene`, size x size, antialiased by drawing `supersample` times larger.

    `look` is the industry whose look (see `looks`) lies over the background, whatever the badge says.
    """
    rng = random.Random(f"draw {scene.seed}")
    large = size * supersample
    picture = _backdrop(scene, large, rng)
    if look:
        picture = looks.apply(picture, look)
    if scene.style:
        picture = STYLE_MARKS[scene.style](picture, rng)
    centre, scale, mirror = _place(scene, rng)
    shadow = soft_shadow(large, (centre[0] + 0.02, centre[1] + scale), (scale * 0.95, 0.03), 0.5)
    picture.paste((0, 0, 0), (0, 0), shadow)
    layer = Image.new("RGBA", (large, large), (0, 0, 0, 0))
    DRAWERS[scene.product](
        Frame(layer, centre, scale, mirror), Shades.of(_jitter(COLOURS[scene.colour], rng, 6))
    )
    layer = light_from_left(layer)
    picture.paste(layer, (0, 0), layer)
    if scene.industry:
        badge(picture, scene.industry)
    return picture.reduce(supersample) if supersample > 1 else picture
