"""Stock diffusers behind BentoML, as its documentation has it; PEER_WORKERS says how many workers."""

from __future__ import annotations

import os
from typing import Annotated

import bentoml
from PIL.Image import Image
from pipeline import draw, load


@bentoml.service(workers=int(os.environ["PEER_WORKERS"]), traffic={"timeout": 600})
class Diffusers:
    def __init__(self) -> None:
        self.pipeline = load()

    @bentoml.api(route="/predict")
    def predict(
        self, prompt: str, seed: int, num_inference_steps: int, guidance_scale: float, width: int, height: int
    ) -> Annotated[Image, bentoml.validators.ContentType("image/png")]:
        body = {
            "prompt": prompt,
            "seed": seed,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "width": width,
            "height": height,
        }
        return draw(self.pipeline, [body])[0]
