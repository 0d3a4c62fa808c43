"""The twelve products, each a few shapes in the frame [-1, 1] x [-1, 1], standing on y = 1."""

from __future__ import annotations

from collections.abc import Callable

from finetune.canvas import Frame, Shades

SCREEN = (26, 30, 44)
GLASS = (120, 170, 225)
METAL = (176, 180, 188)
RUBBER = (248, 248, 248)


def smartphone(f: Frame, s: Shades) -> None:
    f.box(-0.52, -1, 0.52, 1, s.base, 0.16)
    f.box(-0.42, -0.86, 0.42, 0.86, SCREEN, 0.08)
    f.polygon([(-0.42, 0.25), (0.42, -0.55), (0.42, 0.1), (-0.42, 0.86)], s.base)
    f.box(-0.14, -0.8, 0.14, -0.72, (8, 8, 10), 0.04)


def bottle(f: Frame, s: Shades) -> None:
    f.box(-0.16, -0.95, 0.16, -0.3, s.base, 0.04)
    f.box(-0.42, -0.45, 0.42, 1, s.base, 0.22)
    f.box(-0.18, -1, 0.18, -0.82, s.dark, 0.04)
    f.box(-0.42, 0.1, 0.42, 0.6, s.light)
    f.box(-0.3, -0.3, -0.2, 0.02, s.light, 0.05)


def mug(f: Frame, s: Shades) -> None:
    f.ring(0.25, -0.3, 0.95, 0.55, s.base, 0.15)
    f.box(-0.75, -0.65, 0.5, 1, s.base, 0.14)
    f.ellipse(-0.75, -0.82, 0.5, -0.45, s.light)
    f.ellipse(-0.65, -0.75, 0.4, -0.5, s.dark)


def sneaker(f: Frame, s: Shades) -> None:
    upper = [(-0.95, -0.35), (-0.45, -0.45), (-0.2, -0.3), (0.3, 0.2), (0.9, 0.38), (1, 0.7), (-1, 0.7)]
    f.polygon(upper, s.base)
    f.ellipse(0.6, 0.3, 1.05, 0.9, s.base)
    f.box(-1.02, 0.66, 1.05, 0.95, RUBBER, 0.1)
    f.polygon([(-0.7, 0.66), (-0.35, 0.05), (-0.1, 0.05), (-0.45, 0.66)], s.detail)
    for step in range(3):
        x = -0.05 + 0.17 * step
        f.line([(x, -0.12 + 0.15 * step), (x + 0.15, -0.25 + 0.16 * step)], RUBBER, 0.07)


def watch(f: Frame, s: Shades) -> None:
    f.polygon([(-0.28, -1), (0.28, -1), (0.36, -0.4), (-0.36, -0.4)], s.base)
    f.polygon([(-0.36, 0.4), (0.36, 0.4), (0.28, 1), (-0.28, 1)], s.base)
    f.box(0.5, -0.08, 0.66, 0.08, METAL)
    f.ellipse(-0.58, -0.58, 0.58, 0.58, s.dark)
    f.ellipse(-0.44, -0.44, 0.44, 0.44, (250, 250, 250))
    f.line([(0, 0), (0, -0.32)], SCREEN, 0.07)
    f.line([(0, 0), (0.22, 0.12)], SCREEN, 0.07)


def lamp(f: Frame, s: Shades) -> None:
    f.line([(0, -0.3), (0, 0.95)], METAL, 0.1)
    f.ellipse(-0.45, 0.82, 0.45, 1.02, METAL)
    f.ellipse(-0.16, -0.3, 0.16, 0.02, (255, 240, 180))
    f.polygon([(-0.35, -0.95), (0.35, -0.95), (0.75, -0.12), (-0.75, -0.12)], s.base)


def box(f: Frame, s: Shades) -> None:
    f.polygon([(-0.9, -0.35), (0.1, -0.15), (0.1, 1), (-0.9, 0.75)], s.base)
    f.polygon([(0.1, -0.15), (0.9, -0.4), (0.9, 0.7), (0.1, 1)], s.dark)
    f.polygon([(-0.9, -0.35), (-0.1, -0.62), (0.9, -0.4), (0.1, -0.15)], s.light)
    f.polygon([(-0.5, -0.27), (-0.3, -0.23), (-0.3, 0.9), (-0.5, 0.85)], s.detail)


def headphones(f: Frame, s: Shades) -> None:
    f.arch(-0.8, -0.9, 0.8, 0.9, s.base, 0.16)
    f.box(-0.98, -0.05, -0.5, 0.85, s.base, 0.18)
    f.box(0.5, -0.05, 0.98, 0.85, s.base, 0.18)
    f.box(-0.6, 0.05, -0.42, 0.75, s.detail, 0.08)
    f.box(0.42, 0.05, 0.6, 0.75, s.detail, 0.08)


def chair(f: Frame, s: Shades) -> None:
    for x in (-0.55, -0.38, 0.42, 0.6):
        f.line([(x * 0.9, 0.2), (x, 1)], s.dark, 0.1)
    f.box(-0.6, -1, -0.38, 0.3, s.base, 0.08)
    f.box(-0.6, -1, 0.25, -0.25, s.base, 0.14)
    f.box(-0.62, 0.1, 0.68, 0.34, s.base, 0.1)
    f.box(-0.45, -0.85, 0.1, -0.42, s.light, 0.08)


def backpack(f: Frame, s: Shades) -> None:
    f.ring(-0.22, -1.02, 0.22, -0.6, s.dark, 0.1)
    f.box(-0.68, -0.8, 0.68, 1, s.base, 0.42)
    f.box(-0.85, 0.15, -0.6, 0.85, s.dark, 0.1)
    f.box(0.6, 0.15, 0.85, 0.85, s.dark, 0.1)
    f.box(-0.46, 0.12, 0.46, 0.85, s.light, 0.14)
    f.line([(-0.46, -0.25), (0.46, -0.25)], s.detail, 0.08)


def camera(f: Frame, s: Shades) -> None:
    f.polygon([(-0.35, -0.4), (-0.22, -0.72), (0.22, -0.72), (0.35, -0.4)], s.base)
    f.box(-1, -0.45, 1, 0.8, s.base, 0.14)
    f.box(-0.85, -0.58, -0.5, -0.42, METAL)
    f.ellipse(-0.5, -0.32, 0.5, 0.68, SCREEN)
    f.ellipse(-0.34, -0.16, 0.34, 0.52, GLASS)
    f.ellipse(-0.18, -0.04, 0.02, 0.16, (235, 245, 255))
    f.box(0.62, -0.3, 0.86, -0.12, s.detail)


def laptop(f: Frame, s: Shades) -> None:
    f.box(-0.78, -0.7, 0.78, 0.5, s.base, 0.08)
    f.box(-0.68, -0.6, 0.68, 0.4, GLASS)
    f.polygon([(-0.68, 0.4), (0.1, -0.6), (0.68, -0.6), (0.68, -0.2), (0.2, 0.4)], (150, 196, 240))
    f.polygon([(-0.78, 0.5), (0.78, 0.5), (1.05, 0.85), (-1.05, 0.85)], s.base)
    f.polygon([(-0.62, 0.56), (0.62, 0.56), (0.75, 0.72), (-0.75, 0.72)], s.detail)


DRAWERS: dict[str, Callable[[Frame, Shades], None]] = {
    drawer.__name__: drawer
    for drawer in (
        smartphone, bottle, mug, sneaker, watch, lamp, box, headphones, chair, backpack, camera, laptop,
    )
}  # fmt: skip
