"""What inputs for packs cost an engine: the same weights and call with them and without, in turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.adapters.made import Denoiser, denoiser, structure_of, topology, write_transformer
from benchmarks.adapters.turns import Row, cpu_ratio, in_turns, milliseconds, ratio
from export.checkpoint import open_checkpoint
from export.layout import Structure
from families import Axes
from families.costs import adapter_flops, flops

# The width from which rank 16 is to cost at most 5 %: 8 heads as wide as FLUX.1-dev's.
WIDE = topology(blocks=1, single_blocks=1, heads=8, axes_dims_rope=(16, 56, 56))
WIDE_SIZE, WIDE_TEXT_LENGTH = 256, 64  # pixels: 256 image tokens
SIZE = 128  # pixels, of the tiny checkpoints' own pictures


@dataclass(frozen=True)
class Engines:
    """One denoiser without and with inputs for packs."""

    base: Denoiser
    lora: Denoiser

    @classmethod
    def of(cls, structure: Structure, folder: Path) -> Engines:
        return cls(*(denoiser(structure, folder, lora) for lora in (False, True)))


def of_checkpoint(folder: Path, rounds: int) -> Iterator[Row]:
    """Rows for one picture: with the pack of no adapters, which has rank 4, and with one of rank 16."""
    checkpoint = open_checkpoint(folder)
    engines, length = Engines.of(checkpoint, checkpoint.folder), checkpoint.max_sequence_length
    for rank, scale in ((4, 0.0), (16, 1.0)):
        yield measured(engines, SIZE, length, rank, scale, rounds)


def of_wide(folder: Path, rounds: int) -> Iterator[Row]:
    """A row for Flux's blocks at width 1,024, of random weights, which are left in `folder`."""
    checkpoint = write_transformer(WIDE, folder / "flux-wide")
    engines = Engines.of(structure_of(WIDE, checkpoint.name), checkpoint.folder)
    yield measured(engines, WIDE_SIZE, WIDE_TEXT_LENGTH, 16, 1.0, rounds)


def measured(engines: Engines, size: int, text_length: int, rank: int, scale: float, rounds: int) -> Row:
    """Of a picture of `size` pixels, with a random pack times `scale`: 0 for that of no adapters."""
    base, lora = engines.base, engines.lora
    axes = base.axes(base.component.rows_per_picture, size, text_length, rank)
    inputs = lora.inputs(axes)
    packs = {name: scale * inputs[name] for name in ("lora_a", "lora_b")}
    plain = {name: tensor for name, tensor in inputs.items() if name not in packs}
    calls = {"base": lambda: base(plain), "lora": lambda: lora({**plain, **packs})}
    timings = in_turns(calls, rounds)
    return {
        "benchmark": "cost",
        "checkpoint": base.layout.checkpoint.name,
        "px": size,
        "rank": rank,
        "pack": "random" if scale else "zeros",
        "ms without": milliseconds(timings, "base"),
        "ms with": milliseconds(timings, "lora"),
        "ratio": ratio(timings, "lora", "base"),
        "cpu ratio": cpu_ratio(timings, "lora", "base"),
        "flops ratio": flops_ratio(lora, axes),
        "difference": difference(calls["lora"](), calls["base"]()),
    }


def flops_ratio(lora: Denoiser, axes: Axes) -> float:
    """Of the arithmetic of a call with packs to that without."""
    known = lora.family, lora.component, lora.layout.checkpoint.configs
    return 1 + adapter_flops(*known, axes) / flops(*known, axes)


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, as a share of the largest number."""
    return float((actual - expected).abs().max() / expected.abs().max())
