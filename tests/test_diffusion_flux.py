"""Flux's samples become what FluxPipeline and FluxImg2ImgPipeline draw, whoever else is being drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import nan

import numpy as np
import pytest
import random_checkpoint
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image
from stepping import join_later, shared_calls
from torch import Tensor

from diffusion.errors import BadPrediction
from diffusion.flux import FluxPicture, FluxSample, FluxText
from diffusion.latents import BaseImage, pack
from diffusion.settings import Settings, check_rows
from diffusion.step_batcher import denoise
from families import FLUX, InvalidRequest, Range
from finetune.pretrain_flux import SCHEDULER

# A batch multiplies matrices of another shape, and we scale the posterior where the pipeline scales the draw:
# float32 rounds differently, by a few units in the last place of latents of size 4, a hundred times less
# than a grey level of the picture.
SAME = 2e-5
SIZES = Range(64, 128, 512)
PICTURE = FluxPicture(FlowMatchEulerDiscreteScheduler(**SCHEDULER), channels=16)
SETTINGS = Settings(
    seed=1, num_inference_steps=4, guidance_scale=3.5, height=128, width=128, scheduler=FLUX.schedulers[0]
)


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    pipeline = random_checkpoint.build_flux()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def image_to_image(pipeline: FluxPipeline) -> FluxImg2ImgPipeline:
    made = FluxImg2ImgPipeline(**pipeline.components)
    made.set_progress_bar_config(disable=True)
    return made


class Counting:
    """A transformer in this process, called as engines are; remembers the inputs of its calls."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        self.model = pipeline.transformer
        self.calls: list[dict[str, Tensor]] = []

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.calls.append(dict(inputs))
        flat = {name: inputs[name][:, 0] for name in ("timestep", "guidance")}
        ids = {name: inputs[name][0] for name in ("img_ids", "txt_ids")}
        return self.model(**{**inputs, **flat, **ids}, return_dict=False)[0]

    @property
    def batches(self) -> list[int]:
        return [len(call["hidden_states"]) for call in self.calls]


@pytest.fixture
def transformer(pipeline: FluxPipeline) -> Counting:
    return Counting(pipeline)


def text_of(seed: int, length: int = 64) -> FluxText:
    generator = torch.Generator().manual_seed(1000 + seed)
    return FluxText(torch.randn(1, length, 96, generator=generator), torch.randn(1, 64, generator=generator))


def base_picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(pipeline: FluxPipeline, picture: Image.Image) -> BaseImage:
    """The posterior that the pipeline's VAE has for `picture`, shifted and scaled."""
    with torch.inference_mode():
        posterior = pipeline.vae.encode(pipeline.image_processor.preprocess(picture)).latent_dist
    config = pipeline.vae.config
    mean = (posterior.mean - config.shift_factor) * config.scaling_factor
    return BaseImage(mean, posterior.std * config.scaling_factor)


def start(settings: Settings = SETTINGS, text: int = 0, length: int = 64) -> FluxSample:
    return PICTURE.start(settings, text_of(text, length))


def stock(
    pipeline: FluxPipeline | FluxImg2ImgPipeline, settings: Settings, picture: Image.Image | None = None
) -> Tensor:
    """The latents [1, 16, h, w] of diffusers' own loop, on text 0."""
    text = text_of(0)
    image = {"image": picture, "strength": settings.strength} if picture else {}
    latents = pipeline(
        prompt_embeds=text.prompt_embeds,
        pooled_prompt_embeds=text.pooled_prompt_embeds,
        height=settings.height,
        width=settings.width,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(settings.seed),
        output_type="latent",
        **image,
    ).images
    return FluxPipeline._unpack_latents(latents, settings.height, settings.width, 8)


def alone(transformer: Counting, settings: Settings, text: int = 0) -> Tensor:
    sample = start(settings, text)
    denoise([sample], transformer, max_rows=4)
    return sample.result()


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, num_inference_steps=1, seed=2**40),
        replace(SETTINGS, num_inference_steps=9, guidance_scale=0.0, height=64, width=192),
    ],
)
def test_the_loop_is_the_pipeline_s(
    pipeline: FluxPipeline, transformer: Counting, settings: Settings
) -> None:
    expected = stock(pipeline, settings)
    assert torch.equal(alone(transformer, settings), expected)
    assert len(transformer.calls) == settings.num_inference_steps


@pytest.mark.parametrize(
    ("steps", "strength", "made"), [(4, 0.3, 2), (4, 0.55, 3), (3, 1.0, 3), (10, 0.3, 3)]
)
def test_the_loop_from_a_base_image_is_the_pipeline_s(
    image_to_image: FluxImg2ImgPipeline, transformer: Counting, steps: int, strength: float, made: int
) -> None:
    settings = replace(SETTINGS, num_inference_steps=steps, strength=strength, height=64, width=96)
    picture = base_picture(64, 96)
    expected = stock(image_to_image, settings, picture)
    sample = PICTURE.start(settings, text_of(0), encoded(image_to_image, picture))
    denoise([sample], transformer, max_rows=4)
    torch.testing.assert_close(sample.result(), expected, atol=SAME, rtol=0)
    assert len(transformer.calls) == made == image_to_image.num_timesteps


def test_another_base_image_or_seed_is_another_picture(image_to_image: FluxImg2ImgPipeline) -> None:
    settings = replace(SETTINGS, strength=0.5, height=64, width=64)
    wide = encoded(image_to_image, base_picture(64, 128))
    halves = [
        BaseImage(*(part[..., place : place + 8] for part in (wide.mean, wide.std))) for place in (0, 8)
    ]
    first = PICTURE.start(settings, text_of(0), halves[0]).latents
    assert torch.equal(PICTURE.start(settings, text_of(0), halves[0]).latents, first)
    assert not torch.equal(PICTURE.start(settings, text_of(0), halves[1]).latents, first)
    assert not torch.equal(PICTURE.start(replace(settings, seed=2), text_of(0), halves[0]).latents, first)


def test_inputs_are_named_and_shaped_as_the_engine_s(transformer: Counting) -> None:
    denoise([start(), start(text=1)], transformer, max_rows=4)
    configs = {"transformer": dict(transformer.model.config)}
    axes = FLUX.axes(batch=2, height=128, width=128, text_length=64)
    expected = FLUX.component("transformer").input_sizes(axes, configs)
    for call in transformer.calls:
        assert {name: tuple(tensor.shape) for name, tensor in call.items()} == expected
        assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in call.values())


def test_samples_of_one_call_do_not_touch_each_other(transformer: Counting) -> None:
    wanted = [
        (replace(SETTINGS, seed=seed, num_inference_steps=steps, guidance_scale=guidance), text)
        for seed, steps, guidance, text in ((1, 4, 3.5, 0), (2, 7, 1.0, 1), (3, 2, 9.0, 2))
    ]
    together = [start(settings, text) for settings, text in wanted]
    denoise(together, transformer, max_rows=4)
    assert transformer.batches == [3, 3, 2, 2, 1, 1, 1]
    for (settings, text), sample in zip(wanted, together, strict=True):
        torch.testing.assert_close(sample.result(), alone(transformer, settings, text), atol=SAME, rtol=0)


def test_a_sample_from_a_base_image_may_join_one_from_text_that_is_half_done(
    image_to_image: FluxImg2ImgPipeline, transformer: Counting
) -> None:
    settings = replace(SETTINGS, strength=0.55, seed=9)
    image = encoded(image_to_image, base_picture(128, 128))
    early, late = start(replace(SETTINGS, num_inference_steps=6)), PICTURE.start(settings, text_of(3), image)
    join_later(early, late, transformer, max_rows=4, steps=3)
    assert transformer.batches == [1, 1, 1, 2, 2, 2]
    by_itself = PICTURE.start(settings, text_of(3), image)
    denoise([by_itself], transformer, max_rows=4)
    torch.testing.assert_close(late.result(), by_itself.result(), atol=SAME, rtol=0)
    torch.testing.assert_close(early.result(), alone(transformer, early.settings), atol=SAME, rtol=0)


def test_only_equal_shapes_share_a_call(transformer: Counting) -> None:
    wide, short = start(replace(SETTINGS, width=192)), start(length=32)
    plain = [start() for _ in range(2)]
    calls = shared_calls([plain[0], wide, plain[1], short], transformer, max_rows=4)
    assert calls == [plain, [wide], [short]]


def test_a_prediction_that_is_not_finite_ends_its_own_sample_only(transformer: Counting) -> None:
    spoilt, sound = start(replace(SETTINGS, guidance_scale=7.0)), start(text=1)

    def spoiling(inputs: Mapping[str, Tensor]) -> Tensor:
        prediction = transformer(inputs)
        if len(transformer.calls) == 2:
            prediction[inputs["guidance"][:, 0] == 7.0] = nan
        return prediction

    denoise([spoilt, sound], spoiling, max_rows=4)
    with pytest.raises(BadPrediction, match="not finite at step 2"):
        spoilt.result()
    assert transformer.batches == [2, 2, 1, 1]
    torch.testing.assert_close(sound.result(), alone(transformer, SETTINGS, 1), atol=SAME, rtol=0)


@pytest.mark.parametrize("height", [64, 128, 512, 1024])
def test_timesteps_are_the_pipeline_s(height: int) -> None:
    sample, stock = start(replace(SETTINGS, height=height)), FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    mu = calculate_shift(sample.latents.shape[1], 256, 4096, 0.5, 1.15)
    stock.set_timesteps(sigmas=torch.linspace(1, 0.25, 4).tolist(), mu=mu)
    assert torch.equal(sample.timesteps, stock.timesteps)


def test_a_start_is_the_pipeline_s_noise() -> None:
    noise = torch.randn((1, 16, 16, 16), generator=torch.Generator("cpu").manual_seed(1))
    assert torch.equal(start().latents, pack(noise))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"seed": -1}, "seed -1 is negative"),
        ({"num_inference_steps": 0}, "num_inference_steps 0"),
        ({"guidance_scale": nan}, "guidance_scale nan"),
        ({"guidance_scale": 20.5}, r"guidance_scale 20\.5"),
        ({"height": 130}, "height 130 is not a multiple of 16"),
        ({"width": 528}, r"width 528 is not in 64\.\.512"),
        ({"strength": 0.0}, r"strength 0.0 is not above 0 and at most 1"),
        ({"strength": -1.0}, r"strength -1.0 is not above 0 and at most 1"),
        ({"strength": nan}, r"strength nan is not above 0 and at most 1"),
        ({"strength": 1.5}, r"strength 1\.5 is not above 0 and at most 1"),
        ({"strength": 0.05}, r"strength 0\.05 of num_inference_steps 4 .* at least 0\.25"),
        (
            {"scheduler": "DDIMScheduler"},
            "scheduler 'DDIMScheduler' is not one of flux's; choices: FlowMatchEulerDiscreteScheduler$",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(change: dict[str, float], fault: str) -> None:
    check_rows(FLUX, [SETTINGS, replace(SETTINGS, strength=0.25)], SIZES)
    with pytest.raises(InvalidRequest, match=fault):
        check_rows(FLUX, [SETTINGS, replace(SETTINGS, **change)], SIZES)


def test_rows_of_a_request_agree_on_their_size() -> None:
    with pytest.raises(InvalidRequest, match=r"height differs between a request's rows \(\[64, 128\]\)"):
        check_rows(FLUX, [SETTINGS, replace(SETTINGS, height=64)], SIZES)
