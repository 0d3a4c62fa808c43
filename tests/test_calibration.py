"""Calibration: what it sees while stock diffusers draws, its file, and the pictures of an int8 denoiser."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks import int8
from export import calibration
from export.calibration import Settings, calibrate, watched
from export.checkpoint import Checkpoint, open_checkpoint
from export.errors import ExportError
from export.smoothquant import quantised_names
from export.wrappers import WRAPPERS
from families import FAMILIES
from finetune import evaluate

PROMPTS = ["a red mug on a blue gradient background", "a lamp", "a yellow box"]
SETTINGS = Settings(num_inference_steps=2, guidance_scale=4.0, batch_size=2)
ASSETS = Path("assets/checkpoints")


@pytest.fixture(scope="module")
def flux(random_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(random_checkpoint)


@pytest.fixture(scope="module")
def found(flux: Checkpoint) -> calibration.Calibration:
    return calibrate(flux, flux.family.component("transformer"), PROMPTS, SETTINGS)


def test_what_is_watched_is_the_largest_of_every_call_and_position() -> None:
    linear = nn.Linear(3, 2)
    with watched({"a": linear}) as absmax:
        linear(torch.tensor([[[1.0, -2, 3], [-4, 0, 1]]]))
        linear(torch.tensor([[0.0, 0, -5]]))
    linear(torch.full((1, 3), 100.0))  # nobody watches any more
    assert absmax["a"].tolist() == [4, 2, 5]


def test_every_linear_that_becomes_int8_is_seen(found: calibration.Calibration, flux: Checkpoint) -> None:
    model = evaluate.load(flux.folder).transformer
    assert {*found.absmax} == {*quantised_names(found.component, dict(model.named_modules()))}
    for name, largest in found.absmax.items():
        assert largest.shape == (model.get_submodule(name).in_features,) and largest.dtype == torch.float32


def test_equal_arguments_give_equal_numbers(found: calibration.Calibration, flux: Checkpoint) -> None:
    again = calibrate(flux, flux.family.component("transformer"), PROMPTS, SETTINGS)
    assert all(torch.equal(again.absmax[name], largest) for name, largest in found.absmax.items())


def test_other_prompts_seeds_and_guidance_give_others(
    found: calibration.Calibration, flux: Checkpoint
) -> None:
    others = [
        (PROMPTS[1:], SETTINGS),
        (PROMPTS, dataclasses.replace(SETTINGS, seed=7)),
        (PROMPTS, dataclasses.replace(SETTINGS, guidance_scale=1.0)),
    ]
    for prompts, settings in others:
        other = calibrate(flux, flux.family.component("transformer"), prompts, settings)
        assert any(not torch.equal(other.absmax[name], found.absmax[name]) for name in found.absmax)


def test_batches_and_16_bits_see_nearly_the_same(found: calibration.Calibration, flux: Checkpoint) -> None:
    component = flux.family.component("transformer")
    one_by_one = calibrate(flux, component, PROMPTS, dataclasses.replace(SETTINGS, batch_size=1))
    short = calibrate(flux, component, PROMPTS, dataclasses.replace(SETTINGS, dtype="bfloat16"))
    for name, largest in found.absmax.items():
        torch.testing.assert_close(one_by_one.absmax[name], largest, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(short.absmax[name], largest, rtol=0.1, atol=0.1)


def test_guidance_of_sdxl_shows_the_unconditional_half_too(random_sdxl: Path) -> None:
    checkpoint = open_checkpoint(random_sdxl)
    one_step = dataclasses.replace(SETTINGS, num_inference_steps=1)
    guided, plain = (
        calibrate(checkpoint, checkpoint.family.component("unet"), PROMPTS[:1], settings).absmax
        for settings in (one_step, dataclasses.replace(one_step, guidance_scale=1.0))
    )
    assert len(guided) == len(plain) > 100
    assert all(
        (guided[name] >= plain[name] * 0.999).all() for name in plain
    )  # another batch rounds otherwise
    assert any((guided[name] > plain[name] * 1.01).any() for name in plain)


def test_refusals(flux: Checkpoint) -> None:
    with pytest.raises(ExportError, match="needs prompts"):
        calibrate(flux, flux.family.component("transformer"), [], SETTINGS)
    with pytest.raises(ExportError, match="flux.vae_decoder has no linears"):
        calibrate(flux, flux.family.component("vae_decoder"), PROMPTS, SETTINGS)


def test_a_file_gives_back_what_was_saved(
    found: calibration.Calibration, flux: Checkpoint, tmp_path: Path
) -> None:
    calibration.save(found, tmp_path / "file")
    loaded = calibration.load(tmp_path / "file", flux, flux.family.component("transformer"))
    assert dataclasses.replace(loaded, absmax={}) == dataclasses.replace(found, absmax={})
    assert loaded.absmax.keys() == found.absmax.keys()
    assert all(torch.equal(loaded.absmax[name], largest) for name, largest in found.absmax.items())


def test_a_file_of_another_checkpoint_is_refused_in_one_line(
    found: calibration.Calibration, flux: Checkpoint, tmp_path: Path
) -> None:
    calibration.save(found, tmp_path / "file")
    other = shutil.copytree(flux.folder, tmp_path / "other")
    (other / "tokenizer" / "more.txt").write_text("another checkpoint")
    with pytest.raises(ExportError, match="checkpoint_sha256 .*, other wants .*: calibrate again") as error:
        calibration.load(tmp_path / "file", open_checkpoint(other), flux.family.component("transformer"))
    assert "\n" not in str(error.value)
    with pytest.raises(
        ExportError, match="component flux.transformer, .* flux.text_encoder_2: calibrate again"
    ):
        calibration.load(tmp_path / "file", flux, flux.family.component("text_encoder_2"))


def test_what_is_no_calibration_is_refused(flux: Checkpoint, tmp_path: Path) -> None:
    transformer = flux.family.component("transformer")
    (tmp_path / "text").write_text("{}")
    save_file({"a": torch.ones(1)}, tmp_path / "weights")
    for name, message in (
        ("missing", "no calibration"),
        ("text", "no calibration"),
        ("weights", "format None"),
    ):
        with pytest.raises(ExportError, match=message):
            calibration.load(tmp_path / name, flux, transformer)


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_draws_the_pictures_of_float32(family: str) -> None:
    options = ["--checkpoint", f"{ASSETS}/{family}-tiny", "--pictures", "4", "--calibration-prompts", "8"]
    report = int8.report(int8.parse([*options, "--num-inference-steps", "6"]))
    assert 36 < report["psnr median"] < 80  # more have equal pictures alone: nothing was quantised


@pytest.mark.parametrize("key", int8.INPUTS)
def test_the_benchmark_feeds_an_engine_what_stock_diffusers_feeds_the_module(key: str) -> None:
    name, component = key.split(".")
    pipeline = evaluate.load(ASSETS / f"{name}-tiny")
    expected = evaluate.generate(pipeline, PROMPTS[:2], 2, 4.0)
    model = getattr(pipeline, component)
    engine = WRAPPERS[name][component](copy.deepcopy(model))
    model.forward = lambda *values, **named: (engine(**int8.INPUTS[key](*values, **named)),)
    actual = evaluate.generate(pipeline, PROMPTS[:2], 2, 4.0)
    assert np.abs(actual.astype(int) - expected).max() <= 1
