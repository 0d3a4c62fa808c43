"""Trains the tiny AutoencoderKL: both halves first, then the decoder alone on latents that stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from finetune.dataset import Pixels, as_model_input, held_out_pictures, random_crops
from finetune.run import Phase, optimise

KL_WEIGHT = 1e-6
LATENT_NOISE = 0.1  # in standard deviations of the latents


@dataclass(frozen=True)
class VaePhase(Phase):
    """`crop` is in pixels; `decoder_only` leaves the latent space as it is."""

    crop: int = 64
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
def scaled_latents(vae: AutoencoderKL, pixels: Pixels) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> scaled latents float32 [N, C, H/8, W/8], the posterior's modes."""
    vae, rows = vae.to(memory_format=torch.channels_last), []
    for start in tqdm(range(0, len(pixels), 8), desc="encode", mininterval=10):
        rows.append(encode(vae, as_model_input(pixels[start : start + 8])))
    return torch.cat(rows)


def encode(vae: AutoencoderKL, frames: torch.Tensor) -> torch.Tensor:
    """NCHW in [-1, 1] -> scaled latents [N, C, H/8, W/8], the posterior's modes."""
    mode = vae.encode(frames).latent_dist.mode().contiguous()
    return (mode - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


@torch.no_grad()
def psnr(vae: AutoencoderKL, frames: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of whole frames (NCHW in [-1, 1]) after encode and decode."""
    errors = []
    for batch in frames.split(16):
        rebuilt = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append((rebuilt - batch).pow(2).mean(dim=(1, 2, 3)))
    return float((10 * torch.log10(4 / torch.cat(errors))).mean())


def train(vae: AutoencoderKL, phase: VaePhase, source: Pixels, folder: Path, cache: Path) -> None:
    """Runs `phase` on `vae` in place, on uint8 pictures [N, size, size, 3]; logs the held-out PSNR in dB."""
    vae.to(memory_format=torch.channels_last)
    frames = as_model_input(held_out_pictures(source.shape[1], cache))

    def loss(step: int) -> torch.Tensor:
        crops = random_crops(source, phase.batch, phase.crop, np.random.default_rng(step))
        return _loss(vae, crops, phase.decoder_only)

    module = vae.decoder if phase.decoder_only else vae
    optimise(module, phase, loss, folder, lambda: {"psnr": psnr(vae, frames)}, every=1000)


def start_from(vae: AutoencoderKL, other: AutoencoderKL) -> None:
    """Copies every weight of `other` whose name and shape `vae` has too: all but those at the latents."""
    own, given = vae.state_dict(), other.state_dict()
    vae.load_state_dict({**own, **{k: v for k, v in given.items() if k in own and own[k].shape == v.shape}})


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, frames: torch.Tensor, scaling_factor: float) -> None:
    """Folds statistics into `quant_conv` and `post_quant_conv`, for a VAE without `shift_factor`.

    Each latent channel of `frames` gets mean 0 and deviation 1 / `scaling_factor`; pictures stay the same.
    """
    moments = torch.cat([vae.encode(batch).latent_dist.mode() for batch in frames.split(16)])
    mean = moments.mean(dim=(0, 2, 3))
    gain = 1 / (moments.std(dim=(0, 2, 3)) * scaling_factor)
    scale, channels = torch.cat([gain, torch.ones_like(gain)]), len(mean)
    inner, outer = vae.quant_conv, vae.post_quant_conv
    inner.weight *= scale[:, None, None, None]
    inner.bias[:channels] = (inner.bias[:channels] - mean) * gain
    inner.bias[channels:] += 2 * gain.log()  # log-variances
    outer.bias += outer.weight[:, :, 0, 0] @ mean
    outer.weight /= gain[None, :, None, None]
    vae.register_to_config(scaling_factor=scaling_factor)


def set_latent_statistics(vae: AutoencoderKL, frames: torch.Tensor) -> None:
    """Writes the `shift_factor` and `scaling_factor` that give latents of `frames` mean 0 and deviation 1."""
    with torch.no_grad():
        latents = torch.cat([vae.encode(batch).latent_dist.mode() for batch in frames.split(16)])
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
