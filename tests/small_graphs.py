"""Graphs of the random checkpoints in precisions and with inputs that no shipped repository has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn

from export import graph, models, parity, values
from export.checkpoint import open_checkpoint
from export.component import weightless
from export.plan import Plan
from export.profile import changed
from export.targets import TARGETS, with_precisions
from export.values import Absmax
from export.weights import Weights
from families import Axes, ComponentSpec

PROFILE = ("size=64,128,256", "batch=1,1,4", "text_length=8,48,48")  # of plans for the random checkpoints


@dataclass(frozen=True)
class Case:
    """A component as `plan` exports it."""

    plan: Plan
    name: str

    @cached_property
    def component(self) -> ComponentSpec:
        return self.plan.family.component(self.name)

    @cached_property
    def model(self) -> ir.Model:
        """Its graph, without weights."""
        return weightless(self.plan, self.component)[0]

    @cached_property
    def weights(self) -> Weights:
        return Weights(self.plan.checkpoint.folder / self.component.folder)

    def session(self, path: Path, model: ir.Model, absmax: Absmax | None = None) -> Session:
        """`model`, which gets its weights here, in ONNX Runtime."""
        values.fill(model, self.weights, absmax or {})
        graph.save(model, path)
        return Session(parity.open_session(path))

    def module(self, dtype: torch.dtype = torch.float32, lora: bool = False) -> nn.Module:
        """The stock module with its weights; `lora` makes it take packed adapters."""
        targets = self.plan.targets(self.component) if lora else ()
        return models.load(self.plan.checkpoint, self.component, dtype, targets)

    def inputs(self, axes: Axes) -> dict[str, Tensor]:
        return parity.random_inputs(self.plan.spec(self.component), axes, self.plan.checkpoint.configs)

    def axes(self, rank: int = 0) -> Axes:
        return self.plan.axes(2, 64, 96, self.plan.checkpoint.max_sequence_length // 2, rank)


@dataclass(frozen=True)
class Session:
    runtime: onnxruntime.InferenceSession

    def __call__(self, **inputs: Tensor) -> list[Tensor]:
        fed = {name: tensor.numpy() for name, tensor in inputs.items()}
        return [torch.from_numpy(answer) for answer in self.runtime.run(None, fed)]


def for_cpu(folder: Path, name: str, compute: str = "fp32", lora: bool = False) -> Case:
    """For ONNX Runtime, computing in `compute`, which the target itself may not have."""
    precisions = {key: {compute: compute} for key in TARGETS["cpu"].precisions}
    target = replace(TARGETS["cpu"], precisions=precisions)
    return Case(Plan(checkpoint=open_checkpoint(folder), target=target, lora=lora), name)


def for_a100(folder: Path, name: str, *precisions: str) -> Case:
    """For the compiler that runs on any machine."""
    checkpoint, target = open_checkpoint(folder), TARGETS["a100"]
    target = with_precisions(target, checkpoint.family, precisions)
    target = replace(target, profile=changed(target.profile, PROFILE))
    return Case(Plan(checkpoint=checkpoint, target=target, builder="tensorrt_rtx"), name)


@torch.inference_mode()
def answers(module: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """What `module` answers: always a list, as of a Session."""
    answer = module(**inputs)
    return list(answer) if isinstance(answer, tuple) else [answer]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Of the norms."""
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()
