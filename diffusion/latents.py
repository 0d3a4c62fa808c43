"""Flux latents: noise from a seed, packing into tokens of 2x2 latent pixels and back, position ids."""

from __future__ import annotations

import torch
from torch import Tensor


def initial_latents(seed: int, channels: int, latent_height: int, latent_width: int) -> Tensor:
    """Packed noise float32 [1, tokens, 4 * channels]: FluxPipeline's, for a CPU generator with `seed`."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return pack(torch.randn((1, channels, latent_height, latent_width), generator=generator))


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
