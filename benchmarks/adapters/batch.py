"""What it costs that the rows of a batch have different adapters, beside a batch of one and the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.adapters.made import Denoiser, denoiser, store_of
from benchmarks.adapters.turns import Row, Spread, Timings, in_turns, spread
from diffusion.adapters import Packs
from diffusion.checkpoint import load_scheduler
from diffusion.denoise import Inputs, Sample
from diffusion.flux import FluxPicture, FluxText
from diffusion.sdxl import SdxlPicture, SdxlText
from diffusion.settings import Settings
from diffusion.step_batcher import denoise
from export.checkpoint import Checkpoint, open_checkpoint
from families.loras import Lora

SIZE = 128
# Adapter -> rank. Four of one rank; and four of whom the batch has the largest's.
ONE_RANK = {"a16": 16, "b16": 16, "c16": 16, "d16": 16}
RANKS = {"a4": 4, "a8": 8, "a16": 16, "b16": 16}


class Loop:
    """The engine in the loop that the scheduler's stage runs, with packs of a store's adapters."""

    def __init__(self, engine: Denoiser, scheduler: Any, packs: Packs, size: int, steps: int) -> None:
        self.engine, self.scheduler, self.packs, self.size, self.steps = engine, scheduler, packs, size, steps
        length = engine.layout.checkpoint.max_sequence_length
        self.inputs: Inputs = engine.inputs(engine.axes(1, size, length))

    def __call__(self, names: Sequence[str]) -> Tensor:
        """Latents [N, C, h, w] of one batch: row n with the adapter names[n], and seed n."""
        samples = [self._start(seed, name) for seed, name in enumerate(names)]
        denoise(samples, self.engine, self.engine.family.max_rows(self.engine.component))
        return torch.cat([sample.result() for sample in samples])

    def _start(self, seed: int, name: str) -> Sample:
        family = self.engine.family
        guidance, scheduler = family.guidance_scale.default, family.schedulers[0]
        settings = Settings(seed, self.steps, guidance, self.size, self.size, scheduler)
        channels, adapters = self._channels(), self.packs.packs([Lora(name)])
        embeds = self.inputs["encoder_hidden_states"]
        if family.name == "flux":
            flux_text = FluxText(embeds, self.inputs["pooled_projections"])
            return FluxPicture(self.scheduler, channels).start(settings, flux_text, adapters=adapters)
        text = SdxlText(embeds, self.inputs["text_embeds"])
        picture = SdxlPicture(self.scheduler, channels)
        return picture.start(settings, text, text.zeros(), adapters=adapters)

    def _channels(self) -> int:
        return int(self.engine.layout.checkpoint.configs["vae"]["latent_channels"])


def packs_of(engine: Denoiser, folder: Path, checkpoint: Checkpoint) -> Packs:
    """Of the store in `folder`, for `engine` with the weights of `checkpoint`."""
    layout, targets = engine.layout, engine.layout.targets(engine.component)
    where = torch.float32, "cpu", checkpoint.denoiser_sha256
    return Packs(folder, engine.family, targets, layout.max_rank, *where)


def of_checkpoint(folder: Path, store: Path, rounds: int, steps: int) -> Iterator[Row]:
    checkpoint = open_checkpoint(folder)
    engine = denoiser(checkpoint, checkpoint.folder, lora=True)
    store_of(store, folder, {**ONE_RANK, **RANKS})
    loop = Loop(engine, load_scheduler(folder), packs_of(engine, store, checkpoint), SIZE, steps)
    for ranks in (ONE_RANK, RANKS):
        yield measured(loop, ranks, rounds)


def measured(loop: Loop, ranks: Mapping[str, int], rounds: int) -> Row:
    """A row for a batch of these adapters."""
    timings = turns(loop, ranks, rounds)
    return {
        "benchmark": "batch",
        "checkpoint": loop.engine.layout.checkpoint.name,
        "steps": loop.steps,
        **figures(loop, ranks, timings),
        "cpu ratio": throughput_ratio(timings, same(ranks), "cpu"),
    }


Draw = Callable[[Sequence[str]], Tensor]  # names of adapters -> a row for each, drawn in one batch


def turns(draw: Draw, ranks: Mapping[str, int], rounds: int) -> Timings:
    """A batch of these adapters, and batches of one of them in all rows: one for each rank."""
    names = {f"rank {rank}": name for name, rank in ranks.items()}
    calls = {rank: lambda name=name: draw([name] * len(ranks)) for rank, name in names.items()}
    return in_turns({**calls, "mixed": lambda: draw([*ranks])}, rounds)


def same(ranks: Mapping[str, int]) -> list[str]:
    """The batches of one adapter that stand for each row of the mixed one."""
    return [f"rank {rank}" for rank in ranks.values()]


def figures(draw: Draw, ranks: Mapping[str, int], timings: Timings) -> Row:
    return {
        "ranks": " ".join(map(str, ranks.values())),
        "ms same": spread(means(timings, same(ranks), "wall") * 1000),
        "ms mixed": spread(means(timings, ["mixed"], "wall") * 1000),
        "ratio": throughput_ratio(timings, same(ranks), "wall"),
        "difference": largest_difference(draw, [*ranks]),
    }


def throughput_ratio(timings: Timings, calls: Sequence[str], clock: str) -> Spread:
    """Of the mixed batch to `calls`, of one adapter each: 1 if it takes as long as they do on average."""
    return spread(means(timings, calls, clock) / means(timings, ["mixed"], clock))


def means(timings: Timings, calls: Sequence[str], clock: str) -> np.ndarray[Any, Any]:
    """Seconds of each round, averaged over `calls`."""
    return np.mean([[getattr(each, clock) for each in timings[call]] for call in calls], axis=0)


def largest_difference(draw: Draw, names: Sequence[str]) -> float:
    """Between a row of the mixed batch and the same row where all have its adapter."""
    mixed = draw(names)
    alike = [draw([name] * len(names))[row] for row, name in enumerate(names)]
    return float((mixed - torch.stack(alike)).abs().max())
