"""What a training step of an adapter asks of each family: conditions, latents, and the loss on them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn

from diffusion.latents import pack
from families import FLUX, SDXL, ComponentSpec, FamilySpec
from finetune import flux, sdxl, vae
from finetune.dataset import Pixels, as_model_input
from finetune.evaluate import family_of

Condition = tuple[Tensor, Tensor]  # prompt_embeds [B, T, width], pooled_prompt_embeds [B, width]


class Objective(ABC):
    """A pipeline's denoiser, frozen, and what it is trained on."""

    family: FamilySpec

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline = pipeline
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)

    @property
    def component(self) -> ComponentSpec:
        return self.family.denoiser

    @property
    def denoiser(self) -> nn.Module:
        return getattr(self.pipeline, self.component.folder)  # type: ignore[no-any-return]

    @torch.no_grad()
    def latents(self, pixels: Pixels) -> Tensor:
        """uint8 [N, H, W, 3] -> scaled latents float32 [N, C, h, w], the posterior's modes."""
        model = self.pipeline.vae
        return vae.encode(model, as_model_input(pixels).to(model.device, model.dtype)).float()

    @abstractmethod
    def condition(self, caption: str) -> Condition:
        """Both embeddings of one caption, as the family's pipeline makes them."""

    @abstractmethod
    def loss(self, clean: Tensor, condition: Condition, guidance: float) -> Tensor:
        """The mean squared error on latents [B, C, h, w], at noise levels drawn from torch's generator."""


class FluxObjective(Objective):
    """Flow matching, arXiv 2403.03206, uniform noise levels, as diffusers' train_dreambooth_lora_flux.py.

    A model that was distilled to take a guidance scale is told one in training too.
    """

    family = FLUX

    @torch.no_grad()
    def condition(self, caption: str) -> Condition:
        length = self.pipeline.tokenizer_2.model_max_length
        return self.pipeline.encode_prompt(caption, None, max_sequence_length=length)[:2]

    def loss(self, clean: Tensor, condition: Condition, guidance: float) -> Tensor:
        tokens = pack(clean)
        noise, sigma = torch.randn_like(tokens), flux.noise_levels(len(tokens), uniform=True).to(tokens)
        noisy = torch.lerp(tokens, noise, sigma[:, None, None])
        distilled = self.denoiser.config.guidance_embeds
        told = torch.full_like(sigma, guidance) if distilled else None
        answer = flux.predict(self.denoiser, noisy, condition, sigma, told)
        return nn.functional.mse_loss(answer.float(), noise - tokens)


class SdxlObjective(Objective):
    """Noise or velocity, as the checkpoint's scheduler says, like train_dreambooth_lora_sdxl.py."""

    family = SDXL

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        super().__init__(pipeline)
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        if self.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"prediction_type {self.scheduler.config.prediction_type!r} cannot be trained; "
                "choices: epsilon, v_prediction"
            )

    @torch.no_grad()
    def condition(self, caption: str) -> Condition:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(caption, do_classifier_free_guidance=False)
        return embeds, pooled

    def loss(self, clean: Tensor, condition: Condition, guidance: float) -> Tensor:
        noise, timesteps = torch.randn_like(clean), sdxl.timesteps(len(clean)).to(clean.device)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        size = self.pipeline.vae_scale_factor * clean.shape[-1]
        ids = clean.new_tensor([[size, size, 0, 0, size, size]]).expand(len(clean), 6)
        answer = sdxl.predict(self.denoiser, noisy, condition, timesteps, ids).float()
        if self.scheduler.config.prediction_type == "epsilon":
            return nn.functional.mse_loss(answer, noise)
        return nn.functional.mse_loss(answer, self.scheduler.get_velocity(clean, noise, timesteps))


OBJECTIVES = {objective.family.name: objective for objective in (FluxObjective, SdxlObjective)}


def objective_of(pipeline: DiffusionPipeline) -> Objective:
    return OBJECTIVES[family_of(pipeline).name](pipeline)
