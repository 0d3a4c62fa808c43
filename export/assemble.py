"""Puts a repository together: models with complete configs, and what Python stages read."""

from __future__ import annotations

import shutil
from pathlib import Path

from export.plan import Plan, source_files
from families import ComponentSpec, FamilySpec
from families.triton import CONFIG, MODEL_REPOSITORY, parameters

MODELS, CHECKPOINT = "models", "checkpoint"
STAGE_PARTS = {
    "tokenizer": ("model_index.json", "tokenizer", "tokenizer_2"),
    "scheduler": ("model_index.json", "scheduler", "vae/config.json"),
}


def engine_path(plan: Plan, component: ComponentSpec) -> str:
    """Where the engine of `component` lies in the repository."""
    return f"{MODELS}/{plan.checkpoint.family.model_name(component)}/1/{plan.target.engine_file}"


def assemble_models(plan: Plan, repository: Path) -> None:
    """Copies the family's models into `repository` and completes their configs."""
    family = plan.checkpoint.family
    for source in sorted(MODEL_REPOSITORY.glob(f"{family.name}_*")):
        destination = repository / MODELS / source.name
        for file in source_files(source):
            _copy(file, destination / file.relative_to(source))
        (destination / "1").mkdir(exist_ok=True)  # Triton wants a version folder of an ensemble too
    for model, values in _parameters(plan).items():
        _append(repository / MODELS / model / CONFIG, parameters(values))
    for component in family.components:
        _append(
            repository / MODELS / family.model_name(component) / CONFIG, f'backend: "{plan.target.engine}"\n'
        )


def _parameters(plan: Plan) -> dict[str, dict[str, object]]:
    family, checkpoint, target = plan.checkpoint.family, plan.checkpoint, plan.target
    sizes = {"native_size": checkpoint.native_size, "min_size": target.min_size, "max_size": target.max_size}
    text = {"max_sequence_length": checkpoint.max_sequence_length, "checkpoint": checkpoint.name}
    told = {**sizes, **text, "size_multiple": family.size_multiple}
    ensembles = {family.ensemble_name(ensemble): dict(told) for ensemble in family.ensembles}
    return {scheduler_model(family): dict(sizes), **ensembles}


def scheduler_model(family: FamilySpec) -> str:
    return f"{family.name}_scheduler"


def copy_checkpoint_parts(plan: Plan, repository: Path) -> None:
    """Gives each Python stage, in its own model folder, what it reads of the checkpoint: never weights."""
    source, family = plan.checkpoint.folder, plan.checkpoint.family
    for stage, parts in STAGE_PARTS.items():
        destination = repository / MODELS / f"{family.name}_{stage}" / CHECKPOINT
        for part in parts:
            for file in source_files(source / part):
                _copy(file, destination / file.relative_to(source))


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)
