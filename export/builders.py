"""The two packages that build plans; found without importing torch."""

from __future__ import annotations

import importlib
from types import ModuleType

from export.errors import ExportError

BUILDERS = ("tensorrt", "tensorrt_rtx")  # the second compiles on any machine what is never served


def load_builder(name: str) -> ModuleType:
    """The module `tensorrt` or `tensorrt_rtx`, which have one interface; ExportError if it is not here."""
    if name not in BUILDERS:
        raise ExportError(f"unknown builder {name!r}; choices: {', '.join(BUILDERS)}")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f"builder {name} cannot be imported ({error}); {BUILDERS[0]} comes with the image that serves, "
            f"--builder {BUILDERS[1]} checks on any machine"
        ) from None
