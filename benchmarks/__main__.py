"""Measures the service, and what it is compared with; `make bench` runs all of it.

    python -m benchmarks                  # everything, into out/bench
    python -m benchmarks load peers       # parts

Writes report.html, report.md and rows.jsonl, a line for each figure. A part that fails is named in them, and
so is one that the time was too short for. Needs the tiny checkpoints' repositories: `make repositories`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks import report
from benchmarks.machine import conditions, load_average
from benchmarks.parts import (
    adapters,
    alone,
    cache,
    compiled,
    http_tool,
    limits,
    load,
    overhead,
    overload,
    peers,
    perf_analyzer,
    scaling,
)
from benchmarks.rows import Entry, Missing
from benchmarks.run import NoTime, Run, running

Part = Callable[[Run], Iterator[Entry]]
# In the order they run in; the last ones are left out first if time is short.
MODULES = (
    limits, alone, peers, overhead, cache, overload, scaling, load,
    compiled, perf_analyzer, http_tool, adapters,
)  # fmt: skip
PARTS: Mapping[str, Part] = {module.PART: module.measure for module in MODULES}
ROUNDS, MINUTES = 5, 12.0
EVERYTHING, REST = "everything", "the rest of it"


def measured(run: Run, names: list[str], took: dict[str, float]) -> Iterator[Entry]:
    """The entries of each part in turn, and how many seconds it `took`.

    What goes wrong in one is an entry too, and the others go on.
    """
    for name in names:
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        began = time.monotonic()
        yield from attempted(name, run)
        seconds = time.monotonic() - began
        if seconds > 0.5:  # it was begun
            took[name] = seconds
        print(f"{seconds:.0f} s", file=sys.stderr, flush=True)


def attempted(name: str, run: Run) -> Iterator[Entry]:
    """The entries of a part, and what there is none of."""
    some = False
    try:
        run.check_time()
        for entry in PARTS[name](run):
            some = True
            yield entry
    except NoTime as error:
        yield Missing(name, REST if some else EVERYTHING, str(error))
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        yield Missing(name, REST if some else EVERYTHING, said, failed=True)


def durations(took: Mapping[str, float]) -> dict[str, str]:
    """Words for people."""
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items())
    return {
        "load when it ended": f"{load_average():.1f}",
        "the run took": f"{sum(took.values()) / 60:.1f} minutes: {parts}",
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--output", type=Path, default=Path("out/bench"), help="default out/bench")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="of each figure; below 5 is for trying out"
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which nothing more is begun")
    options = parser.parse_args(arguments)
    if unknown := {*options.parts} - {*PARTS}:
        parser.error(f"unknown part {unknown.pop()!r}; choices: {', '.join(PARTS)}")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    began, said = time.monotonic(), conditions()
    names = options.parts or [*PARTS]
    entries, took = list[Entry](), dict[str, float]()
    with (
        tempfile.TemporaryDirectory() as work,
        running(options.output, Path(work), options.rounds, began + 60 * options.minutes) as run,
        (options.output / "rows.jsonl").open("w") as lines,
    ):
        for entry in measured(run, names, took):
            entries.append(entry)
            print(entry.line(), file=lines, flush=True)
    report.write(entries, {**said, **durations(took)}, options.output)
    print(f"{options.output / 'report.html'}")
    return 1 if any(isinstance(entry, Missing) and entry.failed for entry in entries) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    sys.exit(main(sys.argv[1:]))
