"""Whether an assembled repository is already what an export would make; answers without importing torch."""

from __future__ import annotations

from pathlib import Path

from export import manifest as manifests
from export.manifest import Manifest, ManifestError
from export.plan import Plan


def existing(output: Path) -> Manifest | None:
    """The manifest of the repository at `output`, or None if there is none that can be read."""
    try:
        return manifests.read(output)
    except ManifestError:
        return None


def up_to_date(plan: Plan, output: Path, previous: Manifest | None) -> bool:
    if previous is None or previous.inputs_sha256 != plan.sha256:
        return False
    try:
        manifests.verify(previous, output)
    except ManifestError:
        return False
    return True
