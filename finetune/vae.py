"""Trains the tiny AutoencoderKL: both halves first, then the decoder alone on latents that stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from finetune.dataset import (
    TRAIN_PICTURES,
    as_model_input,
    held_out_pictures,
    random_crops,
    training_pictures,
)
from finetune.run import Average, Run, one_cycle

KL_WEIGHT = 1e-6
LATENT_NOISE = 0.1  # in standard deviations of the latents


@dataclass(frozen=True)
class Phase:
    """One stretch of training. `decoder_only` leaves the latent space as it is."""

    name: str
    steps: int
    learning_rate: float
    batch: int
    crop: int
    decoder_only: bool = False


def build_vae(latent_channels: int, **config: Any) -> AutoencoderKL:
    """A four-level (8x) autoencoder of about 1.5 M parameters, with Flux's or SDXL's outer shape."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 24, 48, 96),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        **config,
    )


def _loss(vae: AutoencoderKL, pixels: torch.Tensor, decoder_only: bool) -> torch.Tensor:
    with torch.set_grad_enabled(not decoder_only):
        posterior = vae.encode(pixels).latent_dist
    latents = posterior.sample()
    if decoder_only:  # a denoiser's latents are never exact: the decoder learns to bear small errors
        latents = latents + torch.randn_like(latents) * latents.std() * LATENT_NOISE * torch.rand(
            len(latents), 1, 1, 1
        )
    difference = vae.decode(latents).sample - pixels
    loss = difference.abs().mean() + difference.pow(2).mean()
    return loss if decoder_only else loss + KL_WEIGHT * posterior.kl().mean()


@torch.no_grad()
def psnr(vae: AutoencoderKL, frames: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of whole frames (NCHW in [-1, 1]) after encode and decode."""
    errors = []
    for batch in frames.split(16):
        rebuilt = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append((rebuilt - batch).pow(2).mean(dim=(1, 2, 3)))
    return float((10 * torch.log10(4 / torch.cat(errors))).mean())


def train(vae: AutoencoderKL, phase: Phase, folder: Path, cache: Path, size: int) -> float:
    """Runs `phase` on `vae` in place (resuming if its folder has a state); held-out PSNR in dB."""
    torch.manual_seed(0)
    vae.to(memory_format=torch.channels_last)
    source = training_pictures(TRAIN_PICTURES, size, cache)
    frames = as_model_input(held_out_pictures(size, cache))
    module = vae.decoder if phase.decoder_only else vae
    optimizer = torch.optim.AdamW(
        module.parameters(), phase.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3
    )
    schedule, average = one_cycle(optimizer, phase.learning_rate, phase.steps), Average(module, 0.999)
    parts = {"vae": vae, "optimizer": optimizer, "schedule": schedule, "average": average}
    run = Run(folder / phase.name)
    start = run.resume(**parts)
    rng = np.random.default_rng(start + 1)
    for step in tqdm(
        range(start, phase.steps), desc=phase.name, initial=start, total=phase.steps, mininterval=10
    ):
        loss = _loss(vae, random_crops(source, phase.batch, phase.crop, rng), phase.decoder_only)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update(module, step)
        if step % 1000 == 999 or step + 1 == phase.steps:
            run.log(step=step + 1, loss=loss.item(), psnr=psnr(vae, frames))
            run.save(step + 1, **parts)
    average.copy_to(module)
    return psnr(vae, frames)


def set_latent_statistics(vae: AutoencoderKL, frames: torch.Tensor) -> None:
    """Writes the `shift_factor` and `scaling_factor` that give latents of `frames` mean 0 and deviation 1."""
    with torch.no_grad():
        latents = torch.cat([vae.encode(batch).latent_dist.mode() for batch in frames.split(16)])
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
