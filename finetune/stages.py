"""The stages that make a tiny checkpoint; each leaves a folder and is skipped where that exists.

text -> encoders and tokenizers; vae -> encoder and decoder; decoder -> the same latents, better drawn;
denoiser -> transformer or UNet; assemble -> a checkpoint that stock diffusers loads; card -> its scores and
curves. `decoder` and `denoiser` both need `vae` only, so two processes can run them side by side.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import nn

from finetune import card, evaluate, vae
from finetune.card import Panel
from finetune.dataset import Pixels, training_pictures
from finetune.run import Phase
from finetune.vae import VaePhase
from finetune.workers import rank, run_workers

STAGES = ("text", "vae", "decoder", "denoiser", "assemble", "card")


@dataclass(frozen=True)
class Recipe:
    """How a tiny checkpoint is made; `size` in pixels, `captions` for the tokenizers."""

    size: int
    pictures: int
    captions: int
    text: Phase
    vae: VaePhase
    decoder: VaePhase
    denoiser: tuple[Phase, ...]
    guidance: float  # scale at which the checkpoint is judged


@dataclass(frozen=True)
class Pretraining(ABC):
    """A recipe at work: results and runs lie in `work`, the checkpoint goes to `output`."""

    recipe: Recipe
    work: Path
    output: Path
    workers: int = 1

    def run(self, only: str | None = None) -> None:
        """Every stage that has not been done, or the one called `only`."""
        for name in STAGES if only is None else (only,):
            if not (self.work / name).exists():
                getattr(self, name)()

    @property
    def runs(self) -> Path:
        return self.work / "runs"

    @abstractmethod
    def text(self) -> None:
        """Trains tokenizers and text encoders into `work`/text."""

    @abstractmethod
    def new_vae(self) -> AutoencoderKL:
        """The VAE before training."""

    @abstractmethod
    def normalise(self, model: AutoencoderKL) -> None:
        """Makes the trained VAE's scaled latents have mean 0 and deviation 1."""

    @abstractmethod
    def train_denoiser(self, latents: torch.Tensor) -> nn.Module:
        """Every phase of the denoiser on scaled `latents` [N, C, h, w]; a diffusers model."""

    @abstractmethod
    def pipeline(self) -> DiffusionPipeline:
        """What the stages have made, as stock diffusers' pipeline."""

    @property
    @abstractmethod
    def words(self) -> card.Words:
        """What the model card says of the family."""

    def card(self) -> None:
        """Evaluates the checkpoint and writes its model card beside it."""
        evaluation = self.work / "evaluation"
        evaluate.report(self.output, self.work, evaluation, guidance=self.recipe.guidance)
        card.write(self.words, self.output, self.runs, self.panels, evaluation)

    def vae(self) -> None:
        torch.manual_seed(0)
        model = self.new_vae()
        vae.train(model, self.recipe.vae, self.pictures(), self.runs, self.work)
        self.normalise(model)
        self.save(model, "vae")

    def decoder(self) -> None:
        model = AutoencoderKL.from_pretrained(self.work / "vae", dtype=torch.float32)
        vae.train(model, self.recipe.decoder, self.pictures(), self.runs, self.work)
        self.save(model, "decoder")

    def denoiser(self) -> None:
        if not (self.work / "latents").exists():
            self._encode()
        run_workers(self.workers, self._train_and_save)

    def _encode(self) -> None:
        model = AutoencoderKL.from_pretrained(self.work / "vae", dtype=torch.float32)
        with self.result("latents") as folder:
            torch.save(vae.scaled_latents(model, self.pictures()), folder / "latents.pt")

    def _train_and_save(self) -> None:
        torch.manual_seed(0)
        model = self.train_denoiser(torch.load(self.work / "latents" / "latents.pt", weights_only=True))
        if rank() == 0:
            self.save(model, "denoiser")

    def assemble(self) -> None:
        self.pipeline().save_pretrained(self.output)
        for config in self.output.glob("*/config.json"):
            _forget_origin(config)

    @contextmanager
    def result(self, name: str) -> Iterator[Path]:
        """A folder that gets its name when it is complete."""
        unfinished = self.work / f"{name}.unfinished"
        unfinished.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.rename(self.work / name)

    def save(self, model: nn.Module, name: str) -> None:
        with self.result(name) as folder:
            model.save_pretrained(folder)

    def pictures(self) -> Pixels:
        return training_pictures(self.recipe.pictures, self.recipe.size, self.work)

    @property
    def panels(self) -> list[Panel]:
        """The curves to show: run, column, title."""
        first = [
            Panel("text", "loss", "text encoders: attribute loss"),
            Panel(self.recipe.vae.name, "psnr", "VAE: held-out PSNR (dB)"),
            Panel(self.recipe.decoder.name, "psnr", "VAE decoder alone: held-out PSNR (dB)"),
        ]
        return first + [
            Panel(phase.name, "loss", f"denoiser: loss of {phase.name}") for phase in self.recipe.denoiser
        ]


def _forget_origin(config: Path) -> None:
    """A path of the machine that trained is no fact of the model."""
    facts = json.loads(config.read_text())
    facts.pop("_name_or_path", None)
    config.write_text(json.dumps(facts, indent=2) + "\n")
