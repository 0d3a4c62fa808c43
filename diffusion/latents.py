"""Latents: noise from a seed, a draw from the VAE's posterior; Flux's packing into tokens and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BaseImage:
    """What the VAE encoder says of a base image: scaled `mean` and `std`, float32 [1, C, h, w]."""

    mean: Tensor
    std: Tensor

    def draw(self, generator: torch.Generator) -> Tensor:
        """Latents [1, C, h, w], as diffusers' DiagonalGaussianDistribution.sample; the generator moves on."""
        return self.mean + self.std * torch.randn(self.mean.shape, generator=generator).to(self.mean.device)


def start_and_noise(
    seed: int, image: BaseImage | None, channels: int, latent_size: tuple[int, int]
) -> tuple[Tensor | None, Tensor]:
    """Latents of `image` or None, and noise, both [1, channels, h, w], drawn in the pipelines' order."""
    generator = torch.Generator("cpu").manual_seed(seed)
    if image is None:
        return None, noise(generator, channels, *latent_size)
    start = image.draw(generator)
    return start, noise(generator, channels, *latent_size).to(start.device)


def noise(generator: torch.Generator, channels: int, latent_height: int, latent_width: int) -> Tensor:
    """float32 [1, channels, h, w], as diffusers' pipelines draw it from a CPU generator."""
    return torch.randn((1, channels, latent_height, latent_width), generator=generator)


def pack(latents: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h/2 * w/2, 4C]; h and w are even."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2 * (width // 2), channels * 4)


def unpack(latents: Tensor, latent_height: int, latent_width: int) -> Tensor:
    """[B, tokens, 4C] -> [B, C, latent_height, latent_width]."""
    batch, _, width = latents.shape
    patches = latents.view(batch, latent_height // 2, latent_width // 2, width // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, width // 4, latent_height, latent_width)


def image_ids(latent_height: int, latent_width: int) -> Tensor:
    """Position ids float32 [tokens, 3]: (0, row, column) of each token."""
    rows, columns = torch.arange(latent_height // 2), torch.arange(latent_width // 2)
    grid = torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), rows, columns)
    return grid.to(torch.float32)
