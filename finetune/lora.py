"""An adapter in training: its recipe, the layers it changes, its optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import nn

from families.layers import lora_targets
from finetune.objectives import Objective
from finetune.run import Phase

WEIGHT_DECAY = 1e-4  # as diffusers' trainers


@dataclass(frozen=True)
class LoraPhase(Phase):
    """The recipe; the defaults are for FLUX.1-dev and SDXL, the tiny checkpoints' are in `RECIPES`.

    `resolution` is in pixels; `targets` is a key of `TARGETS`; `guidance` is told to a distilled Flux;
    `lr_scheduler` is one of diffusers'. Every `checkpoint_every` steps there is an adapter to compare,
    every `state_every` a state to go on from.
    """

    name: str = "lora"
    steps: int = 2_000
    learning_rate: float = 1e-4
    batch: int = 1
    resolution: int = 512
    rank: int = 16
    alpha: int = 16
    checkpoint_every: int = 250
    state_every: int = 10
    caption_dropout: float = 0.05
    guidance: float = 3.5
    targets: str = "all"
    lr_scheduler: str = "constant"


RECIPES = {
    "default": LoraPhase(),
    # Guidance 1 keeps prompts better than 3.5 does, the served one; 100 steps are too few. Looks of small or
    # slanted shapes (fashion, fitness, healthcare) want 400 steps at 3e-3.
    "tiny": LoraPhase(
        steps=200,
        learning_rate=2e-3,
        batch=8,
        resolution=128,
        rank=8,
        alpha=8,
        checkpoint_every=50,
        guidance=1.0,
        lr_scheduler="cosine",
    ),
}

TARGETS: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "attention": lambda name: ".to_" in name or ".add_" in name,
}


def target_modules(objective: Objective, choice: str) -> list[str]:
    """The linears that an adapter may change, or those of a `choice` among them."""
    configs = {objective.component.folder: dict(objective.denoiser.config)}
    return [
        target.name
        for target in lora_targets(objective.family, objective.component, configs)
        if TARGETS[choice](target.name)
    ]


def add_adapter(objective: Objective, phase: LoraPhase) -> LoraConfig:
    """Puts a fresh adapter into the denoiser, float32, B = 0; equal for every call."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=phase.rank,
        lora_alpha=phase.alpha,
        init_lora_weights="gaussian",
        target_modules=target_modules(objective, phase.targets),
    )
    objective.denoiser.add_adapter(config)
    cast_training_params(objective.denoiser, dtype=torch.float32)
    return config


def optimizer_for(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW in 8 bits (bitsandbytes) on a GPU, else PyTorch's; says which."""
    try:
        if not torch.cuda.is_available():
            raise ImportError("there is no CUDA GPU")
        from bitsandbytes.optim import AdamW8bit
    except ImportError as missing:
        print(f"optimizer: AdamW in 32 bits, because {missing}")
        return torch.optim.AdamW(parameters, learning_rate, weight_decay=WEIGHT_DECAY)
    print("optimizer: AdamW in 8 bits (bitsandbytes)")
    return AdamW8bit(parameters, learning_rate, weight_decay=WEIGHT_DECAY)
