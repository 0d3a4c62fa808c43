"""The graph's two branches: calls without adapters run the one without their products; nobody can tell."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import pytest
import torch
from small_graphs import Case, Session
from torch import Tensor

from export.branches import skip_zero_packs
from families.lora import LORA_A, LORA_B, RANKS

ROWS = 8


@pytest.fixture(scope="module")
def branched(lora_denoiser: Case) -> ir.Model:
    model = lora_denoiser.model.clone()
    skip_zero_packs(model)
    return model


@pytest.fixture(scope="module")
def sessions(
    lora_denoiser: Case, branched: ir.Model, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Session, Session]:
    """With the branch, and the graph as it was."""
    folder = tmp_path_factory.mktemp("branches")
    whole = lora_denoiser.session(folder / "whole.onnx", lora_denoiser.model.clone())
    return lora_denoiser.session(folder / "branched.onnx", branched), whole


@pytest.fixture(scope="module")
def inputs(lora_denoiser: Case) -> dict[str, Tensor]:
    """Of eight rows, of which the odd ones have adapters; position ids of a call are those of its first."""
    inputs = lora_denoiser.inputs({**lora_denoiser.axes(RANKS[0]), "batch": ROWS})
    for name in (LORA_A, LORA_B):
        inputs[name][::2] = 0
    ids = {name: tensor[:1].expand_as(tensor) for name, tensor in inputs.items() if name.endswith("_ids")}
    return {**inputs, **ids}


def rows(inputs: Mapping[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    return {name: tensor[start:end] for name, tensor in inputs.items()}


def without_adapters(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    zeros = {name: torch.zeros_like(inputs[name]) for name in (LORA_A, LORA_B)}
    return {**inputs, **zeros}


def branches(model: ir.Model) -> tuple[ir.Graph, ir.Graph]:
    choice = model.graph[-1]
    return choice.attributes["then_branch"].as_graph(), choice.attributes["else_branch"].as_graph()


def test_a_branch_has_no_products_of_packs_and_the_weights_are_stored_once(
    lora_denoiser: Case, branched: ir.Model
) -> None:
    adapted, base = branches(branched)
    assert [node.op_type for node in branched.graph] == ["ReduceL1", "Cast", "If"]
    read = {value.name for node in base for value in node.inputs if value is not None}
    assert not {LORA_A, LORA_B} & read
    assert not (adapted.initializers or base.initializers)
    for graph in (adapted, base):
        used = {value for node in graph for value in node.inputs if value is not None}
        initializers = branched.graph.initializers.values()
        assert all(each in used for each in initializers if each.name in lora_denoiser.weights)
    assert len(base) < 0.7 * len(adapted)


@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "none"])
def test_a_branch_answers_as_the_whole_graph(
    sessions: tuple[Session, Session], inputs: dict[str, Tensor], adapters: bool
) -> None:
    fed = inputs if adapters else without_adapters(inputs)
    (answer,), (wanted,) = (session(**fed) for session in sessions)
    assert torch.equal(answer, wanted)


@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "none"])
def test_a_row_is_the_same_alone_and_in_any_batch(
    sessions: tuple[Session, Session], inputs: dict[str, Tensor], adapters: bool
) -> None:
    """Rows without adapters run in one branch alone, in the other beside rows with adapters."""
    fed = inputs if adapters else without_adapters(inputs)
    alone = torch.cat([sessions[0](**rows(fed, row, row + 1))[0] for row in range(ROWS)])
    for size in range(2, ROWS + 1):
        (answer,) = sessions[0](**rows(fed, 0, size))
        assert torch.equal(answer, alone[:size]), size


def test_adapters_count(sessions: tuple[Session, Session], inputs: dict[str, Tensor]) -> None:
    (answer,), (base,) = sessions[0](**inputs), sessions[0](**without_adapters(inputs))
    same = [torch.equal(*pair) for pair in zip(answer, base, strict=True)]
    assert same == [True, False] * (ROWS // 2)
