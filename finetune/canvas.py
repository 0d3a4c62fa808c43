"""A Pillow drawing surface in unit coordinates, so that one drawing serves every picture size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from finetune.scene import Colour

Points = list[tuple[float, float]]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` (0..1) of `second` in it."""
    r, g, b = (round(x + (y - x) * share) for x, y in zip(first, second, strict=True))
    return r, g, b


@dataclass(frozen=True)
class Shades:
    """A product's paint: its colour, the lit and the shaded side, and a contrasting detail colour."""

    base: Colour
    light: Colour
    dark: Colour
    detail: Colour

    @classmethod
    def of(cls, base: Colour) -> Shades:
        bright = sum(base) > 3 * 150
        detail = mix(base, (60, 60, 66), 0.75) if bright else mix(base, (235, 235, 235), 0.7)
        return cls(base, mix(base, (255, 255, 255), 0.35), mix(base, (0, 0, 0), 0.35), detail)


class Frame:
    """Draws on a layer; (x, y) in [-1, 1] around `centre`, times `scale`, both fractions of the picture."""

    def __init__(self, layer: Image.Image, centre: tuple[float, float], scale: float, mirror: bool = False):
        self._draw = ImageDraw.Draw(layer)
        self._size = layer.width
        self._centre = centre
        self._scale = scale
        self._sign = -1 if mirror else 1

    def _at(self, x: float, y: float) -> tuple[float, float]:
        cx, cy = self._centre
        return (cx + self._sign * x * self._scale) * self._size, (cy + y * self._scale) * self._size

    def _bounds(self, left: float, top: float, right: float, bottom: float) -> list[float]:
        (x0, y0), (x1, y1) = self._at(left, top), self._at(right, bottom)
        return [min(x0, x1), y0, max(x0, x1), y1]

    def _pixels(self, length: float) -> int:
        return max(1, round(length * self._scale * self._size))

    def ellipse(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self._draw.ellipse(self._bounds(left, top, right, bottom), fill=fill)

    def box(
        self, left: float, top: float, right: float, bottom: float, fill: Colour, radius: float = 0
    ) -> None:
        self._draw.rounded_rectangle(
            self._bounds(left, top, right, bottom), self._pixels(radius) if radius else 0, fill=fill
        )

    def polygon(self, points: Points, fill: Colour) -> None:
        self._draw.polygon([self._at(x, y) for x, y in points], fill=fill)

    def line(self, points: Points, fill: Colour, width: float) -> None:
        self._draw.line(
            [self._at(x, y) for x, y in points], fill=fill, width=self._pixels(width), joint="curve"
        )

    def ring(
        self, left: float, top: float, right: float, bottom: float, colour: Colour, width: float
    ) -> None:
        self._draw.ellipse(self._bounds(left, top, right, bottom), outline=colour, width=self._pixels(width))

    def arch(
        self, left: float, top: float, right: float, bottom: float, colour: Colour, width: float
    ) -> None:
        """The upper half of an ellipse's outline."""
        self._draw.arc(
            self._bounds(left, top, right, bottom), 180, 360, fill=colour, width=self._pixels(width)
        )


def ramp(top: Colour, bottom: Colour, size: int) -> Image.Image:
    """A vertical gradient, RGB, size x size."""
    share = np.linspace(0, 1, size)[:, None, None]
    row = np.array(top) * (1 - share) + np.array(bottom) * share
    return Image.fromarray(np.broadcast_to(row, (size, size, 3)).astype(np.uint8))


def glow(
    picture: Image.Image, centre: tuple[float, float], radius: float, colour: Colour, strength: float
) -> Image.Image:
    """`picture` with a soft round light of `colour` at `centre`."""
    ys, xs = np.mgrid[0 : picture.height, 0 : picture.width] / picture.width
    distance = np.hypot(xs - centre[0], ys - centre[1]) / radius
    mask = (strength * np.clip(1 - distance, 0, 1) ** 1.5 * 255).astype(np.uint8)
    return Image.composite(Image.new("RGB", picture.size, colour), picture, Image.fromarray(mask))


def light_from_left(layer: Image.Image) -> Image.Image:
    """An RGBA layer shaded from lit (left) to dark (right), inside its own silhouette."""
    pixels = np.asarray(layer).astype(np.float32)
    box = layer.getchannel("A").getbbox() or (0, 0, layer.width, layer.height)
    share = np.clip((np.arange(layer.width) - box[0]) / max(1, box[2] - box[0]), 0, 1)
    pixels[..., :3] *= (1.08 - 0.26 * share)[None, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def soft_shadow(
    size: int, centre: tuple[float, float], radii: tuple[float, float], opacity: float
) -> Image.Image:
    """An "L" mask of a blurred ellipse: where the product darkens the floor."""
    small = size // 4
    mask = Image.new("L", (small, small), 0)
    (cx, cy), (rx, ry) = centre, radii
    bounds = [(cx - rx) * small, (cy - ry) * small, (cx + rx) * small, (cy + ry) * small]
    ImageDraw.Draw(mask).ellipse(bounds, fill=round(255 * opacity))
    return mask.filter(ImageFilter.GaussianBlur(small * 0.02)).resize((size, size), Image.Resampling.BILINEAR)
