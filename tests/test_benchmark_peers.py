"""Peers' processes: what is not measured takes nothing of the machine."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

import psutil

from benchmarks.peer_processes import served
from benchmarks.service import tree
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


SERVER = """
import subprocess, sys
from http.server import HTTPServer, SimpleHTTPRequestHandler
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""


def test_a_peer_runs_in_its_turns_only(tmp_path: Path) -> None:
    port = resolve_port(0, "a peer")
    with served([sys.executable, "-c", SERVER, str(port)], port, "/", os.environ, tmp_path / "log") as peer:
        pids = [process.pid for process in tree(peer.running)]
        assert len(pids) == 2 and all(becomes(pid, stopped=True) for pid in pids)
        with peer.awake() as door:
            assert all(becomes(pid, stopped=False) for pid in pids)
            with urllib.request.urlopen(door.url.removesuffix("/predict"), timeout=5) as answer:
                assert answer.status == 200
        assert all(becomes(pid, stopped=True) for pid in pids)
    assert peer.running.returncode == -signal.SIGTERM  # it was not stopped when that came
    assert not any(psutil.pid_exists(pid) and state_of(pid) != "Z" for pid in pids)
