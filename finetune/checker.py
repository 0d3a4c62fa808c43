"""An independently trained classifier of drawn pictures: says what a generated picture shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from finetune.dataset import Pixels, as_model_input, held_out_pictures, targets, training_pictures
from finetune.run import one_cycle
from finetune.scene import ATTRIBUTES, Scene, held_out_scenes, sample_scene

WEIGHTS = Path("assets/checker/checker.safetensors")
STEPS, BATCH, LEARNING_RATE = 1500, 48, 3e-3


def body() -> nn.Sequential:
    """NCHW in [-1, 1], 128 x 128 pixels -> features [N, 128]."""
    widths = (3, 16, 32, 64, 96)
    blocks = [
        nn.Sequential(nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.SiLU())
        for inner, outer in zip(widths, widths[1:], strict=False)
    ]
    last = (nn.Conv2d(96, 128, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(128 * 4 * 4, 128), nn.SiLU())
    return nn.Sequential(*blocks, *last)


class Checker(nn.Module):
    """Convolutions, then one linear head for each attribute; input NCHW in [-1, 1], 128 x 128 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.heads = nn.ModuleDict(
            {name: nn.Linear(128, len(choices)) for name, choices in ATTRIBUTES.items()}
        )

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(pictures)
        return {name: head(features) for name, head in self.heads.items()}


def load(path: Path = WEIGHTS) -> Checker:
    """The trained checker."""
    checker = Checker()
    checker.load_state_dict(load_file(path))
    return checker.eval()


def save(checker: Checker, path: Path = WEIGHTS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(checker.state_dict(), path)


def degrade(pictures: torch.Tensor) -> torch.Tensor:
    """Random blur, noise and shifts, so that a decoder's softness does not decide the answer."""
    if torch.rand(()) < 0.5:
        small = nn.functional.avg_pool2d(pictures, 2)
        pictures = nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear")
    down, right = (int(shift) for shift in torch.randint(-4, 5, (2,)))
    pictures = torch.roll(pictures, (down, right), (2, 3))
    return pictures + torch.randn_like(pictures) * 0.08 * torch.rand(())


def train(cache: Path, count: int = 12_000) -> Checker:
    """A checker trained on the first `count` training pictures, 128 x 128."""
    torch.manual_seed(1)
    checker, source = Checker(), training_pictures(count, 128, cache)
    optimizer = torch.optim.AdamW(checker.parameters(), LEARNING_RATE)
    schedule, rng = one_cycle(optimizer, LEARNING_RATE, STEPS), np.random.default_rng(1)
    for _ in tqdm(range(STEPS), desc="checker", mininterval=10):
        seeds = rng.integers(0, count, BATCH)
        logits = checker(degrade(as_model_input(source[seeds])))
        wanted = targets([sample_scene(int(seed)) for seed in seeds])
        loss = torch.stack(
            [nn.functional.cross_entropy(logits[name], wanted[name]) for name in ATTRIBUTES]
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return checker.eval()


@torch.no_grad()
def correct(checker: Checker, pixels: Pixels, scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Attribute name -> bool [N]: does the checker see in uint8 [N, 128, 128, 3] what the scene says?"""
    logits = [checker(as_model_input(pixels[start : start + 50])) for start in range(0, len(pixels), 50)]
    wanted = targets(scenes)
    return {name: torch.cat([part[name] for part in logits]).argmax(1) == wanted[name] for name in ATTRIBUTES}


def accuracy(checker: Checker, cache: Path) -> dict[str, float]:
    """Share of right answers on drawn pictures of held-out combinations."""
    right = correct(checker, held_out_pictures(128, cache), held_out_scenes())
    return {name: float(values.float().mean()) for name, values in right.items()}
