"""Packed adapters as inputs: nothing without them, merged weights with them, each row its own."""

from __future__ import annotations

import re

import pytest
import torch
from small_graphs import Case, Session, answers, for_cpu, relative_error
from torch import Tensor, nn

from export import models
from families.layers import LoraTarget

DENOISERS = {"random_checkpoint": "transformer", "random_sdxl": "unet"}
RANK = 4
ROWS = 16  # of one call of the module: one target each


def pack(case: Case, rank: int = RANK) -> tuple[Tensor, Tensor]:
    """lora_a [1, rank, sum_in], lora_b [1, sum_out, rank] that change every target by about a tenth."""
    random, contract = torch.Generator().manual_seed(1), case.plan.lora_contract(case.component)
    assert contract
    a = 0.05 * torch.randn(1, rank, contract["sum_in"], generator=random)
    return a, 0.05 * torch.randn(1, contract["sum_out"], rank, generator=random)


def parts(target: LoraTarget, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A [..., rank, in] and B [..., out, rank] of `target` in a pack."""
    i, o = target.in_offset, target.out_offset
    return a[..., i : i + target.in_features], b[..., o : o + target.out_features, :]


@torch.no_grad()
def merged(case: Case, a: Tensor, b: Tensor) -> nn.Module:
    """The stock module with W + B A as the weight of every target."""
    module = case.module()
    for target in case.plan.targets(case.component):
        down, up = parts(target, a[0], b[0])
        models.inner(module)[1].get_submodule(target.name).weight += up @ down
    return module


def rows(case: Case, count: int) -> dict[str, Tensor]:
    """Inputs of a call without adapters: `count` equal rows."""
    base = case.inputs({**case.axes(), "batch": 1})
    return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in base.items()}


@pytest.fixture(scope="module", params=DENOISERS)
def case(request: pytest.FixtureRequest) -> Case:
    """A denoiser that takes adapters, as a torch module."""
    folder = request.getfixturevalue(request.param)
    return for_cpu(folder, DENOISERS[request.param], lora=True)


def test_the_module_with_a_pack_is_the_one_with_merged_weights(case: Case) -> None:
    a, b = pack(case)
    inputs = {**rows(case, 1), "lora_a": a, "lora_b": b}
    (packed,), (wanted,) = answers(case.module(lora=True), inputs), answers(merged(case, a, b), rows(case, 1))
    (base,) = answers(case.module(), rows(case, 1))
    assert relative_error(packed, wanted) < 1e-5
    assert relative_error(base, wanted) > 0.05


def test_every_target_counts_and_counts_alone(case: Case) -> None:
    """Row n of a batch has an adapter at target n alone, the last row of a batch none."""
    module, targets = case.module(lora=True), case.plan.targets(case.component)
    a, b = (5 * each for each in pack(case))  # so that what attends to little counts too
    (base,) = answers(case.module(), rows(case, 1))
    for start in range(0, len(targets), ROWS):
        some = targets[start : start + ROWS]
        lora_a, lora_b = (torch.zeros(len(some) + 1, *each.shape[1:]) for each in (a, b))
        for place, target in enumerate(some):
            for whole, part in zip(
                parts(target, lora_a[place], lora_b[place]), parts(target, a, b), strict=True
            ):
                whole.copy_(part[0])
        inputs = {**rows(case, len(some) + 1), "lora_a": lora_a, "lora_b": lora_b}
        (answer,) = answers(module, inputs)
        for target, row in zip(some, answer, strict=False):
            assert relative_error(row, base[0]) > 1e-4, target.name
        assert relative_error(answer[-1], base[0]) < 1e-5


def kinds(case: Case) -> list[LoraTarget]:
    """The last target of each kind: numbers in names aside, all others are like one of these."""
    found = {re.sub(r"\d+", "n", target.name): target for target in case.plan.targets(case.component)}
    return list(found.values())


def test_each_kind_of_target_reads_its_own_part_of_a_pack(case: Case) -> None:
    module, (a, b) = models.inner(case.module(lora=True))[1], pack(case)
    random = torch.Generator().manual_seed(2)
    assert len(kinds(case)) >= 10
    for target in kinds(case):
        linear = module.get_submodule(target.name)
        linear.pack.a, linear.pack.b = a, b
        x, (down, up) = torch.randn(1, 3, target.in_features, generator=random), parts(target, a[0], b[0])
        with torch.no_grad():
            wanted = x @ (linear.weight + up @ down).T + (0 if linear.bias is None else linear.bias)
            assert relative_error(linear(x), wanted) < 1e-5, target.name
            assert relative_error(linear(x[:, 0]), wanted[:, 0]) < 1e-5, (
                target.name
            )  # modulations have no rows


@pytest.fixture(scope="module")
def session(lora_denoiser: Case, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The graph with LoRA inputs and its weights."""
    path = tmp_path_factory.mktemp("lora") / "model.onnx"
    return lora_denoiser.session(path, lora_denoiser.model.clone())


@pytest.fixture(scope="module")
def base(lora_denoiser: Case, request: pytest.FixtureRequest) -> Session:
    """The graph without LoRA inputs."""
    plain = for_cpu(lora_denoiser.plan.checkpoint.folder, lora_denoiser.name)
    return plain.session(
        request.getfixturevalue("tmp_path_factory").mktemp("base") / "model.onnx", plain.model
    )


def without_pack(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in inputs.items() if not name.startswith("lora_")}


# ONNX Runtime 1.31 leaves all rows but the first of an empty product as they were in memory: hence one at 0.
@pytest.mark.parametrize(("rank", "batch"), [(0, 1), (1, 2), (RANK, 3)])
def test_no_adapters_are_the_graph_without_lora(
    lora_denoiser: Case, session: Session, base: Session, rank: int, batch: int
) -> None:
    inputs = lora_denoiser.inputs({**lora_denoiser.axes(rank), "batch": batch})
    zeros = {name: torch.zeros_like(inputs[name]) for name in ("lora_a", "lora_b")}
    assert zeros["lora_a"].shape[:2] == (batch, rank)
    (answer,), (wanted,) = session(**{**inputs, **zeros}), base(**without_pack(inputs))
    assert relative_error(answer, wanted) <= 1e-6


def test_rows_of_one_batch_have_adapters_of_their_own(
    lora_denoiser: Case, session: Session, base: Session
) -> None:
    inputs = without_pack(lora_denoiser.inputs(lora_denoiser.axes()))
    a, b = pack(lora_denoiser)
    packs = {name: torch.cat([torch.zeros_like(each), each]) for name, each in (("lora_a", a), ("lora_b", b))}
    (answer,) = session(**inputs, **packs)
    (plain,), (wanted,) = base(**inputs), answers(merged(lora_denoiser, a, b), inputs)
    assert relative_error(answer[0], plain[0]) <= 1e-6
    assert relative_error(answer[1], wanted[1]) <= 1e-4
    assert relative_error(plain[1], wanted[1]) > 0.05


def test_zeros_that_fill_up_the_rank_change_nothing(lora_denoiser: Case, session: Session) -> None:
    inputs = without_pack(lora_denoiser.inputs(lora_denoiser.axes()))
    a, b = (each.repeat(2, 1, 1) for each in pack(lora_denoiser))
    filled = {"lora_a": nn.functional.pad(a, (0, 0, 0, 7)), "lora_b": nn.functional.pad(b, (0, 7))}
    (answer,), (wanted,) = session(**inputs, **filled), session(**inputs, lora_a=a, lora_b=b)
    assert filled["lora_a"].shape[1] == filled["lora_b"].shape[2] == RANK + 7
    assert relative_error(answer, wanted) <= 1e-6
