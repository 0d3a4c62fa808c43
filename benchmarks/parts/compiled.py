"""One client, our service beside diffusers with torch.compile, which compiles for a minute or more."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.parts.alone import Rival, beside, of_size, request
from benchmarks.peer_processes import Way
from benchmarks.rows import Entry, Missing
from benchmarks.run import CORES, Run
from benchmarks.tools.errors import ToolError

PART = "compiled"
CHECKPOINT, SIZE = "flux-tiny", 128
COMPILE = "diffusers + torch.compile"
WAY = Way(1, CORES, spins=False)  # its only way so far: the other one has not been tried


def measure(run: Run) -> Iterator[Entry]:
    try:
        with beside(run, CHECKPOINT, "compile", WAY) as draw:
            draw(request(run, CHECKPOINT, SIZE, 2))  # compiles
            yield from of_size(run, PART, CHECKPOINT, SIZE, Rival(COMPILE, WAY, draw))
    except ToolError as error:
        yield Missing(PART, COMPILE, f"{error}: no C++ compiler, perhaps; see its log")
