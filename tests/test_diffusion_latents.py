"""Noise, draws from the posterior, packing and position ids are bit-equal to diffusers'."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils.torch_utils import randn_tensor

from diffusion.latents import BaseImage, image_ids, noise, pack, unpack

SIZES = [(16, 16), (8, 20), (64, 2)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


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
    expected = randn_tensor((1, 16, 8, 20), generator=seeded(seed), dtype=torch.float32)
    assert torch.equal(noise(seeded(seed), 16, 8, 20), expected)
    assert not torch.equal(noise(seeded(seed ^ 1), 16, 8, 20), expected)


def test_a_draw_from_the_posterior_is_the_vae_s_and_noise_comes_after_it() -> None:
    posterior = DiagonalGaussianDistribution(torch.randn(1, 2 * 4, 6, 10, generator=seeded(0)))
    ours, theirs = seeded(7), seeded(7)
    drawn = BaseImage(posterior.mean, posterior.std).draw(ours)
    assert torch.equal(drawn, posterior.sample(theirs))
    assert torch.equal(noise(ours, 4, 6, 10), randn_tensor((1, 4, 6, 10), generator=theirs))
