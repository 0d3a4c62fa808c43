"""Noise, packing and position ids are bit-equal to FluxPipeline's."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline

from diffusion.latents import image_ids, initial_latents, pack, unpack

SIZES = [(16, 16), (8, 20), (64, 2)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_packing_is_the_pipeline_s(height: int, width: int) -> None:
    latents = torch.randn(3, 16, height, width)
    packed = pack(latents)
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, 3, 16, height, width))
    assert torch.equal(unpack(packed, height, width), latents)
    assert torch.equal(latents, FluxPipeline._unpack_latents(packed, 8 * height, 8 * width, 8))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_position_ids_are_the_pipeline_s(height: int, width: int) -> None:
    expected = FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", torch.float32)
    assert torch.equal(image_ids(height, width), expected)


@pytest.mark.parametrize("seed", [0, 1, 2**53, 2**63 - 1])
def test_noise_is_the_pipeline_s(seed: int) -> None:
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn((1, 16, 8, 20), generator=generator)
    assert torch.equal(initial_latents(seed, 16, 8, 20), FluxPipeline._pack_latents(noise, 1, 16, 8, 20))
    assert not torch.equal(initial_latents(seed, 16, 8, 20), initial_latents(seed ^ 1, 16, 8, 20))
