"""GPUs that memory is planned for."""

from __future__ import annotations

from dataclasses import dataclass

from export.errors import ExportError


@dataclass(frozen=True)
class Gpu:
    """`usable` is in bytes, before any CUDA context; `compute_capability` as NVIDIA writes it."""

    name: str
    usable: int
    compute_capability: str


# What an idle card has for processes, rounded down: less than its data sheet says.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40", 42_500_000_000, "8.0"),
        Gpu("H100", 83_700_000_000, "9.0"),  # 78 GiB
        Gpu("H200", 149_200_000_000, "9.0"),  # 139 GiB
    )
}


def gpu_named(name: str) -> Gpu:
    """The GPU called `name`; ExportError lists the choices."""
    if name not in GPUS:
        raise ExportError(f"unknown GPU {name!r}; choices: {', '.join(GPUS)}")
    return GPUS[name]
