"""A classifier of looks: says which sector's look a picture has, or none, whatever its badge says."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from families.wording import INDUSTRIES
from finetune.checker import body, degrade
from finetune.dataset import Pixels, as_model_input
from finetune.draw import draw
from finetune.run import one_cycle
from finetune.scene import Scene, held_out_scenes, sample_scene
from finetune.vae import encode

WEIGHTS = Path("assets/checker/sectors.safetensors")
VAES = ("flux-tiny", "sdxl-tiny")
STEPS, BATCH, LEARNING_RATE = 600, 48, 3e-3
SECTORS = (None, *INDUSTRIES)
FIRST_SEED = 3_000_000  # seeds from here on name this checker's training scenes


class SectorChecker(nn.Module):
    """The checker's convolutions with one head: logits [N, 11] of `SECTORS`; input as the checker's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.head = nn.Linear(128, len(SECTORS))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(pictures))


def load(path: Path = WEIGHTS) -> SectorChecker:
    """The trained checker."""
    checker = SectorChecker()
    checker.load_state_dict(load_file(path))
    return checker.eval()


def save(checker: SectorChecker, path: Path = WEIGHTS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(checker.state_dict(), path)


def shown(seed: int) -> tuple[Scene, str | None]:
    """A scene of a trained combination and a look; half of the badges are another industry's or absent."""
    rng = random.Random(f"look {seed}")
    look = rng.choice(SECTORS)
    badge = look if rng.random() < 0.5 else rng.choice(SECTORS)
    return replace(sample_scene(seed), industry=badge), look


def drawn(shows: list[tuple[Scene, str | None]]) -> Pixels:
    """uint8 [N, 128, 128, 3]."""
    return np.stack([np.asarray(draw(scene, 128, supersample=2, look=look)) for scene, look in shows])


def held_out() -> list[tuple[Scene, str | None]]:
    """The held-out combinations, looks in turn, badges of their own."""
    return [(scene, SECTORS[number % len(SECTORS)]) for number, scene in enumerate(held_out_scenes())]


@torch.no_grad()
def through_vae(vae: AutoencoderKL, frames: torch.Tensor) -> torch.Tensor:
    """What is left of `frames` after encode and decode: generated pictures are as soft."""
    latents = encode(vae, frames) / vae.config.scaling_factor + (vae.config.shift_factor or 0)
    return vae.decode(latents).sample.clamp(-1, 1)


def _sources(shows: list[tuple[Scene, str | None]], checkpoints: Path) -> list[torch.Tensor]:
    """The pictures as drawn, and as each tiny VAE rebuilds them; a list of NCHW, one for each kind."""
    frames = as_model_input(drawn(shows))
    vaes = [AutoencoderKL.from_pretrained(checkpoints / name / "vae", dtype=torch.float32) for name in VAES]
    rebuilt = [torch.cat([through_vae(vae, part) for part in frames.split(16)]) for vae in vaes]
    return [frames, *rebuilt]


def train(checkpoints: Path, count: int = 1_500, steps: int = STEPS) -> SectorChecker:
    """A checker trained on `count` pictures, drawn and through the VAEs of both tiny checkpoints."""
    torch.manual_seed(1)
    shows = [shown(FIRST_SEED + number) for number in range(count)]
    sources, wanted = _sources(shows, checkpoints), _classes(shows)
    checker, rng = SectorChecker(), np.random.default_rng(1)
    optimizer = torch.optim.AdamW(checker.parameters(), LEARNING_RATE)
    schedule = one_cycle(optimizer, LEARNING_RATE, steps)
    for step in tqdm(range(steps), desc="sector checker", mininterval=10):
        places = torch.from_numpy(rng.integers(0, count, BATCH))
        logits = checker(degrade(sources[step % len(sources)][places]))
        loss = nn.functional.cross_entropy(logits, wanted[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return checker.eval()


def _classes(shows: list[tuple[Scene, str | None]]) -> torch.Tensor:
    return torch.tensor([SECTORS.index(look) for _, look in shows])


@torch.no_grad()
def likeness(checker: SectorChecker, pixels: Pixels) -> torch.Tensor:
    """Probabilities [N, 11] of `SECTORS` for uint8 [N, 128, 128, 3]."""
    frames = as_model_input(pixels)
    return torch.cat([checker(part).softmax(1) for part in frames.split(50)])


@torch.no_grad()
def accuracy(checker: SectorChecker, checkpoints: Path) -> dict[str, float]:
    """Share of right answers on held-out combinations, drawn and through each VAE."""
    wanted = _classes(held_out())
    kinds = zip(("drawn", *VAES), _sources(held_out(), checkpoints), strict=True)
    return {name: float((checker(frames).argmax(1) == wanted).double().mean()) for name, frames in kinds}
