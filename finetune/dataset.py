"""Drawn pictures as arrays, cached on disk: a scene is named by its seed, so a count is a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from finetune.draw import draw
from finetune.scene import ATTRIBUTES, Scene, held_out_scenes, sample_scene

Pixels = npt.NDArray[np.uint8]
DRAWING = (
    "scene",
    "canvas",
    "products",
    "marks",
    "looks",
    "draw",
)  # the modules that decide what a picture is


def _version() -> str:
    """Changes when the drawing does, so that cached pictures are never another version's."""
    folder = Path(__file__).parent
    source = "".join((folder / f"{name}.py").read_text() for name in DRAWING)
    return hashlib.sha256(source.encode()).hexdigest()[:8]


def _drawn(scenes: Sequence[Scene], size: int, path: Path) -> Pixels:
    if path.exists():
        return np.load(path)  # type: ignore[no-any-return]
    pixels = np.empty((len(scenes), size, size, 3), np.uint8)
    for place, scene in enumerate(tqdm(scenes, desc="draw", unit="picture")):
        pixels[place] = np.asarray(draw(scene, size, supersample=3))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, pixels)
    temporary.replace(path)
    return pixels


def training_pictures(count: int, size: int, cache: Path) -> Pixels:
    """[count, size, size, 3] uint8: the pictures of seeds 0..count-1; drawn once, then read from `cache`."""
    scenes = [sample_scene(seed) for seed in range(count)]
    return _drawn(scenes, size, cache / f"training-{size}-{count}-{_version()}.npy")


def held_out_pictures(size: int, cache: Path) -> Pixels:
    """[200, size, size, 3] uint8: one picture for each combination that is never trained on."""
    return _drawn(held_out_scenes(), size, cache / f"held-out-{size}-{_version()}.npy")


def targets(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Attribute name -> class numbers, int64 [batch]."""
    return {
        name: torch.tensor([choices.index(getattr(scene, name)) for scene in scenes])
        for name, choices in ATTRIBUTES.items()
    }


def as_model_input(batch: Pixels) -> torch.Tensor:
    """uint8 NHWC -> float32 NCHW in [-1, 1], channels last in memory."""
    tensor = torch.from_numpy(np.array(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return tensor.contiguous(memory_format=torch.channels_last)


def random_crops(source: Pixels, batch: int, crop: int, rng: np.random.Generator) -> torch.Tensor:
    """`batch` square crops of `crop` pixels, half of them mirrored, as model input."""
    size = source.shape[1]
    out = np.empty((batch, crop, crop, 3), np.uint8)
    for place in range(batch):
        top, left = rng.integers(0, size - crop + 1, 2)
        cut = source[rng.integers(len(source)), top : top + crop, left : left + crop]
        out[place] = cut[:, ::-1] if rng.random() < 0.5 else cut
    return as_model_input(out)
