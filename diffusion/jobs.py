"""A request's way through the step batcher: what it is, how long it may wait, how far it has come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from diffusion.denoise import Sample
from families import InvalidRequest
from families.control import PRIORITIES


class Priority(IntEnum):
    """Who goes first, of families' PRIORITIES. Batch work is never starved, see StepBatcher."""

    INTERACTIVE = 0
    BATCH = 1

    @classmethod
    def named(cls, name: str) -> Priority:
        """InvalidRequest lists the choices."""
        if name not in PRIORITIES:
            raise InvalidRequest(f"priority {name!r} is unknown; choices: {', '.join(PRIORITIES)}")
        return cls[name.upper()]


@dataclass(frozen=True)
class Progress:
    """`steps` of the slowest picture; `seconds` since it was submitted; `eta_seconds` once steps are made."""

    state: Literal["pending", "running"]
    step: int
    steps: int
    seconds: float
    eta_seconds: float | None


def stays() -> bool:
    """The `left` of a client that says so itself."""
    return False


@dataclass(eq=False)
class Job:
    """The samples of one request: they start together and are answered together.

    `ended` is called once: with None when every sample is done, or with the error that ended the job; it must
    not raise, and nor must `left`, which tells whether its client is gone. `deadline` is a time of the
    batcher's clock.
    """

    samples: Sequence[Sample]
    ended: Callable[[Exception | None], None]
    key: str = ""
    priority: Priority = Priority.INTERACTIVE
    deadline: float = math.inf
    left: Callable[[], bool] = stays
    cancelled: bool = False
    submitted: float = field(default=0.0, init=False)
    admitted: float | None = field(default=None, init=False)

    @property
    def error(self) -> Exception | None:
        return next((sample.error for sample in self.samples if sample.error), None)

    @property
    def done(self) -> bool:
        return not any(sample.running for sample in self.samples)

    def progress(self, now: float) -> Progress:
        slowest = min(self.samples, key=lambda sample: sample.step - len(sample.timesteps))
        step, steps = slowest.step, len(slowest.timesteps)
        if self.admitted is None:
            return Progress("pending", 0, steps, now - self.submitted, None)
        eta = (now - self.admitted) / step * (steps - step) if step else None
        return Progress("running", step, steps, now - self.submitted, eta)
