"""The manifest tells whether a repository is what was exported, in one line if not."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export import manifest as manifests
from export.manifest import ComponentRecord, Manifest, ManifestError
from families.hashes import sha256_of_file


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    engine = tmp_path / "models" / "flux_vae_decoder" / "1" / "model.onnx"
    engine.parent.mkdir(parents=True)
    engine.write_bytes(b"an engine")
    name, sha256 = engine.relative_to(tmp_path).as_posix(), sha256_of_file(engine)
    record = ComponentRecord(name, sha256, "ab" * 32, {"batch 1": 1e-6}, 1e-4, "fp32")
    manifest = Manifest(
        checkpoint="flux-tiny",
        checkpoint_sha256="cd" * 32,
        family="flux",
        target="cpu",
        engine="onnxruntime",
        builder="onnxruntime",
        builder_version="1.31.1",
        axes={"batch": (1, 4)},
        versions={"onnx": "1.23.2"},
        inputs_sha256="ef" * 32,
        components={"vae_decoder": record},
        files={name: sha256},
    )
    manifests.write(manifest, tmp_path)
    assert manifests.read(tmp_path) == manifest
    return tmp_path


def edit(repository: Path, **changes: Any) -> None:
    path = repository / manifests.FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_untouched_repository_verifies(repository: Path) -> None:
    manifests.verify(manifests.read(repository), repository)


def test_a_changed_file_is_named(repository: Path) -> None:
    (repository / "models/flux_vae_decoder/1/model.onnx").write_bytes(b"another engine")
    with pytest.raises(ManifestError, match=r"flux_vae_decoder/1/model\.onnx was changed"):
        manifests.verify(manifests.read(repository), repository)


def test_a_missing_file_is_named(repository: Path) -> None:
    (repository / "models/flux_vae_decoder/1/model.onnx").unlink()
    with pytest.raises(ManifestError, match=r"flux_vae_decoder/1/model\.onnx is missing"):
        manifests.verify(manifests.read(repository), repository)


def test_a_folder_without_manifest_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no exported repository: it has no manifest\.json"):
        manifests.read(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 7}', "{", ""])
def test_another_file_of_that_name_is_refused(repository: Path, text: str) -> None:
    (repository / manifests.FILE_NAME).write_text(text)
    with pytest.raises(ManifestError, match=r"manifest\.json (is not JSON|has format)"):
        manifests.read(repository)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"format": 1}, "has format 1; this code reads 2: export again"),
        ({"surprise": 1}, "other fields than format 2: surprise"),
        ({"components": {"vae_decoder": {"file": "x"}}}, "components"),
        ({"components": []}, "components"),
        ({"precision": "fp32"}, "other fields than format 2: precision"),
        ({"axes": {"batch": 4}}, "axes"),
    ],
)
def test_another_format_is_refused(repository: Path, changes: dict[str, Any], fault: str) -> None:
    edit(repository, **changes)
    with pytest.raises(ManifestError, match=fault) as raised:
        manifests.read(repository)
    assert "\n" not in str(raised.value)


PLAN = "models/flux_transformer/1/model.plan"


@pytest.fixture
def planned(repository: Path) -> Path:
    """A repository of one TensorRT plan, for an A100."""
    plan = repository / PLAN
    plan.parent.mkdir(parents=True)
    plan.write_bytes(bytes(range(256)) * 64)
    record = ComponentRecord(
        file=PLAN,
        sha256=sha256_of_file(plan),
        inputs_sha256="ab" * 32,
        max_error={},
        tolerance=1e-2,
        precision="bf16",
        onnx_sha256="cd" * 32,
        profile={"hidden_states": [[1, 64, 64], [1, 4096, 64], [4, 4096, 64]]},
        lora={"targets": 494, "sum_in": 2_100_000, "sum_out": 1_980_000, "max_rank": 128},
        device_memory_bytes=3 * 2**30,
    )
    manifest = dataclasses.replace(
        manifests.read(repository),
        engine="tensorrt",
        builder="tensorrt",
        builder_version="11.4.0.106",
        compute_capability="8.0",
        components={"transformer": record},
        files={**manifests.read(repository).files, PLAN: record.sha256},
    )
    manifests.write(manifest, repository)
    assert manifests.read(repository) == manifest
    return repository


def test_one_flipped_byte_of_a_plan_is_found(planned: Path) -> None:
    manifests.verify(manifests.read(planned), planned)
    plan = bytearray((planned / PLAN).read_bytes())
    plan[9000] ^= 1
    (planned / PLAN).write_bytes(plan)
    with pytest.raises(ManifestError, match=r"flux_transformer/1/model\.plan was changed"):
        manifests.verify(manifests.read(planned), planned)


def check_runtime(repository: Path, version: str = "11.4.0.106", capability: str | None = "8.0") -> None:
    manifest = manifests.read(repository)
    manifests.check_builder(manifest)
    manifests.check_compute_capability(manifest, capability)
    manifests.check_builder_version(manifest, version)


def test_a_plan_runs_where_it_was_built_for(planned: Path) -> None:
    check_runtime(planned)


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ({"capability": "7.5"}, ["compute capability 8.0", "this GPU has 7.5", "export again"]),
        ({"capability": None}, ["compute capability 8.0", "this machine has no GPU"]),
        ({"version": "11.3.0.99"}, ["11.4.0.106", "11.3.0.99", "export again in the image that serves"]),
    ],
    ids=["another GPU", "no GPU", "another TensorRT"],
)
def test_a_plan_for_another_place_is_refused(
    planned: Path, runtime: dict[str, str | None], words: list[str]
) -> None:
    with pytest.raises(ManifestError) as refused:
        check_runtime(planned, **runtime)
    assert all(word in str(refused.value) for word in words) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("builder", "said"),
    [
        ("tensorrt_rtx", "^a tensorrt_rtx plan is a compiler check, not a served engine"),
        ("onnxruntime", "^engines were built by 'onnxruntime'"),
    ],
)
def test_engines_of_another_builder_are_refused(planned: Path, builder: str, said: str) -> None:
    edit(planned, builder=builder)
    with pytest.raises(ManifestError, match=said):
        check_runtime(planned)


def test_an_unknown_precision_is_refused(planned: Path) -> None:
    values = json.loads((planned / manifests.FILE_NAME).read_text())
    values["components"]["transformer"]["precision"] = "fp8"
    edit(planned, components=values["components"])
    with pytest.raises(
        ManifestError, match="model.plan has precision 'fp8'; choices: fp32, bf16, fp16, int8"
    ):
        manifests.read(planned)


def test_other_versions_are_told(repository: Path) -> None:
    manifest = manifests.read(repository)
    assert manifests.differing_versions(manifest, {"onnx": "1.23.2"}) == []
    (line,) = manifests.differing_versions(manifest, {"onnx": "1.24.0"})
    assert "1.24.0" in line and "1.23.2" in line


def test_reading_a_manifest_takes_no_torch() -> None:
    heavy = "[name for name in ('torch', 'onnx', 'numpy') if name in sys.modules]"
    code = f"import sys, export.manifest; print({heavy})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
