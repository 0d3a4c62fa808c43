"""What this machine must have: the wheel with tritonserver, and a shared libpython for its Python stubs."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ServingError

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON = f"libpython{VERSION}.so.1.0"


@dataclass(frozen=True)
class Wheel:
    """Where the installed nvidia-pytriton keeps its parts. Nothing of its Python package is imported."""

    site_packages: Path

    @property
    def triton(self) -> Path:
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def server(self) -> Path:
        return self.triton / "bin" / "tritonserver"

    @property
    def python_backend(self) -> Path:
        return self.triton / "backends" / "python"

    @property
    def stub(self) -> Path:
        return self.triton / "python_backend_stubs" / VERSION / "triton_python_backend_stub"

    @property
    def caches(self) -> Path:
        return self.triton / "caches"

    @property
    def libraries(self) -> Path:
        return self.site_packages / "nvidia_pytriton.libs"


def find_wheel() -> Wheel:
    """This environment's wheel; ServingError if it is not installed or has no stub for this Python."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServingError(
            f"the wheel nvidia-pytriton is not installed for {sys.executable}: run `make setup`"
        )
    wheel = Wheel(Path(spec.origin).parent.parent)
    for part in (wheel.server, wheel.stub):
        if not part.exists():
            raise ServingError(f"nvidia-pytriton has no {part.name} for Python {VERSION}: {part} is missing")
    return wheel


def library_folders() -> list[Path]:
    """Where a shared libpython may lie: the interpreter's own folders, then Debian's."""
    own = Path(sysconfig.get_config_var("LIBDIR") or sys.base_prefix)
    debian = Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or "")
    return [own, Path(sys.base_prefix) / "lib", debian]


def find_libpython(folders: Iterable[Path]) -> Path:
    """The interpreter's shared library; ServingError names Debian's package if no folder has it."""
    for folder in folders:
        if (folder / LIBPYTHON).exists():
            return folder / LIBPYTHON
    raise ServingError(
        f"{LIBPYTHON} is missing, Triton's Python models need it: apt-get install libpython{VERSION}"
    )


def check() -> None:
    """For `make setup`, before there is a wheel: one line and status 1 if libpython is missing."""
    try:
        find_libpython(library_folders())
    except ServingError as error:
        sys.exit(f"error: {error}")
