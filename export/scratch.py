"""Scratch: the memory that an engine works in besides its weights; measured where it was, else estimated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import ExportError
from families import FAMILIES

MEASURED = Path(__file__).with_name("measured.json")
ESTIMATE = "estimate"
COMPONENTS = {
    f"{family.name}.{component.name}": (family, component)
    for family in FAMILIES.values()
    for component in family.components
}


@dataclass(frozen=True)
class Figure:
    """Bytes, and where the number comes from."""

    size: int
    source: str


@dataclass(frozen=True)
class Measured:
    """An entry of measured.json. `px` and `batch` are the largest that the engine took.

    Without `precision` the scratch counts for every precision, the weights for none.
    """

    px: int
    batch: int
    scratch_bytes: int
    weights_bytes: int
    source: str
    precision: str | None = None

    def covers(self, precision: str, px: int) -> bool:
        return self.px >= px and self.precision in (None, precision)

    @property
    def said(self) -> str:
        return f"measured at {self.px} px, batch {self.batch}: {self.source}"


Measurements = Mapping[str, Measured]  # family.component -> what was measured

# Bytes at two sizes in pixels, batch 1, at true size. Both halves of both VAEs run one at a time, in one.
# flux.transformer at 1024 px: 33.85 GiB of peak less 31.44 GiB of weights in diffusers-torchao's table.
ESTIMATES: Mapping[str, Mapping[int, int]] = {
    "flux.transformer": {512: 900_000_000, 1024: 2_600_000_000},
    "sdxl.unet": {512: 900_000_000, 1024: 3_000_000_000},
    "vae": {512: 700_000_000, 1024: 2_600_000_000},
}


def engine_of(key: str) -> str:
    """What the component `key`, "family.component", shares its scratch with even where engines do not."""
    return "vae" if ".vae_" in key else key


def estimate(key: str, px: int) -> Figure:
    """Scratch of `key` for pictures of `px` x `px`, linear in pixels; none for text encoders."""
    sizes = ESTIMATES.get(engine_of(key))
    if sizes is None:
        return Figure(0, ESTIMATE)
    (low, least), (high, most) = sorted(sizes.items())
    share = (most - least) * (px**2 - low**2) // (high**2 - low**2)
    return Figure(max(0, least + share), ESTIMATE)


def scratch(key: str, precision: str, px: int, measured: Measurements) -> Figure:
    """Scratch of one component: measured at this size or a larger one, else estimated."""
    entry = measured.get(key)
    if entry is None or not entry.covers(precision, px):
        return estimate(key, px)
    return Figure(entry.scratch_bytes, entry.said)


def weights(key: str, precision: str, computed: int, measured: Measurements) -> Figure:
    """Weights of one component: measured in this very precision, else `computed` from the shapes."""
    entry = measured.get(key)
    if entry is None or entry.precision != precision:
        return Figure(computed, "from the shapes")
    return Figure(entry.weights_bytes, entry.said)


def read_measured(path: Path = MEASURED) -> dict[str, Measured]:
    """The entries of measured.json, none if there is no such file; ExportError names what is wrong in it."""
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise ExportError(f"{path} holds a {type(entries).__name__}, not an object")
    for key in entries:
        if key not in COMPONENTS:
            raise ExportError(f"{path}: unknown component {key!r}; choices: {', '.join(COMPONENTS)}")
    return {key: _measured(path, key, entry) for key, entry in entries.items()}


def _measured(path: Path, key: str, entry: dict[str, Any]) -> Measured:
    try:
        measured = Measured(**entry)
    except TypeError as error:
        fields = ", ".join(Measured.__dataclass_fields__)
        raise ExportError(f"{path}: {key} {entry}: {error}; an entry has {fields}") from None
    for name in ("px", "batch", "scratch_bytes", "weights_bytes"):
        if not isinstance(getattr(measured, name), int) or getattr(measured, name) < 0:
            raise ExportError(f"{path}: {key} {name} {getattr(measured, name)!r} is not a whole number")
    return measured
