"""The smallest samples and engine that the denoising loop can have: quick, and exact to the last bit."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from diffusion.denoise import Inputs, Sample
from diffusion.step_batcher import denoise


class Line(Sample):
    """Latents [1, width]; a call has `rows` rows of it, each with a text of its own; their mean counts."""

    def __init__(self, seed: int = 0, steps: int = 4, rows: int = 1, width: int = 3) -> None:
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(steps)
        generator = torch.Generator().manual_seed(seed)
        super().__init__(scheduler, scheduler.timesteps, torch.randn(1, width, generator=generator), rows)
        self.text = torch.randn(rows, 1, generator=generator)

    @property
    def group_key(self) -> Hashable:
        return self.latents.shape[1]

    def constants(self) -> Inputs:
        return {"text": self.text}

    def inputs(self) -> Inputs:
        return {
            "latents": self.latents.expand(self.rows, -1),
            "timestep": self.timestep.expand(self.rows, 1),
        }

    def guided(self, prediction: Tensor) -> Tensor:
        return prediction.mean(dim=0, keepdim=True)


class Engine:
    """Answers each row by itself, to the last bit, whatever rows are beside it; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Tensor]] = []

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.calls.append(dict(inputs))
        return inputs["latents"] * inputs["text"] + inputs["timestep"] / 1000

    @property
    def batches(self) -> list[int]:
        return [len(call["latents"]) for call in self.calls]


def alone(seed: int, steps: int = 4, rows: int = 1, width: int = 3) -> Tensor:
    sample = Line(seed, steps, rows, width)
    denoise([sample], Engine(), max_rows=8)
    return sample.result()
