"""Scratch: the memory that an engine works in besides its weights; measured where it was, else estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from export.checkpoint import read_json
from export.errors import ExportError
from export.targets import SIXTEEN_BIT
from families import COMPONENTS, ComponentSpec

MEASURED = Path(__file__).with_name("measured.json")
ESTIMATE = "estimate"
# What works in 16 bits between its integer products, or keeps weights elsewhere: scratch is as in 16 bits.
AS_IN_16_BIT = ("int8", "int8_weights", "bf16_streamed")


class Call(NamedTuple):
    """The largest call of an engine: pictures of `px` x `px` pixels, `batch` of them."""

    px: int
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.px} px, batch {self.batch}"

    def work(self, component: ComponentSpec) -> int:
        """What scratch grows with: pixels x batch; text encoders see no pixels."""
        return self.batch * (self.px**2 if _sees_pixels(component) else 1)

    def covers(self, other: Call, component: ComponentSpec) -> bool:
        return self.batch >= other.batch and (self.px >= other.px or not _sees_pixels(component))


def _sees_pixels(component: ComponentSpec) -> bool:
    return any(set(tensor.dynamic_axes.values()) - {"batch", "text_length"} for tensor in component.inputs)


@dataclass(frozen=True)
class Figure:
    """Bytes, and where the number comes from."""

    size: int
    source: str


@dataclass(frozen=True)
class Measured:
    """One measurement of a component in measured.json: `px` and `batch` are the largest that the engine took.

    `weights_bytes` is None where not all of the model was compiled.
    """

    px: int
    batch: int
    precision: str
    scratch_bytes: int
    weights_bytes: int | None
    source: str

    @property
    def call(self) -> Call:
        return Call(self.px, self.batch)


Measurements = Mapping[str, tuple[Measured, ...]]  # family.component -> what was measured

# Bytes at two sizes in pixels, batch 1, at true size: with guidance, so two rows of the UNet. Both halves of
# both VAEs run one at a time, in one.
# flux.transformer at 1024 px: 33.85 GiB of peak less 31.44 GiB of weights in diffusers-torchao's table.
ESTIMATES: Mapping[str, Mapping[int, int]] = {
    "flux.transformer": {512: 900_000_000, 1024: 2_600_000_000},
    "sdxl.unet": {512: 900_000_000, 1024: 3_000_000_000},
    "vae": {512: 700_000_000, 1024: 2_600_000_000},
}


def engine_of(key: str) -> str:
    """What the component `key`, "family.component", shares its scratch with if VAEs run one at a time."""
    return "vae" if ".vae_" in key else key


def estimate(key: str, call: Call) -> Figure:
    """Scratch of `key`, linear in pixels x batch; none for text encoders."""
    sizes = ESTIMATES.get(engine_of(key))
    if sizes is None:
        return Figure(0, ESTIMATE)
    (low, least), (high, most) = sorted(sizes.items())
    share = (most - least) * (call.px**2 * call.batch - low**2) // (high**2 - low**2)
    return Figure(max(0, least + share), ESTIMATE)


def scratch(key: str, precision: str, call: Call, measured: Measurements) -> Figure:
    """Scratch of one component for `call`.

    That of the smallest call measured that covers it, else of the largest, scaled; else estimated.
    """
    component = COMPONENTS[key][1]
    usable = sorted(_usable(key, precision, measured), key=lambda entry: entry.call.work(component))
    if not usable:
        return estimate(key, call)
    entry = next((entry for entry in usable if entry.call.covers(call, component)), usable[-1])
    like = "" if entry.precision == precision else f" as measured in {entry.precision}"
    if entry.call.covers(call, component):
        return Figure(entry.scratch_bytes, f"{like.strip() or 'measured'} at {entry.call}: {entry.source}")
    # Never less than was measured: a call that is larger in one way only may need as much.
    size = entry.scratch_bytes * max(1, call.work(component) / entry.call.work(component))
    return Figure(round(size), f"scaled from {entry.call}{like}: {entry.source}")


def _usable(key: str, precision: str, measured: Measurements) -> list[Measured]:
    """Measurements whose scratch counts in `precision`: those in it, else in 16 bits if it works in these."""
    entries = measured.get(key, ())
    like = SIXTEEN_BIT if precision in AS_IN_16_BIT else ()
    same = [entry for entry in entries if entry.precision == precision]
    return same or [entry for entry in entries if entry.precision in like]


def weights(key: str, precision: str, computed: int, measured: Measurements) -> Figure:
    """Weights of one component: measured in this very precision, else `computed` from the shapes."""
    found = [
        Figure(entry.weights_bytes, f"measured: {entry.source}")
        for entry in measured.get(key, ())
        if entry.precision == precision and entry.weights_bytes is not None
    ]
    return max(found, key=lambda figure: figure.size, default=Figure(computed, "from the shapes"))


def read_measured(path: Path | None = None) -> dict[str, tuple[Measured, ...]]:
    """The entries of measured.json, none if there is no such file; ExportError names what is wrong in it."""
    path = path or MEASURED
    if not path.is_file():
        return {}
    return {key: _component(path, key, some) for key, some in read_json(path).items()}


def _component(path: Path, key: str, entries: Any) -> tuple[Measured, ...]:
    if key not in COMPONENTS:
        raise ExportError(f"{path}: unknown component {key!r}; choices: {', '.join(COMPONENTS)}")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ExportError(f"{path}: {key} is not a list of measurements")
    return tuple(_measured(path, key, entry) for entry in entries)


def _measured(path: Path, key: str, entry: dict[str, Any]) -> Measured:
    try:
        measured = Measured(**entry)
    except TypeError as error:
        fields = ", ".join(Measured.__dataclass_fields__)
        raise ExportError(f"{path}: {key} {entry}: {error}; an entry has {fields}") from None
    for name, least in (("px", 1), ("batch", 1), ("scratch_bytes", 0), ("weights_bytes", 0)):
        value = getattr(measured, name)
        null = name == "weights_bytes" and value is None
        if not null and (type(value) is not int or value < least):
            raise ExportError(f"{path}: {key} {name} {value!r} is not a whole number from {least}")
    return measured
