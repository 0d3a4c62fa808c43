"""Configs for TensorRT's backend: complete, and what they say lies within the plan's profile.

Triton's part is real: a tritonserver that completes no config loads them and runs their warm-ups. Only the
plans are not: zeros stand for what they answer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tiny_plans import SESSION, VERSION, finish_plans, pretend_gpus, pretend_tensorrt
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from export.assemble import assemble_models
from export.checkpoint import open_checkpoint
from export.engines_check import PROFILE
from export.errors import ExportError
from export.layout import Layout, Structure
from export.profile import changed
from export.targets import TARGETS
from export.triton_config import BATCHING, SPINNING, model_config
from families import FAMILIES
from families.published import FLUX_1_DEV, SDXL_BASE
from families.triton import MODEL_REPOSITORY, parameters
from serving import EmbeddedTriton
from serving.launch import Launch

A100, CPU = TARGETS["a100"], TARGETS["cpu"]
CHECKPOINTS = Path("assets/checkpoints")
BACKENDS = Path("serving/backends").resolve()


def for_tensorrt(structure: Structure, lora: bool, *changes: str) -> Layout:
    return Layout(structure, replace(A100, profile=changed(A100.profile, changes)), lora, cuda_graphs=True)


WHOLE = "size=256,1024,1536", "batch=1,1,4"  # larger than what the target has room for


def tiny(name: str, lora: bool, target: str = "a100") -> Layout:
    checkpoint = open_checkpoint(CHECKPOINTS / name)
    return Layout(checkpoint, CPU, lora) if target == "cpu" else for_tensorrt(checkpoint, lora, *PROFILE)


LAYOUTS = {
    f"{name}{' with lora' if lora else ''}": layout
    for lora in (False, True)
    for name, layout in (
        ("FLUX.1-dev", for_tensorrt(FLUX_1_DEV, lora, *WHOLE)),
        ("SDXL", for_tensorrt(SDXL_BASE, lora, *WHOLE)),
        ("flux-tiny", tiny("flux-tiny", lora)),
        ("sdxl-tiny", tiny("sdxl-tiny", lora)),
    )
}
PARTS = [(name, component.name) for name, layout in LAYOUTS.items() for component in layout.family.components]


def config_of(layout: Layout, component: str) -> Any:
    return text_format.Parse(model_config(layout, layout.family.component(component)), ModelConfig())


@pytest.fixture(params=PARTS, ids=": ".join)
def part(request: pytest.FixtureRequest) -> tuple[Layout, Any, Any]:
    """A layout, one of its components as the plan has it, its config."""
    name, component = request.param
    layout = LAYOUTS[name]
    return layout, layout.spec(layout.family.component(component)), config_of(layout, component)


def inside(sizes: list[int], least: list[int], most: list[int]) -> bool:
    return all(low <= size <= high for low, size, high in zip(least, sizes, most, strict=True))


def test_nothing_is_left_for_triton_to_complete(part: tuple[Layout, Any, Any]) -> None:
    layout, component, config = part
    assert config.name == layout.family.model_name(component)
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.default_model_filename == "model.plan" and config.version_policy.latest.num_versions == 1
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, ModelInstanceGroup.KIND_GPU)
    told = {name: value.string_value for name, value in config.parameters.items()}
    assert told["execution_context_allocation_strategy"] in ("STATIC", "ON_PROFILE_CHANGE")
    assert told["FORCE_CPU_ONLY_INPUT_TENSORS"] == "no"


def test_names_and_types_are_the_plan_s(part: tuple[Layout, Any, Any]) -> None:
    _, component, config = part
    for told, tensors in ((config.input, component.inputs), (config.output, component.outputs)):
        found = [(tensor.name, DataType.Name(tensor.data_type)) for tensor in told]
        assert found == [(tensor.name, f"TYPE_{tensor.dtype}") for tensor in tensors]
        assert [len(tensor.dims) for tensor in told] == [len(tensor.shape) for tensor in tensors]


def test_a_number_is_fixed_where_the_profile_has_one_and_open_where_it_has_a_range(
    part: tuple[Layout, Any, Any],
) -> None:
    layout, component, config = part
    profile = layout.profile(component)
    for tensor, told in zip(component.inputs, config.input, strict=True):
        least, _, most = profile[tensor.name]
        assert config.max_batch_size == most[0]
        sizes = zip(tensor.shape, least[1:], told.dims, most[1:], strict=True)
        assert all(
            dim == -1 if isinstance(size, str) else low == dim == high for size, low, dim, high in sizes
        )
    for tensor, told in zip(component.outputs, config.output, strict=True):
        assert [dim == -1 for dim in told.dims] == [isinstance(size, str) for size in tensor.shape]


def test_graphs_name_every_input_and_lie_within_the_profile(part: tuple[Layout, Any, Any]) -> None:
    layout, component, config = part
    cuda, profile = config.optimization.cuda, layout.profile(component)
    assert cuda.graphs == bool(cuda.graph_spec) == (component.folder != "vae")
    for spec in cuda.graph_spec:
        assert spec.batch_size in (1, component.rows_per_picture) and not spec.HasField("graph_lower_bound")
        assert set(spec.input) == set(profile)
        for name, (least, _, most) in profile.items():
            assert inside([spec.batch_size, *spec.input[name].dim], least, most), name
    texts = [text_format.MessageToString(spec) for spec in cuda.graph_spec]
    assert len(set(texts)) == len(texts)


def test_a_warm_up_is_a_request_of_native_size(part: tuple[Layout, Any, Any]) -> None:
    layout, component, config = part
    (warmup,) = config.model_warmup
    profile, opt = layout.profile(component), layout.target.profile.size.opt
    assert set(warmup.inputs) == set(profile) and warmup.batch_size == component.rows_per_picture
    assert opt == layout.checkpoint.native_size
    for tensor in component.inputs:
        told = warmup.inputs[tensor.name]
        assert DataType.Name(told.data_type) == f"TYPE_{tensor.dtype}" and told.zero_data
        assert [warmup.batch_size, *told.dims] == profile[tensor.name][1], tensor.name


def test_only_a_denoiser_s_requests_are_not_batched(part: tuple[Layout, Any, Any]) -> None:
    """Its scheduler does."""
    _, component, config = part
    assert config.HasField("dynamic_batching") == (component.name not in ("transformer", "unet"))
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.response_cache.enable == component.response_cache


def captured(layout: Layout, component: str, name: str) -> list[tuple[int, list[int]]]:
    """Rows and dims of input `name` in every graph."""
    specs = config_of(layout, component).optimization.cuda.graph_spec
    return [(spec.batch_size, list(spec.input[name].dim)) for spec in specs]


def test_there_are_no_graphs_unless_asked_for() -> None:
    assert not any(
        "cuda" in model_config(Layout(FLUX_1_DEV, A100), each) for each in FAMILIES["flux"].components
    )


def test_flux_has_a_graph_for_each_length_of_text() -> None:
    layout = LAYOUTS["FLUX.1-dev"]
    assert captured(layout, "transformer", "hidden_states") == 3 * [(1, [4096, 64])]
    texts = [(1, [length, 4096]) for length in (128, 256, 512)]
    assert captured(layout, "transformer", "encoder_hidden_states") == texts
    assert captured(layout, "text_encoder_2", "input_ids") == [(1, [128]), (1, [256]), (1, [512])]
    assert captured(layout, "text_encoder", "input_ids") == [(1, [77])]
    assert captured(LAYOUTS["flux-tiny"], "text_encoder_2", "input_ids") == [(1, [48])]


def test_sdxl_has_graphs_with_and_without_classifier_free_guidance() -> None:
    assert captured(LAYOUTS["SDXL"], "unet", "sample") == [(1, [4, 128, 128]), (2, [4, 128, 128])]


def test_a_denoiser_with_lora_has_graphs_without_and_with_an_adapter() -> None:
    layout = LAYOUTS["SDXL with lora"]
    (sum_in,) = {tensor.dims[1] for tensor in config_of(layout, "unet").input if tensor.name == "lora_a"}
    ranks = [[rank, sum_in] for rank in (4, 16)]
    assert captured(layout, "unet", "lora_a") == [(rows, rank) for rows in (1, 2) for rank in ranks]


def test_a_size_that_the_plan_refuses_is_named() -> None:
    layout = for_tensorrt(SDXL_BASE, False, "size=256,512,512")
    with pytest.raises(ExportError, match=r"unet: sample \[1, 4, 128, 128\] is not in the profile \["):
        model_config(layout, layout.family.component("unet"))


def assembled(layout: Layout, folder: Path) -> Mapping[str, Any]:
    assemble_models(layout, folder)
    paths = folder.glob("models/*/config.pbtxt")
    return {path.parent.name: text_format.Parse(path.read_text(), ModelConfig()) for path in paths}


@pytest.mark.parametrize("changes", [[], ["batch=1,1,2"]], ids=["", "two pictures"])
@pytest.mark.parametrize("structure", [FLUX_1_DEV, SDXL_BASE], ids=lambda structure: structure.family.name)
def test_a_repository_s_models_take_as_many_pictures(
    structure: Structure, changes: list[str], tmp_path: Path
) -> None:
    layout = for_tensorrt(structure, True, *changes)
    pictures = layout.target.profile.batch.max
    configs = assembled(layout, tmp_path)
    rows = {model: config.max_batch_size for model, config in configs.items()}
    assert rows.pop("sdxl_unet", 2 * pictures) == 2 * pictures
    assert set(rows.values()) == {pictures}
    forced = {
        model
        for model, config in configs.items()
        if config.backend == "python" and "FORCE_CPU_ONLY_INPUT_TENSORS" in config.parameters
    }
    assert forced == {f"{layout.family.name}_scheduler"}
    assert optional_packs(configs, layout) == "0"  # a plan wants every input


@pytest.mark.parametrize("name", ["flux-tiny", "sdxl-tiny"])
def test_configs_for_the_cpu_are_the_committed_ones_and_the_backend(name: str, tmp_path: Path) -> None:
    layout = tiny(name, False, "cpu")
    configs = assembled(layout, tmp_path)
    for component in layout.family.components:
        path = Path(layout.family.model_name(component)) / "config.pbtxt"
        committed = (MODEL_REPOSITORY / path).read_text()
        own = parameters(SPINNING) if component.denoiser else BATCHING + "\n"
        wanted = committed + 'backend: "onnxruntime"\n' + own
        assert (tmp_path / "models" / path).read_text() == wanted
        batches = configs[path.parent.name].HasField("dynamic_batching")
        assert batches == (component.name not in ("transformer", "unet"))
    assert not any("FORCE_CPU_ONLY_INPUT_TENSORS" in config.parameters for config in configs.values())
    assert optional_packs(configs, layout) == "1"


def optional_packs(configs: Mapping[str, ModelConfig], layout: Layout) -> str:
    return configs[f"{layout.family.name}_scheduler"].parameters["optional_packs"].string_value


def test_a_config_for_the_cpu_has_the_adapter_s_tensors() -> None:
    config = config_of(tiny("flux-tiny", True, "cpu"), "transformer")
    assert [tensor.name for tensor in config.input if tensor.optional] == ["lora_a", "lora_b"]
    assert [tensor.name for tensor in config.input][-2:] == ["lora_a", "lora_b"]
    assert {DataType.Name(tensor.data_type) for tensor in config.input} == {"TYPE_FP32"}


MODELS = ("flux_transformer", "flux_text_encoder_2", "sdxl_unet", "sdxl_vae_encoder")


def only_served(folder: Path) -> None:
    """Leaves MODELS, with something for a plan, in instances that a machine without a GPU can have."""
    for model in (folder / "models").iterdir():
        if model.name not in MODELS:
            shutil.rmtree(model)
            continue
        config = model / "config.pbtxt"
        config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
        (model / "1" / "model.plan").write_bytes(b"not a plan")


def backends(folder: Path) -> Path:
    ours = shutil.copytree(BACKENDS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (ours / "tensorrt" / "plan_session.py").write_text(SESSION)
    (ours / "tensorrt" / "tensorrt.py").write_text("from tensorrt_rtx import *")
    return ours


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The models of a tritonserver that is ready, and so has run the warm-ups."""
    folder = tmp_path_factory.mktemp("configs")
    options = Launch._gpu_options
    for name in ("flux-tiny", "sdxl-tiny"):
        assemble_models(tiny(name, True), folder / "repository")
    only_served(folder / "repository")
    finish_plans(folder / "repository")
    with pytest.MonkeyPatch.context() as patch:
        pretend_gpus(patch, folder / "bin", "8.0")
        pretend_tensorrt(patch, folder / "python", f"__version__ = {VERSION!r}")
        patch.setattr("serving.launch.OUR_BACKENDS", backends(folder / "backends"))
        patch.setattr(Launch, "_gpu_options", lambda self: [*options(self), "--disable-auto-complete-config"])
        with EmbeddedTriton([folder / "repository"], folder / "logs"):
            yield folder / "repository" / "models"


@pytest.mark.parametrize("model", MODELS)
def test_triton_takes_the_config_and_runs_its_warm_up(warmed: Path, model: str) -> None:
    family, _, component = model.partition("_")
    layout = LAYOUTS[f"{family}-tiny with lora"]
    profile = layout.profile(FAMILIES[family].component(component))
    asked = json.loads((warmed / model / "1" / "asked.json").read_text())
    assert asked == {name: opt for name, (_, opt, _) in profile.items()}
