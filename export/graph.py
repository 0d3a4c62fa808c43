"""Component -> ONNX: the graph is traced on fake tensors, then weights are put in by name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from export.errors import ExportError
from families import Axes, ComponentSpec
from families.spec import Configs

SINGLE_FILE_BYTES = 2**30  # protobuf stops at 2 GiB; larger weights go to a file beside the graph

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
    `multiples`: axis -> what its size always divides by.
    """
    dims = {name: _dim(name, low, high, multiples.get(name, 1)) for name, (low, high) in ranges.items()}
    shapes = {t.name: {place: dims[name] for place, name in t.dynamic_axes.items()} for t in component.inputs}
    with mode, torch.no_grad():
        inputs = {
            t.name: torch.zeros(t.sizes(axes, configs), dtype=torch_dtype(t.numpy_dtype))
            for t in component.inputs
        }
        return torch.export.export(fake, (), inputs, dynamic_shapes=shapes)


def _dim(name: str, low: int, high: int, multiple: int) -> Any:
    if multiple == 1:
        return torch.export.Dim(name, min=low, max=high)
    return multiple * torch.export.Dim(f"{name}_units", min=low // multiple, max=high // multiple)


def torch_dtype(numpy_name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, numpy_name)
    return dtype


def to_onnx(component: ComponentSpec, program: torch.export.ExportedProgram, opset: int) -> ir.Model:
    """ONNX model whose initializers carry the module's own parameter names and no values yet."""
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


def put_weights(model: ir.Model, weights: Mapping[str, Tensor]) -> None:
    """Fills each initializer without a value (folded constants have one) with the tensor of its name."""
    for name, initializer in model.graph.initializers.items():
        if initializer.const_value is not None:
            continue
        if name not in weights:
            raise ExportError(f"the graph wants {name}, which the checkpoint's component does not have")
        initializer.const_value = ir.tensor(weights[name].detach().contiguous().numpy(), name=name)


def save(model: ir.Model, path: Path) -> None:
    """Writes `path`, with `path`.data beside it if the weights are large."""
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    external = f"{path.name}.data" if weights > SINGLE_FILE_BYTES else None
    ir.save(model, path, external_data=external, size_threshold_bytes=1024)
