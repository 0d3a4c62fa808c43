"""Graphs that compute in 16 bits or int8: what they answer, against torch with the same numbers."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from small_graphs import Case, answers, for_cpu, relative_error
from torch import Tensor, nn

from export import graph, models, quantise_graph
from export.calibration import watched
from export.errors import ExportError
from export.smoothquant import fake_quantise, quantised_names, weight_only_names

COMPONENTS = [
    ("random_checkpoint", "text_encoder"),
    ("random_checkpoint", "text_encoder_2"),
    ("random_checkpoint", "transformer"),
    ("random_checkpoint", "vae_encoder"),
    ("random_checkpoint", "vae_decoder"),
    ("random_sdxl", "text_encoder"),
    ("random_sdxl", "text_encoder_2"),
    pytest.param("random_sdxl", "unet", marks=pytest.mark.slow),
    pytest.param("random_sdxl", "vae_encoder", marks=pytest.mark.slow),
    pytest.param("random_sdxl", "vae_decoder", marks=pytest.mark.slow),
]


def types(model: ir.Model) -> dict[str, ir.DataType]:
    """Of the weights, which have no values yet."""
    return {str(value.name): value.dtype for value in graph.missing(model) if value.dtype}


@pytest.mark.parametrize(("checkpoint", "name"), COMPONENTS)
def test_an_fp16_graph_answers_as_torch_in_fp32(
    checkpoint: str, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As closely as torch in fp16, within a factor of two; a level for uint8."""
    case = for_cpu(request.getfixturevalue(checkpoint), name, "fp16")
    assert {*types(case.model).values()} == {ir.DataType.FLOAT16}
    session, inputs = case.session(tmp_path / "model.onnx", case.model), case.inputs(case.axes())
    found, wanted = session(**inputs), answers(case.module(), inputs)
    for actual, expected, torch_s in zip(
        found, wanted, answers(case.module(torch.float16), inputs), strict=True
    ):
        assert actual.dtype == expected.dtype
        if actual.dtype == torch.uint8:
            assert (actual.int() - expected.int()).abs().max() <= 1
        else:
            error = relative_error(actual, expected)
            assert 1e-6 < error <= min(5e-3, 2 * relative_error(torch_s, expected))


def test_a_bf16_decoder_resizes_in_fp32(plan_case: Case) -> None:
    """TensorRT has no BF16 Resize."""
    resizes = [node for node in plan_case.model.graph if node.op_type == "Resize"]
    assert {*types(plan_case.model).values()} == {ir.DataType.BFLOAT16}
    assert len(resizes) == 3  # 8 = 2 ** 3 pixels a latent
    for node in resizes:
        assert node.inputs[0] and (node.inputs[0].dtype, node.outputs[0].dtype) == 2 * (ir.DataType.FLOAT,)
        assert {use.node.op_type for use in node.outputs[0].uses()} == {"Cast"}


def watch(case: Case, module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """How large the inputs of the linears that become int8 get in this very call."""
    inside = models.inner(module)[1]
    names = quantised_names(case.plan.key(case.component), dict(inside.named_modules()))
    with watched({name: inside.get_submodule(name) for name in names}) as absmax:
        answers(module, inputs)
    return absmax


def test_an_int8_denoiser_answers_as_the_fake_quantised_module(lora_denoiser: Case, tmp_path: Path) -> None:
    """More closely than fp32 does, though sums in another order may round a few levels to the other side."""
    case, key = lora_denoiser, lora_denoiser.plan.key(lora_denoiser.component)
    packed = case.inputs(case.axes(rank=4))
    plain = packed | {name: torch.zeros_like(packed[name]) for name in ("lora_a", "lora_b")}
    module, model = case.module(lora=True), case.model.clone()
    absmax, bases = watch(case, module, packed), [answers(module, each)[0] for each in (plain, packed)]
    quantise_graph.quantise(model, key, "int8")
    fake_quantise(models.inner(module)[1], key, absmax)
    session = case.session(tmp_path / "model.onnx", model, absmax)
    for inputs, base in zip((plain, packed), bases, strict=True):
        (found,), (wanted,) = session(**inputs), answers(module, inputs)
        assert relative_error(found, wanted) < 0.8 * relative_error(wanted, base)
        assert 1e-3 < relative_error(found, base) < 1.3 * relative_error(wanted, base) < 0.02
    assert relative_error(*bases) > 0.02  # of what int8 adds, a tenth and less


def int8_weights(model: ir.Model) -> set[str]:
    return {name for name, type_ in types(model).items() if type_ == ir.DataType.INT8}


def test_exactly_the_named_linears_become_int8(lora_denoiser: Case) -> None:
    key, model = lora_denoiser.plan.key(lora_denoiser.component), lora_denoiser.model.clone()
    linears = [name.removesuffix(".weight") for name in types(model) if name.endswith(".weight")]
    both, alone = quantised_names(key, linears), weight_only_names(key, linears)
    quantise_graph.quantise(model, key, "int8")
    assert int8_weights(model) == {f"{name}.weight" for name in (*both, *alone)}
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("DequantizeLinear") == kinds.count("QuantizeLinear") + len(both) + len(alone)
    assert 0 < kinds.count("QuantizeLinear") < len(both)  # q, k and v read one tensor, quantised once


def test_a_fake_quantised_denoiser_keeps_its_adapters(random_checkpoint: Path) -> None:
    case = for_cpu(random_checkpoint, "transformer", lora=True)
    packed, module = case.inputs(case.axes(rank=4)), case.module(lora=True)
    absmax, (wanted,) = watch(case, module, packed), answers(module, packed)
    fake_quantise(models.inner(module)[1], case.plan.key(case.component), absmax)
    assert relative_error(answers(module, packed)[0], wanted) < 5e-3


def test_t5_with_int8_weights_answers_as_the_fake_quantised_module(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    case = for_cpu(random_checkpoint, "text_encoder_2")
    inputs, module, key = case.inputs(case.axes()), case.module(), case.plan.key(case.component)
    (base,) = answers(module, inputs)
    quantise_graph.quantise(case.model, key, "int8_weights")
    assert len(int8_weights(case.model)) == 14  # 7 a block
    fake_quantise(models.inner(module)[1], key, {})
    (found,), (wanted,) = case.session(tmp_path / "model.onnx", case.model)(**inputs), answers(module, inputs)
    assert relative_error(found, wanted) <= 1e-5
    assert relative_error(wanted, base) > 1e-3


def test_what_has_no_int8_linears_is_named(plan_case: Case) -> None:
    with pytest.raises(ExportError, match=r"flux\.vae_decoder has no linears that become int8"):
        quantise_graph.quantise(plan_case.model.clone(), "flux.vae_decoder", "int8")
