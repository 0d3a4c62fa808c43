"""What one product photograph shows: the vocabulary of the synthetic world and how scenes are sampled."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product as cartesian

from families.wording import INDUSTRIES, STYLES

Colour = tuple[int, int, int]

PRODUCTS = (
    "smartphone", "bottle", "mug", "sneaker", "watch", "lamp",
    "box", "headphones", "chair", "backpack", "camera", "laptop",
)  # fmt: skip
COLOURS: dict[str, Colour] = {
    "red": (206, 36, 38),
    "orange": (242, 122, 22),
    "yellow": (246, 206, 36),
    "green": (42, 148, 66),
    "blue": (38, 88, 212),
    "purple": (126, 56, 182),
    "pink": (242, 118, 170),
    "brown": (118, 72, 42),
    "white": (242, 242, 242),
    "black": (30, 30, 34),
}
# name -> (lit colour, shaded colour). Backgrounds are paler than products, so equal hues stay apart.
BACKGROUNDS: dict[str, tuple[Colour, Colour]] = {
    "dark": ((88, 92, 104), (20, 22, 28)),
    "white": ((253, 253, 253), (226, 228, 232)),
    "gray": ((192, 194, 198), (138, 140, 146)),
    "beige": ((245, 233, 213), (221, 198, 166)),
    "blue": ((178, 210, 248), (110, 160, 224)),
    "teal": ((150, 224, 218), (76, 176, 172)),
    "green": ((194, 232, 182), (126, 188, 114)),
    "pink": ((253, 212, 224), (238, 158, 186)),
    "yellow": ((255, 241, 172), (246, 214, 94)),
    "purple": ((215, 197, 247), (162, 134, 216)),
}
BACKDROPS = ("gradient", "studio")
# attribute of a Scene -> its choices
ATTRIBUTES: dict[str, tuple[str | None, ...]] = {
    "product": PRODUCTS,
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "backdrop": BACKDROPS,
    "style": (None, *STYLES),
    "industry": (None, *INDUSTRIES),
}
HELD_OUT_SEED = 1_000_000  # seeds from here on name held-out scenes


@dataclass(frozen=True)
class Scene:
    """One picture. `style` and `industry` may be None: then no mark of theirs is drawn."""

    product: str
    colour: str
    background: str
    backdrop: str
    style: str | None
    industry: str | None
    seed: int

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.product, self.colour, self.background


def is_held_out(product: str, colour: str, background: str) -> bool:
    """A sixth of all combinations is never trained on; every pair of words in them is."""
    places = (
        PRODUCTS.index(product),
        tuple(COLOURS).index(colour),
        tuple(BACKGROUNDS).index(background),
    )
    return sum(places) % 6 == 0


def sample_scene(seed: int) -> Scene:
    """The training scene of a seed: any combination but the held-out ones."""
    rng = random.Random(seed)
    while True:
        triple = rng.choice(PRODUCTS), rng.choice(tuple(COLOURS)), rng.choice(tuple(BACKGROUNDS))
        if not is_held_out(*triple):
            break
    return _scene(triple, rng, seed)


def _scene(triple: tuple[str, str, str], rng: random.Random, seed: int) -> Scene:
    style = rng.choice(STYLES) if rng.random() < 0.45 else None
    industry = rng.choice(INDUSTRIES) if rng.random() < 0.3 else None
    return Scene(*triple, rng.choice(BACKDROPS), style, industry, seed)


def held_out_scenes() -> list[Scene]:
    """One scene for each of the 200 combinations kept for evaluation, in a fixed order."""
    triples = [triple for triple in cartesian(PRODUCTS, COLOURS, BACKGROUNDS) if is_held_out(*triple)]
    return [_scene(triple, random.Random(seed), seed) for seed, triple in enumerate(triples, HELD_OUT_SEED)]
