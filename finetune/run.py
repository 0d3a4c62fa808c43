"""The training loop that every stage shares: resumable, averaged, the same however it is cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from finetune.workers import average_gradients, rank, world_size


@dataclass(frozen=True)
class Phase:
    """One stretch of training; `batch` is the number of samples of a step over all workers."""

    name: str
    steps: int
    learning_rate: float
    batch: int

    @property
    def batch_per_worker(self) -> int:
        return self.batch // world_size()


class Run:
    """A phase's folder: `state.pt` (to resume) and `curves.jsonl` (one JSON object a line)."""

    def __init__(self, folder: Path, phase: Phase):
        self._folder, self._phase = folder / phase.name, phase
        self._folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, parts: dict[str, Any]) -> None:
        """Replaces the state atomically; `parts` have `state_dict()`."""
        state = {name: part.state_dict() for name, part in parts.items()}
        temporary = self._folder / "state.tmp"
        torch.save({"step": step, "phase": asdict(self._phase), **state}, temporary)
        temporary.replace(self._folder / "state.pt")

    def resume(self, parts: dict[str, Any]) -> int:
        """Loads the last state into `parts`; the step it was taken at, 0 for a fresh run.

        Raises ValueError if the state is of a phase with other settings.
        """
        path = self._folder / "state.pt"
        if not path.exists():
            return self._from(0)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["phase"] != asdict(self._phase):
            raise ValueError(f"{path} is of {state['phase']}, not of {self._phase}: remove it to start anew")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return self._from(int(state["step"]))

    def _from(self, step: int) -> int:
        """Forgets the curves' rows of steps after `step`, which will be made again."""
        path = self._folder / "curves.jsonl"
        rows = path.read_text().splitlines() if path.exists() else []
        kept = [row for row in rows if json.loads(row)["step"] <= step]
        if len(kept) < len(rows):
            path.write_text("".join(f"{row}\n" for row in kept))
        return step

    def log(self, **row: float) -> None:
        with (self._folder / "curves.jsonl").open("a") as lines:
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


def seeded_steps(phase: Phase, start: int) -> Iterator[int]:
    """The steps left, with a progress bar on the first worker; each seeds torch by its number."""
    steps = range(start, phase.steps)
    bar = tqdm(steps, desc=phase.name, initial=start, total=phase.steps, mininterval=10)
    for step in bar if rank() == 0 else steps:
        torch.manual_seed(step * world_size() + rank())
        yield step


def optimise(
    module: nn.Module,
    phase: Phase,
    loss: Callable[[int], torch.Tensor],
    folder: Path,
    measure: Callable[[], dict[str, float]] = dict,
    every: int = 250,
) -> None:
    """Trains `module` in place on `loss(step)`, resuming if `folder` has a state; it ends as its own average.

    Every `every` steps the mean loss and `measure()` are logged and the state saved; the last row is of the
    average.
    """
    optimizer = torch.optim.AdamW(
        module.parameters(), phase.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2
    )
    schedule, average = one_cycle(optimizer, phase.learning_rate, phase.steps), Average(module, 0.999)
    parts = {"module": module, "optimizer": optimizer, "schedule": schedule, "average": average}
    run, losses = Run(folder, phase), list[float]()
    start = run.resume(parts)

    def record(step: int) -> None:
        if rank() == 0:
            run.log(step=step, loss=fmean(losses), **measure())
            run.save(step, parts)
        losses.clear()

    for step in seeded_steps(phase, start):
        losses.append(descend(module, loss(step), optimizer))
        schedule.step()
        average.update(module, step)
        if (step + 1) % every == 0 and step + 1 < phase.steps:
            record(step + 1)
    average.copy_to(module)
    if start < phase.steps:
        record(phase.steps)


def descend(module: nn.Module, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    """One step against `loss`, gradients clipped to a norm of 1; the loss as a number."""
    optimizer.zero_grad()
    loss.backward()
    average_gradients(module)
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    return loss.item()
