"""What to export: checkpoint and target, the axis sizes that follow, hashes of all it depends on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from export.builders import load_builder
from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.layout import Layout
from families import ComponentSpec
from families.hashes import sha256_of_file, sha256_of_files
from families.lora import RANKS
from families.triton import MODEL_REPOSITORY

if TYPE_CHECKING:
    from export.merge import Merge  # which imports torch: an export that is up to date does without

ROOT = Path(__file__).resolve().parents[1]
# Of the products that the tiny checkpoints know; other checkpoints are calibrated on prompts of their own.
PROMPTS = ROOT / "assets" / "calibration" / "prompts.txt"
ROOMS = ("families", "export", "diffusion/adapters")  # whose code decides what an engine is
PACKAGES = ("diffusers", "onnx", "onnxruntime", "onnxscript", "torch", "transformers")


@dataclass(frozen=True)
class Plan(Layout):
    """One export; ExportError if the target does not take pictures of the checkpoint's native size."""

    checkpoint: Checkpoint
    builder: str = "onnxruntime"  # or one of builders.BUILDERS
    prompts: Path = PROMPTS  # a line each, to calibrate int8 with
    merge: Merge | None = None  # what puts `merged` into the weights

    def __post_init__(self) -> None:
        size, target, step = self.checkpoint.native_size, self.target, self.family.size_multiple
        if any(side % step for side in target.profile.size):
            raise ExportError(
                f"profile size {tuple(target.profile.size)}: {self.family.name} draws multiples of {step}"
            )
        rank = target.profile.rank
        if self.lora and not rank.min <= RANKS[0] <= rank.max:
            raise ExportError(
                f"profile rank {tuple(rank)}: packs start at rank {RANKS[0]}; --without-lora is for none"
            )
        if not target.min_size <= size <= target.max_size:
            limits = f"{target.min_size}..{target.max_size}"
            raise ExportError(
                f"{self.checkpoint.name} draws {size} px; target {target.name} takes {limits} px "
                "unless --profile size=MIN,OPT,MAX says otherwise"
            )

    @property
    def name(self) -> str:
        check = f"-{self.builder}" if self.builder != self.target.engine else ""
        return f"{self.checkpoint.name}-{self.target.name}{check}"

    @cached_property
    def versions(self) -> dict[str, str]:
        installed = {package: version(package) for package in PACKAGES}
        own = {} if self.builder in PACKAGES else {self.builder: load_builder(self.builder).__version__}
        return {**installed, **own}

    @cached_property
    def checkpoint_sha256(self) -> str:
        return self.checkpoint.sha256()

    @cached_property
    def source_sha256(self) -> str:
        """Hash of the code that decides what an engine is."""
        return sha256_of_files(ROOT, [path for room in ROOMS for path in (ROOT / room).rglob("*.py")])

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
            self.merged,
            self.cuda_graphs,
            self.builder,
            sha256_of_file(self.prompts),
            self.versions,
        )

    def merge_of(self, component: ComponentSpec) -> Merge | None:
        """What adapters add to the weights of `component`."""
        return self.merge if component.denoiser else None

    def component_sha256(self, component: ComponentSpec) -> str:
        """Hash of everything that the engine of `component` is made from."""
        weights, int8 = self.checkpoint.sha256(component.folder), self.precision(component) == "int8"
        calibration = (self.checkpoint_sha256, sha256_of_file(self.prompts)) if int8 else ()
        engine = (
            self.precision(component),
            self.compute(component),
            self.opset(component),
            self.profile(component),
        )
        where = self.target.engine, self.target.compute_capability, self.builder, self.versions
        return _sha256_of(
            component.name,
            weights,
            calibration,
            self.source_sha256,
            engine,
            where,
            self.ranges,
            (self.lora, self.merged) if component.denoiser else None,
        )


def _sha256_of(*facts: object) -> str:
    return hashlib.sha256("\n".join(str(fact) for fact in facts).encode()).hexdigest()


def source_files(root: Path) -> list[Path]:
    """The files below `root`, or `root` itself if it is a file; nothing that Python leaves behind."""
    if root.is_file():
        return [root]
    return [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
