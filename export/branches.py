"""Calls without adapters skip their products: the graph with packed inputs gets a branch without them."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from families.lora import LORA_A, LORA_B


def skip_zero_packs(model: ir.Model) -> None:
    """Makes the graph one If in place: as it was where any number of lora_b is not 0, else without adapters.

    Both read the same inputs and weights, stored once. They do the same in the same order but for the sums
    with adapters' parts, so a row of zeros is the same in both, bit for bit: x + 0 is x.
    """
    outer, nodes, inner = model.graph, list(model.graph), list(model.graph.outputs)
    outputs = [ir.Value(name=value.name, shape=value.shape, type=value.type) for value in inner]
    packs = {str(value.name): value for value in outer.inputs if value.name in (LORA_A, LORA_B)}
    outer.outputs.clear()
    outer.remove(nodes)
    adapted = ir.Graph([], inner, nodes=nodes, name="with_adapters")
    base = adapted.clone(allow_outer_scope_values=True)
    base.name = "without_adapters"
    _drop_packs(base, set(packs.values()))
    for branch in (adapted, base):
        for value in branch.outputs:
            value.name = f"{value.name}_{branch.name}"
    total = ir.node("ReduceL1", [packs[LORA_B]], {"keepdims": 0})
    any_adapter = ir.node("Cast", [total.outputs[0]], {"to": ir.DataType.BOOL})
    branches = {"then_branch": adapted, "else_branch": base}
    outer.extend([total, any_adapter, ir.node("If", any_adapter.outputs, branches, outputs=outputs)])
    outer.outputs.extend(outputs)
    RemoveUnusedNodesPass()(model)


def _drop_packs(graph: ir.Graph, packs: set[ir.Value]) -> None:
    """Puts, for each sum with an adapter's part, its other summand: a LoraLinear has no other."""
    packed = set(packs)
    for node in list(graph):
        if packed.isdisjoint(node.inputs) or node.op_type == "Shape":
            continue
        others = [value for value in node.inputs if value is not None and value not in packed]
        if node.op_type == "Add" and others:
            ir.convenience.replace_all_uses_with(node.outputs[0], others[0], replace_graph_outputs=True)
        else:
            packed.update(node.outputs)
