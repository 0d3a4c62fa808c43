"""The manifest tells whether a repository is what was exported, in one line if not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export import manifest as manifests
from export.manifest import ComponentRecord, Manifest, ManifestError, sha256_of_file


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    engine = tmp_path / "models" / "flux_vae_decoder" / "1" / "model.onnx"
    engine.parent.mkdir(parents=True)
    engine.write_bytes(b"an engine")
    name, sha256 = engine.relative_to(tmp_path).as_posix(), sha256_of_file(engine)
    record = ComponentRecord(name, sha256, "ab" * 32, {"batch 1": 1e-6}, 1e-4)
    manifest = Manifest(
        checkpoint="flux-tiny",
        checkpoint_sha256="cd" * 32,
        family="flux",
        target="cpu",
        engine="onnxruntime",
        precision="fp32",
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
        ({"format": 2}, "has format 2; this code reads 1"),
        ({"surprise": 1}, "other fields than format 1: surprise"),
        ({"components": {"vae_decoder": {"file": "x"}}}, "components"),
        ({"components": []}, "components"),
        ({"axes": {"batch": 4}}, "axes"),
    ],
)
def test_another_format_is_refused(repository: Path, changes: dict[str, Any], fault: str) -> None:
    edit(repository, **changes)
    with pytest.raises(ManifestError, match=fault) as raised:
        manifests.read(repository)
    assert "\n" not in str(raised.value)


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
