"""Every ensemble and every model under Triton's own load generator, concurrency 1 to 8."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.perf_inputs import Entry as Inputs
from benchmarks.perf_inputs import inputs_of
from benchmarks.rows import MILLISECONDS, Entry, Maker, Missing
from benchmarks.run import CHECKPOINTS, Run
from benchmarks.tools.errors import ToolError
from benchmarks.tools.perf_analyzer import PerfAnalyzer, perf_analyzer

PART = "perf_analyzer"
CONCURRENCY = (1, 2, 4, 8)
REQUESTS, ENSEMBLE_STEPS = 6, 4  # requests of each concurrency, beside one for each place
SECONDS = 60.0  # the longest run at one concurrency


def measure(run: Run) -> Iterator[Entry]:
    try:
        tool = perf_analyzer()
    except ToolError as error:
        yield Missing(PART, "everything", str(error))
        return
    for name in CHECKPOINTS:
        for model, data in inputs_of(run.service.client, name, total(), ENSEMBLE_STEPS).items():
            yield from of_model(run, tool, name, model, iter(data))


def total() -> int:
    """Requests of a model."""
    return sum(map(count, CONCURRENCY))


def count(concurrency: int) -> int:
    return REQUESTS + concurrency


def of_model(run: Run, tool: PerfAnalyzer, name: str, model: str, data: Iterator[Inputs]) -> Iterator[Entry]:
    """A run of the program for each concurrency, with entries of its own so that no cache knows them."""
    folder = run.output / PART
    folder.mkdir(parents=True, exist_ok=True)
    for concurrency in CONCURRENCY:
        run.check_time()
        file, export = (run.work / f"{model}-{concurrency}-{what}.json" for what in ("in", "out"))
        file.write_text(json.dumps({"data": list(islice(data, count(concurrency)))}))
        csv = folder / f"{model}-{concurrency}.csv"
        try:
            tool.run(arguments(run, model, concurrency, {"--input-data": file, "-f": csv}, export), SECONDS)
        except ToolError as error:
            yield Missing(PART, f"{model}, concurrency {concurrency}", str(error), failed=True)
            return
        yield from rows(json.loads(export.read_text()), name, model)


def arguments(run: Run, model: str, concurrency: int, files: Mapping[str, Path], export: Path) -> list[str]:
    options = {
        "-m": model,
        "-i": "grpc",
        "-u": run.service.triton.grpc_url,
        "--concurrency-range": concurrency,
        "--request-count": count(concurrency),
        "--profile-export-file": export,
        **files,
    }
    return [str(word) for pair in options.items() for word in pair]


def rows(exported: dict[str, Any], name: str, model: str) -> Iterator[Entry]:
    """Latencies of each concurrency, and throughput, of perf_analyzer's own time stamps."""
    for experiment in exported["experiments"]:
        concurrency = experiment["experiment"]["value"]
        maker = Maker(PART, {"checkpoint": name, "model": model, "concurrency": concurrency, "px": 128})
        spans = [(each["timestamp"], each["response_timestamps"][-1]) for each in experiment["requests"]]
        yield maker.row(f"latency, {model}", MILLISECONDS, [(end - start) / 1e6 for start, end in spans])
        yield maker.row(f"throughput, {model}", "requests/s", throughputs(spans))


def throughputs(spans: list[tuple[int, int]]) -> list[float]:
    """Answers per second between neighbours' ends, and so over five stretches; one for few answers."""
    ends = sorted(end for _, end in spans)
    start, size = min(begin for begin, _ in spans), max(1, len(ends) // 5)
    edges = [start, *ends[size - 1 :: size]]
    return [1e9 * size / max(1, late - early) for early, late in zip(edges, edges[1:], strict=False)]
