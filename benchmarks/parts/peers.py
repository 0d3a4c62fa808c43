"""E4: clients at once, our service beside LitServe and BentoML with diffusers, each run as is best here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.client import Answer, Body, Door, all_good, closed, per_second
from benchmarks.parts.alone import request
from benchmarks.peer_processes import PEERS, Way
from benchmarks.rows import PER_SECOND, Entry, Maker, Missing, at_least, at_most, percentiles
from benchmarks.run import CORES, Run, checkpoint

PART = "peers"
CHECKPOINT, SIZE, CLIENTS, REQUESTS = "flux-tiny", 128, 8, 16
THROUGHPUT, P95 = at_least("E4", 2.5), at_most("E4", 0.4)
ONE, EACH = Way(1, CORES), Way(CORES, 1)
# What is tried of each. BentoML's documentation has its diffusers service without batches.
WAYS: Mapping[str, Sequence[Way]] = {
    "LitServe + diffusers": (ONE, EACH, Way(1, CORES, batch=CLIENTS, spins=False)),
    "BentoML + diffusers": (ONE, EACH),
}
OURS = "service"


def measure(run: Run) -> Iterator[Entry]:
    with ExitStack() as stack:
        doors, ways = {OURS: run.door}, {OURS: f"Triton, {CORES} threads"}
        for peer in PEERS:
            try:
                way = best(run, peer)
                doors[peer] = stack.enter_context(
                    PEERS[peer](_folder(), way, run.work / f"{peer.split()[0]}.log")
                )
                ways[peer] = str(way)
            except Exception as error:
                yield Missing(PART, peer, f"{type(error).__name__}: {error}")
        yield from together(run, doors, ways)


def _folder() -> Path:
    return checkpoint(CHECKPOINT).folder


def best(run: Run, peer: str) -> Way:
    """The way with the highest throughput in one short try each."""
    found = {}
    for number, way in enumerate(WAYS[peer]):
        with PEERS[peer](_folder(), way, run.work / f"{peer.split()[0]}-{number}.log") as door:
            all_good(closed(door, bodies(run, CLIENTS, steps=2), CLIENTS))  # warms every worker
            found[way] = per_second(all_good(closed(door, bodies(run, CLIENTS), CLIENTS)))
    return max(found, key=found.__getitem__)


def bodies(run: Run, count: int, steps: int | None = None) -> list[Body]:
    return [request(run, CHECKPOINT, SIZE, steps) for _ in range(count)]


def together(run: Run, doors: Mapping[str, Door], ways: Mapping[str, str]) -> Iterator[Entry]:
    rounds = turns(run, doors, REQUESTS, CLIENTS)
    steps = request(run, CHECKPOINT, SIZE)["num_inference_steps"]
    shared = {"checkpoint": CHECKPOINT, "px": SIZE, "steps": steps, "clients": CLIENTS}
    for who in doors:
        maker = Maker(PART, {**shared, "way": who, "run as": ways[who]})
        yield maker.row(f"throughput, {who}", PER_SECOND, map(per_second, rounds[who]))
        for share in (50, 95):
            yield maker.percentile(
                f"latency p{share}, {who}", share, [_milliseconds(each) for each in rounds[who]]
            )
    for who in (peer for peer in doors if peer != OURS):
        yield from ratios(Maker(PART, {**shared, "way": who, "run as": ways[who]}), who, rounds)


def turns(run: Run, doors: Mapping[str, Door], requests: int, clients: int) -> dict[str, list[list[Answer]]]:
    """Answers of each round, after one that does not count; every other round goes backwards."""
    order, rounds = list(doors), {who: list[list[Answer]]() for who in doors}
    for number in range(run.rounds + 1):
        asked = bodies(run, requests if number else clients)
        for who in order:
            answers = list(all_good(closed(doors[who], asked, clients)))
            rounds[who] += [answers] if number else []
        order.reverse()
    return rounds


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
