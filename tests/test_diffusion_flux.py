"""The denoising loop draws what FluxPipeline draws, whoever else is being drawn at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import nan

import pytest
import random_checkpoint
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from diffusion.errors import BadPrediction, Cancelled, EngineError
from diffusion.flux import Denoiser, Sample, Settings, check_rows, denoise, group
from diffusion.latents import pack
from families import FLUX, InvalidRequest, Range

# A batch multiplies matrices of another shape, whose float32 sums round differently: a few units in the last
# place of latents of size 4, a hundred times less than a grey level of the picture.
SAME = 2e-5
SIZES = Range(64, 128, 512)
SETTINGS = Settings(seed=1, num_inference_steps=4, guidance_scale=3.5, height=128, width=128)


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    pipeline = random_checkpoint.build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


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


def embeds(seed: int, length: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(1, length, 96, generator=generator), torch.randn(1, 64, generator=generator)


def start(settings: Settings = SETTINGS, text: int = 0, length: int = 64) -> Sample:
    return Sample.start(settings, *embeds(text, length), random_checkpoint.flux_scheduler(), channels=16)


def stock(pipeline: FluxPipeline, settings: Settings, text: int = 0, length: int = 64) -> Tensor:
    """The latents [1, 16, h, w] of diffusers' own loop."""
    prompt_embeds, pooled = embeds(text, length)
    latents = pipeline(
        prompt_embeds=prompt_embeds,
        pooled_prompt_embeds=pooled,
        height=settings.height,
        width=settings.width,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(settings.seed),
        output_type="latent",
    ).images
    return FluxPipeline._unpack_latents(latents, settings.height, settings.width, 8)


def alone(transformer: Counting, settings: Settings, text: int = 0) -> Tensor:
    sample = start(settings, text)
    denoise([sample], transformer, max_batch_size=4)
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


def test_inputs_are_named_and_shaped_as_the_engine_s(transformer: Counting) -> None:
    denoise([start(), start(text=1)], transformer, max_batch_size=4)
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
    denoise(together, transformer, max_batch_size=4)
    assert transformer.batches == [3, 3, 2, 2, 1, 1, 1]
    for (settings, text), sample in zip(wanted, together, strict=True):
        torch.testing.assert_close(sample.result(), alone(transformer, settings, text), atol=SAME, rtol=0)


def test_a_sample_may_join_others_that_are_half_done(transformer: Counting) -> None:
    denoiser = Denoiser(transformer, max_batch_size=4)
    early, late = start(replace(SETTINGS, num_inference_steps=6)), start(replace(SETTINGS, seed=9), text=3)
    for _ in range(3):
        denoiser.tick([early])
    denoise([early, late], transformer, max_batch_size=4)
    assert transformer.batches == [1, 1, 1, 2, 2, 2, 1]
    for sample, text in ((early, 0), (late, 3)):
        expected = alone(transformer, sample.settings, text)
        torch.testing.assert_close(sample.result(), expected, atol=SAME, rtol=0)


def test_only_equal_shapes_share_a_call_and_no_call_is_too_large() -> None:
    wide, short = start(replace(SETTINGS, width=192)), start(length=32)
    plain = [start() for _ in range(5)]
    groups = group([plain[0], wide, *plain[1:], short], max_batch_size=4)
    assert groups == [tuple(plain[:4]), tuple(plain[4:]), (wide,), (short,)]


def test_a_group_s_texts_are_joined_once_while_its_members_stay(transformer: Counting) -> None:
    denoise([start(), start(replace(SETTINGS, num_inference_steps=6))], transformer, max_batch_size=4)
    texts = [call["encoder_hidden_states"].data_ptr() for call in transformer.calls]
    assert len(set(texts[:4])) == 1 and len(set(texts[4:])) == 1
    assert texts[0] != texts[4]


def test_a_prediction_that_is_not_finite_ends_its_own_sample_only(transformer: Counting) -> None:
    spoilt, sound = start(replace(SETTINGS, guidance_scale=7.0)), start(text=1)

    def spoiling(inputs: Mapping[str, Tensor]) -> Tensor:
        prediction = transformer(inputs)
        rows = inputs["guidance"][:, 0] == 7.0
        if len(transformer.calls) == 2:
            prediction[rows] = nan
        return prediction

    denoise([spoilt, sound], spoiling, max_batch_size=4)
    with pytest.raises(BadPrediction, match="not finite at step 2"):
        spoilt.result()
    assert transformer.batches == [2, 2, 1, 1]
    torch.testing.assert_close(sound.result(), alone(transformer, SETTINGS, 1), atol=SAME, rtol=0)


def test_an_answer_of_another_shape_is_an_engine_s_error() -> None:
    with pytest.raises(EngineError, match=r"\(1, 63, 64\), expected \(1, 64, 64\)"):
        denoise([start()], lambda inputs: inputs["hidden_states"][:, 1:], max_batch_size=4)


def test_nobody_waiting_ends_the_loop(transformer: Counting) -> None:
    with pytest.raises(Cancelled):
        denoise([start()], transformer, 4, cancelled=lambda: len(transformer.calls) == 2)
    assert len(transformer.calls) == 2


@pytest.mark.parametrize("height", [64, 128, 512, 1024])
def test_timesteps_are_the_pipeline_s(pipeline: FluxPipeline, height: int) -> None:
    sample = start(replace(SETTINGS, height=height))
    tokens = sample.latents.shape[1]
    pipeline.scheduler.set_timesteps(
        sigmas=torch.linspace(1, 0.25, 4).tolist(), mu=calculate_shift(tokens, 256, 4096, 0.5, 1.15)
    )
    assert torch.equal(sample.scheduler.timesteps, pipeline.scheduler.timesteps)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"seed": -1}, "seed -1 is negative"),
        ({"num_inference_steps": 0}, "num_inference_steps 0"),
        ({"guidance_scale": nan}, "guidance_scale nan"),
        ({"guidance_scale": 20.5}, r"guidance_scale 20\.5"),
        ({"height": 130}, "height 130 is not a multiple of 16"),
        ({"width": 528}, r"width 528 is not in 64\.\.512"),
    ],
)
def test_what_cannot_be_drawn_is_named(change: dict[str, float], fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault):
        check_rows([SETTINGS, replace(SETTINGS, **change)], SIZES)


def test_rows_of_a_request_agree_on_their_size() -> None:
    with pytest.raises(InvalidRequest, match=r"height differs between a request's rows \(\[64, 128\]\)"):
        check_rows([SETTINGS, replace(SETTINGS, height=64)], SIZES)


def test_a_start_is_the_pipeline_s_noise() -> None:
    noise = torch.randn((1, 16, 16, 16), generator=torch.Generator("cpu").manual_seed(1))
    assert torch.equal(start().latents, pack(noise))
