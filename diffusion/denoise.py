"""Samples that step side by side, each with its own scheduler, through one call of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusion.adapters.packs import Pack, stacked
from diffusion.errors import BadPrediction, EngineError
from diffusion.step_cache import StepCache
from families.lora import PACKS

Engine = Callable[[Mapping[str, Tensor]], Tensor]
"""Inputs of a family's denoising component, by name and batch-first -> its prediction."""
Inputs = Mapping[str, Tensor]


class LastStep(NamedTuple):
    """The last of `number` steps, whole at any moment: other threads look at it."""

    number: int
    prediction: Tensor  # guided
    output: Any  # the scheduler's


class Sample(ABC):
    """One picture on its way. A call of the engine has `rows` rows of it; tensors are float32, rows first.

    `latents` have a batch axis of 1; `timesteps` are those to make, in order; `adapters` is None where
    there are none. `error` is set when it cannot go on. Nothing of it depends on who shares its calls.
    """

    def __init__(
        self, scheduler: Any, timesteps: Tensor, latents: Tensor, rows: int = 1, adapters: Pack | None = None
    ) -> None:
        self.scheduler, self.timesteps, self.latents = scheduler, timesteps, latents
        self.adapters, self.rows = adapters, rows
        self.cache: StepCache | None = None  # where steps may do without the engine
        self.step, self.calls = 0, 0  # steps made, and predictions of the engine among them
        self.last: LastStep | None = None
        self.error: Exception | None = None

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

    def advance(self, prediction: Tensor, finite: bool) -> None:
        """One step with the engine's `prediction` [rows, ...], and those that the cache then forecasts.

        Sets `error` if that fails, as it does when the prediction is not `finite`.
        """
        try:
            self._advance(prediction, finite)
        except Exception as error:  # it is this sample's own: the others of its call go on
            self.error = error

    def _advance(self, prediction: Tensor, finite: bool) -> None:
        if not finite:
            raise BadPrediction(f"the engine's prediction is not finite at step {self.step + 1}")
        guided = self.guided(prediction)
        self.calls += 1
        self._step(self.cache.observe(self.step, guided) if self.cache else guided)
        while self.running and self.cache and (forecast := self.cache.forecast(self.step)) is not None:
            self._step(forecast)

    def _step(self, guided: Tensor) -> None:
        output = self.scheduler.step(guided, self.timestep, self.latents)
        self.latents = output.prev_sample
        self.step += 1
        self.last = LastStep(self.step, guided, output)

    def estimate(self) -> Tensor | None:
        """What latents [1, C, h, w] it will end at, as far as the last step tells; from any thread."""
        return None

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
        """One call, and one step of every sample; no sample has moved if this raises what the engine does."""
        inputs = joined([sample.inputs() for sample in self.samples])
        prediction = engine({**inputs, **self.constants})
        wanted = next(iter(inputs.values())).shape
        if prediction.shape != wanted:
            raise EngineError(f"the engine answered {tuple(prediction.shape)}, expected {tuple(wanted)}")
        finite = iter(torch.isfinite(prediction).flatten(1).all(1).tolist())  # one look for all rows
        parts = torch.split(prediction, [sample.rows for sample in self.samples])
        for sample, part in zip(self.samples, parts, strict=True):
            of_sample = list(islice(finite, sample.rows))  # taken whole: `all` stops at the first False
            sample.advance(part, all(of_sample))


def joined(parts: Sequence[Inputs]) -> Inputs:
    """The rows of every part, by name; those of a single part as they are, not copied."""
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _packs(samples: Sequence[Sample]) -> Inputs:
    """Each row's own pack, zeros for those that have none; nothing if no row has one."""
    packs = [sample.adapters for sample in samples for _ in range(sample.rows)]
    if (some := next(filter(None, packs), None)) is None:
        return {}
    zeros = some.zeros()
    return dict(zip(PACKS, stacked([pack or zeros for pack in packs]), strict=True))
