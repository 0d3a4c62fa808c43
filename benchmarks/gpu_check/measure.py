"""One row: a few steps of our loop, timed from the start of one engine call to that of the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.adapters.turns import Spread, line, spread
from benchmarks.gpu_check.device import Device, Mark
from benchmarks.gpu_check.made import Made
from benchmarks.gpu_check.sweep import Entry
from diffusion.step_batcher import denoise

WARM_UP, STEPS = 2, 5  # a step's end is the next one's start, so the last of a picture is not measured


class Call(NamedTuple):
    """Marks around a call of the engine: inputs go to the device, the prediction comes back."""

    begin: Mark
    moved: Mark
    done: Mark
    end: Mark


class Engine:
    """A torch module as `diffusion.denoise.Engine`, which says when it was called.

    Takes inputs from wherever they are, and answers where the first of them, the latents, was.
    """

    def __init__(self, module: nn.Module, device: Device) -> None:
        self.module, self.device, self.calls = module, device, list[Call]()

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        latents, mark = next(iter(inputs.values())), self.device.mark
        begin = mark()
        there = {name: tensor.to(self.device.place) for name, tensor in inputs.items()}
        moved = mark()
        prediction: Tensor = self.module(**there)
        done = mark()
        prediction = prediction.to(latents.device)
        self.calls.append(Call(begin, moved, done, mark()))
        return prediction


@dataclass(frozen=True)
class Times:
    """Seconds of a step: of all, of the engine in it, of tensors between host and device."""

    step: Spread
    engine: Spread
    moving: Spread

    @classmethod
    def of(cls, engine: Engine, warm_up: int) -> Times:
        pairs, seconds = [*pairwise(engine.calls)][warm_up:], engine.device.seconds
        return cls(
            spread(seconds(call.begin, after.begin) for call, after in pairs),
            spread(seconds(call.moved, call.done) for call, _ in pairs),
            spread(seconds(c.begin, c.moved) + seconds(c.done, c.end) for c, _ in pairs),
        )


@dataclass(frozen=True)
class Row:
    """`flops` are of a step, `peak` FLOP/s of the device; `times` is None where its memory did not do."""

    checkpoint: str
    precision: str
    entry: Entry
    flops: int
    peak: float
    times: Times | None
    peak_bytes: int

    @property
    def floor(self) -> float:
        """Seconds that no step is below: all its FLOPs at the device's peak."""
        return self.flops / self.peak

    @property
    def utilisation(self) -> float | None:
        return self.floor / self.times.step.median if self.times else None

    def line(self, conditions: Mapping[str, object]) -> str:
        """JSON, with what the figures hold for."""
        facts = {"checkpoint": self.checkpoint, "precision": self.precision, **asdict(self.entry)}
        figures = {"flops": self.flops, "peak": self.peak, "floor": self.floor, "peak_bytes": self.peak_bytes}
        times = vars(self.times) if self.times else {}
        return line({**conditions, **facts, **figures, "utilisation": self.utilisation, **times})

    def words(self) -> str:
        """For people, under HEADING."""
        entry, figures = self.entry, ["no memory"] + 4 * [""]
        if self.times:
            times = [f"{1000 * each.median:.2f}" for each in vars(self.times).values()]
            figures = [*times, f"{self.flops / 1e12:.3g}", f"{100 * self.utilisation:.1f} %"]
        left = self.checkpoint, entry.size, entry.batch, entry.adapters, entry.tensors
        return COLUMNS.format(*left, *figures, f"{self.peak_bytes / 1e9:.2f}")


COLUMNS = "{:<29} {:>5} {:>6}  {:<18} {:<9}" + 6 * "{:>11}"
FIGURES = ("step ms", "engine ms", "moving ms", "TFLOP", "of peak", "peak GB")
HEADING = COLUMNS.format("checkpoint", "px", "batch", "adapters", "tensors", *FIGURES)


def measured(made: Made, device: Device, entry: Entry, precision: str, peak: float) -> Row:
    """BadPrediction if the numbers are not finite; a call for more memory than there is is a row too."""
    device.forget()
    try:
        times = timed(made, device, entry)
    except torch.OutOfMemoryError:
        times = None
    flops, memory = made.flops(entry), device.peak_bytes()
    return Row(made.structure.name, precision, entry, flops, peak, times, memory)


def timed(made: Made, device: Device, entry: Entry) -> Times:
    samples, engine = made.samples(entry, 1 + WARM_UP + STEPS), Engine(made.module, device)
    denoise(samples, engine, made.family.max_rows(made.component))
    for sample in samples:
        sample.result()
    return Times.of(engine, WARM_UP)
