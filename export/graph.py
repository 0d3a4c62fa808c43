"""Component -> ONNX: the graph is traced on fake tensors, then weights are put in by name."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from export.errors import ExportError
from families import Axes, ComponentSpec
from families.spec import Configs

SINGLE_FILE_BYTES = 2**30  # protobuf stops at 2 GiB; larger weights go to a file beside the graph

COMPUTE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TORCH_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT64: torch.int64,
}

AxisRanges = Mapping[str, tuple[int, int]]  # axis name -> smallest and largest size


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Hides the exporter's notes on packages that we do not use; its failures are exceptions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


def trace(
    component: ComponentSpec,
    fake: nn.Module,
    mode: FakeTensorMode,
    axes: Axes,
    ranges: AxisRanges,
    multiples: Axes,
    configs: Configs,
) -> torch.export.ExportedProgram:
    """The traced graph of `fake`, whose parameters live in `mode`; every axis of `ranges` stays dynamic.

    `axes` are the sizes traced with: each at least 2 and different, so that none is taken for a constant.
    They need not lie in `ranges`: the graph knows no ends, profiles do.
    `multiples`: axis -> what its size always divides by.
    """
    dims = {
        name: _dim(name, min(low, axes[name]), max(high, axes[name]), multiples.get(name, 1))
        for name, (low, high) in ranges.items()
    }
    shapes = {t.name: {place: dims[name] for place, name in t.dynamic_axes.items()} for t in component.inputs}
    with mode, torch.no_grad():
        inputs = {
            t.name: torch.zeros(t.sizes(axes, configs), dtype=torch_dtype(t.numpy_dtype))
            for t in component.inputs
        }
        return torch.export.export(fake, (), inputs, dynamic_shapes=shapes)


def _dim(name: str, low: int, high: int, multiple: int) -> Any:
    high = max(high, low + multiple)  # an axis that a profile fixes stays an axis
    if multiple == 1:
        return torch.export.Dim(name, min=low, max=high)
    return multiple * torch.export.Dim(f"{name}_units", min=low // multiple, max=high // multiple)


def torch_dtype(numpy_name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, numpy_name)
    return dtype


def to_onnx(
    component: ComponentSpec, program: torch.export.ExportedProgram, opset: int, prefix: str
) -> ir.Model:
    """ONNX model whose initializers carry state-dict names, `prefix` taken away, and no values yet."""
    outputs = [tensor.name for tensor in component.outputs]
    with quiet_exporter():
        exported = torch.onnx.export(
            program, dynamo=True, optimize=False, opset_version=opset, output_names=outputs, verbose=False
        )
    if exported is None:
        raise ExportError(f"{component.name}: torch.onnx.export returned nothing")
    model: ir.Model = exported.model
    names = set(model.graph.initializers)
    _optimize_around_weights(model)
    if lost := names - set(model.graph.initializers):
        raise ExportError(f"{component.name}: the optimizer dropped {', '.join(sorted(lost))}")
    _name_weights(model, f"{prefix}.")
    _upcast_resizes(model)
    _name_axes(model, component)
    _forget_origins(model)
    return model


def _optimize_around_weights(model: ir.Model) -> None:
    """Optimizes with weights as graph inputs, so that none needs a value or loses its name."""
    weights = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    for weight in weights:
        weight.const_value = None
    model.graph.inputs.extend(weights)
    optimizer.optimize(model)
    del model.graph.inputs[len(model.graph.inputs) - len(weights) :]
    for weight in weights:
        model.graph.initializers.add(weight)


def _name_weights(model: ir.Model, prefix: str) -> None:
    weights = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    for weight in weights:
        weight.name = str(weight.name).removeprefix(prefix)
        model.graph.initializers.add(weight)


def _upcast_resizes(model: ir.Model) -> None:
    """TensorRT has no BF16 Resize: such a one runs in FP32, between two casts."""
    for node in [each for each in model.graph if each.op_type == "Resize"]:
        source, output = node.inputs[0], node.outputs[0]
        if source is None or source.dtype != ir.DataType.BFLOAT16:
            continue
        up, down = _cast(source, ir.DataType.FLOAT), _cast(output, ir.DataType.BFLOAT16)
        output.type = ir.TensorType(ir.DataType.FLOAT)
        for use in list(output.uses()):
            if use.node is not down:
                use.node.replace_input_with(use.idx, down.outputs[0])
        node.replace_input_with(0, up.outputs[0])
        model.graph.insert_before(node, up)
        model.graph.insert_after(node, down)


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype})
    node.outputs[0].name = f"{value.name}_{dtype.name.lower()}"
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), value.shape
    return node


def _name_axes(model: ir.Model, component: ComponentSpec) -> None:
    """Gives inputs and outputs the spec's axis names; sizes that the checkpoint fixes stay numbers."""
    values, tensors = (*model.graph.inputs, *model.graph.outputs), (*component.inputs, *component.outputs)
    for value, tensor in zip(values, tensors, strict=True):
        sizes = enumerate(value.shape or ())
        value.shape = ir.Shape([tensor.dynamic_axes.get(place, size) for place, size in sizes])


def _forget_origins(model: ir.Model) -> None:
    """Drops the exporter's notes: stack traces name this machine's paths and change the file's hash."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def missing(model: ir.Model) -> list[ir.Value]:
    """The initializers that have no value: weights. Folded constants have one."""
    return [value for value in model.graph.initializers.values() if value.const_value is None]


def dtype(value: ir.Value) -> ir.DataType:
    """The type of a tensor, which every one has."""
    if value.dtype is None:
        raise ExportError(f"{value.name} has no type in the graph")
    return value.dtype


def sizes(weight: ir.Value) -> list[int]:
    """The shape of a weight."""
    return [int(str(size)) for size in weight.shape or ()]


def nbytes(weight: ir.Value) -> int:
    return math.prod(sizes(weight)) * TORCH_DTYPES[dtype(weight)].itemsize


def save(model: ir.Model, path: Path) -> None:
    """Writes `path`, with `path`.data beside it if the weights are large."""
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    external = f"{path.name}.data" if weights > SINGLE_FILE_BYTES else None
    ir.save(model, path, external_data=external, size_threshold_bytes=1024)


def without_weights(model: ir.Model) -> bytes:
    """The serialized graph. Its weights have types and shapes and lie elsewhere: a builder is told where."""
    weights = missing(model)
    for value in weights:
        shape = ir.Shape(sizes(value))
        value.const_value = ir.ExternalTensor(
            "weights", 0, nbytes(value), dtype(value), shape=shape, name=str(value.name)
        )
    graph = ir.to_proto(model).SerializeToString()
    for value in weights:
        value.const_value = None
    return bytes(graph)
