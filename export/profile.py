"""The ranges of calls that an engine is built for, and what a command line may make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from export.errors import ExportError


class Span(NamedTuple):
    """Smallest size, the one to be fastest at, and largest."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return f"{self.min}..{self.max}"


@dataclass(frozen=True)
class Profile:
    """`size` in pixels of a side, `batch` in pictures, `text_length` in tokens, `rank` of the adapters."""

    size: Span
    batch: Span
    text_length: Span
    rank: Span


# What the families' engines can be built for at all: larger was never tried, and memory plans end there.
LIMITS = Profile(Span(64, 1024, 1536), Span(1, 1, 4), Span(1, 512, 512), Span(0, 16, 64))


def changed(profile: Profile, changes: Sequence[str]) -> Profile:
    """`profile` with `changes` such as "size=256,1024,1536"; ExportError names what cannot be."""
    for change in changes:
        name, _, sizes = change.partition("=")
        if name not in Profile.__dataclass_fields__:
            choices = ", ".join(Profile.__dataclass_fields__)
            raise ExportError(f"--profile {change!r}: unknown axis {name!r}; choices: {choices}")
        profile = replace(profile, **{name: _span(change, sizes, getattr(LIMITS, name))})
    return profile


def _span(change: str, sizes: str, limit: Span) -> Span:
    try:
        span = Span(*(int(size) for size in sizes.split(",")))
    except (TypeError, ValueError):
        raise ExportError(f"--profile {change!r} is not AXIS=MIN,OPT,MAX in whole numbers") from None
    if not span.min <= span.opt <= span.max:
        raise ExportError(f"--profile {change!r}: the three do not rise")
    if span.min < limit.min or span.max > limit.max:
        raise ExportError(f"--profile {change!r} leaves what the families can be built for: {limit}")
    return span
