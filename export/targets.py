"""Targets: where a repository is meant to run, and so what its engines are and how large a request may be."""

from __future__ import annotations

from dataclasses import dataclass

from export.errors import ExportError


@dataclass(frozen=True)
class Target:
    """`engine` is Triton's backend, `engine_file` its name in a version folder. Sizes are in pixels."""

    name: str
    engine: str
    engine_file: str
    precision: str
    opset: int
    min_size: int
    max_size: int
    tolerance: float  # largest allowed difference from torch, see parity.max_error


TARGETS = {
    target.name: target
    for target in (
        # Opset 20: TensorRT-RTX has no kernel for opset 23's Attention in float32, and one graph serves both.
        Target(
            name="cpu",
            engine="onnxruntime",
            engine_file="model.onnx",
            precision="fp32",
            opset=20,
            min_size=64,
            max_size=512,
            tolerance=1e-4,
        ),
    )
}


def target_named(name: str) -> Target:
    """The target called `name`; ExportError lists the choices."""
    if name not in TARGETS:
        raise ExportError(f"unknown target {name!r}; choices: {', '.join(TARGETS)}")
    return TARGETS[name]
