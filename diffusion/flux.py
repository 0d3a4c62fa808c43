"""Flux: one picture's way through the transformer, as FluxPipeline and FluxImg2ImgPipeline have it."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from diffusion.adapters.packs import Pack
from diffusion.denoise import Inputs, Sample
from diffusion.latents import BaseImage, image_ids, pack, start_and_noise, unpack
from diffusion.settings import Settings
from diffusion.step_cache import QUALITIES, StepCache
from families import FLUX


@dataclass(frozen=True)
class FluxText:
    """prompt_embeds [1, T, joint_attention_dim], pooled_prompt_embeds [1, pooled_projection_dim]."""

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor


@dataclass(frozen=True)
class FluxPicture:
    """What a checkpoint decides for every picture: its scheduler, the VAE's channels."""

    scheduler: FlowMatchEulerDiscreteScheduler
    channels: int

    def start(
        self, settings: Settings, text: FluxText, image: BaseImage | None = None, adapters: Pack | None = None
    ) -> FluxSample:
        """A sample before its first step, with a scheduler of its own."""
        height, width = FLUX.latent_size(settings.height, settings.width)
        start, random = start_and_noise(settings.seed, image, self.channels, (height, width))
        scheduler = scheduler_for(self.scheduler, settings.num_inference_steps, height * width // 4)
        begin = first_step(settings)
        scheduler.set_begin_index(begin)
        timesteps = scheduler.timesteps[begin:]
        latents = random if start is None else scheduler.scale_noise(start, timesteps[:1], random)
        packed = pack(latents).to(text.prompt_embeds.device)  # latents stay where the engine is
        sample = FluxSample(scheduler, timesteps, packed, text, settings, adapters)
        if (tolerance := QUALITIES[settings.quality]) is not None:
            sample.cache = StepCache(tolerance, scheduler.sigmas[begin:].tolist())
        return sample


def first_step(settings: Settings) -> int:
    """As FluxImg2ImgPipeline.get_timesteps: a share of a step counts as a whole one."""
    steps = settings.num_inference_steps
    return int(steps - steps * settings.strength) if settings.strength is not None else 0


class FluxSample(Sample):
    """Latents are packed: [1, image_tokens, in_channels]."""

    def __init__(
        self, scheduler: Any, timesteps: Tensor, latents: Tensor, text: FluxText, settings: Settings,
        adapters: Pack | None = None,
    ) -> None:  # fmt: skip
        super().__init__(scheduler, timesteps, latents, adapters=adapters)
        self.text, self.settings = text, settings

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width."""
        return FLUX.latent_size(self.settings.height, self.settings.width)

    @property
    def group_key(self) -> Hashable:
        return *self.latent_size, self.text.prompt_embeds.shape[1]

    def constants(self) -> Inputs:
        embeds = self.text.prompt_embeds
        return {
            "encoder_hidden_states": embeds,
            "pooled_projections": self.text.pooled_prompt_embeds,
            "img_ids": image_ids(*self.latent_size)[None].to(embeds.device),
            "txt_ids": torch.zeros(1, embeds.shape[1], 3, device=embeds.device),
            "guidance": torch.tensor([[self.settings.guidance_scale]], device=embeds.device),
        }

    def inputs(self) -> Inputs:
        return {
            "hidden_states": self.latents,
            "timestep": self.timestep[None, None].to(self.latents.device) / 1000,
        }

    def estimate(self) -> Tensor | None:
        """Along the straight line of the last step to its end, where sigma is 0."""
        if (last := self.last) is None:
            return None
        sigma = self.scheduler.sigmas[len(self.scheduler.timesteps) - len(self.timesteps) + last.number]
        return unpack(last.output.prev_sample - sigma * last.prediction, *self.latent_size)

    def result(self) -> Tensor:
        """Unpacked, still scaled latents [1, C, latent_height, latent_width]; raises `error` if any."""
        return unpack(super().result(), *self.latent_size)


def scheduler_for(
    template: FlowMatchEulerDiscreteScheduler, num_inference_steps: int, image_tokens: int
) -> FlowMatchEulerDiscreteScheduler:
    """A scheduler for one picture, set as FluxPipeline does: sigmas shifted by the number of tokens."""
    scheduler = copy.deepcopy(template)  # from_config holds the interpreter for long
    sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
    scheduler.set_timesteps(sigmas=sigmas, mu=_shift(scheduler, image_tokens))
    return scheduler


def _shift(scheduler: FlowMatchEulerDiscreteScheduler, image_tokens: int) -> float:
    """`mu`, as diffusers' `calculate_shift` has it; importing that takes seconds."""
    config = scheduler.config
    tokens: int = config.max_image_seq_len - config.base_image_seq_len
    slope: float = (config.max_shift - config.base_shift) / tokens
    start: float = config.base_shift - slope * config.base_image_seq_len
    return image_tokens * slope + start
