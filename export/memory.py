"""What fits on a GPU, planned before anything is built or loaded: `python -m export.memory --plan E`."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

from export.errors import ExportError
from export.gpus import GPUS, gpu_named
from export.memory_plan import GB, SCRATCH, Demand, MemoryPlan, component_bytes, memory_plan
from export.scratch import COMPONENTS

__all__ = ["PLANS", "Demand", "MemoryPlan", "check_memory", "memory_plan"]

FP16 = ("flux.text_encoder", "sdxl.text_encoder", "sdxl.text_encoder_2", "sdxl.unet")  # others overflow in it
SIXTEEN = {key: "fp16" if key in FP16 else "bf16" for key in COMPONENTS}
T5_INT8 = {"flux.text_encoder_2": "int8_weights"}
PLANS: Mapping[str, Mapping[str, str]] = {
    "A": SIXTEEN,
    "B": {**SIXTEEN, **T5_INT8},
    "C": {**SIXTEEN, **T5_INT8, "sdxl.unet": "int8"},
    "D": {**SIXTEEN, "flux.text_encoder_2": "bf16_streamed"},
    "E": {**SIXTEEN, **T5_INT8, "flux.transformer": "int8"},
    "F": {**SIXTEEN, "flux.transformer": "int8"},
}


class Change(NamedTuple):
    """One thing that makes a plan smaller, in the command's words."""

    words: str
    apply: Callable[[Demand], Demand]


# Smaller precisions that may be proposed, the gentlest first: T5's rounds the prompt's embedding, once; those
# of denoisers every step.
SMALLER = {"flux.text_encoder_2": "int8_weights", "sdxl.unet": "int8", "flux.transformer": "int8"}
SIZES = (1024, 768, 512)


def check_memory(plan: MemoryPlan, allowed: Mapping[str, Collection[str]] | None = None) -> None:
    """ExportError unless `plan` fits: what is too much, by how much, and what would make it fit.

    `allowed`: component -> the precisions that may be proposed, as `Target.precisions`; all unless told.
    """
    if plan.free >= 0:
        return
    most = max(plan.rows, key=lambda row: row.size)
    raise ExportError(
        f"{plan.gpu.name} has {plan.gpu.usable / GB:.1f} GB, this takes {plan.total / GB:.1f}: "
        f"{-plan.free / GB:.3f} GB too much, most of it {most.part} of {most.name} "
        f"({most.size / GB:.1f} GB); " + _advice(plan, _changes(plan.demand, allowed))
    )


def _changes(
    demand: Demand, allowed: Mapping[str, Collection[str]] | None
) -> list[tuple[Change | None, ...]]:
    """Alternatives, those first that change the pictures least; None leaves all as it is.

    One scratch changes no picture: engines take turns. Smaller pictures come last: larger ones are refused.
    """
    precisions = [
        (None, _precision(key, precision))
        for key, precision in SMALLER.items()
        if (allowed is None or precision in allowed.get(key, ())) and _is_smaller(demand, key, precision)
    ]
    sizes = [_size(size) for size in SIZES if size < demand.size]
    shared = Change("--scratch shared", lambda before: replace(before, scratch="shared"))
    return [(None, shared), *precisions, (None, *sizes)]


def _is_smaller(demand: Demand, key: str, precision: str) -> bool:
    now = demand.components.get(key)
    return now is not None and component_bytes(demand, key, precision) < component_bytes(demand, key, now)


def _precision(key: str, precision: str) -> Change:
    def apply(before: Demand) -> Demand:
        return replace(before, components={**before.components, key: precision})

    return Change(f"{key}={precision}", apply)


def _size(size: int) -> Change:
    return Change(f"--size {size}", lambda before: replace(before, size=size))


def _advice(plan: MemoryPlan, alternatives: Sequence[tuple[Change | None, ...]]) -> str:
    """The gentlest change that suffices alone, and the gentlest of all if that is several."""
    # The last of `product` varies fastest, so that what is gentlest is tried first.
    products = itertools.product(*reversed(alternatives))
    tried = [tuple(change for change in reversed(some) if change) for some in products]
    fitting = [some for some in tried if _fits(plan, some)]
    single = next((some for some in fitting if len(some) == 1), None)
    chosen = [some for some in dict.fromkeys((single, *fitting[:1])) if some]
    ways = [" and ".join(change.words for change in some) for some in chosen]
    return f"it fits with {', or more gently with '.join(ways)}" if ways else "nothing known makes it fit"


def _fits(plan: MemoryPlan, changes: Sequence[Change]) -> bool:
    demand = reduce(lambda before, change: change.apply(before), changes, plan.demand)
    return memory_plan(plan.gpu, demand, plan.measured).free >= 0


def _components(plan: str | None, choices: Sequence[str]) -> dict[str, str]:
    """`choices` such as "flux.transformer=int8" over the plan's, if one is named."""
    if plan is not None and plan not in PLANS:
        raise ExportError(f"unknown plan {plan!r}; choices: {', '.join(PLANS)}")
    components = dict(PLANS[plan]) if plan else {}
    for choice in choices:
        key, equals, precision = choice.partition("=")
        if not equals:
            raise ExportError(f"{choice!r} is not COMPONENT=PRECISION, such as flux.transformer=int8")
        components[key] = precision
    return components


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.memory", description=__doc__)
    parser.add_argument("--gpu", default="A100-40", help=f"{', '.join(GPUS)}; A100-40 unless told")
    parser.add_argument("--plan", help=f"a named choice of precisions for all: {', '.join(PLANS)}")
    parser.add_argument("--components", nargs="+", default=[], metavar="NAME=PRECISION", help="over --plan's")
    parser.add_argument("--size", type=int, default=1024, help="side of the largest picture, in pixels")
    parser.add_argument("--scratch", default="engine", help=f"{', '.join(SCRATCH)}; engine unless told")
    parser.add_argument("--adapters", type=int, default=0, help="resident for each denoiser")
    parser.add_argument("--rank", type=int, default=16, help="the adapters'")
    return parser


def show(options: argparse.Namespace) -> None:
    """Prints the plan; ExportError if it does not fit."""
    components = _components(options.plan, options.components)
    if not components:
        raise ExportError(f"name --components or a --plan; choices: {', '.join(PLANS)}")
    demand = Demand(components, options.size, options.scratch, options.adapters, options.rank)
    plan = memory_plan(gpu_named(options.gpu), demand)
    print(plan.table())
    check_memory(plan)


def main(arguments: list[str]) -> int:
    try:
        show(parser().parse_args(arguments))
    except ExportError as error:
        print(f"export.memory: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
