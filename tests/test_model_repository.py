"""The Triton models fit together: every config parses, every tensor that an ensemble names exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from families import FLUX
from families.triton import MODEL_REPOSITORY

MODELS = sorted(path.parent for path in MODEL_REPOSITORY.glob("*/config.pbtxt"))
Tensors = dict[str, tuple[int, list[int]]]


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


CONFIGS = {folder.name: config_of(folder) for folder in MODELS}
ENSEMBLES = [config for config in CONFIGS.values() if config.platform == "ensemble"]


def tensors(declared: Any) -> Tensors:
    return {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in declared}


def agree(one: tuple[int, list[int]], other: tuple[int, list[int]]) -> bool:
    """Same dtype and rank, and sizes that are equal wherever both are fixed."""
    (dtype, dims), (other_dtype, other_dims) = one, other
    fixed = zip(dims, other_dims, strict=False)
    return (
        dtype == other_dtype
        and len(dims) == len(other_dims)
        and all(a == b or -1 in (a, b) for a, b in fixed)
    )


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_a_config_is_named_after_its_folder_and_batches(folder: Path) -> None:
    config = config_of(folder)
    assert config.name == folder.name
    assert config.max_batch_size == FLUX.max_batch_size
    assert config.platform == "ensemble" or config.instance_group[0].count == 1


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(text_format.ParseError, match="max_batchsize"):
        text_format.Parse("max_batchsize: 4", ModelConfig())


def test_python_stages_are_thin_adapters() -> None:
    for folder in MODELS:
        stage = folder / "1" / "model.py"
        assert stage.is_file() == (CONFIGS[folder.name].backend == "python")
        assert not stage.is_file() or len(stage.read_text().splitlines()) <= 80


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda config: config.name)
def test_every_step_gets_and_gives_what_its_model_declares(ensemble: Any) -> None:
    known = tensors(ensemble.input)
    for step in ensemble.ensemble_scheduling.step:
        model = CONFIGS[step.model_name]
        inputs, outputs = tensors(model.input), tensors(model.output)
        assert set(step.input_map) == set(inputs), step.model_name
        for name, source in step.input_map.items():
            assert agree(known[source], inputs[name]), f"{step.model_name}.{name} from {source}"
        for name, target in step.output_map.items():
            assert target not in known or target in tensors(ensemble.output), f"{target} is written twice"
            known[target] = outputs[name]
    for name, declared in tensors(ensemble.output).items():
        assert agree(known[name], declared), name


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda config: config.name)
def test_an_ensemble_describes_each_of_its_tensors(ensemble: Any) -> None:
    described = {name.removeprefix("tensor.") for name in ensemble.parameters}
    assert described == {*tensors(ensemble.input), *tensors(ensemble.output)}
    assert all(value.string_value for value in ensemble.parameters.values())


def test_text_encoders_answer_repeated_prompts_from_the_cache() -> None:
    cached = {name for name, config in CONFIGS.items() if config.response_cache.enable}
    assert cached == {"flux_text_encoder", "flux_text_encoder_2"}


def test_the_text_in_configs_tells_the_family_s_limits() -> None:
    described = CONFIGS["flux_text_to_image"].parameters
    steps, guidance = FLUX.num_inference_steps, FLUX.guidance_scale
    wanted = {
        "prompt": f"at most {FLUX.max_prompt_characters} characters",
        "num_inference_steps": f"{steps.minimum}..{steps.maximum}",
        "guidance_scale": f"{guidance.minimum:.0f}..{guidance.maximum:.0f}",
        "height": f"a multiple of {FLUX.size_multiple}",
        "width": f"a multiple of {FLUX.size_multiple}",
    }
    for name, text in wanted.items():
        assert text in described[f"tensor.{name}"].string_value
