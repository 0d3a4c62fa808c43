"""The shipped checkpoint through gateway and Triton draws what was asked, as stock diffusers does."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image
from tiny_service import ASSETS, Service

from finetune import checker, evaluate
from finetune.captions import held_out_prompts
from finetune.dataset import as_model_input
from finetune.scene import ATTRIBUTES
from gateway.demo import EXAMPLE_SEED, DemoError, fetch
from gateway.schemas import EXAMPLE_PROMPT

PROMPTS = [
    EXAMPLE_PROMPT,
    "a red mug on a blue gradient background",
    "product photo of a pair of white headphones, green background, luxury style",
    "studio shot of a yellow sneaker on a purple studio background, for the fashion industry",
    "a black watch in front of a beige background, vintage style",
    "an orange backpack on a teal studio background, playful style, for the travel industry",
    "something it was never taught: 日本 😀",
    "a very long prompt about a pink laptop on a yellow background, " * 12,
]


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return evaluate.load(ASSETS / "flux-tiny")


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("size", [(128, 128), (144, 192)])
@pytest.mark.parametrize("place", range(len(PROMPTS)))
def test_the_picture_is_stock_diffusers(
    service: Service, pipeline: FluxPipeline, place: int, size: tuple[int, int], steps: int
) -> None:
    height, width = size
    fields = {"height": height, "width": width, "num_inference_steps": steps, "guidance_scale": 3.5}
    ours = service.picture(PROMPTS[place], seed=place, **fields)
    length = pipeline.tokenizer_2.model_max_length
    generator = torch.Generator().manual_seed(place)
    theirs = pipeline(PROMPTS[place], generator=generator, max_sequence_length=length, **fields).images[0]
    assert np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max() <= 1


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(service: Service) -> None:
    first = service.png(EXAMPLE_PROMPT, seed=7)
    assert service.png(EXAMPLE_PROMPT, seed=7) == first
    assert service.png(EXAMPLE_PROMPT, seed=8) != first


def test_a_seed_that_was_drawn_is_told_and_gives_the_picture_again(service: Service) -> None:
    answer = service.ask(EXAMPLE_PROMPT)
    assert fetch(answer["generated_image_url"]) == service.png(EXAMPLE_PROMPT, seed=answer["seed"])


def test_the_example_prompt_draws_a_yellow_backpack_on_teal(service: Service) -> None:
    pixels = service.picture(EXAMPLE_PROMPT, seed=EXAMPLE_SEED)
    seen = {name: ATTRIBUTES[name][logits.argmax()] for name, logits in look(pixels).items()}
    assert (seen["product"], seen["colour"], seen["background"]) == ("backpack", "yellow", "teal")


def look(pixels: np.ndarray) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        answers: dict[str, torch.Tensor] = checker.load()(as_model_input(pixels[None]))
    return answers


def test_a_style_is_worded_into_the_prompt_and_seen_in_the_picture(service: Service) -> None:
    answer = service.ask("a blue bottle on a pink background", style="vintage", seed=3)
    assert answer["prompt"].endswith(", vintage style")
    pixels = np.asarray(Image.open(io.BytesIO(fetch(answer["generated_image_url"]))))
    assert ATTRIBUTES["style"][look(pixels)["style"].argmax()] == "vintage"


def test_held_out_prompts_are_drawn_through_the_service(service: Service) -> None:
    asked = held_out_prompts()[::10]
    pixels = np.stack([service.picture(prompt, seed=place) for place, (_, prompt) in enumerate(asked)])
    right = checker.correct(checker.load(), pixels, [scene for scene, _ in asked])
    assert all(right[name].float().mean() >= 0.85 for name in ("product", "colour", "background"))


def test_the_example_client_saves_a_picture(service: Service, tmp_path: Path) -> None:
    output = tmp_path / "client.png"
    command = ["--url", service.triton_url, "--prompt", PROMPTS[1], "--output", str(output)]
    subprocess.run([sys.executable, "examples/triton_client.py", *command], check=True)
    with Image.open(output) as picture:
        assert picture.size == (128, 128)
    again = tmp_path / "again.png"
    command = ["--url", service.triton_url, "--prompt", PROMPTS[1], "--image", str(output)]
    subprocess.run(
        [sys.executable, "examples/triton_client.py", *command, "--output", str(again)], check=True
    )
    with Image.open(again) as picture:
        assert picture.size == (128, 128)


def test_a_prompt_that_is_too_long_is_drawn_with_the_counts_of_each_encoder(service: Service) -> None:
    warnings = service.ask(PROMPTS[-1], seed=0, num_inference_steps=1)["warnings"]
    assert {entry["encoder"] for entry in warnings} == {"text_encoder", "text_encoder_2"}
    assert all(entry["kept"] > 0 and entry["dropped"] > 0 for entry in warnings)


def test_an_unknown_style_is_refused_with_the_choices(service: Service) -> None:
    with pytest.raises(DemoError, match="answered 422.*vintage"):
        service.ask("a mug", style="gothic")
