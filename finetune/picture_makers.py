"""Who draws the pictures that an evaluation judges: an engine at a precision, with an adapter or without."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from diffusers import DiffusionPipeline

from families import FamilySpec
from finetune.dataset import Pixels
from finetune.evaluate import family_of, generate, load


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn; the size is in pixels, both ways."""

    num_inference_steps: int
    guidance_scale: float
    size: int = 128  # what the checkers were trained on


class PictureMaker(Protocol):
    """An engine that draws; `precision` is that of its denoiser."""

    engine: str
    precision: str
    family: FamilySpec
    checkpoint: str

    def draw(self, prompts: list[str], seeds: list[int], adapter: Path | None, how: Drawing) -> Pixels:
        """uint8 [N, size, size, 3]: picture n of prompt n from seed n, `adapter` at a scale of 1."""


@dataclass
class StockDiffusers:
    """diffusers' own pipeline with `load_lora_weights`, in float32 on the CPU."""

    folder: Path
    engine: str = "diffusers"
    precision: str = "fp32"
    pipeline: DiffusionPipeline = field(init=False)

    def __post_init__(self) -> None:
        self.pipeline = load(self.folder)
        self.checkpoint, self.family = self.folder.name, family_of(self.pipeline)

    def draw(self, prompts: list[str], seeds: list[int], adapter: Path | None, how: Drawing) -> Pixels:
        if adapter is None:
            return self._drawn(prompts, seeds, how)
        self.pipeline.load_lora_weights(adapter.parent, weight_name=adapter.name, local_files_only=True)
        try:
            return self._drawn(prompts, seeds, how)
        finally:
            self.pipeline.unload_lora_weights()

    def _drawn(self, prompts: list[str], seeds: list[int], how: Drawing) -> Pixels:
        steps, guidance = how.num_inference_steps, how.guidance_scale
        return generate(self.pipeline, prompts, steps, guidance, seeds, how.size)
