"""Trains an adapter: LoRA on the denoiser of any checkpoint of our families, in diffusers' layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler
from PIL import Image
from torch import Tensor, nn

from families.hashes import sha256_of_weights
from finetune import adapter_file, manifest
from finetune.adapter_file import Origin
from finetune.dataset import Pixels
from finetune.evaluate import generate, grid, load
from finetune.lora import LoraPhase, add_adapter, optimizer_for
from finetune.lora_pictures import Pictures
from finetune.manifest import slug
from finetune.objectives import Objective, objective_of
from finetune.run import Run, descend, seeded_steps


class Training:
    """A fresh adapter in the denoiser of `objective`, to be trained; `folder`/lora keeps state and losses."""

    def __init__(self, objective: Objective, pictures: Pictures, phase: LoraPhase, folder: Path) -> None:
        self.objective, self.pictures, self.phase, self.folder = objective, pictures, phase, folder
        self.config = add_adapter(objective, phase)
        self.adapter = nn.ParameterList(p for p in objective.denoiser.parameters() if p.requires_grad)

    def run(self) -> Iterator[int]:
        """Trains, from the last state if there is one; yields the number of each step with a checkpoint due.

        The same however it is cut: a step's noise and pictures depend on its number alone. A state may have
        been cut off from its checkpoint, so a run that begins at one yields it again.
        """
        phase, run = self.phase, Run(self.folder, self.phase)
        optimizer = optimizer_for(list(self.adapter), phase.learning_rate)
        schedule = get_scheduler(
            phase.lr_scheduler, optimizer, num_warmup_steps=0, num_training_steps=phase.steps
        )
        parts = {"adapter": self.adapter, "optimizer": optimizer, "schedule": schedule}
        start = run.resume(parts)
        if start and self._due(start):
            yield start
        for step in seeded_steps(phase, start):
            loss = descend(self.adapter, self._loss(step), optimizer)
            schedule.step()
            run.log(step=step + 1, loss=loss)
            if self._due(step + 1) or (step + 1) % phase.state_every == 0:
                run.save(step + 1, parts)
            if self._due(step + 1):
                yield step + 1

    def _due(self, step: int) -> bool:
        return step % self.phase.checkpoint_every == 0 or step == self.phase.steps

    def _loss(self, step: int) -> Tensor:
        clean, condition = self.pictures.batch(step, self.phase.batch, self.phase.caption_dropout)
        with torch.autocast(clean.device.type, torch.bfloat16, enabled=clean.is_cuda):
            return self.objective.loss(clean, condition, self.phase.guidance)


@dataclass(frozen=True)
class Job:
    """An adapter to be made of data set `dataset`, for one of its industries, into folder `output`."""

    checkpoint: Path
    dataset: Path
    industry: str
    trigger: str
    output: Path
    samples: int  # pictures of a row of the sample grids; 0: no grids


def open_objective(checkpoint: Path) -> Objective:
    """The pipeline on the GPU in bfloat16, or on the CPU in float32."""
    if not torch.cuda.is_available():
        return objective_of(load(checkpoint))
    objective = objective_of(load(checkpoint, torch.bfloat16).to("cuda"))
    objective.denoiser.enable_gradient_checkpointing()
    return objective


def train(job: Job, phase: LoraPhase) -> Path:
    """Trains as `phase` has it, or goes on; the finished adapter's file.

    Beside it lie `<industry>_<step>.safetensors` of every checkpoint and samples/ with their grids.
    ValueError if the data set lacks the industry, or is not what its manifest says.
    """
    known, name = manifest.read(job.dataset), slug(job.industry)
    pairs = known.of(job.industry, "train")
    manifest.verify(job.dataset, pairs)
    objective = open_objective(job.checkpoint)
    pictures = Pictures(job.dataset, pairs, objective, phase.resolution)
    training = Training(objective, pictures, phase, job.output / f"{name}.run")
    base = sha256_of_weights(job.checkpoint / objective.component.folder)
    samples = Samples(objective, job, phase.resolution)
    final = job.output / f"{name}.safetensors"
    for step in training.run():
        origin = Origin(job.industry, job.trigger, job.checkpoint.name, base, known.sha256, step)
        for path in (job.output / f"{name}_{step:09}.safetensors", *([final] if step == phase.steps else [])):
            adapter_file.save(path, objective.denoiser, training.config, objective.component.folder, origin)
        samples.draw(job.output / "samples" / f"{name}_{step:09}.png")
    return final


def sample_prompts(job: Job) -> list[str]:
    """The first held-out captions of the job's industry."""
    shown = manifest.read(job.dataset).of(job.industry, "held-out")[: job.samples]
    return [(job.dataset / pair.file).with_suffix(".txt").read_text().strip() for pair in shown]


class Samples:
    """Grids of held-out captions: the base model's row above the adapter's, same prompts and seeds."""

    def __init__(self, objective: Objective, job: Job, size: int) -> None:
        self._prompts = sample_prompts(job)
        self._objective, self._size = objective, size
        self._base: Pixels | None = None

    def draw(self, path: Path) -> None:
        """Writes the grid of the denoiser as it is now."""
        if not self._prompts:
            return
        denoiser = self._objective.denoiser
        if self._base is None:
            denoiser.disable_adapters()
            self._base = self._row()
            denoiser.enable_adapters()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_grid(path, self._base, self._row())

    def _row(self) -> Pixels:
        family = self._objective.family
        steps, guidance = int(family.num_inference_steps.default), family.guidance_scale.default
        return generate(self._objective.pipeline, self._prompts, steps, guidance, size=self._size)


def save_grid(path: Path, *rows: Pixels) -> None:
    """Rows of pictures uint8 [N, H, W, 3] as a PNG of 256 colours, small enough to be committed."""
    sheet = grid([picture for row in rows for picture in row], len(rows[0]))
    sheet.quantize(256, Image.Quantize.MEDIANCUT).save(path, optimize=True)
