"""Training pairs as the latents and conditions that a denoiser takes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.manifest import Pair
from finetune.objectives import Condition, Objective


class Pictures:
    """An industry's training pairs as latents and conditions, each worked out when it is first needed."""

    def __init__(self, folder: Path, pairs: list[Pair], objective: Objective, resolution: int):
        self._files = [folder / pair.file for pair in pairs]
        self._objective, self._resolution = objective, resolution
        self._latents, self._conditions = dict[int, Tensor](), dict[str, Condition]()

    def _encoded(self, place: int) -> Tensor:
        if place not in self._latents:
            size = (self._resolution, self._resolution)
            picture = Image.open(self._files[place]).convert("RGB").resize(size, Image.Resampling.BOX)
            self._latents[place] = self._objective.latents(np.asarray(picture)[None])
        return self._latents[place]

    def _condition(self, caption: str) -> Condition:
        if caption not in self._conditions:
            self._conditions[caption] = self._objective.condition(caption)
        return self._conditions[caption]

    def _caption(self, place: int, dropout: float, rng: random.Random) -> str:
        return "" if rng.random() < dropout else self._files[place].with_suffix(".txt").read_text().strip()

    def batch(self, step: int, size: int, dropout: float) -> tuple[Tensor, Condition]:
        """Latents [size, C, h, w] and their conditions: every picture once an epoch, in a new order."""
        places = [_place(number, len(self._files)) for number in range(step * size, (step + 1) * size)]
        rng = random.Random(f"captions {step}")
        conditions = [self._condition(self._caption(place, dropout, rng)) for place in places]
        embeds, pooled = (torch.cat(parts) for parts in zip(*conditions, strict=True))
        return torch.cat([self._encoded(place) for place in places]), (embeds, pooled)


def _place(number: int, count: int) -> int:
    """Which of `count` pictures is the one with `number` in an endless series of shuffled epochs."""
    order = list(range(count))
    random.Random(f"epoch {number // count}").shuffle(order)
    return order[number % count]
