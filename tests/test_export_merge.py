"""Adapters merged into an engine's weights: stock diffusers' fused model, and no others can be applied."""

from __future__ import annotations

from pathlib import Path

import adapter_files
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from small_graphs import Case, Session, answers, relative_error
from stock import load_adapter

from export import graph, parity, values
from export.__main__ import parser, planned
from export.calibration import Settings, calibrate
from export.component import source
from export.errors import ExportError
from export.plan import Plan
from export.wrappers import WRAPPERS
from families.adapters import AdapterIndex

CHOICES = ["one:0.5", "two"]


@pytest.fixture(
    scope="module", params=["random_checkpoint", pytest.param("random_sdxl", marks=pytest.mark.slow)]
)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def store(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two adapters of different ranks."""
    folder = tmp_path_factory.mktemp("merge") / "adapters"
    for name, rank in (("one", 3), ("two", 5)):
        adapter_files.add(folder, str(checkpoint.absolute()), name, rank, seed=rank)
    return folder


def plan_of(checkpoint: Path, store: Path, *choices: str) -> Plan:
    where = ["--checkpoint", str(checkpoint), "--target", "cpu", "--adapters", str(store)]
    return planned(parser().parse_args([*where, "--merge-lora", *choices]))


def fused(checkpoint: Path, store: Path) -> torch.nn.Module:
    """Stock diffusers' denoiser with both adapters fused, called as engines are."""
    pipeline = DiffusionPipeline.from_pretrained(checkpoint, dtype=torch.float32)
    family = "flux" if hasattr(pipeline, "transformer") else "sdxl"
    index = AdapterIndex(store)
    for name, entry in index.entries(family).items():
        load_adapter(pipeline, index.file(entry), name)
    pipeline.set_adapters(["one", "two"], [0.5, 1.0])
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    name = "transformer" if family == "flux" else "unet"
    return WRAPPERS[family][name](getattr(pipeline, name)).eval()


def test_the_graph_is_the_fused_model(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    plan = plan_of(checkpoint, store, *CHOICES)
    component = plan.family.denoiser
    made = source(plan, component, {})
    values.fill(made.model, made.weights, {})
    graph.save(made.model, tmp_path / "model.onnx")
    case = Case(plan, component.name)
    inputs = case.inputs(case.axes())
    assert not {"lora_a", "lora_b"} & {*inputs}
    (answer,) = Session(parity.open_session(tmp_path / "model.onnx"))(**inputs)
    (wanted,), (base,) = answers(fused(checkpoint, store), inputs), answers(case.module(), inputs)
    assert relative_error(answer, wanted) <= 1e-5
    assert relative_error(base, wanted) > 0.05


def test_the_plan_tells_what_is_merged(checkpoint: Path, store: Path) -> None:
    plan, other = (plan_of(checkpoint, store, *choices) for choices in (CHOICES, ["one:0.6", "two"]))
    denoiser, encoder = plan.family.denoiser, plan.family.component("text_encoder")
    assert [(lora.name, lora.scale) for lora in plan.merged] == [("one", 0.5), ("two", 1.0)]
    assert plan.max_rank == 0 and plan.lora_contract(denoiser) is None
    assert plan.component_sha256(denoiser) != other.component_sha256(denoiser)
    assert plan.component_sha256(encoder) == other.component_sha256(encoder)
    assert plan.sha256 != other.sha256


def test_int8_is_calibrated_with_the_adapters(checkpoint: Path, store: Path) -> None:
    plan = plan_of(checkpoint, store, *CHOICES)
    settings = Settings(num_inference_steps=1, guidance_scale=1.0, batch_size=1)
    merged, base = (
        calibrate(plan.checkpoint, plan.family.denoiser, ["a mug"], settings, merge).absmax
        for merge in (plan.merge, None)
    )
    assert {*merged} == {*base}
    assert any(relative_error(merged[name], base[name]) > 0.01 for name in base)


REFUSED = {
    "unknown": (["three"], "--merge-lora: (flux|sdxl) has no adapter 'three'; choices: one, two"),
    "twice": (["one", "one:0.5"], "--merge-lora: one is named twice"),
    "no number": (["one:half"], "--merge-lora 'one:half': the scale is no number in -2..2"),
    "too strong": (["one:3"], "--merge-lora 'one:3'"),
    "no name": ([":1"], "--merge-lora: (flux|sdxl) has no adapter ''"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_merged_is_named(checkpoint: Path, store: Path, name: str) -> None:
    choices, message = REFUSED[name]
    with pytest.raises(ExportError, match="^" + message.replace("[", r"\[")):
        plan_of(checkpoint, store, *choices)


def test_a_damaged_adapter_is_named(checkpoint: Path, store: Path) -> None:
    family = "flux" if (checkpoint / "transformer").is_dir() else "sdxl"
    index = AdapterIndex(store)
    file = index.file(index.entries(family)["one"])
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ExportError, match=file.name):
            plan_of(checkpoint, store, "one")
    finally:
        file.write_bytes(whole)
    assert load_file(file)
