"""Both models, from text and from a picture, through gateway and Triton: what stock diffusers draws."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from PIL import Image
from stock import STEPS, Stock, difference
from tiny_service import Service

from benchmarks.inputs import requests
from families import SDXL
from finetune.dataset import Pixels
from finetune.draw import draw
from finetune.scene import sample_scene
from gateway.samples import ORDERS, Order

PROMPTS = [
    "a red mug on a blue gradient background",
    "product photo of a pair of white headphones, green background, luxury style",
    "something it was never taught: 日本 😀",
]
STRENGTHS = [0.3, 0.8]
SCHEDULERS = SDXL.schedulers[:2]


@pytest.fixture(scope="module")
def stock() -> dict[str, Stock]:
    return {name: Stock(name) for name in ("flux", "sdxl")}


def base(place: int) -> Pixels:
    return np.asarray(draw(sample_scene(place), 128))


@pytest.mark.parametrize("place", range(len(PROMPTS)))
@pytest.mark.parametrize(
    ("model", "scheduler"), [("flux", None), *itertools.product(["sdxl"], SDXL.schedulers)]
)
def test_from_text(
    service: Service, stock: dict[str, Stock], model: str, scheduler: str | None, place: int
) -> None:
    size = {"height": 128, "width": 160}
    asked = {**size, "model": model, "scheduler": scheduler, "num_inference_steps": STEPS}
    ours = service.picture(PROMPTS[place], seed=place, **asked)
    guidance = 3.5 if model == "flux" else 5.0
    theirs = stock[model](PROMPTS[place], place, scheduler, guidance_scale=guidance, **size)
    assert difference(ours, theirs) <= 1


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("place", range(len(PROMPTS)))
@pytest.mark.parametrize(("model", "scheduler"), [("flux", None), *itertools.product(["sdxl"], SCHEDULERS)])
def test_from_a_picture(
    service: Service, stock: dict[str, Stock], model: str, scheduler: str | None, place: int, strength: float
) -> None:
    asked = {"strength": strength, "model": model, "scheduler": scheduler, "num_inference_steps": STEPS}
    ours = service.picture(PROMPTS[place], base(place), seed=place, **asked)
    fields = {"strength": strength, "guidance_scale": 3.5 if model == "flux" else 5.0}
    if model == "flux":  # its pipeline does not take the size from the picture
        fields |= {"height": 128, "width": 128}
    theirs = stock[model](PROMPTS[place], place, scheduler, image=Image.fromarray(base(place)), **fields)
    assert difference(ours, theirs) <= 1


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_a_negative_prompt_and_guidance(service: Service, stock: dict[str, Stock], guidance: float) -> None:
    fields = {"negative_prompt": "a blue lamp, vintage style", "guidance_scale": guidance}
    ours = service.picture(PROMPTS[0], model="sdxl", seed=5, num_inference_steps=STEPS, **fields)
    theirs = stock["sdxl"](PROMPTS[0], 5, SDXL.schedulers[0], height=128, width=128, **fields)
    assert difference(ours, theirs) <= 1


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.ensemble)
def test_every_ensemble_documents_each_of_its_tensors(service: Service, order: Order) -> None:
    with grpc.InferenceServerClient(service.triton_url) as client:
        config = client.get_model_config(order.ensemble).config
    tensors = {f"tensor.{tensor.name}" for tensor in (*config.input, *config.output)}
    assert all(config.parameters[name].string_value for name in tensors)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.ensemble)
def test_the_input_files_of_perf_analyzer_are_drawn(service: Service, order: Order) -> None:
    (entry, *_) = requests(Path("benchmarks/inputs", f"{order.ensemble}.json"))
    with grpc.InferenceServerClient(service.triton_url) as client:
        assert client.infer(order.ensemble, entry).as_numpy("images").shape == (1, 128, 128, 3)
