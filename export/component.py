"""One component: checkpoint -> engine file, compared with torch where it can run here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from export import engine, graph, models, parity, quantise_graph, values
from export.errors import ExportError
from export.finished import Engine
from export.kernels import use_kernels
from export.layout import Layout
from export.manifest import ComponentRecord
from export.plan import Plan
from export.profile import LIMITS
from export.smoothquant import fake_quantise
from export.spill import Buffer, Spill
from export.values import Absmax
from export.weights import Weights
from export.without_adapters import without_packs
from families import ComponentSpec
from families.hashes import sha256_of_file
from families.lora import without_adapters

UINT8_TOLERANCE = 1.0  # rounding may fall to either side
# A value between two int8 levels may fall to either side too: inputs changed by 1e-6 change flux-tiny's
# answer by 3e-2. Pictures tell more: `python -m benchmarks.int8`.
INT8_TOLERANCE = 1e-1
DESCRIPTION = ".json"  # beside the plan: its tensors and layers


def weightless(layout: Layout, component: ComponentSpec) -> tuple[ir.Model, nn.Module]:
    """The ONNX graph, whose weights have state-dict names and no values, and the fake module it is of."""
    spec, dtype = layout.spec(component), graph.COMPUTE_DTYPES[layout.compute(component)]
    mode = FakeTensorMode()
    structure = models.fake(layout.checkpoint, component, mode, dtype, layout.targets(component))
    if layout.target.engine == "onnxruntime" and component.denoiser:
        use_kernels(structure)
    # One graph for every profile. Besides, narrow ranges of the UNet cost torch.export half an hour and more.
    widest = replace(layout, target=replace(layout.target, profile=LIMITS))
    ranges, configs = widest.ranges_of(component), layout.checkpoint.configs
    multiples = layout.family.axis_multiples
    program = graph.trace(spec, structure, mode, layout.traced_axes, ranges, multiples, configs)
    name, module = models.inner(structure)
    model = graph.to_onnx(spec, program, layout.opset(component), name)
    return model, module


def quantised(layout: Layout, component: ComponentSpec, model: ir.Model) -> ir.Model:
    """`model` with the Q/DQ pairs of the layout's precision, if it is an int8 one."""
    if (precision := layout.precision(component)).startswith("int8"):
        quantise_graph.quantise(model, layout.key(component), precision)
    return model


@dataclass(frozen=True)
class Source:
    """What an engine is made from: a graph, the weights that go into it, the ranges of int8 inputs."""

    model: ir.Model
    weights: Weights
    absmax: Absmax


def source(plan: Plan, component: ComponentSpec, absmax: Absmax) -> Source:
    """ExportError if the checkpoint's weights are not those of the structure."""
    model, structure = weightless(plan, component)
    weights = Weights(plan.checkpoint.folder / component.folder, plan.merge_of(component))
    weights.check(structure)
    return Source(quantised(plan, component, model), weights, absmax)


def export_component(
    plan: Plan, component: ComponentSpec, repository: Path, file: str, absmax: Absmax
) -> ComponentRecord:
    """Writes the engine to `repository`/`file`; its record. `absmax` is of linears with int8 inputs.

    ExportError if weights are not the structure's, or the engine differs from torch or cannot be built.
    """
    path, made = repository / file, source(plan, component, absmax)
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _write_onnx if plan.target.engine == "onnxruntime" else _write_plan
    facts = write(plan, component, made, path)
    record = ComponentRecord(
        file=file,
        sha256=sha256_of_file(path),
        inputs_sha256=plan.component_sha256(component),
        max_error=facts.max_error,
        tolerance=tolerance(plan, component),
        precision=plan.precision(component),
        onnx_sha256=facts.onnx_sha256,
        profile=facts.profile,
        lora=plan.lora_contract(component),
        merged_loras=[asdict(lora) for lora in plan.merged] if component.denoiser else [],
        device_memory_bytes=facts.device_memory_bytes,
    )
    _check(component, record)
    return record


class Facts(NamedTuple):
    """What is known of an engine only once it is made; see ComponentRecord."""

    max_error: dict[str, float]
    onnx_sha256: str | None = None
    profile: dict[str, list[list[int]]] | None = None
    device_memory_bytes: int | None = None


def _write_onnx(plan: Plan, component: ComponentSpec, made: Source, path: Path) -> Facts:
    values.fill(made.model, made.weights, made.absmax)
    graph.save(made.model, path)
    if plan.targets(component):
        # Read back, so that its weights, if they lie in a file of their own, are those of the first graph.
        ir.save(without_packs(ir.load(path)), without_adapters(path))
    return Facts(errors(plan, component, path, made.absmax))


def errors(plan: Plan, component: ComponentSpec, path: Path, absmax: Absmax) -> dict[str, float]:
    """Axis sizes, in words -> the largest difference from torch with the same weights, of both graphs."""
    spec, configs = plan.spec(component), plan.checkpoint.configs
    dtype = graph.COMPUTE_DTYPES[plan.compute(component)]
    module = models.load(plan.checkpoint, component, dtype, plan.targets(component))
    if merge := plan.merge_of(component):
        merge.into(models.inner(module)[1])
    if plan.precision(component).startswith("int8"):
        fake_quantise(models.inner(module)[1], plan.key(component), absmax)
    session, found = parity.open_session(path), {}
    plain = parity.open_session(without_adapters(path)) if plan.targets(component) else None
    for words, axes in plan.checked_axes.items():
        inputs = parity.random_inputs(spec, axes, configs)
        found[words] = parity.max_error(session, module, inputs)
        if plain:
            zeros = parity.with_zero_packs(inputs)
            found[f"{words}, no adapters"] = parity.max_error(plain, module, zeros)
    return found


def tolerance(plan: Plan, component: ComponentSpec) -> float:
    """The largest error that `parity.max_error` may find."""
    if component.outputs[0].dtype == "UINT8":
        return UINT8_TOLERANCE
    return INT8_TOLERANCE if plan.precision(component) == "int8" else plan.target.tolerance


def _check(component: ComponentSpec, record: ComponentRecord) -> None:
    for words, error in record.max_error.items():
        if not error <= record.tolerance:  # a NaN fails too
            raise ExportError(
                f"{component.name} differs from torch by {error:.1e} at {words}; allowed {record.tolerance:g}"
            )


def job(
    layout: Layout, component: ComponentSpec, model: ir.Model, buffers: Mapping[str, Buffer]
) -> engine.Job:
    """What a builder needs for `component`, whose weights lie in `buffers`."""
    return engine.Job(
        component=layout.spec(component),
        graph=graph.without_weights(model),
        weights=buffers,
        shapes=layout.profile(component),
        compute_capability=str(layout.target.compute_capability),
    )


def compile_plan(plan: Plan, component: ComponentSpec, made: Source, path: Path) -> tuple[engine.Job, Engine]:
    """Writes the plan to `path`; what its builder was given, and what it says of it."""
    spill = Spill(path.parent, values.capacity(made.model))
    buffers = values.buffers(made.model, made.weights, made.absmax, spill)
    work = job(plan, component, made.model, buffers)
    return work, engine.build(plan.builder, work, path)


def _write_plan(plan: Plan, component: ComponentSpec, made: Source, path: Path) -> Facts:
    work, built = compile_plan(plan, component, made, path)
    path.with_name(path.name + DESCRIPTION).write_text(json.dumps(built.description(), indent=1) + "\n")
    return Facts(
        max_error={},  # it runs on its own GPU only
        onnx_sha256=hashlib.sha256(work.graph).hexdigest(),
        profile=plan.profile(component),
        device_memory_bytes=built.device_memory_bytes,
    )
