"""E6: what a prompt that was there before spends in the text encoders, by Triton's statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.client import all_good, closed
from benchmarks.rows import MILLISECONDS, Entry, Maker, at_most
from benchmarks.run import CHECKPOINTS, Run, checkpoint
from benchmarks.service import Spent, change

PART = "cache"
REPEATED = at_most("E6", 1.0)


def measure(run: Run) -> Iterator[Entry]:
    for name in CHECKPOINTS:
        yield from of_checkpoint(run, name)


def of_checkpoint(run: Run, name: str) -> Iterator[Entry]:
    """Each round asks with a new prompt, then with the same again."""
    family = checkpoint(name).family
    encoders = [
        family.model_name(each) for each in family.components if each.folder.startswith("text_encoder")
    ]
    misses, hits = [], []
    for _ in range(2 * run.rounds):
        body = {**run.fresh(), "model": family.name, "num_inference_steps": 1}
        misses.append(spent_by(run, body, encoders))
        hits.append(spent_by(run, {**body, "seed": next(run.takes)}, encoders))
    maker = Maker(PART, {"checkpoint": name, "clients": 1})
    yield maker.also(prompt="new").row("encoder stage", MILLISECONDS, map(milliseconds, misses))
    yield maker.also(prompt="repeated").row("encoder stage", MILLISECONDS, map(milliseconds, hits), REPEATED)
    yield maker.row("hits of a repeated prompt, of both encoders", "requests", map(hit_count, hits))


def spent_by(run: Run, body: Mapping[str, Any], encoders: list[str]) -> list[Spent]:
    before = run.service.statistics()
    all_good(closed(run.door, [body], 1))
    changed = change(before, run.service.statistics())
    return [changed[encoder] for encoder in encoders]


def milliseconds(stage: list[Spent]) -> float:
    """Of both encoders, queues included: they run after each other on a busy machine."""
    return 1000 * sum(each.queue + each.compute for each in stage)


def hit_count(stage: list[Spent]) -> float:
    return sum(each.hits for each in stage)
