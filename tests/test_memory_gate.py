"""An export for a GPU is planned first, and refused in its own words if it does not fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from export.__main__ import main, parser
from export.checkpoint import open_checkpoint
from export.errors import ExportError
from export.layout import Layout
from export.memory import check_fits
from export.profile import LIMITS, changed
from export.targets import TARGETS, with_precisions
from families.published import PUBLISHED


def a100(
    *profile: str, lora: bool = False, precisions: Sequence[str] = (), name: str = "FLUX.1-dev"
) -> Layout:
    """The layout of a published checkpoint, from the largest profile that there is."""
    target = replace(TARGETS["a100"], profile=changed(LIMITS, profile))
    published = PUBLISHED[name]
    return Layout(published, with_precisions(target, published.family, precisions), lora)


def rejected(layout: Layout) -> str:
    with pytest.raises(ExportError) as raised:
        check_fits(layout)
    return str(raised.value)


@pytest.fixture
def unmeasured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.scratch.MEASURED", tmp_path / "measured.json")


@pytest.mark.usefixtures("unmeasured")
def test_an_export_is_planned_at_its_profile_s_largest_call() -> None:
    table = check_fits(a100("size=256,1024,1024", "batch=1,1,2", "rank=0,16,32", lora=True))
    assert table.startswith("A100-40, 42.5 GB usable; pictures to 1024 px, batch 2; scratch: context")
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "weights flux.transformer int8 11.90 from the shapes" in lines
    assert (
        "scratch flux.vae_decoder 5.13 estimate" in lines
        and "scratch flux.vae_encoder 5.13 estimate" in lines
    )
    assert "inputs flux.transformer: 2 rows, rank 32 0.69 from the shapes" in lines
    assert "sdxl" not in table
    assert "inputs" not in check_fits(a100("size=256,1024,1024", "batch=1,1,2"))
    assert "flux.text_encoder_2 bf16" in check_fits(a100("batch=1,1,1", precisions=["text_encoder_2=bf16"]))


@pytest.mark.usefixtures("unmeasured")
def test_an_export_s_own_configs_count() -> None:
    layout = a100("batch=1,1,1")
    fewer = {**layout.checkpoint.configs["transformer"], "num_layers": 0, "num_single_layers": 0}
    configs = {**layout.checkpoint.configs, "transformer": fewer}
    less = replace(layout, checkpoint=replace(PUBLISHED["FLUX.1-dev"], configs=configs))
    assert "flux.transformer int8                11.90" in check_fits(layout)
    assert "flux.transformer int8                 0.0" in check_fits(less)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (a100("size=256,1024,1024"), "it fits with --profile batch=1,1,3"),  # the largest batch that fits
        (a100("size=256,1024,1024", "batch=2,4,4"), "it fits with --profile batch=2,3,3"),
        (a100(name="stable-diffusion-xl-base-1.0"), "it fits with --profile batch=1,1,1"),
        (
            a100("size=64,768,1536", "batch=1,1,1", precisions=["transformer=bf16"]),
            "it fits with --precision transformer=int8",
        ),
        (
            a100("size=64,1280,1536", "batch=2,2,2"),
            "it fits with --profile size=64,1280,1280",
        ),
        (
            a100("batch=3,4,4"),
            "it fits with --profile batch=3,3,3 size=64,1024,1024",
        ),
        (
            a100("size=64,1024,1024", "batch=4,4,4", precisions=["transformer=bf16"]),
            "nothing known makes it fit",
        ),
    ],
)
def test_an_export_that_does_not_fit_names_the_gentlest_change_in_its_own_words(
    layout: Layout, said: str
) -> None:
    assert rejected(layout).endswith(f"; {said}"), rejected(layout)


@pytest.mark.usefixtures("unmeasured")
def test_what_an_export_is_told_to_change_it_takes() -> None:
    """The words are options of `python -m export`, and with them it fits."""
    refused = a100("batch=2,2,4", precisions=["transformer=bf16", "text_encoder_2=bf16"])
    words = rejected(refused).rpartition("it fits with ")[2].rpartition("or more gently with ")[2].split()
    options = parser().parse_args(["--checkpoint", "x", "--target", "a100", *words])
    assert options.profile and options.precision
    target = replace(refused.target, profile=changed(refused.target.profile, options.profile))
    check_fits(replace(refused, target=with_precisions(target, refused.family, options.precision)))


@pytest.mark.usefixtures("unmeasured")
def test_precisions_that_the_target_has_not_are_not_proposed() -> None:
    layout = a100("size=64,768,1536", "batch=1,1,1", precisions=["transformer=bf16"])
    precisions = {**layout.target.precisions, "flux.transformer": {"bf16": "bf16"}}
    only = replace(layout, target=replace(layout.target, precisions=precisions))
    assert rejected(only).endswith("it fits with --profile size=64,768,1280")


@pytest.mark.usefixtures("unmeasured")
def test_sizes_that_the_checkpoint_draws_are_not_given_up() -> None:
    layout = a100("batch=4,4,4")
    assert rejected(layout).endswith("nothing known makes it fit")
    draws_less = replace(layout, checkpoint=replace(PUBLISHED["FLUX.1-dev"], native_size=512))
    assert rejected(draws_less).endswith("it fits with --profile size=64,768,768")


def test_a_target_without_a_gpu_has_no_plan() -> None:
    assert check_fits(replace(a100(), target=TARGETS["cpu"])) == ""


def write_json(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def without_weights(folder: Path) -> Path:
    """FLUX.1-dev's checkpoint, but for its weights and tokens."""
    flux = PUBLISHED["FLUX.1-dev"]
    write_json(folder / "model_index.json", {"_class_name": flux.family.pipeline, **flux.index})
    for part, config in flux.configs.items():
        write_json(folder / part / "config.json", config)
        (folder / part / "none.safetensors").touch()
    for part, length in (("tokenizer", 77), ("tokenizer_2", 512)):
        write_json(folder / part / "tokenizer_config.json", {"model_max_length": length})
    write_json(folder / "scheduler" / "scheduler_config.json", {})
    return folder


@pytest.mark.usefixtures("unmeasured")
def test_an_export_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, output = without_weights(tmp_path / "flux"), tmp_path / "output"
    words = ["--checkpoint", str(checkpoint), "--target", "a100", "--output", str(output)]
    assert main([*words, "--profile", "size=256,1024,1536", "batch=1,1,4"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("export: A100-40 has 42.5 GB, this takes 88.9") and not printed.out
    assert not output.exists()
    output.write_text("something else")  # so that the export ends after the plan, before any work
    assert main([*words, "--profile", "size=256,1024,1024", "batch=1,1,1"]) == 1
    printed = capsys.readouterr()
    assert "  free                                           14.36\n" in printed.out
    assert printed.err.startswith(f"export: output {output} exists")


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("name", ["flux-tiny", "sdxl-tiny"])
def test_our_own_checkpoints_fit(name: str) -> None:
    checkpoint = open_checkpoint(Path(__file__).parents[1] / "assets" / "checkpoints" / name)
    target = replace(TARGETS["a100"], profile=changed(LIMITS, ["size=64,128,512"]))
    assert "  weights   " in check_fits(Layout(checkpoint, target, lora=True))


def test_a_structure_that_cannot_be_counted_is_named(tmp_path: Path) -> None:
    layout = a100("batch=1,1,1")
    config = {**layout.checkpoint.configs["text_encoder_2"], "is_gated_act": False}
    configs = {**layout.checkpoint.configs, "text_encoder_2": config}
    other = replace(PUBLISHED["FLUX.1-dev"], configs=configs)
    assert "text_encoder_2/config.json: is_gated_act False is unknown" in rejected(
        replace(layout, checkpoint=other)
    )
