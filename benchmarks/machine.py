"""What machine the figures are of."""

from __future__ import annotations

import os
import platform
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "onnxruntime", "diffusers", "nvidia-pytriton", "tritonclient")


def load_average() -> float:
    """How many processes wanted to run, over the last minute."""
    return os.getloadavg()[0]


def conditions() -> dict[str, str]:
    """Words for people."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB",
        "load when it began": f"{load_average():.1f} (above 0.5, neighbours disturbed the figures)",
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
