"""The whole check on a device: rows as they are measured."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version

import torch

from benchmarks.gpu_check.device import Cpu, Device, Gpu, matmul_peak
from benchmarks.gpu_check.made import Made, dtype_of, precision_of, structure_of
from benchmarks.gpu_check.measure import Row, measured
from benchmarks.gpu_check.sweep import FULL, TINY, Entry, Sweep
from families import FamilySpec


@dataclass(frozen=True)
class Plan:
    """Denoisers of these families on `device`, until `seconds` are over."""

    device: Device
    sweep: Sweep
    families: Sequence[FamilySpec]
    seconds: float

    @property
    def true_size(self) -> bool:
        return self.sweep is FULL

    def conditions(self) -> dict[str, object]:
        """What the figures hold for."""
        return {
            "date": str(date.today()),
            "device": self.device.name,
            "cap_bytes": self.device.cap,
            "sizes": "true" if self.true_size else "tiny",
            "torch": torch.__version__,
            "cuda": torch.version.cuda if self.device.place.type == "cuda" else None,
            "diffusers": version("diffusers"),
        }


def plan_of(families: Sequence[FamilySpec], cap: int, seconds: float, tiny: bool) -> Plan:
    """On the GPU, if there is one; true sizes nowhere else."""
    gpu = torch.cuda.is_available()
    device = Gpu(cap) if gpu else Cpu()
    return Plan(device, FULL if gpu and not tiny else TINY, families, seconds)


def rows(plan: Plan, say: Callable[[str], None]) -> Iterator[Row]:
    """A row for each entry of the sweep and family; `say` is told the peaks, and what was left out."""
    end = time.monotonic() + plan.seconds
    for family in plan.families:
        yield from _of_family(plan, family, end, say)
        gc.collect()  # the next one needs the room


def _of_family(plan: Plan, family: FamilySpec, end: float, say: Callable[[str], None]) -> Iterator[Row]:
    precision, device = precision_of(family, plan.true_size), plan.device
    peak = matmul_peak(device, dtype_of(precision), plan.sweep.matmul)
    say(f"{precision} matmul, {plan.sweep.matmul} a side: {peak / 1e12:.2f} TFLOP/s")
    device.forget()
    made = Made.of(structure_of(family, plan.true_size), device.place, dtype_of(precision))
    for entry in _entries(plan.sweep, made):
        if time.monotonic() > end:
            say(f"{made.structure.name}: out of time before {entry}")
            return
        yield measured(made, device, entry, precision, peak)


def _entries(sweep: Sweep, made: Made) -> Iterator[Entry]:
    """The module takes packs from the first entry on that has any."""
    yield from sweep.without_lora()
    made.attach()
    yield from sweep.with_lora()
