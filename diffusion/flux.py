"""Flux denoising: samples that step side by side, each with its own scheduler, through one transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from diffusion.errors import BadPrediction, Cancelled, EngineError
from diffusion.latents import image_ids, initial_latents, unpack
from families import FLUX, InvalidRequest, Range

Transformer = Callable[[Mapping[str, Tensor]], Tensor]
"""Inputs of families.flux.TRANSFORMER, by name and batch-first -> sample [B, image_tokens, in_channels]."""


@dataclass(frozen=True)
class Settings:
    """What a request asks of one picture; height and width are in pixels."""

    seed: int
    num_inference_steps: int
    guidance_scale: float
    height: int
    width: int

    def check(self, sizes: Range) -> None:
        """InvalidRequest unless this may be drawn by a deployment that takes `sizes` in pixels."""
        if self.seed < 0:
            raise InvalidRequest(f"seed {self.seed} is negative; choices: 0..{2**63 - 1}")
        FLUX.num_inference_steps.check("num_inference_steps", self.num_inference_steps)
        FLUX.guidance_scale.check("guidance_scale", self.guidance_scale)
        FLUX.check_size("height", self.height, sizes)
        FLUX.check_size("width", self.width, sizes)

    @property
    def latent_height(self) -> int:
        return self.height // FLUX.vae_scale_factor

    @property
    def latent_width(self) -> int:
        return self.width // FLUX.vae_scale_factor


@dataclass(eq=False)
class Sample:
    """One picture on its way. Tensors are float32 with a batch axis of 1.

    prompt_embeds [1, T, joint_attention_dim], pooled_prompt_embeds [1, pooled_projection_dim],
    latents (packed) [1, image_tokens, in_channels]. `error` is set when it cannot go on.
    """

    settings: Settings
    scheduler: FlowMatchEulerDiscreteScheduler
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    latents: Tensor
    step: int = 0
    error: BadPrediction | None = None

    @classmethod
    def start(
        cls,
        settings: Settings,
        prompt_embeds: Tensor,
        pooled_prompt_embeds: Tensor,
        scheduler: FlowMatchEulerDiscreteScheduler,
        channels: int,
    ) -> Sample:
        """A sample before its first step; it takes its own copy of `scheduler`. `channels` are the VAE's."""
        latents = initial_latents(settings.seed, channels, settings.latent_height, settings.latent_width)
        own = _scheduler_for(scheduler, settings.num_inference_steps, latents.shape[1])
        return cls(settings, own, prompt_embeds, pooled_prompt_embeds, latents)

    @property
    def timestep(self) -> Tensor:
        """[] in 0..1000, of the step to come."""
        timestep: Tensor = self.scheduler.timesteps[self.step]
        return timestep

    @property
    def running(self) -> bool:
        return self.error is None and self.step < len(self.scheduler.timesteps)

    @property
    def group_key(self) -> tuple[int, int, int]:
        """Samples with equal keys may share a transformer call."""
        return self.settings.latent_height, self.settings.latent_width, self.prompt_embeds.shape[1]

    def advance(self, prediction: Tensor) -> None:
        """One step with `prediction`, shaped as `latents`; sets `error` if that is not finite."""
        if not torch.isfinite(prediction).all():
            self.error = BadPrediction(f"the transformer's prediction is not finite at step {self.step + 1}")
            return
        self.latents = self.scheduler.step(prediction, self.timestep, self.latents, return_dict=False)[0]
        self.step += 1

    def result(self) -> Tensor:
        """Unpacked, still scaled latents [1, C, latent_height, latent_width]; raises `error` if any."""
        if self.error:
            raise self.error
        return unpack(self.latents, self.settings.latent_height, self.settings.latent_width)


def check_rows(rows: Sequence[Settings], sizes: Range) -> None:
    """InvalidRequest unless every row of one request may be drawn, and all have one size."""
    for row in rows:
        row.check(sizes)
    for name in ("height", "width"):
        if len(found := {getattr(row, name) for row in rows}) > 1:
            raise InvalidRequest(
                f"{name} differs between a request's rows ({sorted(found)}); send them apart"
            )


def _scheduler_for(
    template: FlowMatchEulerDiscreteScheduler, num_inference_steps: int, image_tokens: int
) -> FlowMatchEulerDiscreteScheduler:
    """A scheduler for one picture, set as FluxPipeline does: sigmas shifted by the number of tokens."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(template.config)
    sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
    scheduler.set_timesteps(sigmas=sigmas, mu=_shift(scheduler, image_tokens))
    scheduler.set_begin_index(0)
    return scheduler


def _shift(scheduler: FlowMatchEulerDiscreteScheduler, image_tokens: int) -> float:
    """`mu`, as diffusers' `calculate_shift` has it; importing that takes seconds."""
    config = scheduler.config
    tokens: int = config.max_image_seq_len - config.base_image_seq_len
    slope: float = (config.max_shift - config.base_shift) / tokens
    start: float = config.base_shift - slope * config.base_image_seq_len
    return image_tokens * slope + start


@dataclass(frozen=True)
class Group:
    """Samples that share transformer calls, with the inputs that stay the same from step to step."""

    samples: tuple[Sample, ...]
    constants: Mapping[str, Tensor]

    @classmethod
    def of(cls, samples: tuple[Sample, ...]) -> Group:
        settings, batch = samples[0].settings, len(samples)
        embeds = torch.cat([sample.prompt_embeds for sample in samples])
        positions = image_ids(settings.latent_height, settings.latent_width)
        constants = {
            "encoder_hidden_states": embeds,
            "pooled_projections": torch.cat([sample.pooled_prompt_embeds for sample in samples]),
            "img_ids": positions.expand(batch, -1, -1).contiguous(),
            "txt_ids": torch.zeros(batch, embeds.shape[1], 3),
            "guidance": torch.tensor([[sample.settings.guidance_scale] for sample in samples]),
        }
        return cls(samples, constants)

    def step(self, transformer: Transformer) -> None:
        """One transformer call, and one step of every sample."""
        latents = torch.cat([sample.latents for sample in self.samples])
        timestep = torch.stack([sample.timestep for sample in self.samples])[:, None] / 1000
        prediction = transformer({"hidden_states": latents, "timestep": timestep, **self.constants})
        if prediction.shape != latents.shape:
            shapes = f"{tuple(prediction.shape)}, expected {tuple(latents.shape)}"
            raise EngineError(f"the transformer answered {shapes}")
        for row, sample in enumerate(self.samples):
            sample.advance(prediction[row : row + 1])


def group(samples: Sequence[Sample], max_batch_size: int) -> list[tuple[Sample, ...]]:
    """Compatible samples together, at most `max_batch_size` of them, in the order they came."""
    together: dict[tuple[int, int, int], list[Sample]] = {}
    for sample in samples:
        together.setdefault(sample.group_key, []).append(sample)
    return [
        tuple(members[start : start + max_batch_size])
        for members in together.values()
        for start in range(0, len(members), max_batch_size)
    ]


class Denoiser:
    """Advances running samples, one step a tick; who runs may change between ticks."""

    def __init__(self, transformer: Transformer, max_batch_size: int) -> None:
        self.transformer = transformer
        self.max_batch_size = max_batch_size
        self._groups: dict[tuple[Sample, ...], Group] = {}

    def tick(self, running: Sequence[Sample]) -> None:
        """One step of every sample of `running`; groups whose members stay keep their constants."""
        members = group(running, self.max_batch_size)
        self._groups = {samples: self._groups.get(samples) or Group.of(samples) for samples in members}
        with torch.inference_mode():
            for together in self._groups.values():
                together.step(self.transformer)


def denoise(
    samples: Sequence[Sample],
    transformer: Transformer,
    max_batch_size: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Steps `samples` in place until each is done or has an error; Cancelled when `cancelled()` says so."""
    denoiser = Denoiser(transformer, max_batch_size)
    while running := [sample for sample in samples if sample.running]:
        if cancelled():
            raise Cancelled
        denoiser.tick(running)
