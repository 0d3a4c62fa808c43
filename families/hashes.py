"""SHA-256 of files, as everything that is known by its content is named: engines, checkpoints, adapters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_files(root: Path, paths: Iterable[Path], digest: Callable[[Path], str] = sha256_of_file) -> str:
    """One hash over names (relative to `root`) and contents, by their `digest`, in the order of names."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(root).as_posix()} {digest(path)}\n".encode())
    return total.hexdigest()


def sha256_of_weights(folder: Path, digest: Callable[[Path], str] = sha256_of_file) -> str:
    """One hash over the *.safetensors of a component's `folder`: what an adapter was trained on."""
    return sha256_of_files(folder, folder.glob("*.safetensors"), digest)
