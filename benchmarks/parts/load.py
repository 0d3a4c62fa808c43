"""E3: our service under 1 to 8 clients, closed loop, open loop, and one request at a time.

Steps and adapters of the requests are mixed. "One at a time" is what a service without step batching makes of
the same clients: they queue first in, first out, and one request is in flight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import twin
from benchmarks.client import Answer, Body, Door, all_good, closed, open_loop, per_second
from benchmarks.rows import PER_SECOND, Condition, Entry, Goal, Maker, at_least, at_most, percentiles
from benchmarks.run import CORES, Run

PART = "load"
STEPS, INDUSTRIES = (10, 20, 28), (None, "food", "fashion", "technology")
CLIENTS = (1, 2, 4, 8)
MOST = CLIENTS[-1]
REQUESTS, STAGGER_SECONDS = 24, 0.02
RATES = (0.5, 0.8)  # of the throughput of 8 clients
DRAIN_SECONDS = 60.0
P95_SHARE = at_most("E3", 0.7)  # of first in, first out; not where calls leave nothing to gain


@dataclass(frozen=True)
class Workload:
    """What is asked: `steps` in turn, at `size`, an adapter each in turn; what E3 wants of it."""

    name: str
    door: Door
    size: int
    steps: Sequence[int]
    industries: Sequence[str | None]
    goal: Goal
    p95: Goal | None = P95_SHARE

    def bodies(self, run: Run, count: int) -> list[Body]:
        return [self._body(run, number) for number in range(count)]

    def _body(self, run: Run, number: int) -> dict[str, Any]:
        steps, industry = self.steps[number % len(self.steps)], self.industries[number % len(self.industries)]
        named = {"industry": industry} if industry else {}
        size = {"width": self.size, "height": self.size}
        return {**run.fresh(), **size, **named, "num_inference_steps": steps}

    @property
    def conditions(self) -> Mapping[str, Condition]:
        steps = ", ".join(map(str, self.steps))
        adapters = ", ".join(industry or "none" for industry in self.industries)
        return {
            "workload": self.name,
            "px": self.size,
            "steps": steps,
            "adapters": adapters,
            "threads": CORES,
        }


def measure(run: Run) -> Iterator[Entry]:
    tiny = Workload("flux-tiny", run.door, 128, STEPS, INDUSTRIES, at_least("E3", 1.25))
    yield from levels(run, tiny)
    run.check_time()
    yield from against_fifo(run, tiny, REQUESTS)
    run.check_time()
    compute = Workload("compute-bound", run.door, 512, (1, 2, 3), INDUSTRIES, at_least("E3", 0.98), None)
    yield from against_fifo(run, compute, MOST)
    run.check_time()
    with twin.served(run) as service:
        door = Door(f"{service.url}/generate-image", follows=True)
        bound = Workload("overhead-bound twin", door, 128, STEPS, (None,), at_least("E3", 1.7))
        yield from against_fifo(run, bound, REQUESTS)


def levels(run: Run, load: Workload) -> Iterator[Entry]:
    """Closed loops of each number of clients in turns, then open loops."""
    rounds: dict[int, list[list[Answer]]] = {clients: [] for clients in CLIENTS}
    all_good(closed(load.door, load.bodies(run, MOST), MOST))
    for number in range(run.rounds):
        for clients in sorted(CLIENTS, reverse=bool(number % 2)):
            bodies = load.bodies(run, max(6, 2 * clients))
            rounds[clients].append(list(all_good(closed(load.door, bodies, clients))))
    for clients, answers in rounds.items():
        maker = Maker(PART, {**load.conditions, "loop": "closed", "clients": clients})
        yield from figures(maker, answers)
    capacity = percentiles(map(per_second, rounds[MOST]), 50)[0]
    for share in RATES:
        run.check_time()
        yield from at_rate(run, load, share, capacity)


def at_rate(run: Run, load: Workload, share: float, capacity: float) -> Iterator[Entry]:
    """Arrivals at a steady rate, whatever the answers take."""
    rate = share * capacity
    rounds = [
        all_good(open_loop(load.door, load.bodies(run, MOST), rate, DRAIN_SECONDS)) for _ in range(run.rounds)
    ]
    conditions = {"loop": "open", "per second": round(rate, 2), "share of capacity": share}
    yield from figures(Maker(PART, {**load.conditions, **conditions}), rounds)


def figures(maker: Maker, rounds: Sequence[Sequence[Answer]]) -> Iterator[Entry]:
    yield maker.row("throughput", PER_SECOND, map(per_second, rounds))
    for share in (50, 95):
        yield maker.percentile(f"latency p{share}", share, [milliseconds(answers) for answers in rounds])


def milliseconds(answers: Sequence[Answer]) -> list[float]:
    return [answer.milliseconds for answer in answers]


def against_fifo(run: Run, load: Workload, requests: int) -> Iterator[Entry]:
    """The same requests of 8 clients who start one after another: together, and one at a time; in turns."""
    ways = {"together": MOST, "one at a time": 1}
    rounds = {way: list[Sequence[Answer]]() for way in ways}
    same = list[float]()
    for number in range(run.rounds + 1):
        bodies = load.bodies(run, requests if number else MOST)
        answers = {way: fifo(load.door, bodies, ways[way]) for way in sorted(ways, reverse=bool(number % 2))}
        if number:
            same.append(sum(a.content != b.content for a, b in zip(*answers.values(), strict=True)))
            for way in ways:
                rounds[way].append(answers[way])
    yield from compared(Maker(PART, {**load.conditions, "loop": "closed", "clients": MOST}), load, rounds)
    maker = Maker(PART, {**load.conditions, "clients": MOST, "requests": requests})
    yield maker.row("PNGs that differ from those drawn alone", "pictures", same, at_most("E3", 0))


def fifo(door: Door, bodies: Sequence[Body], places: int) -> Sequence[Answer]:
    """Requests of 8 clients, `places` of them in flight; times begin when a client wants a picture."""
    return all_good(closed(door, bodies, MOST, places, STAGGER_SECONDS))


def compared(
    maker: Maker, load: Workload, rounds: Mapping[str, Sequence[Sequence[Answer]]]
) -> Iterator[Entry]:
    for way, answers in rounds.items():
        yield from figures(maker.also(way=way), answers)
    pairs = list(zip(rounds["together"], rounds["one at a time"], strict=True))
    of = "together / one at a time"
    yield maker.ratio("throughput", of, [per_second(a) / per_second(b) for a, b in pairs], load.goal)
    late = [percentiles(milliseconds(a), 95)[0] / percentiles(milliseconds(b), 95)[0] for a, b in pairs]
    yield maker.ratio("latency p95", of, late, load.p95)
