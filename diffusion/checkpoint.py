"""What stages read of a checkpoint: the scheduler and numbers from configs, never weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers


def load_scheduler(checkpoint: Path) -> Any:
    """The scheduler that the checkpoint names, of diffusers' class."""
    folder = checkpoint / "scheduler"
    name = json.loads((folder / "scheduler_config.json").read_text())["_class_name"]
    return getattr(diffusers, name).from_pretrained(folder, local_files_only=True)


def latent_channels(checkpoint: Path) -> int:
    """Channels of the VAE's latents."""
    return int(json.loads((checkpoint / "vae" / "config.json").read_text())["latent_channels"])


def zeros_for_empty_prompt(checkpoint: Path) -> bool:
    """Whether "no negative prompt" means zeros, as model_index.json of an SDXL checkpoint says."""
    index = json.loads((checkpoint / "model_index.json").read_text())
    return bool(index.get("force_zeros_for_empty_prompt", True))  # the pipeline's own default
