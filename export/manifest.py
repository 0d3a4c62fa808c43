"""manifest.json of an assembled repository: what was exported from what, and whether it still is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from families.costs import WEIGHT_BYTES
from families.hashes import sha256_of_file

FILE_NAME = "manifest.json"
FORMAT = 2


class ManifestError(Exception):
    """A repository is not what its manifest says; the message is one line that names the file."""


@dataclass(frozen=True)
class ComponentRecord:
    """One engine. `inputs_sha256` covers all that it was made from; paths are relative to the repository.

    What may be None only a plan has: the hash of the ONNX graph that it was built from, its optimization
    profile, the memory that running it takes. `lora` tells of the packed LoRA inputs, for an engine that has
    them: targets (their number), sum_in, sum_out, max_rank. `merged_loras` are adapters in its weights.
    """

    file: str
    sha256: str
    inputs_sha256: str
    max_error: dict[str, float]  # axis sizes, in words -> largest difference from torch
    tolerance: float
    precision: str  # one of costs.WEIGHT_BYTES
    onnx_sha256: str | None = None
    profile: dict[str, list[list[int]]] | None = None  # input -> its smallest, usual and largest shape
    lora: dict[str, Any] | None = None
    device_memory_bytes: int | None = None
    merged_loras: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.precision not in WEIGHT_BYTES:
            raise ManifestError(
                f"{self.file} has precision {self.precision!r}; choices: {', '.join(WEIGHT_BYTES)}"
            )


@dataclass(frozen=True)
class Manifest:
    """What an assembled repository is. Sizes are in pixels, `text_length` in tokens.

    `builder` is what made the engines: "onnxruntime" for ONNX graphs, "tensorrt", or "tensorrt_rtx", whose
    plans are never served. A plan runs under `builder_version` alone, on GPUs of `compute_capability`, "8.0".
    """

    checkpoint: str
    checkpoint_sha256: str
    family: str
    target: str
    engine: str
    builder: str
    axes: dict[str, tuple[int, int]]  # axis -> smallest and largest size of a request
    versions: dict[str, str]  # package -> version it was exported with
    inputs_sha256: str  # of everything that the repository was made from
    components: dict[str, ComponentRecord]
    files: dict[str, str]  # path relative to the repository -> sha256
    builder_version: str = ""
    compute_capability: str | None = None  # None: not bound to a GPU
    format: int = FORMAT


def write(manifest: Manifest, repository: Path) -> None:
    (repository / FILE_NAME).write_text(json.dumps(asdict(manifest), indent=1) + "\n")


def read(repository: Path) -> Manifest:
    """The manifest of `repository`; ManifestError if there is none that this code understands."""
    path = repository / FILE_NAME
    if not path.is_file():
        raise ManifestError(f"{repository} is no exported repository: it has no {FILE_NAME}")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ManifestError(f"{path} is not JSON: {error}") from None
    return _parse(values, path)


def _parse(values: Any, path: Path) -> Manifest:
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise ManifestError(f"{path} has format {found!r}; this code reads {FORMAT}: export again")
    if missing := sorted({field.name for field in fields(Manifest)} ^ set(values)):
        raise ManifestError(f"{path} has other fields than format {FORMAT}: {', '.join(missing)}")
    try:
        components = {name: ComponentRecord(**record) for name, record in values["components"].items()}
        axes = {name: (low, high) for name, (low, high) in values["axes"].items()}
    except (AttributeError, TypeError) as error:
        raise ManifestError(f"{path} describes components or axes wrongly: {error}") from None
    return Manifest(**{**values, "components": components, "axes": axes})


def verify(manifest: Manifest, repository: Path) -> None:
    """ManifestError at the first file of `repository` that is missing, changed or was not exported."""
    for name, expected in manifest.files.items():
        path = repository / name
        if not path.is_file():
            raise ManifestError(f"{path} is missing; export again")
        if (actual := sha256_of_file(path)) != expected:
            raise ManifestError(
                f"{path} was changed: sha256 {actual[:12]}, the manifest says {expected[:12]}"
            )
    _refuse_strangers(manifest, repository)


def _refuse_strangers(manifest: Manifest, repository: Path) -> None:
    """Triton runs whatever lies in models/, so a file there that the manifest does not list is an error."""
    for path in sorted((repository / "models").rglob("*")):
        known = path.is_dir() or "__pycache__" in path.parts
        if not known and path.relative_to(repository).as_posix() not in manifest.files:
            raise ManifestError(f"{path} is not in the manifest: remove it or export again")


def differing_versions(manifest: Manifest, installed: Mapping[str, str]) -> list[str]:
    """One line for each package whose installed version is not the one of the export."""
    return [
        f"{name} {installed.get(name, 'absent')} is installed, the repository was exported with {version}"
        for name, version in manifest.versions.items()
        if installed.get(name) != version
    ]


def check_builder(manifest: Manifest) -> None:
    """ManifestError unless the engines are plans that Triton's tensorrt backend can serve."""
    if manifest.builder == "tensorrt_rtx":
        raise ManifestError(
            "a tensorrt_rtx plan is a compiler check, not a served engine: export for TensorRT"
        )
    if manifest.builder != "tensorrt":
        raise ManifestError(
            f"engines were built by {manifest.builder!r}; the tensorrt backend runs 'tensorrt'"
        )


def check_compute_capability(manifest: Manifest, found: str | None) -> None:
    """ManifestError unless the plans were built for a GPU of `found`; None says that there is no GPU."""
    if manifest.compute_capability != found:
        here = f"this GPU has {found}" if found else "this machine has no GPU"
        raise ManifestError(
            f"plans were built for compute capability {manifest.compute_capability}, {here}: "
            "export again on a GPU like the one that serves"
        )


def check_builder_version(manifest: Manifest, installed: str) -> None:
    """ManifestError unless the plans were built by TensorRT `installed`."""
    if manifest.builder_version != installed:
        raise ManifestError(
            f"plans were built by TensorRT {manifest.builder_version}, this is TensorRT {installed}: "
            "export again in the image that serves"
        )
