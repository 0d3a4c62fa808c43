"""Triton's log while it starts: which models are loaded, whether it listens, and why it gave up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LOADED = re.compile(r"\"successfully loaded '([^']+)'\"")
FAILED = re.compile(r"\"failed to load '([^']+)' version \d+: (.*)\"$")
# The last port to open, and none opens before every model is loaded.
LISTENING = "Started Metrics Service"
ERROR_LINE = re.compile(r"^(?:E\d{4} \S+ +\d+ \S+\] |error: |\[libprotobuf ERROR \S+\] )(.*)$")
# Said on every machine without a GPU, where all works, or only a summary.
NOISE = re.compile(
    r"CudaDriverHelper|unable to create stream|NVML|DCGM|CUDA driver|failed to load all models"
)
TAIL_LINES = 5


@dataclass(frozen=True)
class StartupLog:
    """The part of `path` that this start has written, which begins at byte `offset`."""

    path: Path
    offset: int

    @classmethod
    def following(cls, path: Path) -> StartupLog:
        """What will be appended to `path` from now on."""
        return cls(path, path.stat().st_size if path.exists() else 0)

    def lines(self) -> list[str]:
        with self.path.open("rb") as log:
            log.seek(self.offset)
            return log.read().decode(errors="replace").splitlines()

    def loaded(self) -> list[str]:
        """Names of the models that are ready, in order."""
        return [found[1] for line in self.lines() if (found := LOADED.search(line))]

    def listening(self) -> bool:
        return any(LISTENING in line for line in self.lines())

    def reasons(self) -> list[str]:
        """The models that failed, each with its reason; else the last errors; else the last lines."""
        lines = self.lines()
        failures = [f"{found[1]}: {unescape(found[2])}" for line in lines if (found := FAILED.search(line))]
        errors = [found[1] for line in lines if (found := ERROR_LINE.match(line)) and not NOISE.search(line)]
        said = [line for line in lines if line.strip() and not line.startswith(("+-", "|"))]
        return failures or errors[-TAIL_LINES:] or said[-TAIL_LINES:]


def unescape(text: str) -> str:
    """Triton prints a Python traceback as one quoted line with `\\n` in it."""
    return text.replace("\\n", "\n").replace("\n\nAt:\n", "\n  at").strip()
