"""Targets: where a repository is meant to run, and so what its engines are and how large a request may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from export.errors import ExportError
from export.profile import Profile, Span
from families import COMPONENTS, FamilySpec
from families.lora import RANKS

# Triton's names of the types that an engine computes in.
COMPUTE = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}
SIXTEEN_BIT = ("bf16", "fp16")
# Precision -> compute capability from which GPUs have it.
SINCE = {"fp32": 0.0, "fp16": 5.3, "int8": 6.1, "int8_weights": 6.1, "bf16": 8.0, "fp8": 8.9, "fp4": 10.0}

Precisions = Mapping[str, Mapping[str, str]]  # family.component -> precision -> what it computes in


@dataclass(frozen=True)
class Target:
    """`engine` is Triton's backend, `engine_file` its name in a version folder.

    `precisions` has for each component those that it may be exported in, and the type (of `COMPUTE`) of
    what the precision leaves alone; the first is the default. `int8` is W8A8, `int8_weights` weight-only.
    """

    name: str
    engine: str
    engine_file: str
    opset: int
    denoiser_opset: int
    profile: Profile
    precisions: Precisions
    tolerance: float  # largest allowed difference from torch in float32, see parity.max_error
    compute_capability: str | None = None
    gpu: str | None = None  # of export.memory

    @property
    def min_size(self) -> int:
        return self.profile.size.min

    @property
    def max_size(self) -> int:
        return self.profile.size.max

    def default_precision(self, key: str) -> str:
        """The precision of the component `key`, "family.component"."""
        return next(iter(self.precisions[key]))

    def sixteen_bit(self, key: str) -> str:
        """The 16-bit precision of the component `key`."""
        return next(precision for precision in self.precisions[key] if precision in SIXTEEN_BIT)


CPU_PRECISIONS: dict[str, dict[str, str]] = {key: {"fp32": "fp32"} for key in COMPONENTS}
CPU_PRECISIONS["flux.transformer"]["int8"] = CPU_PRECISIONS["sdxl.unet"]["int8"] = "fp32"
CPU_PRECISIONS["flux.text_encoder_2"]["int8_weights"] = "fp32"
A100_PRECISIONS: dict[str, dict[str, str]] = {
    "flux.text_encoder": {"fp16": "fp16"},
    "flux.text_encoder_2": {"int8_weights": "bf16", "bf16": "bf16"},  # T5 overflows in fp16
    "flux.transformer": {"int8": "bf16", "bf16": "bf16"},  # so does the residual stream of Flux
    "flux.vae_encoder": {"bf16": "bf16"},
    "flux.vae_decoder": {"bf16": "bf16"},
    "sdxl.text_encoder": {"fp16": "fp16"},
    "sdxl.text_encoder_2": {"fp16": "fp16"},
    "sdxl.unet": {"fp16": "fp16", "int8": "fp16"},
    "sdxl.vae_encoder": {"bf16": "bf16"},  # SDXL's VAE overflows in fp16: its config says force_upcast
    "sdxl.vae_decoder": {"bf16": "bf16"},
}
TARGETS = {
    target.name: target
    for target in (
        # Opset 23 has Attention and RMSNormalization: one kernel each, in TensorRT in 16 bit. From 21 on ONNX
        # Runtime 1.31 multiplies int8 weights with inputs that it makes int8 too: T5 would lose two digits.
        Target(
            name="cpu",
            engine="onnxruntime",
            engine_file="model.onnx",
            opset=20,
            denoiser_opset=23,
            profile=Profile(Span(64, 128, 512), Span(1, 1, 4), Span(1, 512, 512), Span(RANKS[0], 16, 64)),
            precisions=MappingProxyType(CPU_PRECISIONS),
            tolerance=1e-4,
        ),
        Target(
            name="a100",
            engine="tensorrt",
            engine_file="model.plan",
            opset=23,
            denoiser_opset=23,
            # As large as leaves room for both families on one GPU: contexts take memory for the largest call.
            profile=Profile(Span(256, 1024, 1024), Span(1, 1, 1), Span(128, 512, 512), Span(0, 16, 64)),
            precisions=MappingProxyType(A100_PRECISIONS),
            tolerance=5e-3,
            compute_capability="8.0",
            gpu="A100-40",
        ),
    )
}


def target_named(name: str) -> Target:
    """The target called `name`; ExportError lists the choices."""
    if name not in TARGETS:
        raise ExportError(f"unknown target {name!r}; choices: {', '.join(TARGETS)}")
    return TARGETS[name]


def with_precisions(target: Target, family: FamilySpec, choices: Sequence[str]) -> Target:
    """`target` with `choices` such as "transformer=bf16" for `family`; ExportError names what cannot be."""
    precisions = dict(target.precisions)
    for choice in choices:
        component, _, precision = choice.partition("=")
        key = f"{family.name}.{component}"
        if key not in precisions:
            known = ", ".join(component.name for component in family.components)
            raise ExportError(f"unknown component {component!r}; {family.name} has {known}")
        _check_precision(target, key, precision)
        allowed = precisions[key]
        precisions[key] = {precision: allowed[precision], **allowed}
    return replace(target, precisions=MappingProxyType(precisions))


def _check_precision(target: Target, key: str, precision: str) -> None:
    allowed = target.precisions[key]
    choices = f"choices for {key} on {target.name}: {', '.join(allowed)}"
    has = target.compute_capability
    if precision in SINCE and has and SINCE[precision] > float(has):
        raise ExportError(
            f"precision {precision} needs compute capability {SINCE[precision]}, {target.name} has {has}; "
            f"{choices}"
        )
    if precision not in allowed:
        raise ExportError(f"unknown precision {precision!r}; {choices}")
