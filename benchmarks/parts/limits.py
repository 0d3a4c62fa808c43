"""How far each engine is from the machine: a call beside its arithmetic at the measured matmul peak."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.adapters.turns import Timings, in_turns
from benchmarks.rows import MILLISECONDS, Entry, Maker
from benchmarks.run import CHECKPOINTS, CORES, Run, checkpoint, engine, layout_of, matmul_peak
from export import parity
from families import Axes, ComponentSpec
from families.costs import flops

PART = "limits"
SIZE, LARGE = 128, (256, 512)
RANK = 4  # of the pack of no adapters


def measure(run: Run) -> Iterator[Entry]:
    peaks = [matmul_peak(rounds=15) / 1e9 for _ in range(run.rounds)]
    yield Maker(PART, {"threads": CORES}).row("matmul peak, float32", "GFLOP/s", peaks)
    for name in CHECKPOINTS:
        for component in checkpoint(name).family.components:
            yield of_engine(run, name, component, SIZE)
        for size in LARGE:
            yield of_engine(run, name, checkpoint(name).family.denoiser, size)


def of_engine(run: Run, name: str, component: ComponentSpec, size: int) -> Entry:
    """A call for one picture, in this process; `floor` is its FLOPs at the peak."""
    found = checkpoint(name)
    axes = layout_of(found).axes(component.rows_per_picture, size, size, found.max_sequence_length, RANK)
    timings = in_turns({"engine": engine_call(name, component, axes)}, run.rounds)
    of_call = flops(found.family, component, found.configs, axes)
    conditions = {"checkpoint": name, "component": component.name, "px": size, "threads": CORES}
    maker = Maker(PART, {**conditions, "GFLOP": round(of_call / 1e9, 3)})
    return maker.row(
        f"a call of {component.name}", MILLISECONDS, _ms(timings), floor=1000 * of_call / run.peak
    )


def _ms(timings: Timings) -> list[float]:
    return [1000 * each.wall for each in timings["engine"]]


def engine_call(name: str, component: ComponentSpec, axes: Axes) -> Callable[[], Any]:
    """The repository's own ONNX file, on random inputs without adapters."""
    found = checkpoint(name)
    run, spec = engine(name, found.family, component), layout_of(found).spec(component)
    inputs = parity.random_inputs(spec, axes, found.configs)
    fed = parity.with_zero_packs(inputs) if component.denoiser else inputs
    arrays = {key: tensor.numpy() for key, tensor in fed.items()}
    return lambda: run(arrays)
