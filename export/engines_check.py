"""The proof without a GPU: every engine of the A100 target compiles for it, from the tiny checkpoints.

`python -m export.engines_check`: each component of both families in each precision that the target allows,
denoisers with and without LoRA inputs, goes through the code that exports it, TensorRT-RTX being the builder.
What its builder lists of the finished engine (names, types, profile) must be what families/ says. It proves
that the graphs compile for the GPU, not that they run on it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from os import sched_getaffinity
from pathlib import Path

import torch

from export.build import calibrated
from export.checkpoint import open_checkpoint
from export.component import compile_plan, source
from export.errors import ExportError
from export.finished import Engine
from export.plan import ROOT, Plan
from export.profile import changed
from export.targets import TARGETS, Target, with_precisions
from families import COMPONENTS

CHECKPOINTS = ROOT / "assets" / "checkpoints"
# The tiny checkpoints draw smaller pictures than the target's, from shorter texts.
PROFILE = ("size=64,128,512", "batch=1,1,4", "text_length=8,48,48")
BUILDER = "tensorrt_rtx"
HEADING = (
    f"{'engine':<22}{'precision':<14}{'lora':<6}{'graph':>8}{'build':>8}{'plan MB':>9}{'weights MB':>12}"
    f"{'scratch MB':>12}"
)


@dataclass(frozen=True)
class Case:
    """One engine to compile: a component of a tiny checkpoint as the target may have it."""

    checkpoint: str
    component: str
    precision: str
    lora: bool

    def plan(self) -> Plan:
        target, checkpoint = tiny_target(), open_checkpoint(CHECKPOINTS / self.checkpoint)
        target = with_precisions(target, checkpoint.family, [f"{self.component}={self.precision}"])
        return Plan(checkpoint=checkpoint, target=target, lora=self.lora, builder=BUILDER)


def tiny_target() -> Target:
    """The A100 target with a profile for the tiny checkpoints."""
    target = TARGETS["a100"]
    return replace(target, profile=changed(target.profile, PROFILE))


def cases(names: Sequence[str] = ()) -> list[Case]:
    """Every engine of the target, or those whose "family.component" is in `names`; ExportError if unknown."""
    known = TARGETS["a100"].precisions
    for name in names:
        if name not in known:
            raise ExportError(f"unknown component {name!r}; choices: {', '.join(known)}")
    return [case for case in _all_cases() if not names or _key(case) in names]


def _all_cases() -> Iterator[Case]:
    for key, precisions in TARGETS["a100"].precisions.items():
        family, component = COMPONENTS[key]
        for precision, lora in product(precisions, (False, True)):
            if component.denoiser or not lora:
                yield Case(f"{family.name}-tiny", component.name, precision, lora)


def _key(case: Case) -> str:
    return f"{case.checkpoint.removesuffix('-tiny')}.{case.component}"


def check(case: Case) -> str:
    """Compiles `case`; its row of the table. ExportError says what is wrong."""
    torch.set_num_threads(1)
    plan = case.plan()
    component = plan.family.component(case.component)
    started = time.perf_counter()
    made = source(plan, component, calibrated(plan, component, ROOT / "build"))
    with tempfile.TemporaryDirectory() as folder:
        _, built = compile_plan(plan, component, made, Path(folder, plan.target.engine_file))
    traced = time.perf_counter() - started - built.seconds
    return _row(case, traced, built)


def _row(case: Case, traced: float, built: Engine) -> str:
    sizes = built.plan_bytes, built.weights_bytes, built.device_memory_bytes
    megabytes = "".join(f"{size / 1e6:>{width}.1f}" for size, width in zip(sizes, (9, 12, 12), strict=True))
    lora = "yes" if case.lora else ""
    return f"{_key(case):<22}{case.precision:<14}{lora:<6}{traced:>6.1f} s{built.seconds:>6.1f} s{megabytes}"


def attempt(case: Case) -> tuple[Case, str, bool]:
    """The case, its row or what is wrong with it, and whether it compiled."""
    try:
        return case, check(case), True
    except ExportError as error:
        return case, f"{_key(case):<22}{case.precision:<14}FAILED: {error}", False


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export.engines_check", description=__doc__)
    parser.add_argument("--components", nargs="+", default=[], metavar="FAMILY.COMPONENT")
    try:
        wanted = cases(parser.parse_args(arguments).components)
    except ExportError as error:
        parser.error(str(error))
    started, good = time.perf_counter(), True
    workers = min(len(wanted), len(sched_getaffinity(0)))
    print(f"{len(wanted)} engines for SM80, compiled by {BUILDER} on {workers} cores\n{HEADING}", flush=True)
    for case in wanted:  # before two processes want the same
        plan = case.plan()
        calibrated(plan, plan.family.component(case.component), ROOT / "build")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _, row, compiled in pool.map(attempt, wanted):
            print(row, flush=True)
            good = good and compiled
    print(f"{'all compiled' if good else 'NOT all compiled'} in {time.perf_counter() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
