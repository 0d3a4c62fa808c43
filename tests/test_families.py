"""Facts derive what engines, configs and limits need."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from families import FAMILIES, FLUX, SDXL, FamilySpec, InvalidRequest, Range, check_strength, family_named
from families.__main__ import main as families_main
from families.triton import MODEL_REPOSITORY, generated_configs, parameters

CONFIGS = {
    "text_encoder": {"hidden_size": 64},
    "text_encoder_2": {"d_model": 96},
    "transformer": {"in_channels": 64, "joint_attention_dim": 96, "pooled_projection_dim": 32},
    "vae": {"latent_channels": 16},
}
SDXL_CONFIGS = {
    "text_encoder_2": {"projection_dim": 48},
    "unet": {"cross_attention_dim": 160},
    "vae": {"latent_channels": 4},
}
STAGES = ("lora", "scheduler", "tokenizer")
PARTS = [(family, component) for family in FAMILIES.values() for component in family.components]


def test_a_call_has_the_shapes_of_diffusers_forward() -> None:
    axes = FLUX.axes(batch=3, height=128, width=96, text_length=20)
    assert FLUX.component("transformer").input_sizes(axes, CONFIGS) == {
        "hidden_states": (3, 48, 64),
        "encoder_hidden_states": (3, 20, 96),
        "pooled_projections": (3, 32),
        "timestep": (3, 1),
        "img_ids": (3, 48, 3),
        "txt_ids": (3, 20, 3),
        "guidance": (3, 1),
    }
    assert FLUX.component("vae_decoder").input_sizes(axes, CONFIGS) == {"latents": (3, 16, 16, 12)}
    assert FLUX.component("vae_encoder").input_sizes(axes, CONFIGS) == {"images": (3, 128, 96, 3)}


def test_a_call_of_the_unet_has_the_shapes_of_diffusers_forward() -> None:
    axes = SDXL.axes(batch=2, height=128, width=96, text_length=77)
    assert SDXL.component("unet").input_sizes(axes, SDXL_CONFIGS) == {
        "sample": (2, 4, 16, 12),
        "timestep": (2, 1),
        "encoder_hidden_states": (2, 77, 160),
        "text_embeds": (2, 48),
        "time_ids": (2, 6),
    }


def test_a_picture_takes_two_rows_of_the_unet_and_one_of_all_else() -> None:
    rows = {family.model_name(component): family.max_rows(component) for family, component in PARTS}
    assert rows.pop("sdxl_unet") == 2 * SDXL.max_running == 16
    assert rows.pop("flux_transformer") == FLUX.max_running == 8
    assert set(rows.values()) == {4}


@pytest.mark.parametrize(("family", "multiple"), [(FLUX, 16), (SDXL, 32)])
def test_axes_divide_as_the_denoiser_needs(family: FamilySpec, multiple: int) -> None:
    assert family.size_multiple == multiple
    assert family.axis_multiples == {
        "height": multiple, "width": multiple, "latent_height": multiple // 8, "latent_width": multiple // 8
    }  # fmt: skip
    axes = family.axes(batch=1, height=3 * multiple, width=5 * multiple, text_length=8)
    assert all(axes[name] % size == 0 for name, size in family.axis_multiples.items())


def test_dims_are_open_where_the_request_or_the_checkpoint_decides() -> None:
    hidden_states, *_, guidance = FLUX.component("transformer").inputs
    assert (hidden_states.dims, guidance.dims) == ([-1, -1], [1])
    assert hidden_states.dynamic_axes == {0: "batch", 1: "image_tokens"}


@pytest.mark.parametrize("value", [0, 51, math.nan, math.inf, -math.inf])
def test_a_number_outside_its_range_is_named(value: float) -> None:
    with pytest.raises(InvalidRequest, match=rf"steps {value} is not in 1\.\.50"):
        Range(1, 28, 50).check("steps", value)


@pytest.mark.parametrize(
    ("size", "fault"), [(130, "multiple of 16"), (48, r"64\.\.512"), (528, r"64\.\.512")]
)
def test_a_size_is_in_range_and_a_multiple(size: int, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=f"height {size}.*{fault}"):
        FLUX.check_size("height", size, Range(64, 128, 512))


@pytest.mark.parametrize("size", [0, -16, 100])
def test_axes_refuse_what_cannot_be_packed(size: int) -> None:
    with pytest.raises(ValueError, match=f"width {size} is not a positive multiple of 16"):
        FLUX.axes(batch=1, height=64, width=size, text_length=8)


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown family 'sd3'; choices: flux, sdxl$"):
        family_named("sd3")
    with pytest.raises(ValueError, match="no component 'unet'; it has text_encoder, .*vae_decoder"):
        FLUX.component("unet")


@pytest.mark.parametrize("strength", [0.0, -0.0, -1.0, 1.0001, math.nan, math.inf])
def test_a_strength_outside_its_range_is_named(strength: float) -> None:
    with pytest.raises(InvalidRequest, match=f"strength {strength} is not above 0 and at most 1"):
        check_strength(strength, 50)


@pytest.mark.parametrize("steps", range(1, 101))
def test_a_strength_makes_a_step_and_the_least_that_is_told_does(steps: int) -> None:
    check_strength(1.0, steps)
    with pytest.raises(
        InvalidRequest, match=rf"strength \S+ of num_inference_steps {steps} is less"
    ) as raised:
        check_strength(0.99 / steps, steps)
    told = re.search(r"at least (\S+),", str(raised.value))
    assert told
    check_strength(float(told[1]), steps)


@pytest.mark.parametrize("name", ["", "eulerdiscretescheduler", "PNDMScheduler", "__class__"])
def test_an_unknown_scheduler_lists_the_choices(name: str) -> None:
    for family in FAMILIES.values():
        family.check_scheduler(family.schedulers[0])
        with pytest.raises(InvalidRequest, match=f"{name!r}.*{family.name}.*{', '.join(family.schedulers)}$"):
            family.check_scheduler(name)


def test_a_picture_can_be_drawn_with_every_default() -> None:
    for family in FAMILIES.values():
        steps = int(family.num_inference_steps.default)
        family.num_inference_steps.check("num_inference_steps", steps)
        family.guidance_scale.check("guidance_scale", family.guidance_scale.default)
        check_strength(family.default_strength, steps)


def test_every_family_draws_from_text_and_from_a_picture() -> None:
    for family in FAMILIES.values():
        assert [e.task for e in family.ensembles] == ["text_to_image", "image_to_image"]
        assert [e.takes_image for e in family.ensembles] == [False, True]
        assert family.ensemble("image_to_image") is family.ensembles[1]
        assert family.ensemble_name(family.ensembles[1]) == f"{family.name}_image_to_image"


def test_committed_configs_are_those_of_the_specs() -> None:
    assert families_main(["--check"]) == 0


def test_check_names_each_differing_file_and_writing_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = ["--repository", str(tmp_path)]
    assert families_main(repository) == 0
    changed = tmp_path / "flux_transformer" / "config.pbtxt"
    changed.write_text(changed.read_text().replace("FP32", "FP16"))
    ensemble = tmp_path / "sdxl_image_to_image" / "config.pbtxt"
    ensemble.write_text(
        ensemble.read_text().replace('key: "images" value: "image"', 'key: "images" value: "x"')
    )
    (tmp_path / "flux_vae_decoder" / "config.pbtxt").unlink()
    capsys.readouterr()
    assert families_main([*repository, "--check"]) == 1
    said = capsys.readouterr().out
    assert "flux_transformer/config.pbtxt" in said and "flux_vae_decoder/config.pbtxt" in said
    assert "sdxl_image_to_image/config.pbtxt" in said and len(said.splitlines()) == 3
    assert families_main(repository) == 0
    assert families_main([*repository, "--check"]) == 0


def test_every_model_but_the_python_stages_has_a_generated_config() -> None:
    generated = {path for path, _ in generated_configs(FAMILIES)}
    assert len(generated) == len(PARTS) + sum(len(family.ensembles) for family in FAMILIES.values())
    written = {
        path.relative_to(MODEL_REPOSITORY).as_posix() for path in MODEL_REPOSITORY.glob("*/config.pbtxt")
    }
    stages = {f"{name}_{stage}/config.pbtxt" for name in FAMILIES for stage in STAGES}
    assert written - generated == stages and generated <= written


def test_parameters_survive_any_text() -> None:
    odd = 'flux "tiny"\\ ✓'
    parsed = text_format.Parse(parameters({"checkpoint": odd, "max_size": 512}), ModelConfig())
    values = {name: value.string_value for name, value in parsed.parameters.items()}
    assert values == {"checkpoint": odd, "max_size": "512"}
