"""E1: one client, our service beside stock diffusers: the same weights, steps, seed and threads, in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.client import all_good, closed
from benchmarks.peer_processes import Drawn, Stock, Way, pixels_of, stock
from benchmarks.rows import MILLISECONDS, Entry, Goal, Maker, at_least, at_most
from benchmarks.run import CHECKPOINTS, CORES, Run, checkpoint

PART = "alone"
E1: Mapping[int, Goal] = {128: at_least("E1", 2.0), 256: at_least("E1", 1.5)}
EQUAL = at_most("E1", 1.0)
EAGER = "diffusers eager"
WAY = Way(1, CORES)  # its threads wait as OpenMP has it: neither way was always the faster


@dataclass(frozen=True)
class Rival:
    """Stock diffusers, run one way."""

    name: str
    way: Way
    draw: Stock


@dataclass(frozen=True)
class Turn:
    """Milliseconds of the same picture by each, and how far ours is from stock's, in 255ths."""

    milliseconds: Mapping[str, float]
    difference: int


def measure(run: Run) -> Iterator[Entry]:
    for name in CHECKPOINTS:
        with beside(run, name, "eager", WAY) as draw:
            for size, goal in E1.items():
                run.check_time()
                yield from of_size(run, PART, name, size, Rival(EAGER, WAY, draw), goal)


def beside(run: Run, name: str, mode: str, way: Way) -> AbstractContextManager[Stock]:
    """Stock diffusers with the same weights, in a process of its own."""
    return stock(checkpoint(name).folder, mode, way, run.work / f"stock-{name}-{mode}.log")


def request(run: Run, name: str, size: int, steps: int | None = None) -> dict[str, Any]:
    """The family's defaults, said outright: both are sent the same."""
    family = checkpoint(name).family
    return {
        **run.fresh(),
        "width": size,
        "height": size,
        "num_inference_steps": steps or int(family.num_inference_steps.default),
        "guidance_scale": family.guidance_scale.default,
    }


def of_size(
    run: Run, part: str, name: str, size: int, rival: Rival, goal: Goal | None = None
) -> Iterator[Entry]:
    turns = [turn(run, name, size, rival, bool(number % 2)) for number in range(run.rounds + 1)][1:]
    steps = int(checkpoint(name).family.num_inference_steps.default)
    maker = Maker(part, {"checkpoint": name, "px": size, "steps": steps, "clients": 1, "threads": CORES})
    theirs = maker.also(way=rival.name, **{"run as": str(rival.way)})
    floor = run.floor_ms(name, size, steps)
    for who, of in (("service", maker.also(way="service")), (rival.name, theirs)):
        times = [each.milliseconds[who] for each in turns]
        yield of.row(f"a picture, {who}", MILLISECONDS, times, floor=floor)
    ratios = [each.milliseconds[rival.name] / each.milliseconds["service"] for each in turns]
    yield theirs.ratio(f"{rival.name} / service", f"time of {rival.name} / of the service", ratios, goal)
    found = [each.difference for each in turns]
    yield theirs.row("largest difference of the pictures", "255ths", found, EQUAL)


def turn(run: Run, name: str, size: int, rival: Rival, backwards: bool) -> Turn:
    """The same picture by both; in the other order if `backwards`."""
    body = request(run, name, size)
    calls = {rival.name: lambda: rival.draw(body), "service": lambda: ours(run, name, body)}
    drawn = {who: calls[who]() for who in sorted(calls, reverse=backwards)}
    pixels = {who: each.pixels.astype(int) for who, each in drawn.items()}
    difference = np.abs(pixels["service"] - pixels[rival.name]).max()
    return Turn({who: 1000 * each.seconds for who, each in drawn.items()}, int(difference))


def ours(run: Run, name: str, body: Mapping[str, Any]) -> Drawn:
    """Through REST: the answer and the PNG that it names."""
    (answer,) = all_good(closed(run.door, [{**body, "model": checkpoint(name).family.name}], 1))
    return Drawn(pixels_of(answer.content), answer.ended - answer.began)
