"""Steps samples in a StepBatcher as tests need it: some join when others are half done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from lines import Line, alone

from diffusion.denoise import Engine, Sample
from diffusion.jobs import Job, Priority
from diffusion.step_batcher import Bounds, StepBatcher


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Asked:
    """A job and how it ended."""

    specs: list[tuple[int, int, int, int]]
    priority: Priority = Priority.INTERACTIVE
    deadline: float = math.inf
    endings: list[Exception | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.job = Job(
            [Line(*spec) for spec in self.specs],
            self.endings.append,
            key=str(id(self)),
            priority=self.priority,
            deadline=self.deadline,
        )

    @property
    def right(self) -> bool:
        """It ended once, and if it is finished, with the pictures that its samples are drawn alone."""
        (error,) = self.endings
        pairs = zip(self.specs, self.job.samples, strict=True)
        return error is not None or all(torch.equal(s.result(), alone(*spec)) for spec, s in pairs)


def step_to_end(batcher: StepBatcher) -> None:
    while batcher.running or batcher.pending:
        batcher.step()


def join_later(early: Sample, late: Sample, engine: Engine, max_rows: int, steps: int) -> None:
    """`late` joins after `steps` of `early`; both to their ends."""
    batcher = StepBatcher(engine, Bounds(max_rows))
    submit(batcher, early)
    for _ in range(steps):
        batcher.step()
    submit(batcher, late)
    step_to_end(batcher)


def submit(batcher: StepBatcher, *samples: Sample) -> list[Exception | None]:
    """Each as a job of its own; gives how they ended, in that order."""
    ended: list[Exception | None] = []
    for sample in samples:
        batcher.submit(Job([sample], ended.append))
    return ended


def shared_calls(samples: Sequence[Sample], engine: Engine, max_rows: int) -> list[list[Sample]]:
    """The samples of each call until every one has been stepped once."""
    batcher = StepBatcher(engine, Bounds(max_rows, max_running=len(samples)))
    submit(batcher, *samples)
    calls = []
    while any(sample.step == 0 for sample in samples):
        before = [sample.step for sample in samples]
        batcher.step()
        calls.append([sample for sample, step in zip(samples, before, strict=True) if sample.step > step])
    return calls
