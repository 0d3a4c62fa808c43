"""E2: what the service adds to its engines, and where a request's time goes, by Triton's own statistics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.adapters.turns import Timings, in_turns, spread, timed
from benchmarks.client import Answer, Body, all_good, closed, kept_open
from benchmarks.engine_loop import EngineLoop
from benchmarks.parts.alone import request
from benchmarks.peer_processes import pixels_of
from benchmarks.rows import MILLISECONDS, Entry, Maker, at_most
from benchmarks.run import CORES, Run
from benchmarks.service import Spent, change
from families import FLUX
from gateway.demo import fetch
from gateway.encoding import encode_png

PART = "overhead"
CHECKPOINT, COMPUTE_BOUND, OVERHEAD_BOUND = "flux-tiny", 512, 128
STAGE_SIZES, PNG_SIZES = (128, 256), {512: at_most("E2", 5), 1024: at_most("E2", 20)}
MANY, FEW = 28, 8  # steps, whose difference in time is that of the steps between
WHOLE_STEPS = 10  # of the compute-bound size, at which 28 would take 7 s
GATEWAY_REQUESTS = 100
WHOLE, STEP, P50, P99 = (at_most("E2", limit) for limit in (1.02, 1.0, 3.0, 10.0))
ENGINES = tuple(FLUX.model_name(component) for component in FLUX.components)
TOKENIZER, LORA, ENSEMBLE = "flux_tokenizer", "flux_lora", "flux_text_to_image"
LOOP, OUTSIDE = "scheduler: loop, BLS, queues", "gateway, gRPC, PNG"


def measure(run: Run) -> Iterator[Entry]:
    loop = EngineLoop(CHECKPOINT)
    yield from whole(run, loop)
    run.check_time()
    yield from per_step(run, loop)
    run.check_time()
    yield from gateway(run)
    yield from png(run, loop)
    for size in STAGE_SIZES:
        run.check_time()
        yield from stages(run, size)


def draws(run: Run, size: int, steps: int) -> Callable[[], Any]:
    """The request whole, through REST, until the client has the PNG; each has a prompt of its own."""
    return lambda: all_good(closed(run.door, [request(run, CHECKPOINT, size, steps)], 1))


def whole(run: Run, loop: EngineLoop) -> Iterator[Entry]:
    size, steps = COMPUTE_BOUND, WHOLE_STEPS
    calls = {
        "service": draws(run, size, steps),
        "engine loop": lambda: loop(request(run, CHECKPOINT, size, steps)),
    }
    timings = in_turns(calls, run.rounds)
    maker = Maker(
        PART, {"checkpoint": CHECKPOINT, "px": size, "steps": steps, "clients": 1, "threads": CORES}
    )
    floor = run.floor_ms(CHECKPOINT, size, steps)
    for way in calls:
        values = [1000 * each.wall for each in timings[way]]
        yield maker.also(way=way).row(f"a request, {way}", MILLISECONDS, values, floor=floor)
    pairs = zip(timings["service"], timings["engine loop"], strict=True)
    of = "whole service, PNG included / its engine loop in one process"
    yield maker.ratio("whole service", of, [ours.wall / theirs.wall for ours, theirs in pairs], WHOLE)


def per_step(run: Run, loop: EngineLoop) -> Iterator[Entry]:
    """What a step takes longer in the service: scheduler, BLS, Triton's backend, copies."""
    size = OVERHEAD_BOUND
    calls = {f"service {steps}": draws(run, size, steps) for steps in (MANY, FEW)}
    for steps in (MANY, FEW):
        calls[f"loop {steps}"] = lambda steps=steps: loop(request(run, CHECKPOINT, size, steps))
    timings = in_turns(calls, 2 * run.rounds)
    steps = a_step(timings, "service"), a_step(timings, "loop")
    values = [1000 * (ours - theirs) for ours, theirs in zip(*steps, strict=True)]
    maker = Maker(
        PART, {"checkpoint": CHECKPOINT, "px": size, "steps": f"{MANY} less {FEW}", "threads": CORES}
    )
    yield maker.row("overhead of a step", MILLISECONDS, values, STEP)


def a_step(timings: Timings, who: str) -> list[float]:
    """Seconds of each round."""
    pairs = zip(timings[f"{who} {MANY}"], timings[f"{who} {FEW}"], strict=True)
    return [(many.wall - few.wall) / (MANY - FEW) for many, few in pairs]


def gateway(run: Run) -> Iterator[Entry]:
    """A request at the client, less the ensemble in Triton, less its PNG: HTTP, checks, gRPC, the store."""
    with kept_open(run.door) as ask:
        rounds = [[outside_triton(run, ask) for _ in range(GATEWAY_REQUESTS // 5)] for _ in range(5)]
    maker = Maker(PART, {"checkpoint": CHECKPOINT, "px": COMPUTE_BOUND, "steps": 1, "clients": 1})
    yield maker.percentile("gateway + transport p50, PNG excluded", 50, rounds, P50)
    yield maker.percentile("gateway + transport p99, PNG excluded", 99, rounds, P99)


def outside_triton(run: Run, ask: Callable[[Body], Answer]) -> float:
    """Milliseconds of one request."""
    before = run.service.statistics()[ENSEMBLE]
    (answer,) = all_good([ask(request(run, CHECKPOINT, COMPUTE_BOUND, 1))])
    inside = (run.service.statistics()[ENSEMBLE] - before).success
    pixels = pixels_of(fetched(answer.content))
    encoding = spread(timed(lambda: encode_png(pixels)).wall for _ in range(3)).median
    return answer.milliseconds - 1000 * (inside + encoding)


def fetched(answer: bytes) -> bytes:
    """The picture that an answer names."""
    return fetch(json.loads(answer)["generated_image_url"])


def png(run: Run, loop: EngineLoop) -> Iterator[Entry]:
    """Of a picture that flux-tiny drew; the larger one is that picture four times."""
    drawn = loop(request(run, CHECKPOINT, COMPUTE_BOUND, FEW)).reshape(COMPUTE_BOUND, COMPUTE_BOUND, 3)
    for size, goal in PNG_SIZES.items():
        pixels: NDArray[np.uint8] = np.tile(drawn, (size // COMPUTE_BOUND, size // COMPUTE_BOUND, 1))
        values = [1000 * timed(lambda pixels=pixels: encode_png(pixels)).wall for _ in range(3 * run.rounds)]
        yield Maker(PART, {"px": size}).row("PNG", MILLISECONDS, values, goal)


def stages(run: Run, size: int) -> Iterator[Entry]:
    """A row for each stage; the Python-based backend's compute counts its own copies as the engine's."""
    draws(run, size, MANY)()
    spent = [stages_of(run, size) for _ in range(run.rounds)]
    maker = Maker(PART, {"checkpoint": CHECKPOINT, "px": size, "steps": MANY, "clients": 1})
    for stage in spent[0]:
        yield maker.also(stage=stage).row(stage, MILLISECONDS, [1000 * each[stage] for each in spent])


def stages_of(run: Run, size: int) -> dict[str, float]:
    """Seconds by stage of one request."""
    before = run.service.statistics()
    total = timed(draws(run, size, MANY)).wall
    return breakdown(change(before, run.service.statistics()), total)


def breakdown(spent: Mapping[str, Spent], total: float) -> dict[str, float]:
    """Seconds by stage. What the ensemble took beside engines and the other stages is the scheduler's."""
    inside = {name: spent[name].compute for name in (*ENGINES, TOKENIZER, LORA) if spent[name].requests}
    ensemble = spent[ENSEMBLE].success
    return {**inside, LOOP: ensemble - sum(inside.values()), OUTSIDE: total - ensemble}
