"""What an adapter does to pictures: towards its sector, and away from the prompt, the base or each other."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Protocol

import torch
from torch import nn

from families.wording import INDUSTRIES
from finetune import checker, sector_checker
from finetune.captions import full_caption
from finetune.checker import Checker
from finetune.dataset import Pixels, as_model_input
from finetune.evaluate import ASKED
from finetune.evaluate_image import STRIDE, similarity
from finetune.scene import Scene, held_out_scenes
from finetune.sector_checker import SECTORS, SectorChecker

PROMPTS, REPEATED, SEEDS = 40, 1, 6  # prompts once each; the first again with six seeds


@dataclass(frozen=True)
class Task:
    """Fixed prompts x fixed seeds: `scenes` one for each of the first prompts, then the repeated ones."""

    scenes: list[Scene]
    prompts: list[str]
    seeds: list[int]


def task(industry: str, count: int = PROMPTS) -> Task:
    """Held-out prompts that name `industry` as the gateway words it; always the same ones."""
    kept = held_out_scenes()
    scenes = [replace(kept[STRIDE * n % len(kept)], industry=industry) for n in range(count)]
    prompts = [full_caption(scene, random.Random(f"prompt {scene.seed}")) for scene in scenes]
    repeated = [(prompt, seed) for prompt in prompts[:REPEATED] for seed in range(1000, 1000 + SEEDS)]
    again, numbers = map(list, zip(*repeated, strict=True))
    return Task(scenes, prompts + again, [*range(count), *numbers])


class Extra(Protocol):
    """A further score, of a model that the user has: pictures and prompts -> name -> value."""

    def __call__(self, pixels: Pixels, prompts: list[str], industry: str) -> dict[str, float]: ...


@dataclass(frozen=True)
class Judges:
    """The two trained checkers, and what else is to be asked."""

    checker: Checker
    sectors: SectorChecker
    extra: tuple[Extra, ...] = ()


@torch.no_grad()
def diversity(judge: Checker, pixels: Pixels) -> float:
    """Mean pairwise cosine distance (0..2) of the checker's 128 features, of one prompt's pictures."""
    features = nn.functional.normalize(judge.body(as_model_input(pixels)), dim=1)
    distances = [float(1 - features[a] @ features[b]) for a, b in combinations(range(len(features)), 2)]
    return sum(distances) / len(distances)


def scores(judges: Judges, pixels: Pixels, base: Pixels, of: Task, industry: str) -> dict[str, float]:
    """Name -> value; shares and probabilities are 0..1. `pixels` and `base` are drawn of the whole task."""
    count = len(of.scenes)
    once, again = pixels[:count], pixels[count:]
    seen = sector_checker.likeness(judges.sectors, once)
    place = SECTORS.index(industry)
    right = checker.correct(judges.checker, once, of.scenes)
    groups = [again[start : start + SEEDS] for start in range(0, len(again), SEEDS)]
    row = {
        "sector likeness": float(seen[:, place].mean()),
        "seen as its sector": float((seen.argmax(1) == place).double().mean()),
        **{name: float(right[name].double().mean()) for name in ASKED},
        "diversity": sum(diversity(judges.checker, group) for group in groups) / len(groups),
        "SSIM to base": similarity(once, base[:count]),
    }
    for extra in judges.extra:
        row |= extra(once, of.prompts[:count], industry)
    return row


def sector_of(industry: str) -> str:
    """`industry`, if drawn pictures have a look of it; ValueError lists those that do."""
    if industry not in INDUSTRIES:
        raise ValueError(f"industry {industry!r} has no sector checker; choices: {', '.join(INDUSTRIES)}")
    return industry
