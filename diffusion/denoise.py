"""The denoising loop: samples that step side by side, each with its own scheduler, through one engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.adapters.packs import Pack, stacked
from diffusion.errors import BadPrediction, Cancelled, EngineError
from families.lora import LORA_A, LORA_B

Engine = Callable[[Mapping[str, Tensor]], Tensor]
"""Inputs of a family's denoising component, by name and batch-first -> its prediction."""
Inputs = Mapping[str, Tensor]


class Sample(ABC):
    """One picture on its way. A call of the engine has `rows` rows of it; tensors are float32, rows first.

    `latents` have a batch axis of 1; `timesteps` are those to make, in order; `adapters` is None where the
    engine takes none. `error` is set when it cannot go on.
    """

    def __init__(
        self, scheduler: Any, timesteps: Tensor, latents: Tensor, rows: int = 1, adapters: Pack | None = None
    ) -> None:
        self.scheduler, self.timesteps, self.latents = scheduler, timesteps, latents
        self.adapters, self.rows = adapters, rows
        self.step = 0
        self.error: BadPrediction | None = None

    @property
    @abstractmethod
    def group_key(self) -> Hashable:
        """Samples with equal keys may share a call."""

    @abstractmethod
    def constants(self) -> Inputs:
        """The engine's inputs that stay the same from step to step."""

    @abstractmethod
    def inputs(self) -> Inputs:
        """The engine's inputs of the step to come; the first is shaped as the prediction."""

    def guided(self, prediction: Tensor) -> Tensor:
        """The engine's `rows` rows as one prediction [1, ...]."""
        return prediction

    @property
    def timestep(self) -> Tensor:
        """[] in 0..1000, of the step to come."""
        return self.timesteps[self.step]

    @property
    def running(self) -> bool:
        return self.error is None and self.step < len(self.timesteps)

    def advance(self, prediction: Tensor) -> None:
        """One step with `prediction` [rows, ...]; sets `error` if that is not finite."""
        if not torch.isfinite(prediction).all():
            self.error = BadPrediction(f"the engine's prediction is not finite at step {self.step + 1}")
            return
        guided = self.guided(prediction)
        self.latents = self.scheduler.step(guided, self.timestep, self.latents, return_dict=False)[0]
        self.step += 1

    def result(self) -> Tensor:
        """`latents`, or raises `error`."""
        if self.error:
            raise self.error
        return self.latents


@dataclass(frozen=True)
class Group:
    """Samples that share calls, with the inputs that stay the same from step to step."""

    samples: tuple[Sample, ...]
    constants: Inputs

    @classmethod
    def of(cls, samples: tuple[Sample, ...]) -> Group:
        return cls(samples, {**joined([sample.constants() for sample in samples]), **_packs(samples)})

    def step(self, engine: Engine) -> None:
        """One call, and one step of every sample."""
        inputs = joined([sample.inputs() for sample in self.samples])
        prediction = engine({**inputs, **self.constants})
        wanted = next(iter(inputs.values())).shape
        if prediction.shape != wanted:
            raise EngineError(f"the engine answered {tuple(prediction.shape)}, expected {tuple(wanted)}")
        parts = torch.split(prediction, [sample.rows for sample in self.samples])
        for sample, part in zip(self.samples, parts, strict=True):
            sample.advance(part)


def joined(parts: Sequence[Inputs]) -> Inputs:
    """The rows of every part, by name."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _packs(samples: Sequence[Sample]) -> Inputs:
    """Each row's own pack; nothing if the engine takes none."""
    packs = [sample.adapters for sample in samples for _ in range(sample.rows) if sample.adapters]
    return dict(zip((LORA_A, LORA_B), stacked(packs), strict=True)) if packs else {}


def group(samples: Sequence[Sample], max_rows: int) -> list[tuple[Sample, ...]]:
    """Compatible samples together, at most `max_rows` rows of them, in the order they came."""
    together: dict[Hashable, list[list[Sample]]] = {}
    for sample in samples:
        if sample.rows > max_rows:
            raise ValueError(f"a sample has {sample.rows} rows; a call takes {max_rows}")
        parts = together.setdefault(sample.group_key, [[]])
        if sum(member.rows for member in parts[-1]) + sample.rows > max_rows:
            parts.append([])
        parts[-1].append(sample)
    return [tuple(part) for parts in together.values() for part in parts]


class Denoiser:
    """Advances running samples, one step a tick; who runs may change between ticks."""

    def __init__(self, engine: Engine, max_rows: int) -> None:
        self.engine = engine
        self.max_rows = max_rows
        self._groups: dict[tuple[Sample, ...], Group] = {}

    def tick(self, running: Sequence[Sample]) -> None:
        """One step of every sample of `running`; groups whose members stay keep their constants."""
        members = group(running, self.max_rows)
        self._groups = {samples: self._groups.get(samples) or Group.of(samples) for samples in members}
        with torch.inference_mode():
            for together in self._groups.values():
                together.step(self.engine)


def denoise(
    samples: Sequence[Sample], engine: Engine, max_rows: int, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Steps `samples` in place until each is done or has an error; Cancelled when `cancelled()` says so."""
    denoiser = Denoiser(engine, max_rows)
    while running := [sample for sample in samples if sample.running]:
        if cancelled():
            raise Cancelled
        denoiser.tick(running)
