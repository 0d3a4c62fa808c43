"""The Triton models fit together: every config parses, every tensor that an ensemble names exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from families import FAMILIES, FLUX, SDXL
from families.control import CANCEL, WATCH
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
    assert config.max_batch_size == {"sdxl_unet": 16, "flux_transformer": 8}.get(folder.name, 4)
    assert config.platform == "ensemble" or config.instance_group[0].count == 1


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(text_format.ParseError, match="max_batchsize"):
        text_format.Parse("max_batchsize: 4", ModelConfig())


def test_python_stages_are_thin_adapters() -> None:
    for folder in MODELS:
        stage = folder / "1" / "model.py"
        assert stage.is_file() == (CONFIGS[folder.name].backend == "python")
        assert not stage.is_file() or len(stage.read_text().splitlines()) <= 80


def optional(config: Any) -> set[str]:
    return {tensor.name for tensor in config.input if tensor.optional}


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda config: config.name)
def test_every_step_gets_and_gives_what_its_model_declares(ensemble: Any) -> None:
    known = tensors(ensemble.input)
    for step in ensemble.ensemble_scheduling.step:
        model = CONFIGS[step.model_name]
        inputs, outputs = tensors(model.input), tensors(model.output)
        assert set(inputs) - optional(model) <= set(step.input_map) <= set(inputs), step.model_name
        for name, source in step.input_map.items():
            assert agree(known[source], inputs[name]), f"{step.model_name}.{name} from {source}"
        for name, target in step.output_map.items():
            assert target not in known or target in tensors(ensemble.output), f"{target} is written twice"
            known[target] = outputs[name]
    for name, declared in tensors(ensemble.output).items():
        assert agree(known[name], declared), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scheduler_gets_a_size_or_an_image_and_all_else(family: str) -> None:
    scheduler = CONFIGS[f"{family}_scheduler"]
    size, image = {"height", "width"}, {"image", "image_mean", "image_std", "strength"}
    assert optional(scheduler) == set(tensors(scheduler.input))
    needed = optional(scheduler) - size - image - {CANCEL.name, WATCH.name}
    for task, more in (("text_to_image", size), ("image_to_image", image)):
        (step,) = [step for step in steps(f"{family}_{task}") if step.model_name == scheduler.name]
        assert set(step.input_map) == needed | more


@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_samples_run_at_once_as_a_call_takes(family: str) -> None:
    told = CONFIGS[f"{family}_scheduler"].parameters["max_running"].string_value
    assert int(told) == FAMILIES[family].max_running


def test_only_schedulers_have_optional_inputs() -> None:
    having = {name for name, config in CONFIGS.items() if optional(config)}
    assert having == {f"{family}_scheduler" for family in FAMILIES}


def steps(ensemble: str) -> list[Any]:
    return list(CONFIGS[ensemble].ensemble_scheduling.step)


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda config: config.name)
def test_every_tensor_of_an_ensemble_is_used(ensemble: Any) -> None:
    used = {source for step in steps(ensemble.name) for source in step.input_map.values()}
    made = {target for step in steps(ensemble.name) for target in step.output_map.values()}
    assert used | set(tensors(ensemble.output)) == made | set(tensors(ensemble.input))


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda config: config.name)
def test_an_ensemble_describes_each_of_its_tensors(ensemble: Any) -> None:
    described = {name.removeprefix("tensor.") for name in ensemble.parameters}
    assert described == {*tensors(ensemble.input), *tensors(ensemble.output)}
    assert all(value.string_value for value in ensemble.parameters.values())


def test_text_encoders_answer_repeated_prompts_from_the_cache() -> None:
    cached = {name for name, config in CONFIGS.items() if config.response_cache.enable}
    assert cached == {
        f"{family}_{name}" for family in FAMILIES for name in ("text_encoder", "text_encoder_2")
    }


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda config: config.name)
def test_the_text_in_configs_tells_the_family_s_limits(ensemble: Any) -> None:
    family = FAMILIES[ensemble.name.split("_")[0]]
    told = {name.removeprefix("tensor."): value.string_value for name, value in ensemble.parameters.items()}
    wanted = {
        "prompt": f"at most {family.max_prompt_characters} characters",
        "negative_prompt": f"at most {family.max_prompt_characters} characters",
        "num_inference_steps": str(family.num_inference_steps),
        "guidance_scale": str(family.guidance_scale),
        "scheduler": ", ".join(family.schedulers),
        "strength": "in (0, 1]",
        **dict.fromkeys(("height", "width", "image"), "of size_multiple in min_size..max_size"),
    }
    for name in tensors(ensemble.input).keys() & wanted:
        assert wanted[name] in told[name], name


def test_limits_in_a_stage_s_comments_are_the_family_s() -> None:
    for family in (FLUX, SDXL):
        text = (MODEL_REPOSITORY / f"{family.name}_scheduler" / "config.pbtxt").read_text()
        assert f"Denoising steps, {family.num_inference_steps}." in text
        assert f", {family.guidance_scale}" in text and f"a multiple of {family.size_multiple} in" in text
