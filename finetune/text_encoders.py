"""Teaches the tiny text encoders what captions mean: linear probes must name the scene's attributes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextConfig, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from finetune.captions import caption
from finetune.dataset import targets
from finetune.run import Phase, optimise
from finetune.scene import ATTRIBUTES, Scene, sample_scene

SHORT = 32  # no caption is longer; CLIP is causal, so what follows its end token changes nothing


def clip_config(vocabulary: int, eos: int, width: int = 64, layers: int = 2) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, projection_dim=64,
        num_hidden_layers=layers, num_attention_heads=4, bos_token_id=vocabulary - 2, eos_token_id=eos,
        pad_token_id=eos,
    )  # fmt: skip


def build_t5(vocabulary: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=vocabulary, d_model=96, d_kv=24, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    return T5EncoderModel(config)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int) -> torch.Tensor:
    """[batch, length] int64, padded and truncated, as diffusers' pipelines do."""
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


Features = Callable[[list[str], int], list[torch.Tensor]]
"""Captions and the number of the step -> feature vectors [B, width], each of which must tell all."""


def train(encoders: nn.ModuleList, features: Features, widths: list[int], phase: Phase, folder: Path) -> None:
    """Trains `encoders` in place, from which `features` of these `widths` come."""
    torch.manual_seed(0)
    probes = nn.ModuleList([Probe(width) for width in widths])

    def loss(step: int) -> torch.Tensor:
        scenes, texts = _captioned(step, phase.batch)
        wanted, vectors = targets(scenes), features(texts, step)
        return torch.stack([p.loss(v, wanted) for p, v in zip(probes, vectors, strict=True)]).sum()

    optimise(nn.ModuleList([*encoders, probes]), phase, loss, folder)
