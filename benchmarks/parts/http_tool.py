"""The gateway under locust, an existing HTTP load tool: what `load` measures, by somebody else's client."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rows import PER_SECOND, Entry, Maker, Missing
from benchmarks.run import Run
from benchmarks.tools.environments import environment
from benchmarks.tools.errors import ToolError

PART = "http_tool"
REQUIREMENTS, FILE = Path("benchmarks/tools/requirements.txt"), Path("benchmarks/tools/locustfile.py")
USERS, SECONDS, STEPS = (1, 8), 8, 10


def measure(run: Run) -> Iterator[Entry]:
    try:
        program = environment("locust", REQUIREMENTS) / "bin" / "locust"
        for users in USERS:
            run.check_time()
            yield from rows(asked(run, program, users), users)
    except ToolError as error:
        yield Missing(PART, "everything", str(error))


def asked(run: Run, program: Path, users: int) -> list[dict[str, Any]]:
    """What locust noted of each request."""
    noted = run.output / PART / f"{users}-users.jsonl"
    noted.parent.mkdir(parents=True, exist_ok=True)
    noted.unlink(missing_ok=True)
    options = ["--headless", "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{SECONDS}s"]
    where = ["--locustfile", str(FILE), "--host", run.service.url, "--csv", str(noted.with_suffix(""))]
    quiet = ["--only-summary", "--stop-timeout", "30", "--loglevel", "WARNING"]
    told = {**os.environ, "LOCUST_NOTES": str(noted), "LOCUST_STEPS": str(STEPS)}
    command = [str(program), *where, *options, *quiet]
    ended = subprocess.run(command, env=told, capture_output=True, text=True, timeout=SECONDS + 120)
    if ended.returncode or not noted.exists():
        raise ToolError(
            f"locust ended with status {ended.returncode}: {(ended.stdout + ended.stderr)[-300:]}"
        )
    return [json.loads(line) for line in noted.read_text().splitlines()]


def rows(notes: list[dict[str, Any]], users: int) -> Iterator[Entry]:
    """RuntimeError if requests failed."""
    if failed := [note["error"] for note in notes if note["error"]]:
        raise RuntimeError(f"{len(failed)} of locust's {len(notes)} requests failed: {failed[0]}")
    maker = Maker(PART, {"tool": "locust", "clients": users, "px": 128, "steps": STEPS, "seconds": SECONDS})
    notes = sorted(notes, key=lambda note: note["end"])
    fifths = [notes[place::5] for place in range(5)]  # each of them spans the whole run
    times = [[note["milliseconds"] for note in fifth] for fifth in fifths]
    for share in (50, 95):
        yield maker.percentile(f"latency p{share}", share, times)
    yield maker.row("throughput", PER_SECOND, [5 * rate(fifth) for fifth in fifths if len(fifth) > 1])


def rate(notes: list[dict[str, Any]]) -> float:
    return (len(notes) - 1) / (notes[-1]["end"] - notes[0]["end"])
