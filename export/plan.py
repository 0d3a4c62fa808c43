"""What to export: checkpoint and target, the axis sizes that follow, hashes of all it depends on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.manifest import sha256_of_files
from export.targets import Target
from families import Axes, ComponentSpec
from families.triton import MODEL_REPOSITORY

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("diffusers", "onnx", "onnxruntime", "onnxscript", "torch", "transformers")


@dataclass(frozen=True)
class Plan:
    """One export; ExportError if the target does not take pictures of the checkpoint's native size."""

    checkpoint: Checkpoint
    target: Target

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

    def axes(self, batch: int, height: int, width: int, text_length: int) -> Axes:
        return self.checkpoint.family.axes(batch=batch, height=height, width=width, text_length=text_length)

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """Axis -> smallest and largest size of a call."""
        low, high = self.target.min_size, self.target.max_size
        least = self.axes(1, low, low, 1)
        most = self.axes(
            self.checkpoint.family.max_batch_size, high, high, self.checkpoint.max_sequence_length
        )
        return {name: (least[name], most[name]) for name in least}

    def ranges_of(self, component: ComponentSpec) -> dict[str, tuple[int, int]]:
        """`ranges`, with the rows that a call of `component` may have."""
        return {**self.ranges, "batch": (1, self.checkpoint.family.max_rows(component))}

    @property
    def traced_axes(self) -> Axes:
        """Sizes to trace with: at least 2 and all different, lest the exporter take one for a constant."""
        step, low = self.checkpoint.family.size_multiple, self.target.min_size
        return self.axes(2, low + 2 * step, low + 4 * step, self.checkpoint.max_sequence_length // 2 - 1)

    @property
    def checked_axes(self) -> dict[str, Axes]:
        """Sizes at which an engine is compared with torch, by their words."""
        step, low = self.checkpoint.family.size_multiple, self.target.min_size
        length = self.checkpoint.max_sequence_length
        calls = ((1, low, low + step, length), (3, low + 5 * step, low + 2 * step, length // 2))
        return {f"batch {b}, {h}x{w} px, {t} tokens": self.axes(b, h, w, t) for b, h, w, t in calls}

    @cached_property
    def versions(self) -> dict[str, str]:
        return {package: version(package) for package in PACKAGES}

    @cached_property
    def checkpoint_sha256(self) -> str:
        return self.checkpoint.sha256()

    @cached_property
    def source_sha256(self) -> str:
        """Hash of the code that decides what an engine is."""
        return sha256_of_files(
            ROOT, [path for room in ("families", "export") for path in (ROOT / room).glob("*.py")]
        )

    @cached_property
    def models_sha256(self) -> str:
        """Hash of the models that are copied."""
        return sha256_of_files(MODEL_REPOSITORY, source_files(MODEL_REPOSITORY))

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that the assembled repository is made from."""
        return _sha256_of(
            self.checkpoint_sha256, self.source_sha256, self.models_sha256, self.target, self.versions
        )

    def component_sha256(self, component: ComponentSpec) -> str:
        """Hash of everything that the engine of `component` is made from."""
        weights = self.checkpoint.sha256(component.folder)
        return _sha256_of(
            component.name, weights, self.source_sha256, self.ranges, self.target, self.versions
        )


def _sha256_of(*facts: object) -> str:
    return hashlib.sha256("\n".join(str(fact) for fact in facts).encode()).hexdigest()


def source_files(root: Path) -> list[Path]:
    """The files below `root`, or `root` itself if it is a file; nothing that Python leaves behind."""
    if root.is_file():
        return [root]
    return [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
