"""Stock diffusers' pipeline of a checkpoint: the fields of a request in, pictures out."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image

CHECKPOINT, THREADS = "PEER_CHECKPOINT", "OMP_NUM_THREADS"  # environment variables
Body = Mapping[str, Any]


def load() -> Any:
    """The pipeline of the checkpoint that the environment names, float32, with as many threads as it says."""
    torch.set_num_threads(int(os.environ[THREADS]))
    pipeline = DiffusionPipeline.from_pretrained(os.environ[CHECKPOINT], torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: Any, bodies: Sequence[Body]) -> list[Image]:
    """A picture for each of `bodies`, in one call; they differ in prompt and seed alone."""
    first, fields = bodies[0], {}
    if "tokenizer_2" in pipeline.components and "transformer" in pipeline.components:
        fields["max_sequence_length"] = pipeline.tokenizer_2.model_max_length
    images: list[Image] = pipeline(
        [body["prompt"] for body in bodies],
        generator=[torch.Generator().manual_seed(body["seed"]) for body in bodies],
        num_inference_steps=first["num_inference_steps"],
        guidance_scale=first["guidance_scale"],
        width=first["width"],
        height=first["height"],
        **fields,
    ).images
    return images


def draw_each(pipeline: Any, bodies: Sequence[Body]) -> list[Image]:
    """A picture for each of `bodies`, in their order; those of as many steps in one call."""
    places: dict[int, list[int]] = {}
    for place, body in enumerate(bodies):
        places.setdefault(body["num_inference_steps"], []).append(place)
    drawn: dict[int, Image] = {}
    for alike in places.values():
        drawn.update(zip(alike, draw(pipeline, [bodies[place] for place in alike]), strict=True))
    return [drawn[place] for place in range(len(bodies))]


def png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
