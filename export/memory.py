"""What fits on a GPU, planned before anything is built or loaded: `python -m export.memory --plan E`."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

from export.errors import ExportError
from export.gpus import GPUS, gpu_named
from export.layout import Layout
from export.memory_plan import GB, SCRATCH, Demand, MemoryPlan, component_bytes, memory_plan
from export.profile import Span
from export.targets import TARGETS
from families import COMPONENTS

__all__ = ["PLANS", "Demand", "MemoryPlan", "check_fits", "check_memory", "memory_plan"]

SIXTEEN = {key: TARGETS["a100"].sixteen_bit(key) for key in COMPONENTS}
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
    """One thing that makes a plan smaller, in a command's words."""

    option: str
    value: str
    apply: Callable[[Demand], Demand]


Alternatives = Sequence[tuple[Change | None, ...]]  # None leaves all as it is
# Smaller precisions that may be proposed, the gentlest first: T5's rounds the prompt's embedding, once; those
# of denoisers every step.
PACKS_KEPT = 8  # of the usual rank: what diffusion.adapters.packs.CACHE_BYTES holds of FLUX.1-dev
SMALLER = {"flux.text_encoder_2": "int8_weights", "sdxl.unet": "int8", "flux.transformer": "int8"}
SIZES = (1280, 1024, 768, 512)


def check_memory(plan: MemoryPlan, alternatives: Alternatives | None = None) -> None:
    """ExportError unless `plan` fits: what is too much, by how much, and what would make it fit.

    `alternatives` are what may be proposed, the gentlest first; unless told, in the words of this command.
    """
    if plan.free >= 0:
        return
    most = max(plan.rows, key=lambda row: row.size)
    changes = _own_changes(plan.demand) if alternatives is None else alternatives
    raise ExportError(
        f"{plan.gpu.name} has {plan.gpu.usable / GB:.1f} GB, this takes {plan.total / GB:.1f}: "
        f"{-plan.free / GB:.3f} GB too much, most of it {most.part} of {most.name} "
        f"({most.size / GB:.1f} GB); " + _advice(plan, changes)
    )


def check_fits(layout: Layout) -> str:
    """The memory plan of the engines of `layout` at its profile's largest call; empty without a GPU.

    ExportError unless they fit, with what would make them fit, in the words of `python -m export`.
    """
    target, family = layout.target, layout.family
    if target.gpu is None:
        return ""
    demand = Demand(
        {layout.key(component): layout.precision(component) for component in family.components},
        size=target.max_size,
        scratch="context",
        configs={family.name: layout.checkpoint.configs},
        batch=target.profile.batch.max,
        lora_rank=layout.max_rank,
        adapters=PACKS_KEPT if layout.lora else 0,
        rank=target.profile.rank.opt,
    )
    try:
        plan = memory_plan(gpu_named(target.gpu), demand)
    except ValueError as error:  # a config of a structure that families/ does not know
        raise ExportError(str(error)) from None
    check_memory(plan, _export_changes(layout, demand))
    return plan.table()


def _own_changes(demand: Demand) -> Alternatives:
    """Those first that change the pictures least, smaller pictures last: larger ones are refused.

    One scratch changes no picture: engines take turns. Nor does a smaller batch: fewer are made at a time.
    """
    shared = Change("--scratch", "shared", lambda before: replace(before, scratch="shared"))
    batches = [_batch("--batch", str(batch), batch) for batch in range(demand.batch - 1, 0, -1)]
    sizes = [_size("--size", str(size), size) for size in SIZES if size < demand.size]
    precisions = [(None, _precision("--components", key, key)) for key in SMALLER if _is_smaller(demand, key)]
    return [(None, shared), (None, *batches), *precisions, (None, *sizes)]


def _export_changes(layout: Layout, demand: Demand) -> Alternatives:
    """What an export may change. Sizes stay those that the checkpoint draws."""
    profile, native = layout.target.profile, layout.checkpoint.native_size
    batches = range(profile.batch.max - 1, profile.batch.min - 1, -1)
    sizes = [size for size in SIZES if max(native, profile.size.min) <= size < profile.size.max]
    fewer = [_batch("--profile", _axis("batch", profile.batch, batch), batch) for batch in batches]
    smaller = [_size("--profile", _axis("size", profile.size, size), size) for size in sizes]
    precisions = [
        (None, _precision("--precision", key.partition(".")[2], key))
        for key, precision in SMALLER.items()
        if precision in layout.target.precisions[key] and _is_smaller(demand, key)
    ]
    return [(None, *fewer), *precisions, (None, *smaller)]


def _axis(name: str, span: Span, most: int) -> str:
    return f"{name}={span.min},{min(span.opt, most)},{most}"


def _is_smaller(demand: Demand, key: str) -> bool:
    """Whether `key` is part of the plan, in a precision that takes more than its smaller one."""
    now = demand.components.get(key)
    return now is not None and component_bytes(demand, key, SMALLER[key]) < component_bytes(demand, key, now)


def _precision(option: str, name: str, key: str) -> Change:
    def apply(before: Demand) -> Demand:
        return replace(before, components={**before.components, key: SMALLER[key]})

    return Change(option, f"{name}={SMALLER[key]}", apply)


def _batch(option: str, value: str, batch: int) -> Change:
    return Change(option, value, lambda before: replace(before, batch=batch))


def _size(option: str, value: str, size: int) -> Change:
    return Change(option, value, lambda before: replace(before, size=size))


def _advice(plan: MemoryPlan, alternatives: Alternatives) -> str:
    """The gentlest change that suffices alone, and the gentlest of all if that is several."""
    # The last of `product` varies fastest, so that what is gentlest is tried first.
    products = itertools.product(*reversed(alternatives))
    tried = [tuple(change for change in reversed(some) if change) for some in products]
    gentlest = next((some for some in tried if _fits(plan, some)), None)
    single = next((some for some in tried if len(some) == 1 and _fits(plan, some)), None)
    ways = [_words(some) for some in dict.fromkeys((single, gentlest)) if some]
    return f"it fits with {', or more gently with '.join(ways)}" if ways else "nothing known makes it fit"


def _words(changes: Sequence[Change]) -> str:
    """Options of a command, each once."""
    options: dict[str, list[str]] = {}
    for change in changes:
        options.setdefault(change.option, []).append(change.value)
    return " ".join(" ".join((option, *values)) for option, values in options.items())


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
    parser.add_argument("--batch", type=int, default=1, help="pictures of the largest call")
    parser.add_argument("--scratch", default="engine", help=f"{', '.join(SCRATCH)}; engine unless told")
    parser.add_argument("--adapters", type=int, default=0, help="resident for each denoiser")
    parser.add_argument("--rank", type=int, default=16, help="the adapters'")
    parser.add_argument(
        "--lora-rank", type=int, default=0, help="largest that engines take as inputs; 0: none"
    )
    parser.add_argument("--estimates", action="store_true", help="leave out what export/measured.json says")
    return parser


def show(options: argparse.Namespace) -> None:
    """Prints the plan; ExportError if it does not fit."""
    components = _components(options.plan, options.components)
    if not components:
        raise ExportError(f"name --components or a --plan; choices: {', '.join(PLANS)}")
    names = ("size", "scratch", "adapters", "rank", "batch", "lora_rank")
    demand = Demand(components, **{name: getattr(options, name) for name in names})
    plan = memory_plan(gpu_named(options.gpu), demand, {} if options.estimates else None)
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
