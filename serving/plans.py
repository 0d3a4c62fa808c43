"""What TensorRT plans need of this machine: the GPU that they were built for, and the very TensorRT."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from export.manifest import (
    Manifest,
    ManifestError,
    check_builder,
    check_builder_version,
    check_compute_capability,
)
from serving.errors import ServingError


def runs_plans(manifest: Manifest) -> bool:
    return manifest.engine == "tensorrt"


def check_plans(manifest: Manifest, repository: Path) -> None:
    """ServingError unless every GPU here and the installed TensorRT can run the plans of `repository`."""
    gpus: list[str | None] = [*compute_capabilities()]
    try:
        check_builder(manifest)
        for compute_capability in gpus or [None]:
            check_compute_capability(manifest, compute_capability)
        check_builder_version(manifest, tensorrt_version(manifest.builder_version))
    except ManifestError as error:
        raise ServingError(f"{repository}: {error}") from None


def compute_capabilities() -> list[str]:
    """Those of this machine's GPUs, such as "8.0"; none if nvidia-smi is missing or finds no GPU."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True)
    return sorted({*asked.stdout.split()}) if asked.returncode == 0 else []


def tensorrt_version(wanted: str) -> str:
    """The version that the stubs would import; ServingError tells how to get `wanted` if there is none."""
    # In a process of its own: TensorRT's libraries take gigabytes that this one has no use for.
    command = [sys.executable, "-c", "import tensorrt; print(tensorrt.__version__)"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        # The interpreter's last line names the error; one that is killed says nothing.
        reason = next(reversed(asked.stderr.strip().splitlines()), f"status {asked.returncode}")
        raise ServingError(f"TensorRT cannot be imported ({reason}): pip install tensorrt=={wanted}")
    return asked.stdout.strip()
