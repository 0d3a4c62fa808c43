"""Trains the tiny FluxTransformer2DModel by flow matching, then distils classifier-free guidance into it."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

from finetune.captions import caption
from finetune.dataset import Pixels, as_model_input
from finetune.run import Average, Run, one_cycle
from finetune.scene import sample_scene
from finetune.text_encoders import SHORT, tokenize
from finetune.workers import average_gradients, rank

CAPTION_DROPOUT = 0.1
# T5 lengths in turn: a picture must not depend on padding, and workers that share a length share a pace.
PADDINGS = (32, 64, 32, 32, 128, 32, 64, 32, 32, 64)
GUIDANCE = (1.0, 6.0)  # guidance scales that distillation covers


@dataclass(frozen=True)
class Phase:
    """One stretch of training. With `distil`, the target is the guided prediction of the model as it was."""

    name: str
    steps: int
    learning_rate: float
    batch: int
    distil: bool = False


@dataclass(frozen=True)
class Text:
    """The frozen text side: captions -> (prompt_embeds [B, T, 96], pooled_prompt_embeds [B, 64])."""

    clip: CLIPTextModel
    clip_tokenizer: PreTrainedTokenizerBase
    t5: T5EncoderModel
    t5_tokenizer: PreTrainedTokenizerBase

    @torch.no_grad()
    def __call__(self, texts: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
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
    rows = []
    for start in tqdm(range(0, len(pixels), 64), desc="encode", mininterval=10):
        latents = vae.encode(as_model_input(pixels[start : start + 64])).latent_dist.mode()
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        rows.append(FluxPipeline._pack_latents(latents, *latents.shape))
    return torch.cat(rows)


def predict(
    model: FluxTransformer2DModel, noisy: torch.Tensor, text: tuple[torch.Tensor, torch.Tensor],
    sigma: torch.Tensor, guidance: torch.Tensor, side: int,
) -> torch.Tensor:  # fmt: skip
    """The velocity of packed latents `noisy` [B, side * side / 4, 64] at noise level `sigma` [B]."""
    ids = FluxPipeline._prepare_latent_image_ids(1, side // 2, side // 2, torch.device("cpu"), torch.float32)
    embeds, pooled = text
    return model(
        hidden_states=noisy, encoder_hidden_states=embeds, pooled_projections=pooled, timestep=sigma,
        guidance=guidance, img_ids=ids, txt_ids=torch.zeros(embeds.shape[1], 3), return_dict=False,
    )[0]  # fmt: skip


def _noise_levels(batch: int) -> torch.Tensor:
    """[batch] logit-normal as in arXiv 2403.03206, one from each quantile: less noise in the gradient."""
    quantiles = (torch.randperm(batch) + torch.rand(batch)) / batch
    return torch.sigmoid(torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4)))


def _captions(seeds: list[int], rng: random.Random) -> list[str]:
    texts = [caption(sample_scene(seed), rng) for seed in seeds]
    return ["" if rng.random() < CAPTION_DROPOUT else text for text in texts]


def _loss(
    model: FluxTransformer2DModel, teacher: FluxTransformer2DModel | None, latents: torch.Tensor, text: Text,
    batch: int, length: int, rng: random.Random,
) -> torch.Tensor:  # fmt: skip
    seeds = [rng.randrange(len(latents)) for _ in range(batch)]
    side = 2 * int(latents.shape[1] ** 0.5)
    clean, noise = latents[seeds], torch.randn(batch, *latents.shape[1:])
    sigma = _noise_levels(batch)
    noisy = torch.lerp(clean, noise, sigma[:, None, None])
    guidance = torch.empty(batch).uniform_(*GUIDANCE)
    if teacher is None:
        target, condition = noise - clean, text(_captions(seeds, rng), length)
    else:
        condition = text([caption(sample_scene(seed), rng) for seed in seeds], length)
        target = _guided(teacher, noisy, condition, text([""] * batch, length), sigma, guidance, side)
    return nn.functional.mse_loss(predict(model, noisy, condition, sigma, guidance, side), target)


@torch.no_grad()
def _guided(
    teacher: FluxTransformer2DModel, noisy: torch.Tensor, condition: tuple[torch.Tensor, torch.Tensor],
    empty: tuple[torch.Tensor, torch.Tensor], sigma: torch.Tensor, guidance: torch.Tensor, side: int,
) -> torch.Tensor:  # fmt: skip
    """Classifier-free guidance, arXiv 2207.12598; what FLUX.1-dev's guidance input was distilled from."""
    without = predict(teacher, noisy, empty, sigma, guidance, side)
    return torch.lerp(
        without, predict(teacher, noisy, condition, sigma, guidance, side), guidance[:, None, None]
    )


def train(
    model: FluxTransformer2DModel, phase: Phase, latents: torch.Tensor, text: Text, folder: Path
) -> None:
    """Runs `phase` on `model` in place; it ends as its own average. `folder` may hold a state to resume."""
    torch.manual_seed(0)
    teacher = copy.deepcopy(model).requires_grad_(False) if phase.distil else None
    optimizer = torch.optim.AdamW(
        model.parameters(), phase.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2
    )
    schedule, average = one_cycle(optimizer, phase.learning_rate, phase.steps), Average(model, 0.999)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "average": average}
    run = Run(folder / phase.name)
    start = run.resume(**parts)
    torch.manual_seed(1000 * start + rank())
    rng = random.Random(f"{start} {rank()}")
    progress = tqdm(
        range(start, phase.steps), desc=phase.name, initial=start, total=phase.steps, mininterval=10
    )
    seen = 0.0
    for step in progress if rank() == 0 else range(start, phase.steps):
        loss = _loss(model, teacher, latents, text, phase.batch, PADDINGS[step % len(PADDINGS)], rng)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update(model, step)
        seen += loss.item()
        if rank() == 0 and (step % 250 == 249 or step + 1 == phase.steps):
            run.log(step=step + 1, loss=seen / 250)
            run.save(step + 1, **parts)
            seen = 0.0
    average.copy_to(model)
