"""What to export: checkpoint and target, the axis sizes that follow, hashes of all it depends on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.layout import Layout
from export.manifest import sha256_of_files
from families import ComponentSpec
from families.triton import MODEL_REPOSITORY

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("diffusers", "onnx", "onnxruntime", "onnxscript", "torch", "transformers")


@dataclass(frozen=True)
class Plan(Layout):
    """One export; ExportError if the target does not take pictures of the checkpoint's native size."""

    checkpoint: Checkpoint
    builder: str = "onnxruntime"  # or one of engine.BUILDERS

    def __post_init__(self) -> None:
        size, target = self.checkpoint.native_size, self.target
        if not target.min_size <= size <= target.max_size:
            limits = f"{target.min_size}..{target.max_size}"
            raise ExportError(
                f"{self.checkpoint.name} draws {size} px; target {target.name} takes {limits} px"
            )

    @property
    def name(self) -> str:
        return f"{self.checkpoint.name}-{self.target.name}"

    @cached_property
    def versions(self) -> dict[str, str]:
        return {package: version(package) for package in (*PACKAGES, *self.builder_package)}

    @property
    def builder_package(self) -> tuple[str, ...]:
        """The package of `builder`, where it is not one of PACKAGES already."""
        return () if self.builder in PACKAGES else (self.builder,)

    @cached_property
    def checkpoint_sha256(self) -> str:
        return self.checkpoint.sha256()

    @cached_property
    def source_sha256(self) -> str:
        """Hash of the code that decides what an engine is."""
        return sha256_of_files(
            ROOT, [path for room in ("families", "export") for path in (ROOT / room).rglob("*.py")]
        )

    @cached_property
    def models_sha256(self) -> str:
        """Hash of the models that are copied."""
        return sha256_of_files(MODEL_REPOSITORY, source_files(MODEL_REPOSITORY))

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that the assembled repository is made from."""
        return _sha256_of(
            self.checkpoint_sha256,
            self.source_sha256,
            self.models_sha256,
            self.target,
            self.lora,
            self.cuda_graphs,
            self.builder,
            self.versions,
        )

    def component_sha256(self, component: ComponentSpec) -> str:
        """Hash of everything that the engine of `component` is made from."""
        weights = self.checkpoint.sha256(component.folder)
        return _sha256_of(
            component.name, weights, self.source_sha256, self.target, self.lora, self.builder, self.versions
        )


def _sha256_of(*facts: object) -> str:
    return hashlib.sha256("\n".join(str(fact) for fact in facts).encode()).hexdigest()


def source_files(root: Path) -> list[Path]:
    """The files below `root`, or `root` itself if it is a file; nothing that Python leaves behind."""
    if root.is_file():
        return [root]
    return [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
