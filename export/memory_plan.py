"""The rows of a memory plan: what takes memory of a GPU, and how much of it.

Weights, contexts, scratch, input buffers and adapters of all that is to be resident together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from export.errors import ExportError
from export.gpus import Gpu
from export.scratch import (
    ESTIMATE,
    Call,
    Figure,
    Measurements,
    engine_of,
    read_measured,
    scratch,
    weights,
)
from families import COMPONENTS
from families.costs import WEIGHT_BYTES, adapter_bytes, weight_bytes
from families.published import PUBLISHED, changes, complete, published_of
from families.spec import Configs

GB = 1_000_000_000
CONTEXTS = 1_200_000_000  # CUDA contexts of Triton's processes: an estimate, until measured
# Weights that stay in host memory and pass through a part of the GPU's: percent that is resident.
STREAMED = {"bf16_streamed": ("bf16", 10)}
PRECISIONS = (*WEIGHT_BYTES, *STREAMED)
# One for each engine, but one for all VAEs, if they run one at a time; one that all engines take in turn; one
# for each execution context, the VAEs' too, as Triton's C++ tensorrt backend allocates it.
SCRATCH = ("engine", "shared", "context")


def published_configs() -> dict[str, Configs]:
    return {published.family.name: published.configs for published in PUBLISHED.values()}


@dataclass(frozen=True)
class Demand:
    """What is to be resident together.

    `components`: "family.component" -> precision, of `PRECISIONS`; `size`: the largest picture's side in
    pixels; `scratch`: of `SCRATCH`; `adapters` of `rank` are kept for each denoiser; `configs`: by family;
    `batch`: pictures of the largest call; `lora_rank`: the largest that engines take as inputs, 0 if none.
    """

    components: Mapping[str, str]
    size: int = 1024
    scratch: str = "engine"
    adapters: int = 0
    rank: int = 16
    configs: Mapping[str, Configs] = field(default_factory=published_configs)
    batch: int = 1
    lora_rank: int = 0

    @property
    def call(self) -> Call:
        return Call(self.size, self.batch)


@dataclass(frozen=True)
class Row:
    """`part` is weights, contexts, scratch, inputs or adapters; `size` in bytes."""

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
        head = f"{self.gpu.name}, {self.gpu.usable / GB:.1f} GB usable; pictures to {demand.call}; "
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
    counting = {key: entries for key, entries in found.items() if _is_published(demand, key)}
    calls = (*_scratch(demand, counting), *_inputs(demand), *_adapters(demand))
    return MemoryPlan(gpu, demand, found, (*_weights(demand, counting), contexts, *calls))


def _is_published(demand: Demand, key: str) -> bool:
    """Whether the component has the sizes that were measured: those of the published checkpoint."""
    if key not in demand.components:
        return False
    family, component = COMPONENTS[key]
    return component.folder not in changes(published_of(family), demand.configs[family.name])


def _check(demand: Demand) -> None:
    for key, precision in demand.components.items():
        if key not in COMPONENTS:
            raise ExportError(f"unknown component {key!r}; choices: {', '.join(COMPONENTS)}")
        if precision not in PRECISIONS:
            raise ExportError(f"unknown precision {precision!r} of {key}; choices: {', '.join(PRECISIONS)}")
    if demand.scratch not in SCRATCH:
        raise ExportError(f"unknown scratch {demand.scratch!r}; choices: {', '.join(SCRATCH)}")
    for name, least in (("size", 64), ("adapters", 0), ("rank", 1), ("batch", 1), ("lora_rank", 0)):
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
    """The largest for each engine or context; of these the largest only, if engines share one."""
    largest: dict[str, Figure] = {}
    for key, precision in demand.components.items():
        name = key if demand.scratch == "context" else engine_of(key)
        figure = scratch(key, precision, demand.call, measured)
        if figure.size > largest.get(name, Figure(0, "")).size:
            largest[name] = figure
    rows = [Row("scratch", name, figure.size, figure.source) for name, figure in largest.items()]
    if demand.scratch != "shared" or not rows:
        return rows
    most = max(rows, key=lambda row: row.size)
    return [replace(most, name=f"one for all, as of {most.name}")]


def _inputs(demand: Demand) -> Iterator[Row]:
    """Triton's C++ tensorrt backend has buffers for the packed adapters of the largest call, always."""
    for key, size in _adapted(demand, demand.lora_rank) if demand.lora_rank else ():
        rows = demand.batch * COMPONENTS[key][1].rows_per_picture
        name = f"{key}: {rows} rows, rank {demand.lora_rank}"
        yield Row("inputs", name, rows * size, "from the shapes")


def _adapters(demand: Demand) -> Iterator[Row]:
    for key, size in _adapted(demand, demand.rank) if demand.adapters else ():
        name = f"{demand.adapters} of {key}, rank {demand.rank}"
        yield Row("adapters", name, demand.adapters * size, "from the shapes")


def _adapted(demand: Demand, rank: int) -> Iterator[tuple[str, int]]:
    """Components that take adapters, and the bytes of one of `rank`."""
    for key in demand.components:
        family, component = COMPONENTS[key]
        if size := adapter_bytes(family, component, demand.configs[family.name], rank):
            yield key, size
