"""Trains the tiny UNet2DConditionModel of SDXL by epsilon prediction with caption dropout."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from finetune.captions import caption
from finetune.run import Phase, optimise
from finetune.scene import sample_scene
from finetune.text_encoders import SHORT, tokenize
from finetune.workers import rank

CAPTION_DROPOUT = 0.1  # half to the empty caption, half to the zeros that stand for "no negative prompt"
TOKENS = 77  # StableDiffusionXLPipeline pads every prompt to this
PIXELS = (64, 512)  # sizes told to the model in training: it must not care
MIN_SNR_GAMMA = 5.0
# stable-diffusion-xl-base-1.0's scheduler_config.json, but for two: with its beta_end of 0.012 the last
# timestep still tells the brightness of a picture this small, so drawing from pure noise knew no dark or
# white backgrounds (arXiv 2305.08891); "trailing" starts at that last timestep.
SCHEDULER = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.02, "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "timestep_spacing": "trailing", "steps_offset": 1,
    "interpolation_type": "linear", "use_karras_sigmas": False,
}  # fmt: skip

Condition = tuple[torch.Tensor, torch.Tensor]  # prompt_embeds [B, 77, 160], pooled_prompt_embeds [B, 64]


@dataclass(frozen=True)
class Text:
    """The frozen text side: captions -> (prompt_embeds [B, 77, 160], pooled_prompt_embeds [B, 64])."""

    clip: CLIPTextModel
    tokenizer: PreTrainedTokenizerBase
    clip_2: CLIPTextModelWithProjection
    tokenizer_2: PreTrainedTokenizerBase

    def encode(self, texts: list[str], length: int) -> Condition:
        """As StableDiffusionXLPipeline: both's last hidden state but one, the projection of the second."""
        first = self.clip(tokenize(self.tokenizer, texts, length), output_hidden_states=True)
        second = self.clip_2(tokenize(self.tokenizer_2, texts, length), output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds

    def features(self, texts: list[str], step: int) -> list[torch.Tensor]:
        """What must tell every attribute: the mean of the states that captions reach, the projection."""
        embeds, pooled = self.encode(texts, SHORT)
        return [embeds.mean(dim=1), pooled]

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Condition:
        return self.encode(texts, TOKENS)


def build_unet() -> UNet2DConditionModel:
    """SDXL's graph, narrow: three levels, cross-attention in the lower two; 5.1 M parameters."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 96, 96), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2), attention_head_dim=(2, 3, 3), cross_attention_dim=160,
        norm_num_groups=16, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=16, projection_class_embeddings_input_dim=64 + 6 * 16,
    )  # fmt: skip


def predict(
    model: UNet2DConditionModel, noisy: torch.Tensor, text: Condition, timestep: torch.Tensor,
    time_ids: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The noise in latents `noisy` [B, 4, h, w] at `timestep` [B]; `time_ids` [B, 6] in pixels."""
    embeds, pooled = text
    added = {"text_embeds": pooled, "time_ids": time_ids}
    return model(noisy, timestep, embeds, added_cond_kwargs=added, return_dict=False)[0]


def time_ids(batch: int) -> torch.Tensor:
    """[B, 6] random: original size, crop's corner 0, target size; it tells nothing, so it is learned to."""
    sizes = torch.randint(PIXELS[0] // 8, PIXELS[1] // 8 + 1, (batch, 2)) * 8.0
    return torch.cat([sizes, torch.zeros(batch, 2), sizes], dim=1)


def dropped(condition: Condition, rng: random.Random) -> Condition:
    """`condition` with some rows zeroed, as `force_zeros_for_empty_prompt` has it."""
    embeds, pooled = condition
    kept = torch.tensor([float(rng.random() >= CAPTION_DROPOUT / 2) for _ in range(len(embeds))])
    return embeds * kept[:, None, None], pooled * kept[:, None]


def _captions(seeds: list[int], rng: random.Random) -> list[str]:
    captions = [caption(sample_scene(seed), rng) for seed in seeds]
    return ["" if rng.random() < CAPTION_DROPOUT / 2 else words for words in captions]


def timesteps(batch: int) -> torch.Tensor:
    """int64 [batch] in 0..999, one from each quantile: less noise in the gradient."""
    return ((torch.randperm(batch) + torch.rand(batch)) / batch * 1000).long()


def train(model: UNet2DConditionModel, phase: Phase, latents: torch.Tensor, text: Text, folder: Path) -> None:
    """Runs `phase` on `model` in place over scaled `latents` [N, 4, h, w].

    The loss is weighted by min(SNR, 5) / SNR: arXiv 2303.09556.
    """
    alphas = EulerDiscreteScheduler(**SCHEDULER).alphas_cumprod
    model.to(memory_format=torch.channels_last)

    def loss(step: int) -> torch.Tensor:
        rng = random.Random(f"{phase.name} {step} {rank()}")
        seeds = [rng.randrange(len(latents)) for _ in range(phase.batch_per_worker)]
        clean, times = latents[seeds], timesteps(len(seeds))
        alpha, noise = alphas[times], torch.randn_like(clean)
        noisy = alpha.sqrt()[:, None, None, None] * clean + (1 - alpha).sqrt()[:, None, None, None] * noise
        condition = dropped(text(_captions(seeds, rng)), rng)
        error = predict(model, noisy, condition, times, time_ids(len(seeds))) - noise
        snr = alpha / (1 - alpha)
        weights = snr.clamp(max=MIN_SNR_GAMMA) / snr
        return (error.pow(2).mean(dim=(1, 2, 3)) * weights).mean()

    optimise(model, phase, loss, folder)
