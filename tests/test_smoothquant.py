"""SmoothQuant: the numbers of int8 linears, which linears those are, and what quantised ones answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable

import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from random_checkpoint import build
from torch import Tensor, nn

from export.calibration import watched
from export.errors import ExportError
from export.smoothquant import (
    INT8,
    QuantisedLinear,
    fake_quantise,
    fake_quantised,
    input_of,
    quantise,
    quantise_all,
    quantise_weight_only,
    quantised_names,
    weight_only_names,
)
from families.layers import layers
from families.published import PUBLISHED

ENDS = "x_embedder", "context_embedder", "time_text_embed", "norm_out", "proj_out"


def example(rows: int = 512, inputs: int = 64, outputs: int = 48) -> tuple[Tensor, Tensor]:
    """x [rows, inputs] with one channel 100 times larger than the others, and a weight."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=generator)
    x[:, 5] *= 100
    return x, torch.randn(outputs, inputs, generator=generator) / 8


def answer(x: Tensor, quantised: QuantisedLinear) -> Tensor:
    """The formula of QuantisedLinear, in integers."""
    levels = (x / quantised.smooth / quantised.input_scale).round().clamp(-128, 127).to(torch.int64)
    sums = levels @ quantised.weight.to(torch.int64).T
    return sums * (quantised.input_scale * quantised.weight_scale)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def is_16_bit(numbers: Tensor) -> bool:
    """Whether bfloat16 and normal float16 have every one of `numbers`."""
    types = torch.bfloat16, torch.float16
    exact = all(torch.equal(numbers.to(dtype).float(), numbers) for dtype in types)
    return exact and bool((numbers >= torch.finfo(torch.float16).tiny).all())


def test_the_answer_is_close() -> None:
    x, weight = example()
    quantised = quantise(weight, x.abs().amax(0))
    assert quantised.weight.dtype == torch.int8
    assert relative_error(answer(x, quantised), x @ weight.T) < 0.02


def test_without_smoothing_an_outlier_drowns_the_other_channels() -> None:
    x, weight = example()
    weight[:, 5] = 0  # so that only the others count
    absmax = x.abs().amax(0)
    plain = QuantisedLinear(torch.ones(64), absmax.max().item() / 127, *quantise_weight_only(weight))
    errors = [relative_error(answer(x, each), x @ weight.T) for each in (quantise(weight, absmax), plain)]
    assert errors[0] < 0.02 < 0.2 < errors[1]


def test_alpha_moves_the_range_from_inputs_to_weights() -> None:
    x, weight = example()
    absmax = x.abs().amax(0)
    ranges = [absmax / quantise(weight, absmax, alpha).smooth for alpha in (0.0, 0.5, 1.0)]
    spread = [(each.max() / each.min()).item() for each in ranges]
    assert spread[0] > spread[1] > spread[2] == pytest.approx(1, rel=0.01)  # bfloat16 rounds


def test_no_input_within_the_calibrated_range_is_cut() -> None:
    x, weight = example()
    quantised = quantise(weight, x.abs().amax(0))
    levels = x / quantised.smooth / quantised.input_scale
    assert 126 < levels.abs().max() < 127.5


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_scales_are_numbers_of_16_bits(inputs: float, weights: float, alpha: float) -> None:
    x, weight = example(rows=8, inputs=8, outputs=8)
    quantised = quantise(weight * weights, x.abs().amax(0) * inputs, alpha)
    scales = torch.cat([quantised.smooth, quantised.weight_scale, torch.tensor([quantised.input_scale])])
    assert is_16_bit(scales)


def test_an_input_that_was_silent_in_calibration_is_not_lost() -> None:
    x, weight = example()
    x[:, 5] /= 100
    absmax = x.abs().amax(0)
    absmax[7] /= 10_000
    assert relative_error(answer(x, quantise(weight, absmax)), x @ weight.T) < 0.05


def test_dead_channels_and_dead_layers_stay_finite() -> None:
    x, weight = example()
    x[:, 0] = 0
    weight[:, 1] = 0
    weight[2] = 0
    quantised = quantise(weight, x.abs().amax(0))
    assert relative_error(answer(x, quantised), x @ weight.T) < 0.02
    assert (answer(x, quantised)[:, 2] == 0).all()
    dead = quantise(torch.zeros(4, 8), torch.zeros(8))
    assert torch.isfinite(dead.smooth).all() and not dead.weight.any()


def test_weights_alone_are_off_by_half_a_level() -> None:
    _, weight = example()
    levels, scale = quantise_weight_only(weight)
    cut = weight.abs().amax(1, keepdim=True) * 2**-8  # where bfloat16 rounded the scale down
    allowed = scale[:, None] * 0.5 + cut
    assert ((levels * scale[:, None] - weight).abs() <= allowed).all()
    assert levels.abs().max() == 127 and is_16_bit(scale)


def test_the_fake_module_answers_as_integers_do() -> None:
    x, weight = example()
    linear = nn.Linear(64, 48)
    linear.weight.data = weight
    quantised = quantise(weight, x.abs().amax(0))
    with torch.no_grad():
        fake = fake_quantised(linear, quantised)(3 * x)  # beyond what was calibrated: cut
    torch.testing.assert_close(fake, answer(3 * x, quantised) + linear.bias, rtol=1e-4, atol=1e-3)


def test_linears_of_one_input_share_its_scales() -> None:
    x, weight = example()
    names = [f"transformer_blocks.0.attn.to_{letter}" for letter in "qkv"]
    weights = {name: weight * (place + 1) for place, name in enumerate(names)}
    found = dict(quantise_all(weights, {name: x.abs().amax(0) for name in names}))
    q, k, v = (found[name] for name in names)
    assert torch.equal(q.smooth, k.smooth) and torch.equal(k.smooth, v.smooth)
    assert q.input_scale == k.input_scale == v.input_scale
    for place, name in enumerate(names):
        assert relative_error(answer(x, found[name]), x @ weights[name].T) < 0.02, place


@pytest.mark.parametrize(
    ("weight", "absmax", "alpha", "message"),
    [
        (torch.ones(2, 3), torch.ones(2), 0.5, r"\[2, 3\] has no inputs \[2\]"),
        (torch.ones(2, 3), torch.tensor([1, torch.inf, 1]), 0.5, "finite"),
        (torch.ones(2, 3), torch.tensor([1, -1.0, 1]), 0.5, "negative"),
        (torch.full((2, 3), torch.nan), torch.ones(3), 0.5, "not finite"),
        (torch.ones(2, 3), torch.ones(3), 1.5, r"alpha 1.5 is not in 0..1"),
    ],
)
def test_refusals(weight: Tensor, absmax: Tensor, alpha: float, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        quantise(weight, absmax, alpha)


def test_a_linear_that_was_not_calibrated_is_named() -> None:
    with pytest.raises(ExportError, match="a.to_q was not calibrated"):
        list(quantise_all({"a.to_q": torch.ones(2, 3)}, {}))


@pytest.mark.parametrize(
    ("checkpoint", "component", "both", "weights"),
    [
        ("flux", "transformer", 19 * 12 + 38 * 5, 19 * 2 + 38),
        ("flux", "text_encoder_2", 0, 24 * 7),
        ("flux", "text_encoder", 0, 0),
        ("sdxl", "unet", 70 * 10 + 11 * 2, 0),
        ("sdxl", "vae_decoder", 0, 0),
    ],
)
def test_how_many_linears_of_the_published_checkpoints_become_int8(
    checkpoint: str, component: str, both: int, weights: int
) -> None:
    published = next(each for each in PUBLISHED.values() if each.family.name == checkpoint)
    found = layers(published.family, published.family.component(component), published.configs)
    names, key = [layer.name for layer in found], f"{checkpoint}.{component}"
    assert len(quantised_names(key, names)) == both
    assert len(weight_only_names(key, names)) == weights
    chosen = {*quantised_names(key, names), *weight_only_names(key, names)}
    assert {layer.kind for layer in found if layer.name in chosen} <= {"linear"}


@pytest.fixture(scope="module", params=INT8)
def denoiser(request: pytest.FixtureRequest) -> tuple[str, DiffusionPipeline, nn.Module]:
    """Key, pipeline and denoiser of random weights."""
    family, component = request.param.split(".")
    pipeline = build(family)
    pipeline.set_progress_bar_config(disable=True)
    return request.param, pipeline, getattr(pipeline, component)


def run(pipeline: DiffusionPipeline) -> None:
    random = torch.Generator().manual_seed(0)
    size = {"height": 64, "width": 64}
    pipeline("a red mug", num_inference_steps=1, output_type="latent", generator=random, **size)


def test_every_linear_is_accounted_for(denoiser: tuple[str, DiffusionPipeline, nn.Module]) -> None:
    key, _, model = denoiser
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    rest = {*names} - {*quantised_names(key, names)} - {*weight_only_names(key, names)}
    allowed = (*ENDS, "time_embedding", "add_embedding")
    assert all(name.startswith(allowed) or name.endswith("time_emb_proj") for name in rest)
    assert quantised_names(key, model.state_dict()) == []  # those are names of weights


def grouped(names: list[str], word: Callable[[str], Hashable]) -> set[frozenset[str]]:
    """`names` with equal words together."""
    return {frozenset(name for name in names if word(name) == word(one)) for one in names}


def block(name: str) -> str:
    """The innermost numbered block that `name` lies in; every block of a UNet reads the same text."""
    return re.match(r"(.*blocks\.\d+|.*)", name)[0]


def test_shared_inputs_are_those_that_the_model_shares(
    denoiser: tuple[str, DiffusionPipeline, nn.Module],
) -> None:
    key, pipeline, model = denoiser
    names, seen = quantised_names(key, dict(model.named_modules())), {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: seen.update({name: inputs[0]})
        )
        for name in names
    ]
    run(pipeline)
    for hook in hooks:
        hook.remove()
    assert grouped(names, input_of) == grouped(names, lambda name: (block(name), id(seen[name])))


def test_a_whole_denoiser_answers_about_the_same(
    denoiser: tuple[str, DiffusionPipeline, nn.Module],
) -> None:
    key, pipeline, model = denoiser
    names, answers = quantised_names(key, dict(model.named_modules())), list[Tensor]()
    hook = model.register_forward_hook(lambda module, inputs, output: answers.append(output[0]))
    with watched({name: model.get_submodule(name) for name in names}) as absmax:
        run(pipeline)
    fake_quantise(model, key, absmax)  # the last test of this model
    run(pipeline)
    hook.remove()
    assert 0 < relative_error(answers[1], answers[0]) < 0.05
