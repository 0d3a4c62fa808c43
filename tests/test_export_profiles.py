"""What a target, a precision, a profile, a builder or a disk cannot do is one line, and leaves no file."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_graphs import PROFILE
from test_export_refusals import refusal

from export.builders import load_builder
from export.errors import ExportError
from export.profile import LIMITS, Profile, Span, changed
from export.targets import TARGETS, target_named, with_precisions
from families import FLUX, SDXL

A100, CPU = TARGETS["a100"], TARGETS["cpu"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_first_precision_of_a_component_is_its_default(target: str) -> None:
    chosen = with_precisions(TARGETS[target], FLUX, ["transformer=int8", "text_encoder_2=int8_weights"])
    assert chosen.default_precision("flux.transformer") == "int8"
    assert chosen.default_precision("flux.text_encoder_2") == "int8_weights"
    assert chosen.default_precision("sdxl.unet") == TARGETS[target].default_precision("sdxl.unet")
    assert {*chosen.precisions["flux.transformer"]} == {*TARGETS[target].precisions["flux.transformer"]}


@pytest.mark.parametrize(
    ("target", "choice", "said"),
    [
        (
            A100,
            "transformer=fp8",
            "precision fp8 needs compute capability 8.9, a100 has 8.0; choices for flux",
        ),
        (A100, "transformer=fp4", "precision fp4 needs compute capability 10.0, a100 has 8.0"),
        (
            A100,
            "transformer=fp16",
            "unknown precision 'fp16'; choices for flux.transformer on a100: int8, bf16",
        ),
        (A100, "text_encoder_2=fp16", "unknown precision 'fp16'; choices for flux.text_encoder_2 on a100: "),
        (A100, "vae_decoder=int8", "unknown precision 'int8'; choices for flux.vae_decoder on a100: bf16"),
        (CPU, "transformer=fp8", "unknown precision 'fp8'; choices for flux.transformer on cpu: fp32, int8"),
        (CPU, "transformer", "unknown precision ''"),
        (CPU, "unet=fp32", "unknown component 'unet'; flux has text_encoder, text_encoder_2, transformer"),
        (CPU, "=fp32", "unknown component ''; flux has"),
    ],
)
def test_a_precision_that_cannot_be(target, choice, said) -> None:
    with pytest.raises(ExportError) as refused:
        with_precisions(target, FLUX, [choice])
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_names_that_nothing_has() -> None:
    with pytest.raises(ExportError, match="unknown target 'h100'; choices: cpu, a100"):
        target_named("h100")
    with pytest.raises(ExportError, match="unknown builder 'trt'; choices: tensorrt, tensorrt_rtx"):
        load_builder("trt")
    with pytest.raises(ExportError, match="unknown component 'transformer'; sdxl has .*unet"):
        with_precisions(A100, SDXL, ["transformer=int8"])


def test_a_profile_changes_the_axes_that_are_named() -> None:
    profile = changed(A100.profile, ["size=512,768,1024", "rank=0,8,8"])
    assert (profile.size, profile.rank) == (Span(512, 768, 1024), Span(0, 8, 8))
    assert (profile.batch, profile.text_length) == (A100.profile.batch, A100.profile.text_length)


LIMIT_CHANGES = [
    f"{axis}={sizes}"
    for axis in Profile.__dataclass_fields__
    for least, opt, most in [getattr(LIMITS, axis)]
    for sizes in (f"{least - 1},{opt},{most}", f"{least},{opt},{most + 1}")
]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("height=64,64,64", "unknown axis 'height'; choices: size, batch, text_length, rank"),
        ("", "unknown axis ''"),
        ("size", "is not AXIS=MIN,OPT,MAX in whole numbers"),
        ("size=256,512", "is not AXIS=MIN,OPT,MAX in whole numbers"),
        ("size=256,512,768,1024", "is not AXIS=MIN,OPT,MAX in whole numbers"),
        ("size=256,large,1024", "is not AXIS=MIN,OPT,MAX in whole numbers"),
        ("size=256,512.5,1024", "is not AXIS=MIN,OPT,MAX in whole numbers"),
        ("size=512,256,1024", "the three do not rise"),
        ("size=256,1024,512", "the three do not rise"),
        *((change, "leaves what the families can be built for") for change in LIMIT_CHANGES),
    ],
)
def test_a_profile_that_cannot_be(change: str, said: str) -> None:
    with pytest.raises(ExportError) as refused:
        changed(A100.profile, ["batch=1,1,2", change])
    assert str(refused.value).startswith(f"--profile {change!r}") and said in str(refused.value)
    assert "\n" not in str(refused.value)


COMMANDS: dict[str, tuple[list[str], str]] = {
    "precision": (["--target", "a100", "--precision", "transformer=fp8"], "needs compute capability 8.9"),
    "profile": (["--target", "a100", "--profile", "size=64,32,16"], "the three do not rise"),
    "size": (
        ["--target", "a100", "--profile", "size=100,128,256"],
        "(100, 128, 256): flux draws multiples of",
    ),
    "native size": (["--target", "a100"], "draws 128 px; target a100 takes"),
    "builder of ONNX": (["--target", "cpu", "--builder", "tensorrt_rtx"], "cpu is not built by tensorrt_rtx"),
    "builder": (["--target", "a100", "--profile", *PROFILE], "builder tensorrt cannot be imported"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_refuses_in_one_line(
    name: str, random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, said = COMMANDS[name]
    output = tmp_path / "build" / "out"
    assert said in refusal(capsys, "--checkpoint", random_checkpoint, "--output", output, *options)
    assert not output.parent.exists() or list(output.parent.iterdir()) == []


def test_an_unknown_builder_is_a_usage_error(
    random_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        refusal(capsys, "--checkpoint", random_checkpoint, "--target", "a100", "--builder", "trt")
    assert ended.value.code == 2
    assert "invalid choice: 'trt' (choose from 'tensorrt', 'tensorrt_rtx')" in capsys.readouterr().err


def test_a_plan_that_the_disk_cannot_hold(
    random_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=50_000_000))
    output = tmp_path / "build" / "out"
    options = "--target", "a100", "--builder", "tensorrt_rtx", "--profile", *PROFILE
    said = refusal(capsys, "--checkpoint", random_checkpoint, "--output", output, *options)
    assert " GB on disk, " in said and "has 0.1 GB free" in said
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
