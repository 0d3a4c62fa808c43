"""A Flux checkpoint of random weights with flux-tiny's structure, in diffusers' layout."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import nn

from finetune.flux import build_transformer
from finetune.text_encoders import build_clip, build_t5
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


def flux_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


@torch.no_grad()
def shaken(module: nn.Module) -> nn.Module:
    """`module` in eval mode with noise on every weight, so that no two are equal (norms start as ones)."""
    for parameter in module.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return module.eval()


def build() -> FluxPipeline:
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
        scheduler=flux_scheduler(),
        vae=shaken(vae),
        text_encoder=shaken(build_clip(len(tokenizer), tokenizer.eos_token_id)),
        tokenizer=tokenizer,
        text_encoder_2=shaken(build_t5(len(tokenizer_2))),
        tokenizer_2=tokenizer_2,
        transformer=shaken(build_transformer()),
    )


def write(folder: Path) -> Path:
    """Saves `build()` in `folder`, and returns it."""
    build().save_pretrained(folder)
    return folder


if __name__ == "__main__":
    write(Path(sys.argv[1]))
