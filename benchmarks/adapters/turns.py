"""Calls timed in turns in one process, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Seconds(NamedTuple):
    """`cpu` is of this process, all its threads: what neighbours took is in `wall` alone."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Spread:
    """A median between the quartiles."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}]"


Row = Mapping[str, str | int | float | Spread]
Timings = Mapping[str, Sequence[Seconds]]  # call -> a timing of each round


def timed(call: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


# Seconds before each call: on a busy machine who has waited runs first, so all begin after a wait.
PAUSE = 0.005
Calls = Mapping[str, Callable[[], object]]
NOTHING: Calls = {}


def in_turns(calls: Calls, rounds: int, before: Calls = NOTHING) -> Timings:
    """Timings of `rounds`, after one that does not count; every other round goes backwards.

    What `before` has for a call is done before each, untimed.
    """
    order, timings = list(calls), {name: list[Seconds]() for name in calls}
    for name in order:
        calls[name]()
    for _ in range(rounds):
        for name in order:
            before.get(name, _nothing)()
            time.sleep(PAUSE)
            timings[name].append(timed(calls[name]))
        order.reverse()
    return timings


def _nothing() -> None: ...


def spread(values: Iterable[float]) -> Spread:
    return Spread(*(float(quartile) for quartile in np.percentile(list(values), (25, 50, 75))))


def milliseconds(timings: Timings, call: str) -> Spread:
    return spread(1000 * each.wall for each in timings[call])


def cpu_milliseconds(timings: Timings, call: str) -> Spread:
    return spread(1000 * each.cpu for each in timings[call])


def ratio(timings: Timings, call: str, base: str) -> Spread:
    """Of the clock's times of `call` to those of `base`, in the same rounds."""
    return spread(a.wall / b.wall for a, b in zip(timings[call], timings[base], strict=True))


def cpu_ratio(timings: Timings, call: str, base: str) -> Spread:
    """The same of the process's own times."""
    return spread(a.cpu / b.cpu for a, b in zip(timings[call], timings[base], strict=True))


def conditions(packages: Iterable[str]) -> str:
    """What figures hold for: day, processor, load, and the versions of `packages`."""
    info = Path("/proc/cpuinfo").read_text()
    model = next(row.partition(":")[2].strip() for row in info.splitlines() if row.startswith("model name"))
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    load = os.getloadavg()[0]
    return f"{date.today()}: {model}, {os.cpu_count()} cores, load {load:.1f}; one thread; {versions}"


def table(rows: Sequence[Row]) -> str:
    """For people; all rows have the same keys."""
    lines = [[*rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cell(value: str | int | float | Spread) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def line(row: Row) -> str:
    """JSON for machines: a Spread is its median, with the quartiles beside it."""
    values = dict[str, object]()
    for name, value in row.items():
        values[name] = value.median if isinstance(value, Spread) else value
        if isinstance(value, Spread):
            values[f"{name} quartiles"] = [value.low, value.high]
    return json.dumps(values)
