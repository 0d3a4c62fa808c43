r"""What the step cache saves and costs: pictures at each quality beside those whose every step was predicted.

    python -m benchmarks.step_cache --pictures 66    # needs build/flux-tiny-cpu: make repositories

The same prompts and seeds, without adapters and with three in mixed batches, in the loop and the engine that
serve. Beside each quality stands what as many calls draw when they are a picture's only steps. PSNR and
structural similarity compare with the pictures of every step; the checker says how many show what their
prompt asks for. A table for people, then a line of JSON for each row.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline

from benchmarks.adapters.batch import packs_of
from benchmarks.adapters.made import Denoiser
from benchmarks.adapters.turns import Row, line, table
from benchmarks.int8 import evaluation, fidelity, psnr
from diffusion.adapters import Packs
from diffusion.flux import FluxPicture, FluxSample, FluxText
from diffusion.settings import Settings
from diffusion.step_batcher import denoise
from diffusion.step_cache import QUALITIES
from export.checkpoint import open_checkpoint
from export.layout import Layout
from export.parity import open_session
from export.targets import TARGETS
from families import FLUX
from families.loras import Lora
from finetune import adapter_scores, evaluate
from finetune.dataset import Pixels
from finetune.evaluate_image import similarity
from finetune.objectives import FluxObjective
from finetune.scene import Scene

CHECKPOINT, ADAPTERS = Path("assets/checkpoints/flux-tiny"), Path("assets/adapters")
REPOSITORY = Path("build/flux-tiny-cpu")
INDUSTRIES = ("food", "technology", "fashion")
LIMITS: Mapping[str, Mapping[str, float]] = {  # quality -> the least of a figure
    "medium": {"fewer calls": 2, "psnr median": 50, "psnr 5 %": 45},
    "low": {"fewer calls": 2.8, "psnr median": 45, "psnr 5 %": 40},
}
SIZE, STEPS = 128, int(FLUX.num_inference_steps.default)


@dataclass(frozen=True)
class Wanted:
    """A picture of `prompt`, and what it is to show."""

    prompt: str
    scene: Scene
    seed: int
    loras: tuple[Lora, ...] = ()


def without_adapters(count: int) -> list[Wanted]:
    scenes, prompts = evaluation(count)
    return [Wanted(*each, seed) for seed, each in enumerate(zip(prompts, scenes, strict=True))]


def with_adapters(count: int) -> list[Wanted]:
    """Of INDUSTRIES in turn, so that a call's rows have different adapters."""
    tasks = [adapter_scores.task(industry, -(-count // len(INDUSTRIES))) for industry in INDUSTRIES]
    wanted = list[Wanted]()
    for seed in range(count):
        number, who = divmod(seed, len(INDUSTRIES))
        of = tasks[who]
        wanted.append(Wanted(of.prompts[number], of.scenes[number], seed, (Lora(INDUSTRIES[who]),)))
    return wanted


@dataclass(frozen=True)
class Drawn:
    """uint8 [N, H, W, 3], and how often the engine was asked for each."""

    pixels: Pixels
    calls: list[int]


class Twin:
    """flux-tiny: its text encoders and VAE in stock diffusers, its transformer compiled for ONNX Runtime."""

    def __init__(self, pipeline: FluxPipeline, engine: Denoiser, packs: Packs) -> None:
        self.pipeline, self.engine, self.packs = pipeline, engine, packs
        self._objective = FluxObjective(pipeline)
        self._picture = FluxPicture(pipeline.scheduler, pipeline.vae.config.latent_channels)
        self._texts = dict[str, FluxText]()

    @classmethod
    def load(cls, repository: Path = REPOSITORY) -> Twin:
        """With the engine of a repository of flux-tiny's, which takes adapters."""
        checkpoint = open_checkpoint(CHECKPOINT)
        file = repository / "models" / FLUX.model_name(FLUX.denoiser) / "1" / "model.onnx"
        engine = Denoiser(Layout(checkpoint, TARGETS["cpu"], lora=True), open_session(file))
        return cls(evaluate.load(CHECKPOINT), engine, packs_of(engine, ADAPTERS, checkpoint))

    def start(self, wanted: Wanted, quality: str = "high", steps: int = STEPS) -> FluxSample:
        if wanted.prompt not in self._texts:
            self._texts[wanted.prompt] = FluxText(*self._objective.condition(wanted.prompt))
        guidance, scheduler = FLUX.guidance_scale.default, FLUX.schedulers[0]
        settings = Settings(wanted.seed, steps, guidance, SIZE, SIZE, scheduler, quality=quality)
        adapters = self.packs.packs(wanted.loras)
        return self._picture.start(settings, self._texts[wanted.prompt], adapters=adapters)

    def draw(self, wanted: Sequence[Wanted], quality: str = "high", steps: int = STEPS) -> Drawn:
        samples = [self.start(each, quality, steps) for each in wanted]
        denoise(samples, self.engine, FLUX.max_rows(FLUX.denoiser))
        return Drawn(self.pixels(samples), [sample.calls for sample in samples])

    @torch.no_grad()
    def pixels(self, samples: Sequence[FluxSample]) -> Pixels:
        """As the pipeline's end."""
        vae, rows = self.pipeline.vae, list[Pixels]()
        for sample in samples:
            latents = sample.result() / vae.config.scaling_factor + vae.config.shift_factor
            picture = vae.decode(latents, return_dict=False)[0]
            rows += map(np.asarray, self.pipeline.image_processor.postprocess(picture))
        return np.stack(rows)


def figures(drawn: Drawn, every: Drawn) -> dict[str, float]:
    """How near `drawn` is to `every`, the same pictures with every step predicted, and at how many calls."""
    decibels = psnr(drawn.pixels, every.pixels)
    return {
        "calls": float(np.mean(drawn.calls)),
        "fewer calls": sum(every.calls) / sum(drawn.calls),
        "psnr median": float(np.median(decibels)),
        "psnr 5 %": float(np.percentile(decibels, 5)),
        "psnr min": float(decibels.min()),
        "ssim median": similarity(drawn.pixels, every.pixels),
    }


def measured(twin: Twin, adapters: str, wanted: Sequence[Wanted]) -> Iterator[Row]:
    """A row for each quality, and after it one for as many calls without a cache."""
    every, scenes = twin.draw(wanted), [each.scene for each in wanted]

    def row(quality: str, drawn: Drawn) -> Row:
        names = {"benchmark": "step cache", "checkpoint": CHECKPOINT.name, "adapters": adapters}
        shown = fidelity(drawn.pixels, scenes)
        return {**names, "quality": quality, "pictures": len(wanted), **figures(drawn, every), **shown}

    for quality, tolerance in QUALITIES.items():
        drawn = every if tolerance is None else twin.draw(wanted, quality)
        yield row(quality, drawn)
        if tolerance is not None:
            steps = round(float(np.mean(drawn.calls)))
            yield row(f"{steps} steps", twin.draw(wanted, steps=steps))


def below(rows: Sequence[Row]) -> list[str]:
    """What misses LIMITS, in words."""
    figures = [
        (row, name, limit) for row in rows for name, limit in LIMITS.get(str(row["quality"]), {}).items()
    ]
    return [
        f"{row['quality']}, adapters {row['adapters']}: {name} is {row[name]:.2f}, wanted {limit} or more"
        for row, name, limit in figures
        if not row[name] >= limit
    ]


def main() -> int:
    """1 if a quality misses its limits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_cache", description=__doc__)
    parser.add_argument("--pictures", type=int, default=66, help="of each kind, at most 200")
    parser.add_argument("--output", type=Path, help="file for the lines of JSON too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    twin = Twin.load()
    rows = [*measured(twin, "none", without_adapters(options.pictures))]
    rows += measured(twin, ", ".join(INDUSTRIES), with_adapters(options.pictures))
    print(table(rows))
    lines = "\n".join(map(line, rows))
    print(lines)
    if options.output:
        options.output.write_text(f"{lines}\n")
    missed = below(rows)
    for limit in missed:
        print(limit, file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
