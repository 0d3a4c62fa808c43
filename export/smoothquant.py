"""SmoothQuant (arXiv 2211.10438): linears with int8 weights and int8 inputs, and which linears those are.

Names are those of the stock class's state dict, without `.weight`. Convolutions, embeddings of timestep,
guidance and text, and the first and last projections stay in 16 bits: they are few and what they feed is all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.errors import ExportError
from export.lora import LoraLinear

# How much of the inputs' range goes to the weights. 0.8 does as well where calibration saw everything, and
# far worse where it did not.
ALPHA = 0.5
LEVELS = 127
# Scales from float16's smallest normal number to the largest of bfloat16's that float16 has too.
LEAST, MOST = 2.0**-14, 65280.0
# An input that was small in calibration may be large elsewhere: it counts as at least this share of the
# median one, lest it be stretched so far that it is cut.
FLOOR = 0.5
DEAD = 1e-5  # the same of weights, of the largest one: a channel that nothing reads

FLUX_BLOCK = r"^(single_)?transformer_blocks\.\d+\."
FEED_FORWARD = r"net\.(0\.proj|2)"
SDXL_BLOCK = rf"transformer_blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ff\.{FEED_FORWARD})"
FLUX_ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
FLUX_LINEAR = rf"{FLUX_ATTENTION}|ff(_context)?\.{FEED_FORWARD}|proj_mlp|proj_out"

# family.component -> its linears with int8 weights and inputs.
INT8: Mapping[str, str] = {
    "flux.transformer": rf"{FLUX_BLOCK}({FLUX_LINEAR})$",
    "sdxl.unet": rf"\.attentions\.\d+\.(proj_in|proj_out|{SDXL_BLOCK})$",
}
# family.component -> its linears with int8 weights alone. Flux's modulations see a row per picture, not per
# token: int8 would not make them faster, but they are a quarter of FLUX.1-dev's weights.
INT8_WEIGHTS: Mapping[str, str] = {
    "flux.transformer": rf"{FLUX_BLOCK}norm\w*\.linear$",
    "flux.text_encoder_2": r"^encoder\.block\.\d+\..*\.(SelfAttention\.[qkvo]|DenseReluDense\.w[io]\w*)$",
}
# Ends of names whose linears read one tensor, and what stands for them all.
SHARED_INPUTS: Mapping[str, str] = {
    r"^(single_transformer_blocks\.\d+)\.(attn\.to_[qkv]|proj_mlp)$": r"\1.hidden_states",
    r"(\.attn1?)\.to_[qkv]$": r"\1.hidden_states",
    r"(\.attn2)\.to_[kv]$": r"\1.encoder_hidden_states",
    r"(\.attn)\.add_[qkv]_proj$": r"\1.encoder_hidden_states",
}


@dataclass(frozen=True)
class QuantisedLinear:
    """A linear in integers: y = (x_q @ weight^T) * input_scale * weight_scale + bias,
    x_q = clip(round(x / smooth / input_scale), -128, 127).

    smooth is float32 [in], weight int8 [out, in] within -127..127, weight_scale float32 [out]. smooth and
    both scales are numbers that bfloat16 and normal float16 have exactly.
    """

    smooth: Tensor
    input_scale: float
    weight: Tensor
    weight_scale: Tensor


def quantised_names(component: str, names: Iterable[str]) -> list[str]:
    """Those of `names`, modules of `component` ("flux.transformer"), that get int8 weights and inputs."""
    return _matching(INT8, component, names)


def weight_only_names(component: str, names: Iterable[str]) -> list[str]:
    """Those of `names` whose weights alone become int8."""
    return _matching(INT8_WEIGHTS, component, names)


def _matching(rules: Mapping[str, str], component: str, names: Iterable[str]) -> list[str]:
    rule = rules.get(component)
    return [name for name in names if rule and re.search(rule, name)]


def input_of(name: str) -> str:
    """A word for what the linear `name` reads: equal for linears of a block that read one tensor."""
    for pattern, word in SHARED_INPUTS.items():
        name = re.sub(pattern, word, name)
    return name


def representable(values: Tensor) -> Tensor:
    """float32: the nearest numbers that bfloat16 and normal float16 both have."""
    return values.float().clamp(LEAST, MOST).to(torch.bfloat16).float()


def smoothing(weight_absmax: Tensor, input_absmax: Tensor, alpha: float) -> Tensor:
    """float32 [in], what to divide inputs by: equation 4 of arXiv 2211.10438, with a geometric mean of 1.

    The mean changes nothing but the scales, which it keeps about as large as numbers of weights and inputs.
    """
    tiny = torch.finfo(torch.float32).tiny
    inputs = input_absmax.float().clamp(min=max(FLOOR * input_absmax.median().item(), tiny))
    weights = weight_absmax.float().clamp(min=max(DEAD * weight_absmax.max().item(), tiny))
    log = alpha * inputs.log() - (1 - alpha) * weights.log()
    return representable((log - log.mean()).exp())


def quantise(weight: Tensor, input_absmax: Tensor, alpha: float = ALPHA) -> QuantisedLinear:
    """The linear of `weight` [out, in] whose inputs are at most `input_absmax` [in] large, each of its own.

    ExportError if the numbers are not finite or do not belong together.
    """
    _check(weight, input_absmax, alpha)
    smooth = smoothing(weight.abs().amax(dim=0), input_absmax, alpha)
    input_scale = representable((input_absmax / smooth).max() / LEVELS).item()
    return QuantisedLinear(smooth, input_scale, *quantise_weight_only(weight.float() * smooth))


def _check(weight: Tensor, input_absmax: Tensor, alpha: float) -> None:
    if input_absmax.shape != weight.shape[1:]:
        raise ExportError(f"a weight {list(weight.shape)} has no inputs {list(input_absmax.shape)}")
    if not (torch.isfinite(input_absmax).all() and (input_absmax >= 0).all()):
        raise ExportError("the largest inputs of a linear must be finite and not negative: calibrate again")
    if not 0 <= alpha <= 1:
        raise ExportError(f"alpha {alpha} is not in 0..1")


def quantise_weight_only(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` [out, in] as int8 [out, in] and float32 scale [out]: symmetric, one for an output channel."""
    if not torch.isfinite(weight).all():
        raise ExportError(f"a weight {list(weight.shape)} has numbers that are not finite")
    scale = representable(weight.abs().amax(dim=1) / LEVELS)
    levels = (weight.float() / scale[:, None]).round().clamp(-LEVELS, LEVELS)
    return levels.to(torch.int8), scale


def quantise_all(
    weights: Mapping[str, Tensor], absmax: Mapping[str, Tensor], alpha: float = ALPHA
) -> Iterator[tuple[str, QuantisedLinear]]:
    """Each linear of `weights` (name -> [out, in]) with its name, given its inputs' `absmax` (name -> [in]).

    Linears that read the same tensor get the same smooth and input_scale, so an engine quantises it once.
    Only the linears of one such tensor are in memory twice. ExportError names one without `absmax`.
    """
    together: dict[str, list[str]] = {}
    for name in weights:
        if name not in absmax:
            raise ExportError(f"{name} was not calibrated: calibrate again")
        together.setdefault(input_of(name), []).append(name)
    for names in together.values():
        yield from _quantise_together(names, weights, absmax, alpha)


def _quantise_together(
    names: list[str], weights: Mapping[str, Tensor], absmax: Mapping[str, Tensor], alpha: float
) -> Iterator[tuple[str, QuantisedLinear]]:
    parts = [weights[name].float() for name in names]
    inputs = torch.stack([absmax[name].float() for name in names]).amax(dim=0)
    whole, sizes = quantise(torch.cat(parts), inputs, alpha), [len(part) for part in parts]
    pairs = zip(torch.split(whole.weight, sizes), torch.split(whole.weight_scale, sizes), strict=True)
    for name, (weight, scale) in zip(names, pairs, strict=True):
        yield name, QuantisedLinear(whole.smooth, whole.input_scale, weight, scale)


class FakeQuantised(nn.Module):
    """What an int8 engine answers for a linear, computed in float32: [..., in] -> [..., out].

    Adapters stay in 16 bits there: they see the inputs as they are.
    """

    divisor: Tensor
    scaled_weight: Tensor

    def __init__(self, linear: nn.Linear, quantised: QuantisedLinear) -> None:
        super().__init__()
        self.bias, self.adapted = linear.bias, linear.adapted if isinstance(linear, LoraLinear) else None
        self.register_buffer("divisor", quantised.smooth * quantised.input_scale)
        scale = quantised.weight_scale[:, None] * quantised.input_scale
        self.register_buffer("scaled_weight", quantised.weight.float() * scale)

    def forward(self, input: Tensor) -> Tensor:
        levels = (input / self.divisor).round().clamp(-LEVELS - 1, LEVELS)
        answer = functional.linear(levels, self.scaled_weight, self.bias)
        return answer if self.adapted is None else answer + self.adapted(input)


def fake_quantised(linear: nn.Linear, quantised: QuantisedLinear) -> nn.Module:
    """A module in place of `linear` that answers as `quantised` does; float32."""
    return FakeQuantised(linear, quantised)


@torch.no_grad()
def fake_quantise(
    model: nn.Module, component: str, absmax: Mapping[str, Tensor], alpha: float = ALPHA
) -> None:
    """Makes the float32 `model` of `component` answer as its int8 engine will, in place.

    `absmax` (name -> [in]) may be empty where `component` has weight-only linears alone.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    weights = {name: linears[name].weight for name in quantised_names(component, linears)}
    for name, quantised in quantise_all(weights, absmax, alpha):
        model.set_submodule(name, fake_quantised(linears[name], quantised))
    for name in weight_only_names(component, linears):
        levels, scale = quantise_weight_only(linears[name].weight)
        linears[name].weight.copy_(levels * scale[:, None])
