"""Trains the tiny FluxTransformer2DModel by flow matching, then distils classifier-free guidance into it."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

from diffusion.latents import image_ids, pack
from finetune.captions import caption
from finetune.dataset import Pixels, as_model_input
from finetune.run import Phase, optimise
from finetune.scene import sample_scene
from finetune.text_encoders import SHORT, tokenize
from finetune.workers import rank

CAPTION_DROPOUT = 0.1
# T5 lengths in turn: a picture must not depend on padding, and workers that share a length share a pace.
PADDINGS = (32, 64, 32, 32, 128, 32, 64, 32, 32, 64)
GUIDANCE = (1.0, 6.0)  # guidance scales that distillation covers


Condition = tuple[torch.Tensor, torch.Tensor]  # prompt_embeds [B, T, 96], pooled_prompt_embeds [B, 64]


@dataclass(frozen=True)
class FluxPhase(Phase):
    """With `distil`, the target is the guided prediction of the model as it was when the phase began."""

    distil: bool = False


@dataclass(frozen=True)
class Text:
    """The frozen text side: captions -> (prompt_embeds [B, T, 96], pooled_prompt_embeds [B, 64])."""

    clip: CLIPTextModel
    clip_tokenizer: PreTrainedTokenizerBase
    t5: T5EncoderModel
    t5_tokenizer: PreTrainedTokenizerBase

    @torch.no_grad()
    def __call__(self, texts: list[str], length: int) -> Condition:
        pooled = self.clip(tokenize(self.clip_tokenizer, texts, SHORT)).pooler_output
        return self.t5(tokenize(self.t5_tokenizer, texts, length)).last_hidden_state, pooled


def build_transformer() -> FluxTransformer2DModel:
    """FLUX.1-dev's graph with 2 double and 4 single blocks of width 128: 2.4 M parameters."""
    return FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=4, attention_head_dim=32,
        num_attention_heads=4, joint_attention_dim=96, pooled_projection_dim=64, guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )  # fmt: skip


@torch.no_grad()
def scaled_latents(vae: AutoencoderKL, pixels: Pixels) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> packed, scaled latents float32 [N, tokens, 64]."""
    vae, rows = vae.to(memory_format=torch.channels_last), []
    for start in tqdm(range(0, len(pixels), 8), desc="encode", mininterval=10):
        latents = vae.encode(as_model_input(pixels[start : start + 8])).latent_dist.mode()
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        rows.append(pack(latents))
    return torch.cat(rows)


def predict(
    model: FluxTransformer2DModel, noisy: torch.Tensor, text: Condition, sigma: torch.Tensor,
    guidance: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The velocity of packed latents `noisy` [B, tokens, 64] of square pictures at noise levels `sigma`."""
    side = 2 * math.isqrt(noisy.shape[1])
    embeds, pooled = text
    return model(
        hidden_states=noisy, encoder_hidden_states=embeds, pooled_projections=pooled, timestep=sigma,
        guidance=guidance, img_ids=image_ids(side, side), txt_ids=torch.zeros(embeds.shape[1], 3),
        return_dict=False,
    )[0]  # fmt: skip


def _noise_levels(batch: int) -> torch.Tensor:
    """[batch] logit-normal as in arXiv 2403.03206, one from each quantile: less noise in the gradient."""
    quantiles = (torch.randperm(batch) + torch.rand(batch)) / batch
    return torch.sigmoid(torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4)))


@dataclass(frozen=True)
class Batch:
    """Training samples: packed latents with noise on the straight line between, arXiv 2403.03206."""

    seeds: list[int]
    clean: torch.Tensor
    noise: torch.Tensor
    sigma: torch.Tensor
    guidance: torch.Tensor

    @classmethod
    def draw(cls, latents: torch.Tensor, size: int, rng: random.Random) -> Batch:
        seeds = [rng.randrange(len(latents)) for _ in range(size)]
        clean, guidance = latents[seeds], torch.empty(size).uniform_(*GUIDANCE)
        return cls(seeds, clean, torch.randn_like(clean), _noise_levels(size), guidance)

    @property
    def noisy(self) -> torch.Tensor:
        return torch.lerp(self.clean, self.noise, self.sigma[:, None, None])

    def predict(self, model: FluxTransformer2DModel, text: Condition) -> torch.Tensor:
        return predict(model, self.noisy, text, self.sigma, self.guidance)


def _matching_loss(
    model: FluxTransformer2DModel, text: Text, batch: Batch, length: int, rng: random.Random
) -> torch.Tensor:
    captions = [caption(sample_scene(seed), rng) for seed in batch.seeds]
    kept = ["" if rng.random() < CAPTION_DROPOUT else words for words in captions]
    return nn.functional.mse_loss(batch.predict(model, text(kept, length)), batch.noise - batch.clean)


def _distillation_loss(
    model: FluxTransformer2DModel, teacher: FluxTransformer2DModel, text: Text, batch: Batch,
    length: int, rng: random.Random,
) -> torch.Tensor:  # fmt: skip
    """Against classifier-free guidance (arXiv 2207.12598) of the teacher, as FLUX.1-dev's guidance input."""
    condition = text([caption(sample_scene(seed), rng) for seed in batch.seeds], length)
    with torch.no_grad():
        without = batch.predict(teacher, text([""] * len(batch.seeds), length))
        guided = torch.lerp(without, batch.predict(teacher, condition), batch.guidance[:, None, None])
    return nn.functional.mse_loss(batch.predict(model, condition), guided)


def train(
    model: FluxTransformer2DModel, phase: FluxPhase, latents: torch.Tensor, text: Text, folder: Path
) -> None:
    """Runs `phase` on `model` in place over packed, scaled `latents` [N, tokens, channels]."""
    teacher = copy.deepcopy(model).requires_grad_(False) if phase.distil else None

    def loss(step: int) -> torch.Tensor:
        rng = random.Random(f"{phase.name} {step} {rank()}")
        batch, length = Batch.draw(latents, phase.batch_per_worker, rng), PADDINGS[step % len(PADDINGS)]
        if teacher is None:
            return _matching_loss(model, text, batch, length, rng)
        return _distillation_loss(model, teacher, text, batch, length, rng)

    optimise(model, phase, loss, folder)
