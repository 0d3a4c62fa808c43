"""Peers' processes: what is not measured takes nothing of the machine."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks.peer_processes import served
from gateway.server import LOOPBACK
from serving.ports import resolve_port

STOPPED = "T"


def state_of(pid: int) -> str:
    """Of /proc/PID/stat, a letter."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def becomes(pid: int, stopped: bool) -> bool:
    """Within a second: signals are delivered a little later."""
    ends = time.monotonic() + 1.0
    while (state_of(pid) == STOPPED) is not stopped and time.monotonic() < ends:
        time.sleep(0.01)
    return (state_of(pid) == STOPPED) is stopped


def test_a_peer_runs_in_its_turns_only(tmp_path: Path) -> None:
    port = resolve_port(0, "a peer")
    command = [
        sys.executable,
        "-m",
        "http.server",
        str(port),
        "--bind",
        LOOPBACK,
        "--directory",
        str(tmp_path),
    ]
    with served(command, port, "/", os.environ, tmp_path / "log") as peer:
        assert becomes(peer.running.pid, stopped=True)
        with peer.awake() as door:
            assert becomes(peer.running.pid, stopped=False)
            with urllib.request.urlopen(door.url.removesuffix("/predict"), timeout=5) as answer:
                assert answer.status == 200
        assert becomes(peer.running.pid, stopped=True)
    assert peer.running.poll() is not None  # a stopped process ends too
