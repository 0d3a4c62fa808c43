"""What stages read of a checkpoint: the scheduler and numbers from configs, never weights."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler


def load_scheduler(checkpoint: Path) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler.from_pretrained(checkpoint / "scheduler", local_files_only=True)


def latent_channels(checkpoint: Path) -> int:
    """Channels of the VAE's latents."""
    config = json.loads((checkpoint / "vae" / "config.json").read_text())
    return int(config["latent_channels"])
