"""Calls without adapters skip their products: beside a graph with packed inputs stands one without them."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from export.errors import ExportError
from families.lora import PACKS


def without_packs(model: ir.Model) -> ir.Model:
    """What `model` computes where lora_b is 0, as a graph without packed inputs; `model` stays as it is.

    It does the same in the same order but for the sums with adapters' parts, so a row of zeros is the
    same in both, bit for bit: x + 0 is x. Values of weights are shared.
    """
    base = model.clone()
    packs = {value for value in base.graph.inputs if value.name in PACKS}
    _drop_packs(base.graph, packs)
    RemoveUnusedNodesPass()(base)
    for pack in packs:
        if pack.uses():
            readers = ", ".join(str(use.node.name) for use in pack.uses())
            raise ExportError(f"{pack.name} is read by nodes that are no adapter's part: {readers}")
        base.graph.inputs.remove(pack)
    return base


def _drop_packs(graph: ir.Graph, packs: set[ir.Value]) -> None:
    """Puts, for each sum with an adapter's part, its other summand: a LoraLinear has no other."""
    packed = set(packs)
    for node in graph:
        if packed.isdisjoint(node.inputs) or node.op_type == "Shape":
            continue
        others = [value for value in node.inputs if value is not None and value not in packed]
        if node.op_type == "Add" and others:
            ir.convenience.replace_all_uses_with(node.outputs[0], others[0], replace_graph_outputs=True)
        else:
            packed.update(node.outputs)
