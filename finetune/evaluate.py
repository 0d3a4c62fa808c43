"""Prompt fidelity: stock diffusers draws 200 held-out prompts, the checker says what it sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from PIL import Image
from tqdm import tqdm

from families import FAMILIES, FamilySpec
from finetune import checker
from finetune.captions import held_out_prompts
from finetune.dataset import Pixels
from finetune.scene import Scene

ASKED = ("product", "colour", "background")  # what every evaluation prompt names
BATCH = 20


def load(checkpoint: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Stock diffusers' pipeline of `checkpoint`, silent."""
    pipeline = DiffusionPipeline.from_pretrained(checkpoint, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def family_of(pipeline: DiffusionPipeline) -> FamilySpec:
    return next(family for family in FAMILIES.values() if family.pipeline == type(pipeline).__name__)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def generate(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    steps: int,
    guidance: float,
    seeds: Sequence[int] | None = None,
    size: int = 128,
) -> Pixels:
    """[N, size, size, 3] uint8; prompt n is drawn with seed n of `seeds`, or with seed n."""
    rows, numbers = list[Image.Image](), range(len(prompts)) if seeds is None else seeds
    flux = isinstance(pipeline, FluxPipeline)
    extra = {"max_sequence_length": pipeline.tokenizer_2.model_max_length} if flux else {}
    for start in tqdm(range(0, len(prompts), BATCH), desc="generate", mininterval=10, leave=False):
        batch = slice(start, start + BATCH)
        rows += pipeline(
            prompts[batch], height=size, width=size, num_inference_steps=steps, guidance_scale=guidance,
            generator=generators(numbers[batch]), **extra,
        ).images  # fmt: skip
    return np.stack([np.asarray(picture) for picture in rows])


def grid(pixels: Sequence[Pixels], columns: int) -> Image.Image:
    """Pictures side by side, `columns` in a row."""
    rows = [
        np.concatenate(list(pixels[start : start + columns]), axis=1)
        for start in range(0, len(pixels), columns)
    ]
    return Image.fromarray(np.concatenate(rows, axis=0))


def scores(right: dict[str, torch.Tensor], scenes: list[Scene]) -> dict[str, float]:
    """Share right of each attribute asked, of all three at once, and of marks where the prompt names one."""
    result = {name: right[name].double().mean().item() for name in ASKED}
    result["all three"] = torch.stack([right[name] for name in ASKED]).all(0).double().mean().item()
    for name in ("style", "industry"):
        named = torch.tensor([getattr(scene, name) is not None for scene in scenes])
        result[name] = right[name][named].double().mean().item()
    return result


def _wrong(prompts: list[str], right: dict[str, torch.Tensor]) -> list[str]:
    """What went wrong, prompt by prompt."""
    faults = [[name for name in ASKED if not right[name][place]] for place in range(len(prompts))]
    return [f"{prompt}: {', '.join(names)}" for prompt, names in zip(prompts, faults, strict=True) if names]


def report(
    checkpoint: Path, cache: Path, output: Path, steps: int | None = None, guidance: float | None = None
) -> dict[str, float]:
    """Prints and writes scores.json, grid.png and samples.png; the wrong ones are listed.

    Steps and guidance are the family's defaults unless told.
    """
    judge, pipeline = checker.load(), load(checkpoint)
    family = family_of(pipeline)
    steps = steps or int(family.num_inference_steps.default)
    guidance = family.guidance_scale.default if guidance is None else guidance
    scenes, prompts = map(list, zip(*held_out_prompts(), strict=True))
    pixels = generate(pipeline, prompts, steps, guidance)
    right = checker.correct(judge, pixels, scenes)
    row = {
        "scores": scores(right, scenes),
        "checker on drawn pictures": checker.accuracy(judge, cache),
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "prompts": len(prompts),
        "wrong": _wrong(prompts, right),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "scores.json").write_text(json.dumps(row, indent=1))
    grid(pixels, 20).save(output / "grid.png")
    grid(pixels[::2], 20).reduce(2).quantize(256).save(output / "samples.png", optimize=True)
    print(json.dumps(row, indent=1))
    return row["scores"]
