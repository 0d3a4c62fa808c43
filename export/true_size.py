"""FLUX.1-dev's and SDXL's true graphs, exported, parsed and compiled without their weights.

`python -m export.true_size`: every component is traced at its published size with LoRA inputs, each weight
under its state-dict name, and parsed by TensorRT-RTX, the weights being zeros that take no memory. With
`--build` the named components are compiled for the A100 too, with random weights; what the builder says of
their memory is kept in export/measured.json, for export.memory.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn

from export import engine, graph, values
from export.component import job, quantised, weightless
from export.errors import ExportError
from export.files import replacing_file
from export.finished import Engine
from export.layout import Layout
from export.process import peak_gb
from export.profile import changed
from export.quantise_graph import INPUT_SCALE, WEIGHT_SCALE
from export.scratch import MEASURED
from export.spill import Buffer, Spill
from export.targets import SIXTEEN_BIT, TARGETS, with_precisions
from export.weights import spellings
from families import COMPONENTS, ComponentSpec
from families.layers import parameters
from families.published import Published, published_of

BUILDER = "tensorrt_rtx"
# What 24 GB of host memory cannot compile whole: so many layers of true width need the same scratch.
CUT = {
    "flux.transformer": {"num_layers": 2, "num_single_layers": 2},
    "flux.text_encoder_2": {"num_layers": 2},
}
PROFILE = ("size=256,1024,1536", "batch=1,1,4")  # all that the families can be built for
PEAK_GB = 3.0
HEADING = (
    f"{'component':<22}{'precision':<14}{'G parameters':>13}{'named':>7}{'known':>7}{'nodes':>8}{'graph':>9}"
    f"{'parse':>8}{'peak GB':>9}"
)


def layout_of(published: Published, component: ComponentSpec, precision: str) -> Layout:
    target = with_precisions(TARGETS["a100"], published.family, [f"{component.name}={precision}"])
    return Layout(
        checkpoint=published, target=replace(target, profile=changed(target.profile, PROFILE)), lora=True
    )


def found(key: str) -> tuple[Published, ComponentSpec]:
    """The published checkpoint and the component of "family.component"."""
    if key not in COMPONENTS:
        raise ExportError(f"unknown component {key!r}; choices: {', '.join(COMPONENTS)}")
    family, component = COMPONENTS[key]
    return published_of(family), component


def sixteen_bit(key: str) -> str:
    return TARGETS["a100"].sixteen_bit(key)


def check(key: str) -> Iterator[str]:
    """Rows of the table, one for each precision of the target; ExportError says what is wrong."""
    published, component = found(key)
    started, layout = time.perf_counter(), layout_of(published, component, sixteen_bit(key))
    model, structure = weightless(layout, component)
    traced = time.perf_counter() - started
    total, named = _names(layout, component, model, structure)
    for precision in [
        sixteen_bit(key),
        *(p for p in TARGETS["a100"].precisions[key] if p not in SIXTEEN_BIT),
    ]:
        layout, started = layout_of(published, component, precision), time.perf_counter()
        model = quantised(layout, component, model)
        known = _parse(layout, component, model)
        figures = f"{total / 1e9:>13.3f}{named:>6.0%} {known:>6.0%} {len(model.graph):>7}{traced:>7.0f} s"
        yield f"{key:<22}{precision:<14}{figures}{time.perf_counter() - started:>6.0f} s{peak_gb():>9.2f}"
    if peak_gb() > PEAK_GB:
        raise ExportError(f"{key} took {peak_gb():.2f} GB; allowed {PEAK_GB}")


def _names(
    layout: Layout, component: ComponentSpec, model: ir.Model, structure: nn.Module
) -> tuple[int, float]:
    """Parameters of the component, and the share of the graph's weights that bear one's state-dict name."""
    facts = parameters(layout.family, component, layout.checkpoint.configs)
    weights, own = graph.missing(model), dict(structure.named_parameters(remove_duplicate=False))
    for value in weights:
        shapes = [facts[name] for name in spellings(str(value.name)) if name in facts]  # tied ones have two
        if not shapes or shapes[0] != tuple(graph.sizes(value)):
            raise ExportError(f"{component.name}: {value.name} {graph.sizes(value)} is not as families/ says")
    unknown = {str(value.name) for value in weights} - set(own)
    return sum(math.prod(shape) for shape in facts.values()), 1 - len(unknown) / len(weights)


def _parse(layout: Layout, component: ComponentSpec, model: ir.Model) -> float:
    """Parses the graph; the share of its weights that the network knows by name."""
    with tempfile.TemporaryDirectory() as folder:
        work, _spill = unfilled(layout, component, model, Path(folder), no_weight)
        known = engine.known_weights(BUILDER, work)
    return len(known) / len(work.weights)


def unfilled(
    layout: Layout,
    component: ComponentSpec,
    model: ir.Model,
    folder: Path,
    place: Callable[[Spill, ir.Value], Buffer],
) -> tuple[engine.Job, Spill]:
    """A build whose weights `place` makes up; the Spill has to live as long as it."""
    spill = Spill(folder, values.capacity(model))
    buffers = {str(value.name): place(spill, value) for value in graph.missing(model)}
    return job(layout, component, model, buffers), spill


def no_weight(spill: Spill, value: ir.Value) -> Buffer:
    """Zeros that take no memory; ones where the parser refuses a scale of zero."""
    if str(value.name).endswith((WEIGHT_SCALE, INPUT_SCALE)):
        return spill.keep(torch.ones(graph.sizes(value), dtype=graph.TORCH_DTYPES[graph.dtype(value)]))
    return spill.reserve(graph.nbytes(value))


def random_weight(spill: Spill, value: ir.Value) -> Buffer:
    """Small normal numbers, or integers of the whole range, in the type of `value`."""
    dtype, sizes = graph.TORCH_DTYPES[graph.dtype(value)], graph.sizes(value)
    if dtype == torch.int8:
        return spill.keep(torch.randint(-127, 128, sizes, dtype=dtype))
    return spill.keep((0.02 * torch.randn(sizes)).to(dtype))


def to_compile(key: str, size: int, batch: int) -> tuple[Layout, ComponentSpec]:
    """The component in 16 bits, with LoRA inputs, for up to `batch` pictures of up to `size` pixels."""
    published, component = found(key)
    if key in CUT:
        configs = {**published.configs, component.folder: {**published.configs[component.folder], **CUT[key]}}
        published = replace(published, configs=configs)
    layout = layout_of(published, component, sixteen_bit(key))
    profile = layout.target.profile
    size_span = profile.size._replace(opt=min(size, profile.size.opt), max=size)
    spans = {"size": size_span, "batch": profile.batch._replace(max=batch)}
    return replace(layout, target=replace(layout.target, profile=replace(profile, **spans))), component


def compile_(key: str, size: int, batch: int) -> str:
    """Compiles; keeps what the builder says of memory; a line of it."""
    layout, component = to_compile(key, size, batch)
    model, _ = weightless(layout, component)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        work, _spill = unfilled(layout, component, model, Path(folder), random_weight)
        built = engine.build(BUILDER, work, Path(folder, "model.plan"))
    _keep(key, size, batch, built)
    sizes = f"plan {built.plan_bytes / 1e9:.2f} GB, scratch {built.device_memory_bytes / 1e9:.2f} GB"
    cut = f" ({', '.join(f'{name} {count}' for name, count in CUT[key].items())})" if key in CUT else ""
    return f"{key}{cut}, {size} px, batch {batch}: {built.seconds:.0f} s, {sizes}, peak {peak_gb():.1f} GB"


def _keep(key: str, size: int, batch: int, built: Engine) -> None:
    """Adds to what export.memory reads, in place of an earlier figure of the same size and batch."""
    known = json.loads(MEASURED.read_text()) if MEASURED.is_file() else {}
    others = [entry for entry in known.get(key, []) if (entry["px"], entry["batch"]) != (size, batch)]
    entry = {
        "px": size,
        "batch": batch,
        "precision": sixteen_bit(key),
        "scratch_bytes": built.device_memory_bytes,
        "weights_bytes": None if key in CUT else built.weights_bytes,
        "source": f"{BUILDER} {built.version} for SM80, {date.today()}",
    }
    known[key] = sorted([*others, entry], key=lambda each: (each["px"], each["batch"]))
    with replacing_file(MEASURED) as partial:
        partial.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def alone(key: str, *more: str) -> int:
    """One component in a process of its own, so that its peak is its own."""
    command = [sys.executable, "-m", "export.true_size", "--alone", "--components", key, *more]
    return subprocess.run(command).returncode


def one(key: str, size: int | None, batch: int) -> int:
    torch.set_num_threads(1)
    try:
        for row in [compile_(key, size, batch)] if size else check(key):
            print(row, flush=True)
    except ExportError as error:
        print(f"{key:<22}FAILED: {error}", flush=True)
        return 1
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export.true_size", description=__doc__)
    parser.add_argument(
        "--components",
        nargs="+",
        default=list(COMPONENTS),
        metavar="FAMILY.COMPONENT",
        choices=list(COMPONENTS),
    )
    parser.add_argument("--build", type=int, metavar="SIZE", help="compile for pictures of up to SIZE pixels")
    parser.add_argument("--batch", type=int, default=1, help="pictures of a call, with --build")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.alone:
        return one(options.components[0], options.build, options.batch)
    print(f"compiled by {BUILDER} for SM80" if options.build else HEADING, flush=True)
    more = ("--build", str(options.build), "--batch", str(options.batch)) if options.build else ()
    return max(alone(key, *more) for key in options.components)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
