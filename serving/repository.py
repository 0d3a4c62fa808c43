"""An assembled repository: build/<name> with manifest.json and models/, served only as it was exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from export.manifest import Manifest, ManifestError, differing_versions, read, verify
from serving.errors import ServingError
from serving.plans import check_plans, runs_plans

MODELS = "models"


def open_repository(repository: Path, report: Callable[[str], None]) -> Manifest:
    """The manifest of what Triton serves; ServingError if `repository` is missing or differs from it.

    Plans must have been built for this machine's GPUs and TensorRT, too.
    `report` gets a line for each package that has another version than at export.
    """
    if not repository.is_dir():
        raise ServingError(
            f"repository {repository} does not exist: `make repositories` exports the tiny checkpoints, "
            "`python -m export` any"
        )
    try:
        manifest = read(repository)
        if runs_plans(manifest):
            check_plans(manifest, repository)  # before hashing what may be many gigabytes
        verify(manifest, repository)
    except ManifestError as error:
        raise ServingError(str(error)) from None
    if not any(name.startswith(f"{MODELS}/") for name in manifest.files):
        raise ServingError(f"{repository} has no models: its manifest lists none")
    for line in differing_versions(manifest, installed_versions(manifest)):
        report(f"warning: {line}")
    return manifest


def installed_versions(manifest: Manifest) -> dict[str, str]:
    installed = {}
    for name in manifest.versions:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def model_names(folders: Sequence[Path]) -> list[str]:
    """The models in `folders`; ServingError if two have one of the same name."""
    names = [path.name for folder in folders for path in folder.iterdir() if path.is_dir()]
    for name in names:
        if names.count(name) > 1:
            raise ServingError(f"two repositories have {name}: serve one checkpoint of a family at a time")
    return sorted(names)
