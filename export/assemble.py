"""Puts a repository together: models with complete configs, and what Python stages read."""

from __future__ import annotations

import shutil
from pathlib import Path

from export.layout import Layout
from export.plan import Plan, source_files
from export.preview import write_preview
from export.targets import COMPUTE
from export.triton_config import GPU_INPUTS, TENSORRT, model_config
from families import ComponentSpec, FamilySpec
from families.lora import LORA_A, LORA_B, OPTIONAL_PACKS, STAGE
from families.loras import applied_text
from families.preview import FILE_NAME
from families.triton import CONFIG, MODEL_REPOSITORY, parameters

MODELS, CHECKPOINT = "models", "checkpoint"
SCHEDULER = "scheduler"


def stage_parts(family: FamilySpec) -> dict[str, tuple[str, ...]]:
    """Python stage -> what it reads of the checkpoint."""
    return {
        "tokenizer": ("model_index.json", "tokenizer", "tokenizer_2"),
        SCHEDULER: ("model_index.json", "scheduler", "vae/config.json"),
        STAGE: (f"{family.denoiser.folder}/config.json",),
    }


def engine_path(layout: Layout, component: ComponentSpec) -> str:
    """Where the engine of `component` lies in the repository."""
    return f"{MODELS}/{layout.family.model_name(component)}/1/{layout.target.engine_file}"


def assemble_models(layout: Layout, repository: Path) -> None:
    """Copies the family's models into `repository` and completes their configs."""
    family, models = layout.family, repository / MODELS
    for source in sorted(MODEL_REPOSITORY.glob(f"{family.name}_*")):
        for file in source_files(source):
            _copy(file, models / source.name / file.relative_to(source))
        (models / source.name / "1").mkdir(exist_ok=True)  # Triton wants a version folder of an ensemble too
        _limit_batch(models / source.name / CONFIG, layout)
    for model, values in _parameters(layout).items():
        _append(models / model / CONFIG, parameters(values))
    for stage in (SCHEDULER, STAGE):
        _type_packs(models / stage_model(family, stage) / CONFIG, layout)
    for component in family.components:
        (models / family.model_name(component) / CONFIG).write_text(model_config(layout, component))


def _limit_batch(config: Path, layout: Layout) -> None:
    """Triton loads no ensemble that takes more pictures than an engine in it."""
    before, after = (
        f"max_batch_size: {size}\n"
        for size in (layout.family.max_batch_size, layout.target.profile.batch.max)
    )
    config.write_text(config.read_text().replace(before, after))


def _type_packs(config: Path, layout: Layout) -> None:
    """Packs pass through Python stages in the type that the denoiser takes."""
    text, dtype = config.read_text(), COMPUTE[layout.compute(layout.family.denoiser)]
    for name in (LORA_A, LORA_B):
        text = text.replace(f'name: "{name}" data_type: TYPE_FP32', f'name: "{name}" data_type: TYPE_{dtype}')
    config.write_text(text)


def _parameters(layout: Layout) -> dict[str, dict[str, object]]:
    family, checkpoint, target = layout.family, layout.checkpoint, layout.target
    sizes = {"native_size": checkpoint.native_size, "min_size": target.min_size, "max_size": target.max_size}
    text = {"max_sequence_length": checkpoint.max_sequence_length, "checkpoint": checkpoint.name}
    adapters = {"max_rank": layout.max_rank, "denoiser_sha256": checkpoint.denoiser_sha256}
    told = {**sizes, **text, **adapters, "size_multiple": family.size_multiple}
    ensembles = {family.ensemble_name(ensemble): dict(told) for ensemble in family.ensembles}
    on_gpu = target.engine == TENSORRT
    inputs, device = GPU_INPUTS if on_gpu else {}, "cuda" if on_gpu else "cpu"
    profiled = layout.ranges_of(family.denoiser)["batch"][1]
    rows = profiled if on_gpu else family.max_rows(family.denoiser)
    merged = {"merged_loras": applied_text(layout.merged), "device": device}
    calls = {"max_rank": layout.max_rank, "max_rows": rows, OPTIONAL_PACKS: int(not on_gpu)}
    return {
        stage_model(family, SCHEDULER): {**sizes, **inputs, **calls},
        stage_model(family, STAGE): {**adapters, **merged},
        **ensembles,
    }


def stage_model(family: FamilySpec, stage: str) -> str:
    """The Triton model that is a Python stage of `family`."""
    return f"{family.name}_{stage}"


def copy_checkpoint_parts(plan: Plan, repository: Path) -> None:
    """Gives each Python stage, in its own model folder, what it reads of the checkpoint: never weights."""
    source, family = plan.checkpoint.folder, plan.checkpoint.family
    for stage, parts in stage_parts(family).items():
        destination = repository / MODELS / stage_model(family, stage) / CHECKPOINT
        for part in parts:
            for file in source_files(source / part):
                _copy(file, destination / file.relative_to(source))
    write_preview(
        plan.checkpoint, repository / MODELS / stage_model(family, SCHEDULER) / CHECKPOINT / FILE_NAME
    )


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)
