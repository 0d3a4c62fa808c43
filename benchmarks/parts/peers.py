"""E4: clients at once: our service, LitServe and BentoML with diffusers, each run as was best on 2 cores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

from benchmarks.client import Answer, Body, Door, all_good, closed, per_second
from benchmarks.parts.alone import request
from benchmarks.parts.load import STEPS
from benchmarks.peer_processes import Start, Way, bentoml, litserve
from benchmarks.rows import PER_SECOND, Entry, Maker, Missing, at_least, at_most, percentiles
from benchmarks.run import CORES, Run, checkpoint
from families import FLUX

PART = "peers"
CHECKPOINT, SIZE, CLIENTS, REQUESTS = "flux-tiny", 128, 8, 16
THROUGHPUT, P95 = at_least("E4", 2.5), at_most("E4", 0.4)
OURS, BATCHING = "service", "LitServe + diffusers, batches"
# Each peer, and how it is run. One worker with all threads was slower on 2 cores (docs/log.md).
PEERS: Mapping[str, tuple[Start, Way]] = {
    "LitServe + diffusers": (litserve, Way(CORES, 1)),
    BATCHING: (litserve, Way(1, CORES, batch=CLIENTS, spins=False)),
    "BentoML + diffusers": (bentoml, Way(CORES, 1)),
}


@dataclass(frozen=True)
class Contender:
    """One of those compared: how it is run; `turn` lets it run for a block, and gives its door."""

    way: str
    turn: Callable[[], AbstractContextManager[Door]]


def measure(run: Run) -> Iterator[Entry]:
    with ExitStack() as stack:
        found = {OURS: Contender(f"Triton, {CORES} threads", lambda: nullcontext(run.door))}
        for name, (start, way) in PEERS.items():
            try:
                log = run.work / f"{name}.log"
                peer = stack.enter_context(start(checkpoint(CHECKPOINT).folder, way, log))
                found[name] = Contender(str(way), peer.awake)
            except Exception as error:
                yield Missing(PART, name, f"{type(error).__name__}: {error}")
        yield from together(run, found, EQUAL)
        if BATCHING in found:  # the one that mixing matters to
            run.check_time()
            yield from together(run, {who: found[who] for who in (OURS, BATCHING)}, MIXED)


@dataclass(frozen=True)
class Workload:
    """Requests that differ in prompt, seed and `steps`, which they take in turn."""

    name: str
    steps: Sequence[int]

    def bodies(self, run: Run, count: int) -> list[Body]:
        steps = itertools.cycle(self.steps)
        return [request(run, CHECKPOINT, SIZE, next(steps)) for _ in range(count)]


EQUAL = Workload("equal steps", (int(FLUX.num_inference_steps.default),))
MIXED = Workload("mixed steps", STEPS)


def together(run: Run, contenders: Mapping[str, Contender], load: Workload) -> Iterator[Entry]:
    rounds = turns(run, contenders, load)
    shared = {
        "workload": load.name,
        "checkpoint": CHECKPOINT,
        "px": SIZE,
        "steps": ", ".join(map(str, load.steps)),
        "clients": CLIENTS,
    }
    for who, contender in contenders.items():
        maker = Maker(PART, {**shared, "way": who, "run as": contender.way})
        yield from figures(maker, who, rounds[who])
        if who != OURS:
            yield from ratios(maker, who, rounds)


def turns(run: Run, contenders: Mapping[str, Contender], load: Workload) -> dict[str, list[Sequence[Answer]]]:
    """Answers of each round, after one that does not count; every other round goes backwards."""
    order, rounds = list(contenders), {who: list[Sequence[Answer]]() for who in contenders}
    for number in range(run.rounds + 1):
        asked = load.bodies(run, REQUESTS if number else CLIENTS)
        for who in order:
            with contenders[who].turn() as door:
                answers = all_good(closed(door, asked, CLIENTS))
            rounds[who] += [answers] if number else []
        order.reverse()
    return rounds


def figures(maker: Maker, who: str, rounds: Sequence[Sequence[Answer]]) -> Iterator[Entry]:
    yield maker.row(f"throughput, {who}", PER_SECOND, map(per_second, rounds))
    for share in (50, 95):
        yield maker.percentile(f"latency p{share}, {who}", share, [_milliseconds(each) for each in rounds])


def ratios(maker: Maker, who: str, rounds: Mapping[str, Sequence[Sequence[Answer]]]) -> Iterator[Entry]:
    pairs = list(zip(rounds[OURS], rounds[who], strict=True))
    of = [per_second(ours) / per_second(theirs) for ours, theirs in pairs]
    yield maker.ratio("throughput", f"service / {who}", of, THROUGHPUT)
    late = [_p95(ours) / _p95(theirs) for ours, theirs in pairs]
    yield maker.ratio("latency p95", f"service / {who}", late, P95)


def _p95(answers: Sequence[Answer]) -> float:
    return percentiles(_milliseconds(answers), 95)[0]


def _milliseconds(answers: Sequence[Answer]) -> list[float]:
    return [answer.milliseconds for answer in answers]
