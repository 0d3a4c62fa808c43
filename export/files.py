"""Files and folders that take their place whole or not at all, and the room that they need."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import ExportError


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A path beside `path` that takes its place when the block succeeds, and is gone when it fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `output` when the block succeeds, and is gone when it fails."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        if output.exists():
            output.rename(old)
        new.rename(output)


def check_disk(folder: Path, name: str, weights_bytes: int) -> None:
    """ExportError unless `folder` has room for plans of so many bytes of weights."""
    wanted, free = int(1.1 * weights_bytes) + 2**26, shutil.disk_usage(folder).free
    if free < wanted:
        raise ExportError(
            f"{name} needs {wanted / 1e9:.1f} GB on disk, {folder} has {free / 1e9:.1f} GB free"
        )
