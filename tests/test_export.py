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
from diffusers import AutoencoderKL, FluxPipeline
from google.protobuf import text_format
from PIL import Image
from safetensors.torch import load_file, save_file
from tritonclient.grpc.model_config_pb2 import ModelConfig

from diffusion.checkpoint import latent_channels, load_scheduler, zeros_for_empty_prompt
from export import manifest as manifests
from export.assemble import assemble_models, copy_checkpoint_parts
from export.checkpoint import open_checkpoint
from export.component import export_component
from export.plan import Plan
from export.targets import TARGETS
from families import FLUX, SDXL
from families.hashes import sha256_of_weights
from families.lora import without_adapters

COMPONENTS = [component.name for component in FLUX.components]


def run(checkpoint: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = ["--checkpoint", str(checkpoint), "--target", "cpu", "--output", str(output), *more]
    return subprocess.run([sys.executable, "-m", "export", *command], capture_output=True, text=True)


def engine(repository: Path, component: str) -> Path:
    return repository / "models" / f"flux_{component}" / "1" / "model.onnx"


def test_the_manifest_holds(exported: Path) -> None:
    manifest = manifests.read(exported)
    manifests.verify(manifest, exported)
    # Python leaves .pyc files where a server has run the models.
    files = [path for path in exported.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    on_disk = {path.relative_to(exported).as_posix() for path in files}
    assert on_disk - set(manifest.files) == {manifests.FILE_NAME}
    assert list(manifest.components) == COMPONENTS
    assert manifest.axes["height"] == (64, 512) and manifest.axes["text_length"] == (1, 64)


def test_every_engine_was_compared_at_two_shapes(exported: Path) -> None:
    """A denoiser is two graphs: with adapters, and without."""
    for name, record in manifests.read(exported).components.items():
        assert len(record.max_error) == (4 if name == "transformer" else 2)
        assert all(error <= record.tolerance for error in record.max_error.values())
        assert record.tolerance <= 1e-4 or record.file.endswith("flux_vae_decoder/1/model.onnx")


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_graph_has_the_spec_s_names_and_axes(exported: Path, component: str) -> None:
    model = onnx.load(engine(exported, component))
    onnx.checker.check_model(model, full_check=True)
    opset = 23 if component == "transformer" else 20
    assert [(used.domain, used.version) for used in model.opset_import] == [("", opset)]
    dynamic = {
        value.name: {i: d.dim_param for i, d in enumerate(value.type.tensor_type.shape.dim) if d.dim_param}
        for value in (*model.graph.input, *model.graph.output)
    }
    packs = {"lora_a": {0: "batch", 1: "rank"}, "lora_b": {0: "batch", 2: "rank"}}
    wanted = FLUX.component(component).dynamic_axes()
    assert dynamic == {**wanted, **(packs if component == "transformer" else {})}


def test_weights_keep_their_names_and_layout(exported: Path, random_checkpoint: Path) -> None:
    weights = load_file(random_checkpoint / "transformer" / "diffusion_pytorch_model.safetensors")
    graph = onnx.load(engine(exported, "transformer")).graph
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, weight in weights.items():
        np.testing.assert_array_equal(found[name], weight.numpy(), err_msg=name)


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


def test_the_vae_encoder_s_engine_gives_the_pipeline_s_posterior(
    exported: Path, random_checkpoint: Path
) -> None:
    pipeline = FluxPipeline.from_pretrained(random_checkpoint, dtype=torch.float32)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    session = onnxruntime.InferenceSession(
        engine(exported, "vae_encoder"), providers=["CPUExecutionProvider"]
    )
    mean, std = session.run(["mean", "std"], {"images": pictures})
    with torch.inference_mode():
        pixels = pipeline.image_processor.preprocess([Image.fromarray(picture) for picture in pictures])
        posterior = pipeline.vae.encode(pixels).latent_dist
    config = pipeline.vae.config
    wanted = (posterior.mean - config.shift_factor) * config.scaling_factor
    np.testing.assert_allclose(mean, wanted.numpy(), atol=1e-4)
    np.testing.assert_allclose(std, (posterior.std * config.scaling_factor).numpy(), atol=1e-4)


def test_configs_are_complete_and_tell_the_limits(exported: Path, random_checkpoint: Path) -> None:
    configs = {
        path.parent.name: text_format.Parse(path.read_text(), ModelConfig())
        for path in exported.glob("models/*/config.pbtxt")
    }
    told = {
        model: {name: value.string_value for name, value in config.parameters.items() if "." not in name}
        for model, config in configs.items()
    }
    sizes = {"native_size": "128", "min_size": "64", "max_size": "512"}
    text = {"max_sequence_length": "64", "checkpoint": "flux-random"}
    denoiser = sha256_of_weights(random_checkpoint / "transformer")
    adapters = {"max_rank": "64", "denoiser_sha256": denoiser}
    for ensemble in ("flux_text_to_image", "flux_image_to_image"):
        assert told.pop(ensemble) == {**sizes, **text, **adapters, "size_multiple": "16"}
    scheduler = {"max_rank": "64", "max_rows": "8", "max_running": "8", "max_pending": "64"}
    scheduler["optional_packs"] = "1"
    assert told.pop("flux_scheduler") == {**sizes, **scheduler}
    assert told.pop("flux_lora") == {**adapters, "merged_loras": "[]", "device": "cpu"}
    assert not any(told.values())
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
    after = (exported / manifests.FILE_NAME).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_only_what_changed_is_exported_anew(exported: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(random_checkpoint, tmp_path / "flux-random")
    output = shutil.copytree(exported, tmp_path / "build")
    weights = checkpoint / "text_encoder" / "model.safetensors"
    save_file({name: 2 * weight for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
    done = run(checkpoint, output)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert [name for name in COMPONENTS if " kept " not in rows[f"flux.{name}"]] == ["text_encoder"]
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
        (truncated, "text_encoder/model.safetensors is no whole safetensors file"),
        (one_missing, "text_encoder lacks the weight final_layer_norm.weight"),
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
        assert export.stdout and export.stdout.readline() and export.stdout.readline()
        assert export.stdout.read(1)  # of the first component: the unfinished folder is there
        export.send_signal(signal.SIGTERM)
        assert export.wait(timeout=60) == 143
    assert list(output.parent.iterdir()) == []


def test_a_damaged_repository_is_built_again(exported: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    output = shutil.copytree(exported, tmp_path / "build")
    engine(output, "text_encoder").write_bytes(b"damaged")
    (output / "models" / "flux_tokenizer" / "1" / "model.py").unlink()
    without_adapters(engine(output, "transformer")).unlink()
    done = run(random_checkpoint, output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" kept ") == len(COMPONENTS) - 2
    manifests.verify(manifests.read(output), output)
    assert without_adapters(engine(output, "transformer")).exists()


def test_the_manifest_is_readable(exported: Path) -> None:
    values = json.loads((exported / manifests.FILE_NAME).read_text())
    assert {"torch", "onnx", "onnxruntime"} <= set(values["versions"])
    assert (values["target"], values["engine"], values["builder"]) == ("cpu", "onnxruntime", "onnxruntime")
    assert {record["precision"] for record in values["components"].values()} == {"fp32"}


@pytest.fixture(scope="module")
def sdxl_plan(random_sdxl: Path) -> Plan:
    return Plan(checkpoint=open_checkpoint(random_sdxl), target=TARGETS["cpu"])


def test_an_sdxl_checkpoint_is_known_and_measured(sdxl_plan: Plan) -> None:
    checkpoint = sdxl_plan.checkpoint
    assert checkpoint.family is SDXL
    assert (checkpoint.native_size, checkpoint.max_sequence_length) == (128, 77)
    assert sdxl_plan.ranges_of(SDXL.component("unet"))["batch"] == (1, 8)
    assert sdxl_plan.ranges["latent_height"] == (8, 64)


def test_an_sdxl_repository_has_every_model_and_what_its_stages_read(sdxl_plan: Plan, tmp_path: Path) -> None:
    assemble_models(sdxl_plan, tmp_path)
    copy_checkpoint_parts(sdxl_plan, tmp_path)
    components = {SDXL.model_name(component) for component in SDXL.components}
    ensembles = {SDXL.ensemble_name(ensemble) for ensemble in SDXL.ensembles}
    models = {path.name for path in (tmp_path / "models").iterdir()}
    assert models == {*components, *ensembles, "sdxl_tokenizer", "sdxl_lora", "sdxl_scheduler"}
    assert (tmp_path / "models" / "sdxl_lora" / "checkpoint" / "unet" / "config.json").is_file()
    scheduler = tmp_path / "models" / "sdxl_scheduler" / "checkpoint"
    assert zeros_for_empty_prompt(scheduler) and latent_channels(scheduler) == 4
    assert type(load_scheduler(scheduler)).__name__ == SDXL.schedulers[0]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_sdxl_s_vae_encoder_agrees_with_torch(sdxl_plan: Plan, tmp_path: Path) -> None:
    component = SDXL.component("vae_encoder")
    record = export_component(sdxl_plan, component, tmp_path, "model.onnx", {})
    assert len(record.max_error) == 2
    assert all(error <= record.tolerance <= 1e-4 for error in record.max_error.values())
    pictures = np.random.default_rng(0).integers(0, 256, (3, 96, 64, 3), np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    answers = dict(zip(("mean", "std"), session.run(["mean", "std"], {"images": pictures}), strict=True))
    vae = AutoencoderKL.from_pretrained(sdxl_plan.checkpoint.folder / "vae")
    with torch.inference_mode():
        posterior = vae.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    for name, answer in answers.items():
        wanted = getattr(posterior, name) * vae.config.scaling_factor
        np.testing.assert_allclose(answer, wanted.numpy(), atol=1e-4, err_msg=name)
