"""Adapters with random weights, in diffusers' format, that change a tiny checkpoint visibly."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from families.layers import LoraTarget
from finetune.store import Base, Said, Store, open_base

CHECKPOINTS = Path("assets/checkpoints")


def tensors(targets: tuple[LoraTarget, ...], rank: int, seed: int, size: float) -> dict[str, torch.Tensor]:
    """Target.lora_A.weight [rank, in] and lora_B.weight [out, rank]; B A changes outputs by about `size`."""
    random, found = torch.Generator().manual_seed(seed), {}
    for target in targets:
        a = torch.randn(rank, target.in_features, generator=random) / target.in_features**0.5
        b = torch.randn(target.out_features, rank, generator=random) * size / rank**0.5
        found |= {f"{target.name}.lora_A.weight": a, f"{target.name}.lora_B.weight": b}
    return found


def write(path: Path, base: Base, rank: int, seed: int, size: float = 0.05) -> Path:
    """A file that stock diffusers loads into a pipeline of `base`."""
    prefix = base.family.denoiser.name
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = tensors(tuple(base.targets), rank, seed, size)
    save_file({f"{prefix}.{name}": tensor for name, tensor in weights.items()}, path)
    return path


def add(store: Path, checkpoint: str, name: str, rank: int, seed: int, industry: str | None = None) -> Path:
    """Adds a random adapter to `store`; its file there."""
    base = open_base(CHECKPOINTS / checkpoint)
    source = write(store.with_name("sources") / f"{checkpoint}-{name}.safetensors", base, rank, seed)
    entry = Store(store).add(source, name, base, Said(industry, None, None, 1.0), False, False)
    return Store(store).index.file(entry)
