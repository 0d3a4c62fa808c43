"""What cannot be exported is refused in one line that names it, and changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.__main__ import main

Change = Callable[[Path], object]


def edit(file: str, **changes: Any) -> Change:
    """A change of a JSON file; None deletes a key."""

    def change(checkpoint: Path) -> None:
        path = checkpoint / file
        values = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return change


def pickled(checkpoint: Path) -> None:
    weights = checkpoint / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))


CHANGES: dict[str, tuple[Change, str]] = {
    "not diffusers": (
        lambda c: (c / "model_index.json").unlink(),
        "not in diffusers' layout: it has no model_index",
    ),
    "broken index": (lambda c: (c / "model_index.json").write_text("{"), "model_index.json is not JSON"),
    "list for index": (lambda c: (c / "model_index.json").write_text("[]"), "holds a list, not an object"),
    "other pipeline": (
        edit("model_index.json", _class_name="StableDiffusion3Pipeline"),
        "pipeline 'StableDiffusion3Pipeline'; choices: FluxPipeline, StableDiffusionXLPipeline",
    ),
    "pickle": (pickled, "text_encoder/pytorch_model.bin is a pickle"),
    "no weights": (lambda c: (c / "vae/diffusion_pytorch_model.safetensors").unlink(), "vae has no weights"),
    "no transformer": (lambda c: shutil.rmtree(c / "transformer"), "transformer is missing"),
    "no config": (lambda c: (c / "vae/config.json").unlink(), "vae/config.json is missing"),
    "no tokenizer": (lambda c: shutil.rmtree(c / "tokenizer_2"), "lacks tokenizer_2"),
    "part not in index": (edit("model_index.json", tokenizer=None), "lacks tokenizer"),
    "CLIP length": (edit("tokenizer/tokenizer_config.json", model_max_length=50), "50 is not in 77..77"),
    "T5 length": (edit("tokenizer_2/tokenizer_config.json", model_max_length=10**30), "is not in 8..512"),
    "no size": (edit("vae/config.json", sample_size=None), "vae/config.json has no 'sample_size'"),
    "large": (edit("vae/config.json", sample_size=1024), "draws 1024 px; target cpu takes 64..512 px"),
    "shallow VAE": (edit("vae/config.json", block_out_channels=[8, 8]), "vae shrinks 2 times; flux's 8"),
    "no width": (edit("transformer/config.json", in_channels=None), "has no 'in_channels'"),
    "other scheduler": (
        edit("model_index.json", scheduler=["diffusers", "DDIMScheduler"]),
        "has scheduler DDIMScheduler; flux is served with FlowMatchEulerDiscreteScheduler",
    ),
}


SDXL_CHANGES: dict[str, tuple[Change, str]] = {
    "Flux's index": (edit("model_index.json", _class_name="FluxPipeline"), "transformer is missing"),
    "no UNet": (lambda c: shutil.rmtree(c / "unet"), "unet is missing"),
    "second CLIP's length": (
        edit("tokenizer_2/tokenizer_config.json", model_max_length=64),
        "64 is not in 77..77",
    ),
    "no projection": (edit("text_encoder_2/config.json", projection_dim=None), "has no 'projection_dim'"),
    "other scheduler": (
        edit("model_index.json", scheduler=["diffusers", "DDIMScheduler"]),
        "has scheduler DDIMScheduler; sdxl is served with EulerDiscreteScheduler",
    ),
}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("export: ") and said.count("\n") == 1
    return said


def refuses_change(
    case: tuple[Change, str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, fault = case
    copied = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    change(copied)
    output = tmp_path / "build" / "out"
    assert fault in refusal(capsys, "--checkpoint", copied, "--target", "cpu", "--output", output)
    assert not output.parent.exists()


@pytest.mark.parametrize("name", CHANGES)
def test_a_bad_checkpoint(
    name: str, random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses_change(CHANGES[name], random_checkpoint, tmp_path, capsys)


@pytest.mark.parametrize("name", SDXL_CHANGES)
def test_a_bad_sdxl_checkpoint(
    name: str, random_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses_change(SDXL_CHANGES[name], random_sdxl, tmp_path, capsys)


def test_a_checkpoint_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--checkpoint", tmp_path / "nowhere", "--target", "cpu")
    assert f"checkpoint {tmp_path}/nowhere is not a folder" in said


def test_an_unknown_target(random_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--checkpoint", random_checkpoint, "--target", "h100")
    assert "unknown target 'h100'; choices: cpu" in said


def test_an_unknown_component(random_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--checkpoint", random_checkpoint, "--target", "cpu", "--components", "unet")
    components = "text_encoder, text_encoder_2, transformer, vae_encoder, vae_decoder"
    assert f"unknown component 'unet'; flux has {components}" in said


def test_a_folder_of_somebody_else_is_not_replaced(
    random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    said = refusal(capsys, "--checkpoint", random_checkpoint, "--target", "cpu", "--output", tmp_path)
    assert "is no earlier export" in said
    assert (tmp_path / "letters.txt").read_text() == "dear"
