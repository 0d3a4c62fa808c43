"""Stock diffusers as the oracle: its pipelines of the shipped checkpoints."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, FluxImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from tiny_service import ASSETS

from finetune import evaluate
from finetune.dataset import Pixels

STEPS = 8


@dataclass(frozen=True)
class Stock:
    """Stock diffusers' pipelines of one checkpoint."""

    name: str

    @cached_property
    def text(self) -> DiffusionPipeline:
        return evaluate.load(ASSETS / f"{self.name}-tiny")

    @cached_property
    def image(self) -> DiffusionPipeline:
        kind = {"flux": FluxImg2ImgPipeline, "sdxl": StableDiffusionXLImg2ImgPipeline}[self.name]
        pipeline = kind(**self.text.components)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def __call__(self, prompt: str, seed: int, scheduler: str | None = None, **fields: Any) -> Pixels:
        pipeline = self.image if "image" in fields else self.text
        if scheduler:
            pipeline.scheduler = getattr(diffusers, scheduler).from_config(self.text.scheduler.config)
        if self.name == "flux":
            fields["max_sequence_length"] = pipeline.tokenizer_2.model_max_length
        generator = torch.Generator().manual_seed(seed)
        picture = pipeline(prompt, generator=generator, num_inference_steps=STEPS, **fields).images[0]
        return np.asarray(picture)


def load_adapter(pipeline: Any, file: Path, name: str) -> None:
    """`load_lora_weights`; peft warns of a second adapter on one model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(file, adapter_name=name)


def difference(ours: Pixels, theirs: Pixels) -> int:
    """The largest, in 255ths."""
    assert ours.shape == theirs.shape
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())
