"""SDXL's samples become what diffusers' two SDXL pipelines draw, with each scheduler, guided or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import nan
from typing import Any

import diffusers
import numpy as np
import pytest
import random_checkpoint
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image
from stepping import join_later, shared_calls
from torch import Tensor

from diffusion.errors import BadPrediction
from diffusion.latents import BaseImage
from diffusion.prompts import PromptTokenizer
from diffusion.sdxl import SdxlPicture, SdxlSample, SdxlText
from diffusion.settings import Settings, check_rows
from diffusion.step_batcher import denoise
from export.wrappers import WRAPPERS
from families import SDXL, InvalidRequest, Range
from finetune.sdxl import SCHEDULER

# stable-diffusion-xl-base-1.0's; sdxl-tiny's goes on to noise 66 times as large as the picture, not 15.
BASE = {**SCHEDULER, "beta_end": 0.012, "timestep_spacing": "leading"}
# A batch multiplies matrices of another shape, and we scale the posterior where the pipeline scales the draw:
# float32 rounds differently, guidance multiplies that by 5, and latents reach 60. 5e-5 was seen.
SAME = 2e-4
SAME_OF = {"base": (BASE, SAME), "tiny": (SCHEDULER, 10 * SAME)}
SIZES = Range(64, 128, 512)
PICTURE = SdxlPicture(diffusers.EulerDiscreteScheduler(**BASE), channels=4)
SETTINGS = Settings(
    seed=1, num_inference_steps=4, guidance_scale=5.0, height=64, width=96, scheduler=SDXL.schedulers[0]
)
# guidance_scale, whether there is a negative prompt
GUIDANCE = {"guided": (5.0, False), "guided away": (5.0, True), "unguided": (1.0, True)}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    pipeline = random_checkpoint.build_sdxl()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def image_to_image(pipeline: StableDiffusionXLPipeline) -> StableDiffusionXLImg2ImgPipeline:
    made = StableDiffusionXLImg2ImgPipeline(**pipeline.components, add_watermarker=False)
    made.set_progress_bar_config(disable=True)
    return made


class Counting:
    """A UNet in this process, called as engines are; remembers the inputs of its calls."""

    def __init__(self, pipeline: StableDiffusionXLPipeline) -> None:
        self.model = pipeline.unet
        self.calls: list[dict[str, Tensor]] = []

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.calls.append(dict(inputs))
        added = {name: inputs[name] for name in ("text_embeds", "time_ids")}
        given = inputs["sample"], inputs["timestep"][:, 0], inputs["encoder_hidden_states"]
        return self.model(*given, added_cond_kwargs=added, return_dict=False)[0]

    @property
    def batches(self) -> list[int]:
        return [len(call["sample"]) for call in self.calls]


@pytest.fixture
def unet(pipeline: StableDiffusionXLPipeline) -> Counting:
    return Counting(pipeline)


def text_of(seed: int) -> SdxlText:
    generator = torch.Generator().manual_seed(1000 + seed)
    return SdxlText(torch.randn(1, 77, 160, generator=generator), torch.randn(1, 64, generator=generator))


def base_picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def encoded(pipeline: StableDiffusionXLImg2ImgPipeline, picture: Image.Image) -> BaseImage:
    """The posterior that the pipeline's VAE has for `picture`, scaled."""
    with torch.inference_mode():
        posterior = pipeline.vae.encode(pipeline.image_processor.preprocess(picture)).latent_dist
    return BaseImage(*(part * pipeline.vae.config.scaling_factor for part in (posterior.mean, posterior.std)))


def start(settings: Settings = SETTINGS, text: int = 0, image: BaseImage | None = None) -> SdxlSample:
    return PICTURE.start(settings, text_of(text), text_of(text).zeros(), image)


def stock(
    pipeline: Any, settings: Settings, negative: SdxlText | None, picture: Image.Image | None = None,
    template: Any = PICTURE.scheduler,
) -> Tensor:  # fmt: skip
    """The latents of diffusers' own loop on text 0; without `negative`, on its own choice for that."""
    size = {"height": settings.height, "width": settings.width}
    image = {"image": picture, "strength": settings.strength} if picture else size
    text, against = text_of(0), {}
    if negative:
        against = {
            "negative_prompt_embeds": negative.prompt_embeds,
            "negative_pooled_prompt_embeds": negative.pooled_prompt_embeds,
        }
    pipeline.scheduler = getattr(diffusers, settings.scheduler).from_config(template.config)
    latents: Tensor = pipeline(
        prompt_embeds=text.prompt_embeds,
        pooled_prompt_embeds=text.pooled_prompt_embeds,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(settings.seed),
        output_type="latent",
        **against,
        **image,
    ).images
    return latents


def alone(unet: Counting, settings: Settings, text: int = 0, image: BaseImage | None = None) -> Tensor:
    sample = start(settings, text, image)
    denoise([sample], unet, max_rows=8)
    return sample.result()


@pytest.mark.parametrize("scheduler", SDXL.schedulers)
@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("strength", [None, 0.3, 0.55, 1.0])
def test_the_loop_is_the_pipeline_s(
    pipeline: StableDiffusionXLPipeline, image_to_image: StableDiffusionXLImg2ImgPipeline, unet: Counting,
    scheduler: str, guidance: str, strength: float | None,
) -> None:  # fmt: skip
    scale, against = GUIDANCE[guidance]
    settings = replace(SETTINGS, scheduler=scheduler, guidance_scale=scale, strength=strength)
    oracle = image_to_image if strength else pipeline
    picture = base_picture(64, 96) if strength else None
    expected = stock(oracle, settings, text_of(7) if against else None, picture)
    negative = text_of(7) if against else text_of(0).zeros()
    image = encoded(image_to_image, picture) if picture else None
    sample = PICTURE.start(settings, text_of(0), negative, image)
    denoise([sample], unet, max_rows=8)
    torch.testing.assert_close(sample.result(), expected, atol=SAME, rtol=0)
    assert unet.batches == oracle.num_timesteps * [2 if scale > 1 else 1]


@pytest.mark.parametrize("scheduler", SDXL.schedulers)
@pytest.mark.parametrize("config", SAME_OF)
@pytest.mark.parametrize(("steps", "strength"), [(1, None), (1, 1.0), (10, 0.7), (7, 0.2)])
def test_few_and_many_steps_are_the_pipeline_s(
    pipeline: StableDiffusionXLPipeline, image_to_image: StableDiffusionXLImg2ImgPipeline, unet: Counting,
    scheduler: str, config: str, steps: int, strength: float | None,
) -> None:  # fmt: skip
    values, same = SAME_OF[config]
    checkpoint = SdxlPicture(diffusers.EulerDiscreteScheduler(**values), channels=4)
    settings = replace(SETTINGS, scheduler=scheduler, num_inference_steps=steps, strength=strength, height=96)
    oracle = image_to_image if strength else pipeline
    picture = base_picture(96, 96) if strength else None
    expected = stock(oracle, settings, None, picture, checkpoint.scheduler)
    image = encoded(image_to_image, picture) if picture else None
    sample = checkpoint.start(settings, text_of(0), text_of(0).zeros(), image)
    denoise([sample], unet, max_rows=8)
    torch.testing.assert_close(sample.result(), expected, atol=same, rtol=0)
    assert len(unet.calls) == oracle.num_timesteps == int(steps * (strength or 1))


def test_the_text_is_the_pipeline_s(pipeline: StableDiffusionXLPipeline) -> None:
    ids = PromptTokenizer(pipeline.tokenizer, pipeline.tokenizer_2)(["a red mug on a table"])
    encoders = [
        WRAPPERS["sdxl"][name](getattr(pipeline, name)) for name in ("text_encoder", "text_encoder_2")
    ]
    with torch.inference_mode():
        embeds = encoders[0](torch.from_numpy(ids.input_ids))
        text = SdxlText.of(embeds, *encoders[1](torch.from_numpy(ids.input_ids_2)))
        wanted, against, pooled, pooled_against = pipeline.encode_prompt("a red mug on a table")
    assert torch.equal(text.prompt_embeds, wanted) and torch.equal(text.pooled_prompt_embeds, pooled)
    zeros = text.zeros()
    assert torch.equal(zeros.prompt_embeds, against) and torch.equal(
        zeros.pooled_prompt_embeds, pooled_against
    )


def test_inputs_are_named_and_shaped_as_the_engine_s(unet: Counting) -> None:
    denoise([start(), start(replace(SETTINGS, guidance_scale=1.0))], unet, max_rows=8)
    others = {"vae": {"latent_channels": 4}, "text_encoder_2": {"projection_dim": 64}}
    configs = {"unet": dict(unet.model.config), **others}
    axes = SDXL.axes(batch=3, height=64, width=96, text_length=77)
    expected = SDXL.component("unet").input_sizes(axes, configs)
    for call in unet.calls:
        assert {name: tuple(tensor.shape) for name, tensor in call.items()} == expected
        assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in call.values())
        assert call["time_ids"].tolist() == 3 * [[64, 96, 0, 0, 64, 96]]


def test_samples_with_and_without_guidance_share_calls_of_at_most_max_rows(unet: Counting) -> None:
    wanted = [
        (
            replace(
                SETTINGS, seed=seed, num_inference_steps=steps, guidance_scale=scale, scheduler=scheduler
            ),
            text,
        )
        for seed, steps, scale, scheduler, text in (
            (1, 3, 5.0, "EulerDiscreteScheduler", 0),
            (2, 2, 1.0, "DDIMScheduler", 1),
            (3, 3, 9.0, "DPMSolverMultistepScheduler", 2),
            (4, 3, 0.0, "EulerDiscreteScheduler", 3),
        )
    ]
    together = [start(settings, text) for settings, text in wanted]
    denoise(together, unet, max_rows=5)
    assert unet.batches == [5, 4, 5, 3]
    for (settings, text), sample in zip(wanted, together, strict=True):
        torch.testing.assert_close(sample.result(), alone(unet, settings, text), atol=SAME, rtol=0)


def test_a_sample_from_a_base_image_may_join_one_from_text_that_is_half_done(
    image_to_image: StableDiffusionXLImg2ImgPipeline, unet: Counting
) -> None:
    settings, image = replace(SETTINGS, strength=0.55), encoded(image_to_image, base_picture(64, 96))
    early, late = start(), start(settings, 3, image)
    join_later(early, late, unet, max_rows=8, steps=2)
    assert unet.batches == [2, 2, 4, 4]
    torch.testing.assert_close(early.result(), alone(unet, SETTINGS), atol=SAME, rtol=0)
    torch.testing.assert_close(late.result(), alone(unet, settings, 3, image), atol=SAME, rtol=0)


def test_only_equal_sizes_share_a_call(unet: Counting) -> None:
    plain, tall = [start() for _ in range(2)], start(replace(SETTINGS, height=96, width=64))
    assert shared_calls([plain[0], tall, plain[1]], unet, max_rows=8) == [plain, [tall]]


@pytest.mark.parametrize("row", [0, 1])
def test_a_prediction_that_is_not_finite_ends_its_own_sample_only(unet: Counting, row: int) -> None:
    spoilt, sound = start(), start(replace(SETTINGS, guidance_scale=1.0), 1)

    def spoiling(inputs: Mapping[str, Tensor]) -> Tensor:
        prediction = unet(inputs)
        if len(unet.calls) == 2:
            prediction[row] = nan  # without text, or with it
        return prediction

    denoise([spoilt, sound], spoiling, max_rows=8)
    with pytest.raises(BadPrediction, match="not finite at step 2"):
        spoilt.result()
    assert unet.batches == [3, 3, 1, 1]
    expected = alone(unet, replace(SETTINGS, guidance_scale=1.0), 1)
    torch.testing.assert_close(sound.result(), expected, atol=SAME, rtol=0)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"num_inference_steps": 101}, r"num_inference_steps 101 is not in 1\.\.100"),
        ({"height": 80}, "height 80 is not a multiple of 32"),
        ({"strength": 0.0}, r"strength 0.0 is not above 0 and at most 1"),
        ({"strength": 0.05}, r"strength 0\.05 of num_inference_steps 4 .* at least 0\.25"),
        (
            {"scheduler": "FlowMatchEulerDiscreteScheduler"},
            f"'FlowMatchEulerDiscreteScheduler' is not one of sdxl's; choices: {', '.join(SDXL.schedulers)}$",
        ),
        ({"scheduler": ""}, "scheduler '' is not one of sdxl's"),
    ],
)
def test_what_cannot_be_drawn_is_named(change: dict[str, Any], fault: str) -> None:
    check_rows(SDXL, [SETTINGS, replace(SETTINGS, strength=0.25)], SIZES)
    with pytest.raises(InvalidRequest, match=fault):
        check_rows(SDXL, [SETTINGS, replace(SETTINGS, **change)], SIZES)
