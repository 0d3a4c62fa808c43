"""What a benchmark hands over: one figure each, with its spread, what it holds for, and what it should be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.adapters.turns import Spread, spread

Condition = str | int | float
MILLISECONDS, RATIO, PER_SECOND = "ms", "ratio", "pictures/s"


@dataclass(frozen=True)
class Goal:
    """A line of acceptance: `name` ("E4"), and the `limit` that a median is at least or at most."""

    name: str
    at_least: bool
    limit: float

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{self.name}: {'>=' if self.at_least else '<='} {self.limit:g}"


def at_least(name: str, limit: float) -> Goal:
    return Goal(name, True, limit)


def at_most(name: str, limit: float) -> Goal:
    return Goal(name, False, limit)


@dataclass(frozen=True)
class Row:
    """`value` of `n` measurements in `unit`; a ratio says `of` what to what. `floor` is in `unit` too."""

    part: str
    name: str
    unit: str
    value: Spread
    n: int
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    of: str = ""
    floor: float | None = None
    goal: Goal | None = None

    @property
    def command(self) -> str:
        return f"python -m benchmarks {self.part}"

    @property
    def verdict(self) -> str:
        """Empty where nothing is asked."""
        return ("met" if self.goal.met(self.value.median) else "missed") if self.goal else ""

    def line(self) -> str:
        """JSON for machines."""
        return json.dumps({
            "part": self.part,
            "name": self.name,
            "unit": self.unit,
            "median": self.value.median,
            "quartiles": [self.value.low, self.value.high],
            "n": self.n,
            "of": self.of or None,
            "floor": self.floor,
            "goal": str(self.goal) if self.goal else None,
            "verdict": self.verdict or None,
            "conditions": dict(self.conditions),
            "command": self.command,
        })  # fmt: skip


@dataclass(frozen=True)
class Missing:
    """A part, or a `what` of it, that could not be measured, and why; `failed`: though it should have."""

    part: str
    what: str
    reason: str
    failed: bool = False

    def line(self) -> str:
        return json.dumps({"part": self.part, "missing": self.what, "reason": self.reason})


Entry = Row | Missing


@dataclass(frozen=True)
class Maker:
    """Makes the rows of one part that share conditions."""

    part: str
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    def also(self, **conditions: Condition) -> Maker:
        return Maker(self.part, {**self.conditions, **conditions})

    def row(
        self,
        name: str,
        unit: str,
        values: Iterable[float],
        goal: Goal | None = None,
        floor: float | None = None,
    ) -> Row:
        found = list(values)
        return Row(self.part, name, unit, spread(found), len(found), self.conditions, "", floor, goal)

    def ratio(self, name: str, of: str, values: Iterable[float], goal: Goal | None = None) -> Row:
        found = list(values)
        return Row(self.part, name, RATIO, spread(found), len(found), self.conditions, of, None, goal)

    def percentile(
        self, name: str, share: float, rounds: Sequence[Sequence[float]], goal: Goal | None = None
    ) -> Row:
        """Of the values of all rounds; the quartiles are of the rounds' own percentiles."""
        values = [value for each in rounds for value in each]
        around = spread(float(np.percentile(each, share)) for each in rounds if len(each))
        value = Spread(around.low, float(np.percentile(values, share)), around.high)
        return Row(self.part, name, MILLISECONDS, value, len(values), self.conditions, "", None, goal)


def percentiles(values: Iterable[float], *shares: float) -> list[float]:
    return [float(value) for value in np.percentile(list(values), shares)]
