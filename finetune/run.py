"""What every training run shares: seeds, resumable checkpoints, an averaged copy, and a log of curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Run:
    """A folder with `state.pt` (to resume) and `curves.jsonl` (one JSON object a line)."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, **parts: Any) -> None:
        """Replaces the state atomically; `parts` have `state_dict()`."""
        state = {name: part.state_dict() for name, part in parts.items()}
        temporary = self.folder / "state.tmp"
        torch.save({"step": step, **state}, temporary)
        temporary.replace(self.folder / "state.pt")

    def resume(self, **parts: Any) -> int:
        """Loads the last state into `parts`; the step it was taken at, 0 for a fresh run."""
        path = self.folder / "state.pt"
        if not path.exists():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])

    def log(self, **row: float) -> None:
        with (self.folder / "curves.jsonl").open("a") as lines:
            lines.write(json.dumps({key: round(value, 5) for key, value in row.items()}) + "\n")


class Average(nn.Module):
    """Exponential moving average of a module's parameters; its decay starts low, to forget the start."""

    def __init__(self, module: nn.Module, decay: float):
        super().__init__()
        self._decay = decay
        self.shadow = nn.ParameterList(p.detach().clone() for p in module.parameters())
        self.shadow.requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.shadow), list(module.parameters()), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for parameter, average in zip(module.parameters(), self.shadow, strict=True):
            parameter.copy_(average)


def one_cycle(
    optimizer: torch.optim.Optimizer, peak: float, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Warm-up over the first 3 %, then cosine to zero."""
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.03, cycle_momentum=False)
