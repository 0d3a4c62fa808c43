"""INT8 in the graph: weights dequantised by channel, inputs quantised by tensor, as Q/DQ pairs.

TensorRT 11 has no other way to say so. A linear `N` gets the initializers `N.weight` (now int8),
`N.weight_scale` and, unless its weights alone are int8, `N.smooth` and `N.input_scale`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.errors import ExportError
from export.graph import dtype, sizes
from export.smoothquant import input_of, quantised_names, weight_only_names

WEIGHT, WEIGHT_SCALE, SMOOTH, INPUT_SCALE = ".weight", ".weight_scale", ".smooth", ".input_scale"


def quantise(model: ir.Model, key: str, precision: str) -> None:
    """Makes the linears of component `key` ("flux.transformer") int8 in place, for "int8" or "int8_weights".

    Names of linears are those of weights without a value; ExportError if none is to be int8.
    """
    linears = [name.removesuffix(WEIGHT) for name in model.graph.initializers if name.endswith(WEIGHT)]
    with_inputs = set(quantised_names(key, linears) if precision == "int8" else ())
    weights_alone = set(weight_only_names(key, linears))
    if not with_inputs | weights_alone:
        raise ExportError(f"{key} has no linears that become {precision}")
    pass_ = _Pass(model)
    for name in linears:
        if name in with_inputs:
            pass_.quantise_inputs(name)
        if name in with_inputs | weights_alone:
            pass_.quantise_weight(name)


class _Pass:
    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        zero = ir.tensor(np.int8(0), name="int8_zero")
        self.zero = ir.Value(name=zero.name, const_value=zero)
        self.graph.initializers.add(self.zero)
        self.quantised: dict[tuple[str, str], ir.Value] = {}  # (input, word of its linears) -> its Q/DQ

    def quantise_weight(self, name: str) -> None:
        """weight [out, in] becomes int8, and a DequantizeLinear of it stands where it was."""
        weight = self.graph.initializers[name + WEIGHT]
        uses, computed = list(weight.uses()), dtype(weight)
        scale = self._initializer(name + WEIGHT_SCALE, computed, [sizes(weight)[0]])
        weight.type = ir.TensorType(ir.DataType.INT8)  # a new one: values may share theirs
        node = ir.node("DequantizeLinear", [weight, scale], {"axis": 0})
        self._insert(uses[0].node, node, computed, weight.shape)
        for use in uses:
            use.node.replace_input_with(use.idx, node.outputs[0])

    def quantise_inputs(self, name: str) -> None:
        """What the linear multiplies goes through division by `smooth`, QuantizeLinear, DequantizeLinear."""
        for product in _products(self.graph.initializers[name + WEIGHT]):
            source = product.inputs[0]
            assert source is not None
            product.replace_input_with(0, self._quantised(source, name, product))

    def _quantised(self, source: ir.Value, name: str, before: ir.Node) -> ir.Value:
        """Linears that read one tensor share its quantisation; the first's name is that of its numbers."""
        place = (str(source.name), input_of(name))
        if place not in self.quantised:
            self.quantised[place] = self._add_pair(source, name, before)
        return self.quantised[place]

    def _add_pair(self, source: ir.Value, name: str, before: ir.Node) -> ir.Value:
        weight = self.graph.initializers[name + WEIGHT]
        computed = dtype(weight)
        smooth = self._initializer(name + SMOOTH, computed, [sizes(weight)[1]])
        scale = self._initializer(name + INPUT_SCALE, computed, [])
        divided = self._insert(before, ir.node("Div", [source, smooth]), computed, source.shape)
        levels = self._insert(
            before, ir.node("QuantizeLinear", [divided, scale, self.zero]), ir.DataType.INT8, source.shape
        )
        pair = ir.node("DequantizeLinear", [levels, scale, self.zero])
        return self._insert(before, pair, computed, source.shape)

    def _initializer(self, name: str, type_: ir.DataType, shape: list[int]) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(type_))
        self.graph.initializers.add(value)
        return value

    def _insert(self, before: ir.Node, node: ir.Node, type_: ir.DataType, shape: ir.Shape | None) -> ir.Value:
        output = node.outputs[0]
        output.name = f"{node.op_type}_{len(self.graph)}"
        output.type, output.shape = ir.TensorType(type_), shape
        self.graph.insert_before(before, node)
        return output


def _products(weight: ir.Value) -> list[ir.Node]:
    """The MatMul or Gemm nodes that multiply by `weight`, transposed before or in them."""
    products = []
    for node in (use.node for use in weight.uses()):
        transposed = node.op_type == "Transpose"
        products += [use.node for use in node.outputs[0].uses()] if transposed else [node]
    if not products or any(node.op_type not in ("MatMul", "Gemm") for node in products):
        raise ExportError(
            f"{weight.name} is used by {[node.op_type for node in products]}, not by one product"
        )
    return products
