"""Runs the decoder's child as the gateway does, and without the gateway's half of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.base_image import decode
from gateway.base_image.decode import Decoder
from gateway.base_image.fit import Sizing

Pixels = NDArray[np.uint8]
SUPPORTED = Sizing(multiple=16, min_size=64, max_size=256, native_size=128)
# A busy machine may take long to start a child; what is too long has tests of its own.
PATIENT = 600.0
# A small program in between, since a process's peak memory counts what it shared with its parent before exec.
MEASURE = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], env={})
_, _, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss, usage.ru_utime + usage.ru_stime, file=sys.stderr)
"""


@dataclass(frozen=True)
class Answer:
    """What the child wrote, its peak resident memory in MB, and its CPU seconds."""

    output: bytes
    memory: float
    seconds: float


def asking(height: int, width: int) -> Sizing:
    return Sizing(multiple=16, min_size=64, max_size=256, native_size=128, height=height, width=width)


def decoded(content: bytes, sizing: Sizing = SUPPORTED) -> Pixels:
    return asyncio.run(Decoder(PATIENT).decode(content, sizing))


def answered(content: bytes, sizing: Sizing = SUPPORTED) -> Answer:
    measure = [sys.executable, "-I", "-S", "-c", MEASURE, *decode.command(sizing)]
    ended = subprocess.run(measure, input=content, capture_output=True, check=True)
    kilobytes, seconds = ended.stderr.split()[-2:]
    return Answer(ended.stdout, int(kilobytes) * 1024 / 10**6, float(seconds))


def children() -> set[int]:
    """This process's children, ended but unreaped ones too."""
    stats = Path("/proc").glob("[0-9]*/stat")
    return {int(stat.parent.name) for stat in stats if parent(stat) == os.getpid()}


def parent(stat: Path) -> int | None:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
