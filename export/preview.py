"""A linear map from latents to RGB, with which the scheduler shows a picture before it is done.

Fitted by least squares to what the VAE encoder makes of pictures drawn here: no weights but the checkpoint's.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.checkpoint import Checkpoint
from export.models import load

SIDE = 256  # pixels: 1,024 latents of a picture
PICTURES = 6


def write_preview(checkpoint: Checkpoint, path: Path) -> None:
    """Fits the map of `checkpoint`'s VAE and keeps it at `path`, as JSON."""
    encoder = load(checkpoint, checkpoint.family.component("vae_encoder"))
    pictures = torch.from_numpy(patchwork())
    with torch.inference_mode():
        latents = torch.cat([encoder(picture[None])[0] for picture in pictures])
    weight, bias = fit(latents, pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"weight": weight.tolist(), "bias": bias.tolist()}) + "\n")


def fit(latents: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [C, 3] and bias [3] with which `latents` [N, C, h, w] come closest to uint8 [N, H, W, 3]."""
    scale = pictures.shape[1] // latents.shape[2]
    means = torch.nn.functional.avg_pool2d(pictures.permute(0, 3, 1, 2).float(), scale)
    known = latents.float().permute(0, 2, 3, 1).flatten(0, 2)
    wanted = means.permute(0, 2, 3, 1).flatten(0, 2)
    solved = torch.linalg.lstsq(torch.cat([known, torch.ones(len(known), 1)], dim=1), wanted).solution
    return solved[:-1], solved[-1]


def patchwork() -> NDArray[np.uint8]:
    """uint8 [PICTURES, SIDE, SIDE, 3]: rectangles of all sizes and colours, the same ones always."""
    random = np.random.default_rng(0)
    pictures = np.empty((PICTURES, SIDE, SIDE, 3), np.uint8)
    for picture in pictures:
        picture[:] = random.integers(0, 256, 3)
        for _ in range(40):
            top, left = random.integers(0, SIDE, 2)
            height, width = random.integers(8, SIDE // 2, 2)
            picture[top : top + height, left : left + width] = random.integers(0, 256, 3)
    return pictures
