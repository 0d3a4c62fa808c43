"""Image to image: stock diffusers repaints 50 drawn pictures in another colour, over the strengths."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoPipelineForImage2Image, DiffusionPipeline, FluxImg2ImgPipeline
from PIL import Image, ImageDraw, ImageFont
from skimage.metrics import structural_similarity
from tqdm import tqdm

from finetune import checker
from finetune.captions import full_caption
from finetune.checker import Checker
from finetune.dataset import Pixels
from finetune.draw import draw
from finetune.evaluate import family_of, generators, load
from finetune.scene import COLOURS, Scene, held_out_scenes

PAIRS = 50
STRENGTHS = tuple(tenths / 10 for tenths in range(1, 11))
SIZE, BATCH = 128, 10
STRIDE = 11  # through the held-out scenes: every product and background, colours about equally often
SLACK = 0.025  # one pair of 50 may turn back
SHOWN, TITLE, MARGIN = 6, 24, 120  # of the grid: rows; pixels above and left of the pictures


@dataclass(frozen=True)
class Pair:
    """A scene to start from, the same scene in another colour, and a prompt that asks for that."""

    base: Scene
    asked: Scene
    prompt: str


def _pair(number: int, base: Scene) -> Pair:
    colours = tuple(COLOURS)
    further = 1 + number % (len(colours) - 1)  # never the base's own colour
    asked = replace(base, colour=colours[(colours.index(base.colour) + further) % len(colours)])
    return Pair(base, asked, full_caption(asked, random.Random(f"prompt {base.seed}")))


def pairs(count: int = PAIRS) -> list[Pair]:
    """The first `count` pairs, always the same ones; every base is a held-out scene."""
    scenes = held_out_scenes()
    return [_pair(number, scenes[STRIDE * number % len(scenes)]) for number in range(count)]


def drawn(scenes: list[Scene]) -> Pixels:
    """[N, 128, 128, 3] uint8: the pictures of `scenes`."""
    return np.stack([np.asarray(draw(scene, SIZE, supersample=3)) for scene in scenes])


def image_to_image(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Stock diffusers' image-to-image pipeline over the parts of `pipeline`, silent."""
    repainting = AutoPipelineForImage2Image.from_pipe(pipeline)
    repainting.set_progress_bar_config(disable=True)
    return repainting


def repaint(
    pipeline: DiffusionPipeline,
    bases: Pixels,
    prompts: list[str],
    strength: float,
    steps: int,
    guidance: float,
) -> Pixels:
    """[N, 128, 128, 3] uint8: picture n starts from bases[n], with seed n. `steps` is before `strength`."""
    rows, extra = list[Image.Image](), dict[str, int]()
    if isinstance(pipeline, FluxImg2ImgPipeline):  # the other takes the picture's size and 77 tokens anyway
        length = pipeline.tokenizer_2.model_max_length
        extra = {"height": SIZE, "width": SIZE, "max_sequence_length": length}
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        rows += pipeline(
            batch, image=[Image.fromarray(base) for base in bases[start : start + BATCH]],
            strength=strength, num_inference_steps=steps, guidance_scale=guidance,
            generator=generators(range(start, start + len(batch))), **extra,
        ).images  # fmt: skip
    return np.stack([np.asarray(picture) for picture in rows])


def similarity(pixels: Pixels, bases: Pixels) -> float:
    """Median SSIM of uint8 [N, 128, 128, 3] to `bases`: scikit-image's, 7 x 7 windows, mean of R, G, B."""
    values = [
        structural_similarity(one, base, channel_axis=-1, data_range=255)
        for one, base in zip(pixels, bases, strict=True)
    ]
    return float(np.median(values))


def _share(right: torch.Tensor) -> float:
    return right.double().mean().item()


def scores(judge: Checker, pixels: Pixels, bases: Pixels, of: list[Pair]) -> dict[str, float]:
    """Median SSIM to the bases; shares where `judge` sees the asked colour, the base's, the product."""
    asked = checker.correct(judge, pixels, [pair.asked for pair in of])
    kept = checker.correct(judge, pixels, [pair.base for pair in of])
    return {
        "SSIM": similarity(pixels, bases),
        "asked colour": _share(asked["colour"]),
        "base colour": _share(kept["colour"]),
        "product": _share(asked["product"]),
    }


def is_monotone(values: Sequence[float], slack: float) -> bool:
    """Do `values` rise throughout: none lies more than `slack` below one before it?

    Measured against the highest so far, so that many small falls do not add up unseen. A curve that falls is
    asked with its values negated.
    """
    return all(peak - value <= slack for peak, value in zip(accumulate(values, max), values, strict=True))


def monotone(rows: list[dict[str, float]]) -> dict[str, bool]:
    """Over rising strengths the structure goes and the asked colour comes, but for `SLACK`."""
    return {
        "SSIM falls": is_monotone([-row["SSIM"] for row in rows], SLACK),
        "asked colour rises": is_monotone([row["asked colour"] for row in rows], SLACK),
    }


def table(rows: list[dict[str, float]]) -> str:
    """A row for each strength."""
    names = list(rows[0])
    lines = ["  ".join(names)]
    lines += ["  ".join(f"{row[name]:{len(name)}.3g}" for name in names) for row in rows]
    return "\n".join(lines)


def labelled_grid(columns: dict[str, Pixels], labels: list[str]) -> Image.Image:
    """A row for each label, a column for each name, written on top; pixels [len(labels), 128, 128, 3]."""
    size = (MARGIN + SIZE * len(columns), TITLE + SIZE * len(labels))
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for place, (name, pixels) in enumerate(columns.items()):
        left = MARGIN + SIZE * place
        pen.text((left + SIZE / 2, TITLE / 2), name, "black", font, anchor="mm")
        for row in range(len(labels)):
            sheet.paste(Image.fromarray(pixels[row]), (left, TITLE + SIZE * row))
    for row, label in enumerate(labels):
        pen.text((MARGIN / 2, TITLE + SIZE * (row + 0.5)), label, "black", font, anchor="mm", align="center")
    return sheet


def _save_grid(path: Path, of: list[Pair], bases: Pixels, results: dict[float, Pixels]) -> None:
    shown = range(0, len(of), max(1, len(of) // SHOWN))[:SHOWN]
    labels = [f"{of[row].base.product}\n{of[row].base.colour} to\n{of[row].asked.colour}" for row in shown]
    named = {f"strength {strength:g}": pixels[shown] for strength, pixels in results.items()}
    labelled_grid({"base image": bases[shown], **named}, labels).save(path)


def report(
    checkpoint: Path,
    output: Path,
    count: int = PAIRS,
    strengths: Sequence[float] = STRENGTHS,
    steps: int | None = None,
    guidance: float | None = None,
) -> list[dict[str, float]]:
    """Prints the table, writes image_scores.json and image_grid.png; returns a row for each strength.

    Steps and guidance are the family's defaults unless told.
    """
    judge, pipeline, of = checker.load(), load(checkpoint), pairs(count)
    family, repainting = family_of(pipeline), image_to_image(pipeline)
    steps = steps or int(family.num_inference_steps.default)
    guidance = family.guidance_scale.default if guidance is None else guidance
    bases, prompts = drawn([pair.base for pair in of]), [pair.prompt for pair in of]
    results = {
        strength: repaint(repainting, bases, prompts, strength, steps, guidance)
        for strength in tqdm(sorted(strengths), desc="strengths")
    }
    rows = [{"strength": at, **scores(judge, pixels, bases, of)} for at, pixels in results.items()]
    conditions = {
        "base images": scores(judge, bases, bases, of),
        "pairs": len(of),
        "pipeline": type(repainting).__name__,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
    }
    output.mkdir(parents=True, exist_ok=True)
    written = {"rows": rows, "monotone": monotone(rows), **conditions}
    (output / "image_scores.json").write_text(json.dumps(written, indent=1))
    _save_grid(output / "image_grid.png", of, bases, results)
    print(table(rows), monotone(rows))
    return rows
