"""Facts derive what engines, configs and limits need."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from families import FAMILIES, FLUX, InvalidRequest, Range, family_named
from families.__main__ import main as families_main
from families.triton import MODEL_REPOSITORY, generated_configs, parameters

CONFIGS = {
    "text_encoder": {"hidden_size": 64},
    "text_encoder_2": {"d_model": 96},
    "transformer": {"in_channels": 64, "joint_attention_dim": 96, "pooled_projection_dim": 32},
    "vae": {"latent_channels": 16},
}


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
    with pytest.raises(ValueError, match="unknown family 'sd3'; choices: flux"):
        family_named("sd3")
    with pytest.raises(ValueError, match="no component 'unet'; it has text_encoder, .*vae_decoder"):
        FLUX.component("unet")


def test_committed_configs_are_those_of_the_specs() -> None:
    assert families_main(["--check"]) == 0


def test_check_names_each_differing_file_and_writing_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = ["--repository", str(tmp_path)]
    assert families_main(repository) == 0
    changed = tmp_path / "flux_transformer" / "config.pbtxt"
    changed.write_text(changed.read_text().replace("FP32", "FP16"))
    (tmp_path / "flux_vae_decoder" / "config.pbtxt").unlink()
    capsys.readouterr()
    assert families_main([*repository, "--check"]) == 1
    said = capsys.readouterr().out
    assert "flux_transformer/config.pbtxt" in said and "flux_vae_decoder/config.pbtxt" in said
    assert "flux_text_encoder/" not in said
    assert families_main(repository) == 0
    assert families_main([*repository, "--check"]) == 0


def test_every_component_has_a_generated_config() -> None:
    paths = {path for path, _ in generated_configs(FAMILIES)}
    assert len(paths) == len(FLUX.components)
    assert all((MODEL_REPOSITORY / path).is_file() for path in paths)


def test_parameters_survive_any_text() -> None:
    odd = 'flux "tiny"\\ ✓'
    parsed = text_format.Parse(parameters({"checkpoint": odd, "max_size": 512}), ModelConfig())
    values = {name: value.string_value for name, value in parsed.parameters.items()}
    assert values == {"checkpoint": odd, "max_size": "512"}
