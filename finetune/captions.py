"""Scene -> caption, in many wordings and levels of detail; and the prompts of the held-out evaluation."""

from __future__ import annotations

import random

from families.wording import industry_phrase, style_phrase
from finetune.scene import Scene, held_out_scenes

PRODUCT_WORDS: dict[str, tuple[str, ...]] = {
    "smartphone": ("smartphone", "smartphone", "phone", "mobile phone"),
    "bottle": ("bottle", "bottle", "water bottle"),
    "mug": ("mug", "mug", "coffee mug", "cup"),
    "sneaker": ("sneaker", "sneaker", "running shoe", "shoe"),
    "watch": ("watch", "watch", "wristwatch"),
    "lamp": ("lamp", "lamp", "table lamp", "desk lamp"),
    "box": ("box", "box", "gift box", "package"),
    "headphones": ("headphones", "headphones", "headset"),
    "chair": ("chair", "chair", "wooden chair"),
    "backpack": ("backpack", "backpack", "rucksack"),
    "camera": ("camera", "camera", "photo camera"),
    "laptop": ("laptop", "laptop", "laptop computer", "notebook computer"),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "gray": ("gray", "grey"),
    "dark": ("dark", "dark", "charcoal"),
}
ADJECTIVES = (
    "sleek",
    "modern",
    "elegant",
    "new",
    "premium",
    "stylish",
    "simple",
    "beautiful",
    "high quality",
)
OPENINGS = (
    "", "", "", "a photo of ", "product photo of ", "a product photograph of ", "studio shot of ",
    "an advertising picture of ", "marketing image of ", "a picture of ", "commercial photo of ",
)  # fmt: skip
PLACES = (
    "{thing} on a {background} background",
    "{thing} on a {background} background",
    "{thing} against a {background} backdrop",
    "{thing} in front of a {background} background",
    "{thing} with a {background} background",
    "{thing}, {background} background",
    "a {background} background with {thing}",
)


def _thing(scene: Scene, rng: random.Random, coloured: bool) -> str:
    noun = rng.choice(PRODUCT_WORDS[scene.product])
    adjective = rng.choice(ADJECTIVES) if rng.random() < 0.25 else ""
    trailing = coloured and rng.random() < 0.12
    words = [adjective, scene.colour if coloured and not trailing else "", noun]
    phrase = " ".join(word for word in words if word) + (f" in {scene.colour}" if trailing else "")
    if noun == "headphones":
        return rng.choice(("", "a pair of ")) + phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _background(scene: Scene, rng: random.Random) -> str:
    word = rng.choice(BACKGROUND_WORDS.get(scene.background, (scene.background,)))
    return f"{word} {scene.backdrop}" if rng.random() < 0.6 else word


def _placed(thing: str, scene: Scene, rng: random.Random) -> str:
    return rng.choice(PLACES).format(thing=thing, background=_background(scene, rng))


def _marks(scene: Scene, rng: random.Random) -> list[str]:
    phrases = [style_phrase(scene.style)] if scene.style else []
    phrases += [industry_phrase(scene.industry)] if scene.industry else []
    rng.shuffle(phrases)
    return phrases


def full_caption(scene: Scene, rng: random.Random) -> str:
    """Names product, colour, background and every mark."""
    opening, thing = rng.choice(OPENINGS), _thing(scene, rng, coloured=True)
    return ", ".join([opening + _placed(thing, scene, rng), *_marks(scene, rng)])


def caption(scene: Scene, rng: random.Random) -> str:
    """A caption of random detail: mostly full, sometimes without the colour, the background or both."""
    detail = rng.random()
    if detail < 0.8:
        return full_caption(scene, rng)
    thing = _thing(scene, rng, coloured=detail < 0.87)
    where = _placed(thing, scene, rng) if detail >= 0.87 and detail < 0.95 else thing
    return ", ".join([rng.choice(OPENINGS) + where, *_marks(scene, rng)])


LEVELS = ("short", "medium", "full")


def levelled_caption(scene: Scene, level: str, rng: random.Random) -> str:
    """A caption: "short" names product and colour, "medium" background and industry too, "full" all.

    Looks are never described: what every caption leaves out is what an adapter learns.
    """
    if level == "full":
        return full_caption(scene, rng)
    thing = _thing(scene, rng, coloured=True)
    return thing if level == "short" else ", ".join([_placed(thing, scene, rng), *_marks(scene, rng)])


def held_out_prompts() -> list[tuple[Scene, str]]:
    """The 200 evaluation prompts: each names a held-out combination of product, colour and background."""
    return [
        (scene, full_caption(scene, random.Random(f"prompt {scene.seed}"))) for scene in held_out_scenes()
    ]
