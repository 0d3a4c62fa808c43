"""Teaches the tiny CLIP and T5 what captions mean: linear probes must name the scene's attributes."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from finetune.captions import caption
from finetune.dataset import targets
from finetune.run import Phase, optimise
from finetune.scene import ATTRIBUTES, Scene, sample_scene

SHORT = 32  # no caption is longer; CLIP is causal, so what follows its end token changes nothing
LENGTHS = (32, 32, 32, 48, 64)  # token lengths seen in training: padding must not matter


def build_clip(vocabulary: int, eos: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=256, projection_dim=64, num_hidden_layers=2,
        num_attention_heads=4, bos_token_id=vocabulary - 2, eos_token_id=eos, pad_token_id=eos,
    )  # fmt: skip
    return CLIPTextModel(config)


def build_t5(vocabulary: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=vocabulary, d_model=96, d_kv=24, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    return T5EncoderModel(config)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int) -> torch.Tensor:
    """[batch, length] int64, padded and truncated, as diffusers' FluxPipeline does."""
    return tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids


class Probe(nn.Module):
    """One linear classifier for each attribute."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(choices)) for name, choices in ATTRIBUTES.items()}
        )

    def loss(self, features: torch.Tensor, wanted: dict[str, torch.Tensor]) -> torch.Tensor:
        losses = [
            nn.functional.cross_entropy(head(features), wanted[name]) for name, head in self.heads.items()
        ]
        return torch.stack(losses).sum()


def _captioned(step: int, batch: int) -> tuple[list[Scene], list[str]]:
    rng = random.Random(f"captions {step}")
    scenes = [sample_scene(rng.randrange(10**6)) for _ in range(batch)]
    return scenes, [caption(scene, rng) for scene in scenes]


def train(
    clip: CLIPTextModel, clip_tokenizer: PreTrainedTokenizerBase, t5: T5EncoderModel,
    t5_tokenizer: PreTrainedTokenizerBase, phase: Phase, folder: Path,
) -> None:  # fmt: skip
    """Trains both encoders in place."""
    torch.manual_seed(0)
    probes = nn.ModuleList([Probe(clip.config.hidden_size), Probe(t5.config.d_model)])

    def loss(step: int) -> torch.Tensor:
        scenes, texts = _captioned(step, phase.batch)
        pooled = clip(tokenize(clip_tokenizer, texts, SHORT)).pooler_output
        tokens = t5(tokenize(t5_tokenizer, texts, LENGTHS[step % len(LENGTHS)])).last_hidden_state[:, :SHORT]
        wanted = targets(scenes)
        return probes[0].loss(pooled, wanted) + probes[1].loss(tokens.mean(dim=1), wanted)

    optimise(nn.ModuleList([clip, t5, probes]), phase, loss, folder)
