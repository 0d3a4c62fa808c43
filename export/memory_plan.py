"""The rows of a memory plan: weights, contexts, scratch and adapters of what is to be resident on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from export.errors import ExportError
from export.gpus import Gpu
from export.scratch import (
    COMPONENTS,
    ESTIMATE,
    Figure,
    Measurements,
    engine_of,
    read_measured,
    scratch,
    weights,
)
from families.costs import WEIGHT_BYTES, adapter_bytes, weight_bytes
from families.layers import lora_targets
from families.published import PUBLISHED, complete
from families.spec import Configs

GB = 1_000_000_000
CONTEXTS = 1_200_000_000  # CUDA contexts of Triton's processes: an estimate, until measured
# Weights that stay in host memory and pass through a part of the GPU's: percent that is resident.
STREAMED = {"bf16_streamed": ("bf16", 10)}
PRECISIONS = (*WEIGHT_BYTES, *STREAMED)
SCRATCH = ("engine", "shared")  # one for each engine, or one that engines take in turn


def published_configs() -> dict[str, Configs]:
    return {published.family.name: published.configs for published in PUBLISHED.values()}


@dataclass(frozen=True)
class Demand:
    """What is to be resident together.

    `components`: "family.component" -> precision, of `PRECISIONS`; `size`: the largest picture's side in
    pixels; `scratch`: of `SCRATCH`; `adapters` of `rank` are kept for each denoiser; `configs`: by family.
    """

    components: Mapping[str, str]
    size: int = 1024
    scratch: str = "engine"
    adapters: int = 0
    rank: int = 16
    configs: Mapping[str, Configs] = field(default_factory=published_configs)


@dataclass(frozen=True)
class Row:
    """`part` is weights, contexts, scratch or adapters; `size` in bytes."""

    part: str
    name: str
    size: int
    source: str


@dataclass(frozen=True)
class MemoryPlan:
    gpu: Gpu
    demand: Demand
    measured: Measurements
    rows: tuple[Row, ...]

    @property
    def total(self) -> int:
        return sum(row.size for row in self.rows)

    @property
    def free(self) -> int:
        """Bytes left; negative where the plan does not fit."""
        return self.gpu.usable - self.total

    def part(self, name: str) -> int:
        """Bytes of all rows of one part."""
        return sum(row.size for row in self.rows if row.part == name)

    def table(self) -> str:
        """One line for each row, then total and free, in decimal GB."""
        demand = self.demand
        head = f"{self.gpu.name}, {self.gpu.usable / GB:.1f} GB usable; pictures to {demand.size} px; "
        lines = [_line(row.part, row.name, row.size, row.source) for row in self.rows]
        sums = [_line("total", "", self.total, ""), _line("free", "", self.free, "")]
        return "\n".join([f"{head}scratch: {demand.scratch}; GB decimal", *lines, *sums])


def _line(part: str, name: str, size: int, source: str) -> str:
    return f"  {part:9s} {name:34s} {size / GB:7.2f}  {source}".rstrip()


def memory_plan(gpu: Gpu, demand: Demand, measured: Measurements | None = None) -> MemoryPlan:
    """The rows of `demand`, with export/measured.json unless told; ExportError names unknown words."""
    _check(demand)
    found = read_measured() if measured is None else measured
    contexts = Row("contexts", "CUDA", CONTEXTS, ESTIMATE)
    rows = (*_weights(demand, found), contexts, *_scratch(demand, found), *_adapters(demand))
    return MemoryPlan(gpu, demand, found, rows)


def _check(demand: Demand) -> None:
    for key, precision in demand.components.items():
        if key not in COMPONENTS:
            raise ExportError(f"unknown component {key!r}; choices: {', '.join(COMPONENTS)}")
        if precision not in PRECISIONS:
            raise ExportError(f"unknown precision {precision!r} of {key}; choices: {', '.join(PRECISIONS)}")
    if demand.scratch not in SCRATCH:
        raise ExportError(f"unknown scratch {demand.scratch!r}; choices: {', '.join(SCRATCH)}")
    for name, least in (("size", 64), ("adapters", 0), ("rank", 1)):
        if getattr(demand, name) < least:
            raise ExportError(f"{name} {getattr(demand, name)} is less than {least}")


def _weights(demand: Demand, measured: Measurements) -> Iterator[Row]:
    """One row for each component; weights that two components share count with the first."""
    first: dict[object, str] = {}
    for key, precision in demand.components.items():
        family, component = COMPONENTS[key]
        config = complete(demand.configs[family.name][component.folder])
        owner = first.setdefault((component.name, precision, repr(sorted(config.items()))), key)
        figure = weights(key, precision, component_bytes(demand, key, precision), measured)
        if owner != key:
            figure = Figure(0, f"one copy with {owner}, if the weights are equal")
        yield Row("weights", f"{key} {precision}", figure.size, figure.source)


def component_bytes(demand: Demand, key: str, precision: str) -> int:
    """Resident bytes of the weights of `key` in `precision`, from the shapes."""
    family, component = COMPONENTS[key]
    stored, percent = STREAMED.get(precision, (precision, 100))
    return weight_bytes(family, component, demand.configs[family.name], stored) * percent // 100


def _scratch(demand: Demand, measured: Measurements) -> list[Row]:
    """The largest for each engine; of these the largest only, if engines share one."""
    largest: dict[str, Figure] = {}
    for key, precision in demand.components.items():
        figure = scratch(key, precision, demand.size, measured)
        if figure.size > largest.get(engine_of(key), Figure(0, "")).size:
            largest[engine_of(key)] = figure
    rows = [Row("scratch", name, figure.size, figure.source) for name, figure in largest.items()]
    if demand.scratch == "engine" or not rows:
        return rows
    most = max(rows, key=lambda row: row.size)
    return [replace(most, name=f"one for all, as of {most.name}")]


def _adapters(demand: Demand) -> Iterator[Row]:
    for key in demand.components if demand.adapters else ():
        family, component = COMPONENTS[key]
        if lora_targets(family, component, demand.configs[family.name]):
            size = demand.adapters * adapter_bytes(
                family, component, demand.configs[family.name], demand.rank
            )
            yield Row("adapters", f"{demand.adapters} of {key}, rank {demand.rank}", size, "from the shapes")
