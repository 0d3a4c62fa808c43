"""An exported repository: equal to torch, complete, no paths of this machine, built whole or not at all."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import FluxPipeline
from google.protobuf import text_format
from safetensors.torch import load_file, save_file
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export import manifest as manifests
from families import FLUX

COMPONENTS = [component.name for component in FLUX.components]


def run(checkpoint: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = ["--checkpoint", str(checkpoint), "--target", "cpu", "--output", str(output), *more]
    return subprocess.run([sys.executable, "-m", "export", *command], capture_output=True, text=True)


def engine(repository: Path, component: str) -> Path:
    return repository / "models" / f"flux_{component}" / "1" / "model.onnx"


def test_the_manifest_holds(exported: Path) -> None:
    manifest = manifests.read(exported)
    manifests.verify(manifest, exported)
    on_disk = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert on_disk - set(manifest.files) == {manifests.FILE_NAME}
    assert list(manifest.components) == COMPONENTS
    assert manifest.axes["height"] == (64, 512) and manifest.axes["text_length"] == (1, 64)


def test_every_engine_was_compared_at_two_shapes(exported: Path) -> None:
    for record in manifests.read(exported).components.values():
        assert len(record.max_error) == 2
        assert all(error <= record.tolerance for error in record.max_error.values())
        assert record.tolerance <= 1e-4 or record.file.endswith("flux_vae_decoder/1/model.onnx")


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_graph_has_the_spec_s_names_and_axes(exported: Path, component: str) -> None:
    model = onnx.load(engine(exported, component))
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    dynamic = {
        value.name: {i: d.dim_param for i, d in enumerate(value.type.tensor_type.shape.dim) if d.dim_param}
        for value in (*model.graph.input, *model.graph.output)
    }
    assert dynamic == FLUX.component(component).dynamic_axes()


def test_weights_keep_their_names_and_layout(exported: Path, random_checkpoint: Path) -> None:
    weights = load_file(random_checkpoint / "transformer" / "diffusion_pytorch_model.safetensors")
    graph = onnx.load(engine(exported, "transformer")).graph
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, weight in weights.items():
        np.testing.assert_array_equal(found[f"transformer.{name}"], weight.numpy(), err_msg=name)


def test_the_vae_engine_rounds_as_diffusers_does(exported: Path, random_checkpoint: Path) -> None:
    pipeline = FluxPipeline.from_pretrained(random_checkpoint, dtype=torch.float32)
    latents = torch.randn(2, 16, 16, 24, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(
        engine(exported, "vae_decoder"), providers=["CPUExecutionProvider"]
    )
    (images,) = session.run(None, {"latents": latents.numpy()})
    with torch.inference_mode():
        config = pipeline.vae.config
        decoded = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
    stock = np.stack(pipeline.image_processor.postprocess(decoded, output_type="pil"))
    difference = np.abs(images.astype(int) - stock)
    assert (images.dtype, images.shape) == (np.uint8, (2, 128, 192, 3))
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_configs_are_complete_and_tell_the_limits(exported: Path) -> None:
    configs = {
        path.parent.name: text_format.Parse(path.read_text(), ModelConfig())
        for path in exported.glob("models/*/config.pbtxt")
    }
    ensemble, scheduler = configs["flux_text_to_image"], configs["flux_scheduler"]
    told = {name: value.string_value for name, value in ensemble.parameters.items() if "." not in name}
    sizes = {"native_size": "128", "min_size": "64", "max_size": "512"}
    assert told == {**sizes, "max_sequence_length": "64", "checkpoint": "flux-random"}
    assert {name: value.string_value for name, value in scheduler.parameters.items()} == sizes
    assert {configs[f"flux_{component}"].backend for component in COMPONENTS} == {"onnxruntime"}
    assert all((exported / "models" / model / "1").is_dir() for model in configs)


def test_no_file_names_this_machine(exported: Path, random_checkpoint: Path) -> None:
    roots = [
        str(path).encode() for path in (Path.cwd(), Path(sys.prefix), exported.parent, random_checkpoint)
    ]
    for path in exported.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [root for root in roots if root in content], path


def test_an_unchanged_export_is_up_to_date(exported: Path, random_checkpoint: Path) -> None:
    before = (exported / manifests.FILE_NAME).stat()
    again = run(random_checkpoint, exported)
    assert (again.returncode, again.stdout) == (0, f"{exported}: up to date\n")
    assert (exported / manifests.FILE_NAME).stat() == before


def test_only_what_changed_is_exported_anew(exported: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(random_checkpoint, tmp_path / "flux-random")
    output = shutil.copytree(exported, tmp_path / "build")
    weights = checkpoint / "text_encoder" / "model.safetensors"
    save_file({name: 2 * weight for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
    done = run(checkpoint, output)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert [name for name in COMPONENTS if " kept " not in rows[name]] == ["text_encoder"]
    old, new = manifests.read(exported), manifests.read(output)
    manifests.verify(new, output)
    changed = [name for name in COMPONENTS if old.components[name] != new.components[name]]
    assert changed == ["text_encoder"]


def truncated(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:1000])


def one_missing(weights: Path) -> None:
    kept = load_file(weights)
    del kept["final_layer_norm.weight"]
    save_file(kept, weights, {"format": "pt"})


def not_a_number(weights: Path) -> None:
    spoilt = load_file(weights)
    spoilt["final_layer_norm.weight"][0] = torch.nan
    save_file(spoilt, weights, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (truncated, "text_encoder does not load"),
        (one_missing, "text_encoder lacks 1 weights, e.g. final_layer_norm.weight"),
        (not_a_number, "text_encoder differs from torch by nan at batch 1"),
    ],
)
def test_a_failed_export_changes_nothing(spoil, fault, exported, random_checkpoint, tmp_path) -> None:
    checkpoint = shutil.copytree(random_checkpoint, tmp_path / "flux-random")
    output = shutil.copytree(exported, tmp_path / "build" / "out")
    spoil(checkpoint / "text_encoder" / "model.safetensors")
    failed = run(checkpoint, output)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("export: ") and fault in failed.stderr
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    manifests.verify(manifests.read(output), output)


def test_an_export_that_is_stopped_leaves_nothing(random_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "build" / "out"
    command = ["--checkpoint", str(random_checkpoint), "--target", "cpu", "--output", str(output)]
    with subprocess.Popen([sys.executable, "-m", "export", *command], stdout=subprocess.PIPE) as export:
        assert export.stdout and export.stdout.readline() and export.stdout.readline()  # the table began
        export.send_signal(signal.SIGTERM)
        assert export.wait(timeout=60) == 143
    assert list(output.parent.iterdir()) == []


def test_a_damaged_repository_is_built_again(exported: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    output = shutil.copytree(exported, tmp_path / "build")
    engine(output, "text_encoder").write_bytes(b"damaged")
    (output / "models" / "flux_tokenizer" / "1" / "model.py").unlink()
    done = run(random_checkpoint, output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" kept ") == 3
    manifests.verify(manifests.read(output), output)


def test_the_manifest_is_readable(exported: Path) -> None:
    values = json.loads((exported / manifests.FILE_NAME).read_text())
    assert {"torch", "onnx", "onnxruntime"} <= set(values["versions"])
    assert (values["target"], values["precision"], values["engine"]) == ("cpu", "fp32", "onnxruntime")
