"""What a TensorRT builder says while it works: kept, shown as a progress bar, read for figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

from tqdm import tqdm

INCONSISTENT = "not self-consistent"  # the builder goes on all the same, with a plan that fails at run time
LISTING = "Layers:"  # of the finished engine; said only when verbose
# A listing's words for types -> names of DataType.
LISTED = {"Float": "FLOAT", "Half": "HALF", "BFloat16": "BF16", "Int64": "INT64", "UInt8": "UINT8"}
TENSOR = re.compile(r"Name: (\w+), IOMode: (?:In|Out)put, DataType: (\w+), Dimensions: \[([-\d,]*)\](.*)")
SHAPES = re.compile(r"(?:Min|Opt|Max)Shape: \[([\d,]*)\]")


class Tensor(NamedTuple):
    """An input or output of a finished engine; an output's `profile` is empty."""

    dtype: str  # the name of a DataType
    shape: list[int]
    profile: list[list[int]]  # min, opt, max


def new_log(trt: ModuleType) -> Any:
    """An ILogger that keeps `lines`, and apart the `failures`: errors, and what is never acceptable."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.failures: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.INFO or message.startswith(LISTING):
                self.lines += message.splitlines()
            if severity <= trt.ILogger.ERROR or INCONSISTENT in message:
                self.failures.append(message)

    return Log()


def new_monitor(trt: ModuleType, words: str) -> Any:
    """An IProgressMonitor that shows the builder's outermost phases as bars named `words`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.bars: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                words_and_phase = f"{words}: {phase_name}"
                self.bars[phase_name] = tqdm(total=num_steps, desc=words_and_phase, leave=False, disable=None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.bars:
                self.bars[phase_name].update()
            return True

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.bars:
                self.bars.pop(phase_name).close()

    return Monitor()


def total_bytes(lines: Sequence[str], kind: str) -> int:
    """The builder's "Total `kind` Memory: N bytes"; 0 if it did not say."""
    found = [int(match[1]) for line in lines if (match := re.search(rf"Total {kind} Memory: (\d+)", line))]
    return found[-1] if found else 0


def listed_tensors(lines: Sequence[str]) -> dict[str, Tensor]:
    """The finished engine's inputs and outputs by name, as its builder lists them."""
    found = filter(None, map(TENSOR.search, lines))
    return {
        match[1]: Tensor(LISTED.get(match[2], match[2]), _sizes(match[3]), _profile(match[4]))
        for match in found
    }


def _profile(words: str) -> list[list[int]]:
    return [_sizes(match[1]) for match in SHAPES.finditer(words)]


def _sizes(words: str) -> list[int]:
    return [int(size) for size in words.split(",") if size]
