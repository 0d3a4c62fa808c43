"""What adapters cost, each figure beside its base in one run, in turns; medians between quartiles.

    python -m benchmarks.adapters cost    # an engine with inputs for packs, and the same without
    python -m benchmarks.adapters switch  # from one adapter to another, beside stock diffusers' ways
    python -m benchmarks.adapters batch   # four rows with an adapter each, and four with the same
    python -m benchmarks.adapters served  # the same through Triton: needs build/flux-tiny-cpu

A table for people, then a line of JSON for each of its rows. One thread for torch, one for ONNX Runtime.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from benchmarks.adapters import batch, cost, served, switch
from benchmarks.adapters.turns import Row, conditions, line, table

PACKAGES = ("torch", "onnxruntime", "diffusers", "peft")
ROUNDS, STEPS = 21, 8
FLUX_TINY, SDXL_TINY = (Path("assets/checkpoints", name) for name in ("flux-tiny", "sdxl-tiny"))
REPOSITORY = Path("build/flux-tiny-cpu")


def costs(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    yield from cost.of_checkpoint(FLUX_TINY, options.rounds)
    yield from cost.of_checkpoint(SDXL_TINY, options.rounds)
    yield from cost.of_wide(folder, options.rounds)


def switches(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    yield from switch.of_checkpoint(FLUX_TINY, folder / "tiny", options.rounds)
    yield from switch.of_full(folder / "full", options.rounds)


def batches(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    for checkpoint in (FLUX_TINY, SDXL_TINY):
        store = folder / checkpoint.name / "adapters"
        yield from batch.of_checkpoint(checkpoint, store, options.rounds, options.num_inference_steps)


def requests(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    steps = options.num_inference_steps
    yield from served.of_repository(REPOSITORY, FLUX_TINY, folder, options.rounds, steps)


BENCHMARKS: Mapping[str, Callable[[Path, argparse.Namespace], Iterator[Row]]] = {
    "cost": costs,
    "switch": switches,
    "batch": batches,
    "served": requests,
}


def report(name: str, options: argparse.Namespace) -> None:
    print(f"\n{name}, {options.rounds} rounds, {conditions(PACKAGES)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(BENCHMARKS[name](Path(folder), options))
    print(table(rows))
    print("\n".join(map(line, rows)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--num-inference-steps", type=int, default=STEPS, help="of the batches' pictures")
    options = parser.parse_args()
    if unknown := {*options.benchmarks} - {*BENCHMARKS}:
        parser.error(f"unknown benchmark {unknown.pop()!r}; choices: {', '.join(BENCHMARKS)}")
    torch.set_num_threads(1)
    for name in options.benchmarks or BENCHMARKS:
        report(name, options)


if __name__ == "__main__":
    main()
