"""D3-D5 in short: what adapters cost, of flux-tiny alone; `python -m benchmarks.adapters` has more."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.adapters import batch, cost, switch, turns
from benchmarks.adapters.__main__ import FLUX_TINY
from benchmarks.adapters.turns import Spread
from benchmarks.rows import RATIO, Entry, Row
from benchmarks.run import Run

PART = "adapters"
STEPS = 4


def measure(run: Run) -> Iterator[Entry]:
    torch.set_num_threads(1)  # as that suite has it
    with tempfile.TemporaryDirectory() as folder:
        for found in short(run, Path(folder)):
            yield from entries(found, run.rounds)


def short(run: Run, folder: Path) -> Iterator[turns.Row]:
    yield from cost.of_checkpoint(FLUX_TINY, run.rounds)
    run.check_time()
    yield from switch.of_checkpoint(FLUX_TINY, folder / "tiny", run.rounds)
    run.check_time()
    yield from batch.of_checkpoint(FLUX_TINY, folder / "batch" / "adapters", run.rounds, STEPS)


def entries(found: turns.Row, rounds: int) -> Iterator[Entry]:
    """A row for each figure with a spread; all else of `found` is its conditions."""
    conditions = {
        name: value for name, value in found.items() if not isinstance(value, Spread) and name != "benchmark"
    }
    for name, value in found.items():
        if isinstance(value, Spread):
            unit = RATIO if "ratio" in name else "ms"
            of = OF[str(found["benchmark"])] if unit == RATIO else ""
            yield Row(PART, f"{found['benchmark']}: {name}", unit, value, rounds, conditions, of)


OF = {
    "cost": "engine with inputs for packs / without",
    "switch": "this way / ours, cached",
    "batch": "four adapters in a batch / one (throughput)",
}
