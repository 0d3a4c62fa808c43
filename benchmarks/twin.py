"""A twin of flux-tiny with a transformer of width 32 and random weights: a call costs little but overhead."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel

from benchmarks.run import Run, checkpoint
from benchmarks.service import Service, serving

NAME = "flux-twin"
HEADS, AXES = 2, (4, 6, 6)  # 2 heads of 16


def write(folder: Path) -> Path:
    """flux-tiny with another transformer, in diffusers' layout."""
    tiny = checkpoint("flux-tiny").folder
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("transformer", "*.png"))
    config = json.loads((tiny / "transformer" / "config.json").read_text())
    narrow = {"num_attention_heads": HEADS, "attention_head_dim": sum(AXES), "axes_dims_rope": AXES}
    torch.manual_seed(0)
    FluxTransformer2DModel.from_config({**config, **narrow}).save_pretrained(folder / "transformer")
    return folder


def exported(run: Run) -> Path:
    """Its repository, in `build/` from the second time on."""
    output = Path("build") / f"{NAME}-cpu"
    if not (output / "manifest.json").exists():
        folder = write(run.work / NAME)
        arguments = ["--checkpoint", str(folder), "--target", "cpu", "--output", str(output)]
        subprocess.run([sys.executable, "-m", "export", *arguments], check=True, stdout=subprocess.DEVNULL)
    return output


@contextmanager
def served(run: Run) -> Iterator[Service]:
    with serving([exported(run)], run.work / f"{NAME}-service") as service:
        yield service
