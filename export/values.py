"""What goes into a graph's initializers: a checkpoint's weights, cast or made int8, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir
import torch
from torch import Tensor

from export.errors import ExportError
from export.graph import TORCH_DTYPES, dtype, missing, nbytes, sizes
from export.quantise_graph import INPUT_SCALE, SMOOTH, WEIGHT, WEIGHT_SCALE
from export.smoothquant import quantise_all, quantise_weight_only
from export.spill import Buffer, Spill, mapped, padded
from export.weights import Weights

Absmax = Mapping[str, Tensor]  # linear -> largest magnitude of each input, float32 [in]


def values(model: ir.Model, weights: Weights, absmax: Absmax) -> Iterator[tuple[str, Tensor]]:
    """(initializer, tensor of its type) for all without a value. ExportError if `absmax` lacks a linear."""
    given, expected = set(), {str(value.name) for value in missing(model)}
    for name, tensor in _all_values(model, weights, absmax):
        given.add(name)
        yield name, tensor
    if lost := expected - given:
        raise ExportError(f"{sorted(lost)[0]} was not calibrated: calibrate again")


def _all_values(model: ir.Model, weights: Weights, absmax: Absmax) -> Iterator[tuple[str, Tensor]]:
    wanted = {str(value.name): value for value in missing(model)}
    quantised = [name.removesuffix(WEIGHT_SCALE) for name in wanted if name.endswith(WEIGHT_SCALE)]
    made = {f"{name}{part}" for name in quantised for part in (WEIGHT, WEIGHT_SCALE, SMOOTH, INPUT_SCALE)}
    for name, tensor in _quantised_values(quantised, weights, absmax):
        if name in wanted:  # linears that read one tensor share what it is quantised with
            yield name, _typed(tensor, wanted[name])
    for name, value in wanted.items():
        if name not in made:
            yield name, _typed(weights.tensor(name), value)


def _quantised_values(names: list[str], weights: Weights, absmax: Absmax) -> Iterator[tuple[str, Tensor]]:
    with_inputs = {name: weights.tensor(name + WEIGHT) for name in names if name in absmax}
    for name, linear in quantise_all(with_inputs, absmax):
        yield name + WEIGHT, linear.weight
        yield name + WEIGHT_SCALE, linear.weight_scale
        yield name + SMOOTH, linear.smooth
        yield name + INPUT_SCALE, torch.tensor(linear.input_scale)
    for name in names:
        if name not in absmax:
            weight, scale = quantise_weight_only(weights.tensor(name + WEIGHT))
            yield name + WEIGHT, weight
            yield name + WEIGHT_SCALE, scale


def _typed(tensor: Tensor, value: ir.Value) -> Tensor:
    """`tensor` in the type of `value`; ExportError if the shapes differ or a number does not fit the type."""
    if list(tensor.shape) != sizes(value):
        raise ExportError(f"{value.name} has shape {list(tensor.shape)}, the graph wants {sizes(value)}")
    cast = tensor.to(TORCH_DTYPES[dtype(value)])
    if cast.dtype != tensor.dtype and cast.is_floating_point() and not torch.isfinite(cast).all():
        raise ExportError(f"{value.name} does not fit {value.dtype}: it has {float(tensor.abs().max()):g}")
    return cast


def fill(model: ir.Model, weights: Weights, absmax: Absmax) -> None:
    """Gives every initializer its value."""
    for name, tensor in values(model, weights, absmax):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(tensor.contiguous().numpy(), name=name)


def buffers(model: ir.Model, weights: Weights, absmax: Absmax, spill: Spill) -> dict[str, Buffer]:
    """Where a builder reads each initializer: in the checkpoint itself if nothing has to change."""
    found = {}
    for name, tensor in values(model, weights, absmax):
        as_saved = name in weights and tensor.data_ptr() == weights.tensor(name).data_ptr()
        found[name] = mapped(tensor) if as_saved and tensor.is_contiguous() else spill.keep(tensor)
    return found


def capacity(model: ir.Model) -> int:
    """Bytes of all weights of the graph, as a Spill counts them."""
    return sum(padded(nbytes(value)) for value in missing(model))
