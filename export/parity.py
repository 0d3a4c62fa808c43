"""Compares an exported component with torch on random inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from families import Axes, ComponentSpec, TensorSpec
from families.lora import PACKS
from families.spec import Configs

ADAPTER_SCALE = 0.03  # as large as trained ones: adapters that drown the model compare nothing


def random_inputs(component: ComponentSpec, axes: Axes, configs: Configs, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of `component` for a call with these axes: normal numbers, or token ids of its vocabulary.

    Packed adapters are of normal numbers too, `ADAPTER_SCALE` large.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = configs[component.folder].get("vocab_size", 1)
    return {t.name: _random(t, t.sizes(axes, configs), vocabulary, generator) for t in component.inputs}


def _random(
    tensor: TensorSpec, sizes: tuple[int, ...], vocabulary: int, generator: torch.Generator
) -> Tensor:
    if tensor.dtype == "INT64":
        return torch.randint(vocabulary, sizes, generator=generator)
    if tensor.dtype == "UINT8":
        return torch.randint(256, sizes, generator=generator, dtype=torch.uint8)
    scale = ADAPTER_SCALE if tensor.name in PACKS else 1.0
    return scale * torch.randn(sizes, generator=generator)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Q/DQ pairs as they are written: 8-bit kernels overflow their 16-bit sums on CPUs without VNNI.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def with_zero_packs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`inputs` of a call without adapters."""
    zeros = {name: torch.zeros_like(inputs[name]) for name in PACKS}
    return {**inputs, **zeros}


def max_error(
    session: onnxruntime.InferenceSession, module: nn.Module, inputs: Mapping[str, Tensor]
) -> float:
    """Largest difference of any output, the session fed those `inputs` that it has; NaN if one has a NaN.

    In levels for uint8; for numbers, as a share of torch's largest one where that exceeds 1.
    """
    with torch.inference_mode():
        answer = module(**inputs)
    expected = [tensor.numpy() for tensor in (answer if isinstance(answer, tuple) else (answer,))]
    actual = session.run(None, {tensor.name: inputs[tensor.name].numpy() for tensor in session.get_inputs()})
    return float(np.max([_error(*pair) for pair in zip(actual, expected, strict=True)]))


def _error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    if actual.shape != expected.shape:
        raise ValueError(f"the graph answers {actual.shape}, torch {expected.shape}")
    scale = 1.0 if actual.dtype == np.uint8 else max(1.0, float(np.abs(expected).max()))
    return float(np.abs(actual.astype(np.float64) - expected).max()) / scale
