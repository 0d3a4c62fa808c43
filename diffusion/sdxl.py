"""Stable Diffusion XL: one picture's way through the UNet, as diffusers' two SDXL pipelines have it."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor

from diffusion.adapters.packs import Pack
from diffusion.denoise import Inputs, Sample
from diffusion.latents import BaseImage, start_and_noise
from diffusion.settings import Settings
from families import SDXL


@dataclass(frozen=True)
class SdxlText:
    """prompt_embeds [1, 77, cross_attention_dim], pooled_prompt_embeds [1, projection_dim]."""

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor

    @classmethod
    def of(cls, embeds: Tensor, embeds_2: Tensor, pooled: Tensor) -> SdxlText:
        """From both encoders' hidden states and the second one's projection."""
        return cls(torch.cat([embeds, embeds_2], dim=-1), pooled)

    def zeros(self) -> SdxlText:
        """What stands for "no negative prompt" where a checkpoint has `force_zeros_for_empty_prompt`."""
        return SdxlText(torch.zeros_like(self.prompt_embeds), torch.zeros_like(self.pooled_prompt_embeds))


@dataclass(frozen=True)
class SdxlPicture:
    """What a checkpoint decides for every picture: its scheduler's config, the VAE's channels."""

    scheduler: Any
    channels: int
    _unstepped: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def start(
        self, settings: Settings, text: SdxlText, negative: SdxlText, image: BaseImage | None = None,
        adapters: Pack | None = None,
    ) -> SdxlSample:  # fmt: skip
        """A sample before its first step, with a scheduler of its own."""
        latent_size = SDXL.latent_size(settings.height, settings.width)
        start, random = start_and_noise(settings.seed, image, self.channels, latent_size)
        scheduler = self._scheduler(settings.scheduler)
        scheduler.set_timesteps(settings.num_inference_steps)
        begin = first_step(settings)
        timesteps = scheduler.timesteps[begin * scheduler.order :]
        if start is None:
            latents = random * scheduler.init_noise_sigma
        else:
            _begin_at(scheduler, begin)
            latents = scheduler.add_noise(start, random, timesteps[:1])
        latents = latents.to(text.prompt_embeds.device)  # they stay where the engine is
        return SdxlSample(scheduler, timesteps, latents, text, negative, settings, adapters)

    def _scheduler(self, name: str) -> Any:
        """Of diffusers' class `name`. A copy, since making one holds the interpreter for long."""
        if name not in self._unstepped:
            self._unstepped[name] = getattr(diffusers, name).from_config(self.scheduler.config)
        return copy.deepcopy(self._unstepped[name])


def first_step(settings: Settings) -> int:
    """As StableDiffusionXLImg2ImgPipeline.get_timesteps: a share of a step does not count."""
    steps = settings.num_inference_steps
    return steps - int(steps * settings.strength) if settings.strength is not None else 0


def _begin_at(scheduler: Any, step: int) -> None:
    if hasattr(scheduler, "set_begin_index"):  # DDIM finds its place by the timestep
        scheduler.set_begin_index(step * scheduler.order)


class SdxlSample(Sample):
    """Latents are [1, C, h, w]. Classifier-free guidance above 1 takes two rows: negative, then prompt."""

    def __init__(
        self, scheduler: Any, timesteps: Tensor, latents: Tensor, text: SdxlText, negative: SdxlText,
        settings: Settings, adapters: Pack | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.texts = [negative, text] if settings.guidance_scale > 1 else [text]
        super().__init__(scheduler, timesteps, latents, len(self.texts), adapters)

    @property
    def group_key(self) -> Hashable:
        return self.settings.height, self.settings.width

    def constants(self) -> Inputs:
        size = self.settings.height, self.settings.width
        time_ids = torch.tensor([[*size, 0.0, 0.0, *size]])  # original size, crop's corner, target size
        return {
            "encoder_hidden_states": torch.cat([text.prompt_embeds for text in self.texts]),
            "text_embeds": torch.cat([text.pooled_prompt_embeds for text in self.texts]),
            "time_ids": time_ids.expand(self.rows, -1).to(self.latents.device),
        }

    def inputs(self) -> Inputs:
        scaled = self.scheduler.scale_model_input(self.latents, self.timestep)
        timestep = self.timestep.to(self.latents.device, torch.float32).expand(self.rows, 1)
        return {"sample": scaled.expand(self.rows, -1, -1, -1), "timestep": timestep}

    def estimate(self) -> Tensor | None:
        """DPM-Solver keeps it, the others give it with every step."""
        if (last := self.last) is None:
            return None
        kept = getattr(self.scheduler, "model_outputs", None)
        estimated: Tensor = kept[-1] if kept else last.output.pred_original_sample
        return estimated

    def guided(self, prediction: Tensor) -> Tensor:
        """arXiv 2207.12598, as the pipelines write it."""
        if self.rows == 1:
            return prediction
        without, with_text = prediction.chunk(2)
        return without + self.settings.guidance_scale * (with_text - without)
