"""The tiny checkpoints that can be made, by name."""

from __future__ import annotations

from pathlib import Path

from finetune.pretrain_flux import FLUX_TINY, FluxPretraining
from finetune.pretrain_sdxl import SDXL_TINY, SdxlPretraining
from finetune.stages import Pretraining

CHECKPOINTS = {"flux-tiny": (FluxPretraining, FLUX_TINY), "sdxl-tiny": (SdxlPretraining, SDXL_TINY)}


def pretraining(name: str, work: Path, output: Path, workers: int) -> Pretraining:
    """The stages of checkpoint `name`."""
    kind, recipe = CHECKPOINTS[name]
    return kind(recipe, work, output, workers)
