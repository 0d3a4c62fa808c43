"""Trains the tiny FluxTransformer2DModel by flow matching, then distils classifier-free guidance into it."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

from diffusion.latents import image_ids
from finetune.captions import caption
from finetune.run import Average, Phase, optimise
from finetune.scene import sample_scene
from finetune.text_encoders import SHORT, tokenize
from finetune.workers import rank, wait_for_all

CAPTION_DROPOUT = 0.1
# T5 lengths in turn: a picture must not depend on padding, and workers that share a length share a pace.
LENGTHS = (32, 32, 32, 48, 64)  # T5 lengths while the encoder itself is trained, in turn
PADDINGS = (32, 64, 32, 32, 128, 32, 64, 32, 32, 64)
GUIDANCE = (1.0, 6.0)  # guidance scales that distillation covers


Condition = tuple[torch.Tensor, torch.Tensor]  # prompt_embeds [B, T, 96], pooled_prompt_embeds [B, 64]


@dataclass(frozen=True)
class FluxPhase(Phase):
    """With `teacher`, the run of that name, the target is its guided prediction, of which the share `rescale`
    keeps the contrast of the unguided one. Noise levels are uniform or logit-normal (arXiv 2403.03206), which
    hardly ever shows the first steps of drawing. With `rollout` the noisy latents are those that the model
    comes to itself (DAgger, arXiv 1011.0686), not straight lines to a picture."""

    teacher: str | None = None
    uniform: bool = False
    rescale: float = 0.0
    rollout: bool = False


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

    def features(self, texts: list[str], step: int) -> list[torch.Tensor]:
        """What must tell every attribute: the pooled vector of CLIP, the mean of T5's states."""
        pooled = self.clip(tokenize(self.clip_tokenizer, texts, SHORT)).pooler_output
        ids = tokenize(self.t5_tokenizer, texts, LENGTHS[step % len(LENGTHS)])
        return [pooled, self.t5(ids).last_hidden_state[:, :SHORT].mean(dim=1)]


def build_transformer() -> FluxTransformer2DModel:
    """FLUX.1-dev's graph with 2 double and 4 single blocks of width 128: 2.4 M parameters."""
    return FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=4, attention_head_dim=32,
        num_attention_heads=4, joint_attention_dim=96, pooled_projection_dim=64, guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )  # fmt: skip


def predict(
    model: FluxTransformer2DModel, noisy: torch.Tensor, text: Condition, sigma: torch.Tensor,
    guidance: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """The velocity of packed latents `noisy` [B, tokens, 64] of square pictures at noise levels `sigma`."""
    side = 2 * math.isqrt(noisy.shape[1])
    embeds, pooled = text
    return model(
        hidden_states=noisy, encoder_hidden_states=embeds, pooled_projections=pooled, timestep=sigma,
        guidance=guidance, img_ids=image_ids(side, side).to(noisy.device),
        txt_ids=torch.zeros(embeds.shape[1], 3, device=noisy.device), return_dict=False,
    )[0]  # fmt: skip


def noise_levels(batch: int, uniform: bool) -> torch.Tensor:
    """[batch], one from each quantile: less noise in the gradient."""
    quantiles = (torch.randperm(batch) + torch.rand(batch)) / batch
    if uniform:
        return quantiles
    return torch.sigmoid(torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4)))


@dataclass
class Batch:
    """Training samples: packed noisy latents at noise levels `sigma`, of pictures `seeds`."""

    seeds: list[int]
    noisy: torch.Tensor
    sigma: torch.Tensor
    guidance: torch.Tensor

    def predict(self, model: FluxTransformer2DModel, text: Condition) -> torch.Tensor:
        return predict(model, self.noisy, text, self.sigma, self.guidance)


@dataclass
class StraightBatch(Batch):
    """Latents on the straight line from `noise` to `clean`, arXiv 2403.03206."""

    clean: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def draw(cls, latents: torch.Tensor, size: int, uniform: bool, rng: random.Random) -> StraightBatch:
        seeds = [rng.randrange(len(latents)) for _ in range(size)]
        clean, guidance = latents[seeds], torch.empty(size).uniform_(*GUIDANCE)
        noise, sigma = torch.randn_like(clean), noise_levels(size, uniform)
        return cls(seeds, torch.lerp(clean, noise, sigma[:, None, None]), sigma, guidance, clean, noise)


class Rollout(Batch):
    """Pictures that the model is drawing, each at another step of `sigmas` [steps + 1], which ends in 0."""

    def __init__(self, size: int, shape: torch.Size, sigmas: torch.Tensor, pictures: int) -> None:
        self.sigmas, self.pictures = sigmas, pictures
        self.step = torch.arange(size) * (len(sigmas) - 1) // size
        self.seeds = [0] * size
        self.noisy, self.guidance = torch.randn(size, *shape), torch.empty(size).uniform_(*GUIDANCE)
        for place in range(size):
            self._begin(place, random.Random(place))

    @property
    def sigma(self) -> torch.Tensor:  # type: ignore[override]
        return self.sigmas[self.step]

    def _begin(self, place: int, rng: random.Random) -> None:
        self.seeds[place] = rng.randrange(self.pictures)
        self.noisy[place] = torch.randn_like(self.noisy[place])
        self.guidance[place].uniform_(*GUIDANCE)

    def advance(self, velocity: torch.Tensor, rng: random.Random) -> None:
        """An Euler step each; who is done begins another picture."""
        change = (self.sigmas[self.step + 1] - self.sigma)[:, None, None] * velocity
        self.noisy, self.step = self.noisy + change, self.step + 1
        for place in (self.step == len(self.sigmas) - 1).nonzero()[:, 0].tolist():
            self.step[place] = 0
            self._begin(place, rng)


def _matching_loss(
    model: FluxTransformer2DModel, text: Text, batch: StraightBatch, length: int, rng: random.Random
) -> torch.Tensor:
    captions = [caption(sample_scene(seed), rng) for seed in batch.seeds]
    kept = ["" if rng.random() < CAPTION_DROPOUT else words for words in captions]
    return nn.functional.mse_loss(batch.predict(model, text(kept, length)), batch.noise - batch.clean)


def _distillation_loss(
    model: FluxTransformer2DModel, teacher: FluxTransformer2DModel, text: Text, batch: Batch,
    length: int, rescale: float, rng: random.Random,
) -> torch.Tensor:  # fmt: skip
    """Against classifier-free guidance (arXiv 2207.12598) of the teacher, as FLUX.1-dev's guidance input."""
    condition = text([caption(sample_scene(seed), rng) for seed in batch.seeds], length)
    with torch.no_grad():
        without = batch.predict(teacher, text([""] * len(batch.seeds), length))
        plain = batch.predict(teacher, condition)
        guided = torch.lerp(without, plain, batch.guidance[:, None, None])
        target = _rescaled(guided, plain, batch, rescale)
    answer = batch.predict(model, condition)
    if isinstance(batch, Rollout):
        batch.advance(answer.detach(), rng)
    return nn.functional.mse_loss(answer, target)


def _rescaled(guided: torch.Tensor, plain: torch.Tensor, batch: Batch, share: float) -> torch.Tensor:
    """`guided`, its clean latents with `share` of the deviation of `plain`'s: arXiv 2305.08891, 3.4."""
    sigma = batch.sigma[:, None, None].clamp(min=1e-3)
    clean, wanted = batch.noisy - sigma * guided, batch.noisy - sigma * plain
    ratio = wanted.std(dim=(1, 2), keepdim=True) / clean.std(dim=(1, 2), keepdim=True)
    return guided + share * (1 - ratio) * clean / sigma


def _teacher(model: FluxTransformer2DModel, run: Path) -> FluxTransformer2DModel:
    """The model that `run` ended with."""
    wait_for_all()  # the first worker alone writes states
    teacher = copy.deepcopy(model)
    average = Average(teacher, 1.0)
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    average.load_state_dict(state["average"])
    average.copy_to(teacher)
    return teacher.requires_grad_(False)


def train(
    model: FluxTransformer2DModel, phase: FluxPhase, latents: torch.Tensor, text: Text,
    sigmas: torch.Tensor, folder: Path,
) -> None:  # fmt: skip
    """Runs `phase` on `model` in place over packed, scaled `latents` [N, tokens, channels].

    `sigmas` [steps + 1] are the noise levels of a drawing, for phases that roll out.
    """
    teacher = _teacher(model, folder / phase.teacher) if phase.teacher else None
    rollout = None
    if phase.rollout:
        rollout = Rollout(phase.batch_per_worker, latents.shape[1:], sigmas, len(latents))

    def loss(step: int) -> torch.Tensor:
        rng, length = random.Random(f"{phase.name} {step} {rank()}"), PADDINGS[step % len(PADDINGS)]
        straight = StraightBatch.draw(latents, phase.batch_per_worker, phase.uniform, rng)
        if teacher is None:
            return _matching_loss(model, text, straight, length, rng)
        return _distillation_loss(model, teacher, text, rollout or straight, length, phase.rescale, rng)

    optimise(model, phase, loss, folder)
