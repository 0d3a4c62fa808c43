"""Virtual environments of pinned packages in build/, which may see the main one's packages too."""

from __future__ import annotations

import site
import subprocess
import venv
from pathlib import Path

from benchmarks.tools.errors import ToolError
from families.hashes import sha256_of_file

FOLDER = Path("build/benchmark-environments")
STAMP = "installed.sha256"


def environment(name: str, requirements: Path, sees_ours: bool = False) -> Path:
    """Its folder, with all of `requirements` installed, made unless that has been done.

    `sees_ours`: what it lacks is found in this interpreter's site-packages, so torch is not there twice.
    ToolError if pip cannot install.
    """
    folder, wanted = (FOLDER / name).absolute(), sha256_of_file(requirements)
    stamp = folder / STAMP
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(folder, clear=True, with_pip=True)
        _install(folder, requirements)
        if sees_ours:
            _see_ours(folder)
        stamp.write_text(wanted)
    return folder


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def _install(folder: Path, requirements: Path) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--requirement", str(requirements)]
    command = [str(python_of(folder)), "-m", "pip", "install", *options]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise ToolError(f"pip cannot install {requirements}: {ended.stderr.strip()[-300:]}")


def _see_ours(folder: Path) -> None:
    """A .pth file: ours come after its own."""
    (packages,) = folder.glob("lib/python3.*/site-packages")
    (packages / "ours.pth").write_text("\n".join(site.getsitepackages()) + "\n")
