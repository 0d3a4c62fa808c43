"""E7: ten times as many requests as the service can draw: how it refuses, and what it still draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.client import GIVEN_UP, Answer, Body, Door, all_good, closed, open_loop, per_second
from benchmarks.rows import PER_SECOND, Entry, Maker, Missing, at_least, at_most
from benchmarks.run import Run, repository
from benchmarks.service import serving

PART = "overload"
TIMES, SECONDS, DRAIN_SECONDS = 10, 3.0, 3.0
CLIENTS, STEPS, SIZE = 8, 10, 128
REFUSED_P99, GOODPUT, SAID = at_most("E7", 50), at_least("E7", 0.9), at_least("E7", 1.0)


def measure(run: Run) -> Iterator[Entry]:
    """On a service of its own, which a queue that never ends does not outlive."""
    with serving([repository("flux-tiny")], run.work / PART) as service:
        door = Door(f"{service.url}/generate-image")
        rounds, capacities = list[Sequence[Answer]](), list[float]()
        for _ in range(run.rounds):
            all_good(closed(door, bodies(run, CLIENTS), CLIENTS))  # behind what others left in the queue
            capacities.append(per_second(all_good(closed(door, bodies(run, 2 * CLIENTS), CLIENTS))))
            rate = TIMES * capacities[-1]
            rounds.append(open_loop(door, bodies(run, int(rate * SECONDS)), rate, DRAIN_SECONDS))
    yield from figures(rounds, capacities)


def bodies(run: Run, count: int) -> list[Body]:
    size = {"width": SIZE, "height": SIZE, "num_inference_steps": STEPS}
    return [{**run.fresh(), **size} for _ in range(count)]


def figures(rounds: Sequence[Sequence[Answer]], capacities: Sequence[float]) -> Iterator[Entry]:
    shared = {
        "checkpoint": "flux-tiny",
        "px": SIZE,
        "steps": STEPS,
        "times capacity": TIMES,
        "seconds": SECONDS,
    }
    maker = Maker(PART, shared)
    yield maker.row("capacity, 8 clients", PER_SECOND, capacities)
    shares = [per_second(answers) / capacity for answers, capacity in zip(rounds, capacities, strict=True)]
    yield maker.ratio("goodput", "pictures/s under overload / capacity", shares, GOODPUT)
    yield maker.row("requests", "requests", map(len, rounds))
    for name, statuses in (
        ("drawn", {200}),
        ("refused with 503", {503}),
        ("no answer when the client left", {GIVEN_UP}),
    ):
        yield maker.row(name, "requests", [sum(a.status in statuses for a in answers) for answers in rounds])
    others = [sum(a.status not in (200, 503, GIVEN_UP) for a in answers) for answers in rounds]
    yield maker.row("anything else, broken connections too", "requests", others, at_most("E7", 0))
    yield from refusals(maker, rounds)


def refusals(maker: Maker, rounds: Sequence[Sequence[Answer]]) -> Iterator[Entry]:
    refused = [[answer for answer in answers if answer.status == 503] for answers in rounds]
    if not all(refused):
        yield Missing(
            PART, "refusals", "the service refused nothing: its queue has no bound that was reached"
        )
        return
    late = [[answer.milliseconds for answer in answers] for answers in refused]
    yield maker.percentile("refusal p50", 50, late)
    yield maker.percentile("refusal p99", 99, late, REFUSED_P99)
    told = [sum(a.retry_after is not None for a in answers) / len(answers) for answers in refused]
    yield maker.row("refusals with Retry-After", "share", told, SAID)
