"""Packages from a folder of wheels, for a machine where nothing is to be installed."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile


@contextmanager
def importable(folder: Path | None) -> Iterator[None]:
    """The wheels in `folder` can be imported; what is installed comes before them."""
    with tempfile.TemporaryDirectory() as place:
        for wheel in sorted(folder.glob("*.whl")) if folder else ():
            ZipFile(wheel).extractall(place)
        sys.path.append(place)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(place)


NEEDED = ("FlowMatchEulerDiscreteScheduler", "FluxTransformer2DModel", "UNet2DConditionModel")


def missing() -> str | None:
    """What the check cannot be without and is not there, in one line."""
    try:
        importlib.import_module("torch")
        diffusers = importlib.import_module("diffusers")
        for name in NEEDED:
            getattr(diffusers, name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: what diffusers' lazy modules lack
        reason = " ".join(str(error).split())
        return f"torch and diffusers are needed ({reason}); install them, or have wheels in --wheels FOLDER"
    return None
