"""Checkpoints of random weights with the tiny checkpoints' structure, in diffusers' layout."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import (
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusionXLPipeline,
)  # fmt: skip
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from finetune import pretrain_flux, sdxl
from finetune.flux import build_transformer
from finetune.text_encoders import build_t5, clip_config
from finetune.tokenizers import train_clip_tokenizer, train_t5_tokenizer
from finetune.vae import build_vae

CAPTIONS = [
    "a red smartphone on a dark gradient background",
    "a blue bottle on a light studio background, professional product photo",
    "a green mug with a playful pattern on a pink background",
    "a minimal photograph of a yellow sneaker, white background, soft shadow",
    "a vintage silver watch on a brown wooden floor",
    "a purple lamp and black headphones in a box",
]


@torch.no_grad()
def shaken(module: nn.Module) -> nn.Module:
    """`module` in eval mode with noise on every weight, so that no two are equal (norms start as ones)."""
    for parameter in module.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return module.eval()


def build_flux() -> FluxPipeline:
    """A float32 pipeline, equal for every call."""
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = train_clip_tokenizer(CAPTIONS), train_t5_tokenizer(CAPTIONS, length=64)
    vae = build_vae(
        16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=128,
        scaling_factor=0.7,
        shift_factor=0.1,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**pretrain_flux.SCHEDULER),
        vae=shaken(vae),
        text_encoder=shaken(CLIPTextModel(clip_config(len(tokenizer), tokenizer.eos_token_id))),
        tokenizer=tokenizer,
        text_encoder_2=shaken(build_t5(len(tokenizer_2))),
        tokenizer_2=tokenizer_2,
        transformer=shaken(build_transformer()),
    )


def build_sdxl() -> StableDiffusionXLPipeline:
    """A float32 pipeline, equal for every call."""
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = train_clip_tokenizer(CAPTIONS), train_clip_tokenizer(CAPTIONS, pad_token="!")
    size, eos = len(tokenizer), tokenizer.eos_token_id
    return StableDiffusionXLPipeline(
        scheduler=EulerDiscreteScheduler(**sdxl.SCHEDULER),
        vae=shaken(build_vae(4, sample_size=128, scaling_factor=0.7)),
        text_encoder=shaken(CLIPTextModel(clip_config(size, eos, width=64, layers=3))),
        tokenizer=tokenizer,
        text_encoder_2=shaken(CLIPTextModelWithProjection(clip_config(size, eos, width=96, layers=3))),
        tokenizer_2=tokenizer_2,
        unet=shaken(sdxl.build_unet()),
        add_watermarker=False,
    )


BUILD = {"flux": build_flux, "sdxl": build_sdxl}


def build(family: str) -> DiffusionPipeline:
    return BUILD[family]()


def write(family: str, folder: Path) -> Path:
    """Saves `build(family)` in `folder`, and returns it."""
    build(family).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
