"""How the time of a request grows with steps, with pixels, and with the pictures of one request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.adapters.turns import in_turns
from benchmarks.client import all_good, closed
from benchmarks.inputs import VALUES, Value
from benchmarks.rows import MILLISECONDS, Entry, Maker
from benchmarks.run import CHECKPOINTS, CORES, Run, checkpoint
from benchmarks.triton_inputs import column
from families import FamilySpec
from families.tasks import TEXT_TO_IMAGE

PART = "scaling"
STEPS, SIZES, BATCHES = (1, 4, 10, 20, 28), (64, 128, 192, 256, 384, 512), (1, 2, 4)
FEW = 4  # steps where steps are not the question


def measure(run: Run) -> Iterator[Entry]:
    for name in CHECKPOINTS:
        run.check_time()
        yield from by(run, name, "steps", [{"steps": steps, "px": 128} for steps in STEPS])
        yield from by(run, name, "pixels", [{"steps": FEW, "px": size} for size in SIZES])
        run.check_time()
        yield from by_batch(run, name)


def by(run: Run, name: str, what: str, points: list[dict[str, int]]) -> Iterator[Entry]:
    """A row for each point, measured in turns through REST."""
    family = checkpoint(name).family.name

    def ask(point: dict[str, int]) -> None:
        size = {"width": point["px"], "height": point["px"], "num_inference_steps": point["steps"]}
        all_good(closed(run.door, [{**run.fresh(), **size, "model": family}], 1))

    timings = in_turns({str(n): lambda point=point: ask(point) for n, point in enumerate(points)}, run.rounds)
    for number, point in enumerate(points):
        maker = Maker(PART, {"checkpoint": name, "threads": CORES, "clients": 1, "batch": 1, **point})
        values = [1000 * each.wall for each in timings[str(number)]]
        floor = run.floor_ms(name, point["px"], point["steps"])
        yield maker.also(by=what).row(f"a request, by {what}", MILLISECONDS, values, floor=floor)


def by_batch(run: Run, name: str) -> Iterator[Entry]:
    """Rows of one request to Triton's ensemble: they share each engine call."""
    timings = in_turns({str(rows): lambda rows=rows: infer(run, name, rows) for rows in BATCHES}, run.rounds)
    for rows in BATCHES:
        maker = Maker(
            PART, {"checkpoint": name, "threads": CORES, "clients": 1, "batch": rows, "px": 128, "steps": FEW}
        )
        values = [1000 * each.wall for each in timings[str(rows)]]
        floor = rows * run.floor_ms(name, 128, FEW)
        yield maker.also(by="batch").row("a request, by batch", MILLISECONDS, values, floor=floor)


def infer(run: Run, name: str, rows: int) -> None:
    family = checkpoint(name).family
    ensemble = family.ensemble(TEXT_TO_IMAGE)
    asked = [{"num_inference_steps": FEW, **run.fresh()} for _ in range(rows)]
    inputs = [
        column(tensor, [value(family, tensor.name, row) for row in asked]) for tensor in ensemble.inputs
    ]
    run.service.client.infer(family.ensemble_name(ensemble), inputs)


def value(family: FamilySpec, name: str, row: Mapping[str, Any]) -> Value:
    """What `row` asks, or what perf_analyzer's files have."""
    return row[name] if name in row else VALUES[name](family, 0)
