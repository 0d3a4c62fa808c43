"""A small picture of latents, before a VAE has seen them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from families.preview import FILE_NAME


@dataclass(frozen=True)
class Preview:
    """The linear map that export fitted: `weight` [C, 3], `bias` [3]."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def load(cls, checkpoint: Path) -> Preview:
        told = json.loads((checkpoint / FILE_NAME).read_text())
        return cls(torch.tensor(told["weight"]), torch.tensor(told["bias"]))

    def __call__(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] -> RGB uint8 [B, h, w, 3]."""
        colours = latents.float().cpu().permute(0, 2, 3, 1) @ self.weight + self.bias
        return colours.clamp(0, 255).round().to(torch.uint8)
