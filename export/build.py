"""Builds a repository beside its place and moves it there when whole; a failure changes nothing."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

from export import manifest as manifests
from export import models
from export.assemble import assemble_models, copy_checkpoint_parts, engine_path
from export.component import export_component
from export.files import check_disk, replacing
from export.manifest import ComponentRecord, Manifest
from export.plan import Plan, source_files
from export.values import Absmax
from families import ComponentSpec
from families.costs import weight_bytes
from families.hashes import sha256_of_file


def build(plan: Plan, output: Path, previous: Manifest | None, again: frozenset[str]) -> Manifest:
    """Assembles the repository at `output`.

    Engines of `previous`, the manifest of what is there now, are kept if what they are made from is
    unchanged and `again` does not name them.
    """
    check_room(plan, output.parent)
    with replacing(output) as folder:
        assemble_models(plan, folder)
        copy_checkpoint_parts(plan, folder)
        components = {}
        for component in plan.checkpoint.family.components:
            started, name = time.perf_counter(), f"{plan.family.name}.{component.name}"
            kept = None if component.name in again else _keep(plan, component, output, previous, folder)
            if not kept:
                print(_line(name, "..."), flush=True)  # a denoiser takes minutes
            absmax = {} if kept else calibrated(plan, component, output.parent)
            record = kept or export_component(plan, component, folder, engine_path(plan, component), absmax)
            effort = "kept" if kept else f"{time.perf_counter() - started:.1f} s"
            print(_line(name, effort, _facts(record, folder)), flush=True)
            components[component.name] = record
        manifest = describe(plan, components, folder)
        manifests.write(manifest, folder)
    return manifest


def check_room(plan: Plan, folder: Path) -> None:
    """ExportError unless `folder` has room for all engines, and for converted weights meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [
        weight_bytes(plan.family, component, plan.checkpoint.configs, plan.precision(component))
        for component in plan.family.components
    ]
    check_disk(folder, plan.name, sum(sizes) + max(sizes))


def heading() -> str:
    return _line("component", "exported in", _columns("MB", "precision", "max error (allowed)"))


def _line(name: str, effort: str, facts: str = "") -> str:
    return f"{name:<21}{effort:>12}{facts}"


def _columns(size: str, precision: str, compared: str) -> str:
    return f"{size:>10}  {precision:<13}{compared}"


def _facts(record: ComponentRecord, folder: Path) -> str:
    megabytes = (folder / record.file).stat().st_size / 1e6
    errors = ", ".join(f"{error:.1e}" for error in record.max_error.values())
    compared = f"{errors} ({record.tolerance:g})" if errors else "not run here"
    return _columns(f"{megabytes:.1f}", record.precision, compared)


def calibrated(plan: Plan, component: ComponentSpec, folder: Path) -> Absmax:
    """How large the inputs of `component`'s linears get, if they become int8; kept in `folder` once known."""
    if plan.precision(component) != "int8":
        return {}
    models.silence_loaders()
    from export import calibration  # here, because diffusers' pipelines take seconds to import

    settings, prompts = calibration.default_settings(plan.family), plan.prompts.read_text().splitlines()
    facts = hashlib.sha256(f"{settings} {prompts} {plan.merged}".encode()).hexdigest()[:12]
    path = folder / "calibration" / f"{plan.checkpoint_sha256[:12]}-{facts}-{component.name}.safetensors"
    return calibration.kept(path, plan.checkpoint, component, prompts, settings, plan.merge).absmax


def _keep(
    plan: Plan, component: ComponentSpec, output: Path, previous: Manifest | None, folder: Path
) -> ComponentRecord | None:
    """Copies the engine that `output` has, if it is what an export would make; None if it is not."""
    record = previous.components.get(component.name) if previous else None
    if previous is None or record is None or record.inputs_sha256 != plan.component_sha256(component):
        return None
    engine = (output / record.file).with_suffix("")  # and what lies beside it, under the same name
    names = [name for name in previous.files if f"{output / name}".startswith(f"{engine}.")]
    if record.file not in names or any(_changed(output / n, previous.files[n]) for n in names):
        return None
    for name in names:
        shutil.copyfile(output / name, folder / name)
    return record


def _changed(file: Path, sha256: str) -> bool:
    return not file.is_file() or sha256_of_file(file) != sha256


def describe(plan: Plan, components: dict[str, ComponentRecord], folder: Path) -> Manifest:
    known = {record.file: record.sha256 for record in components.values()}
    names = {path.relative_to(folder).as_posix(): path for path in sorted(source_files(folder))}
    files = {name: known.get(name) or sha256_of_file(path) for name, path in names.items()}
    return Manifest(
        checkpoint=plan.checkpoint.name,
        checkpoint_sha256=plan.checkpoint_sha256,
        family=plan.checkpoint.family.name,
        target=plan.target.name,
        engine=plan.target.engine,
        builder=plan.builder,
        builder_version=plan.versions[plan.builder],
        compute_capability=plan.target.compute_capability,
        axes=plan.ranges,
        versions=plan.versions,
        inputs_sha256=plan.sha256,
        components=components,
        files=files,
    )
