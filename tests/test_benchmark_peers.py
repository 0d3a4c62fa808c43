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


def becomes(process: psutil.Process, stopped: bool) -> bool:
    """Within a second: signals are delivered a little later."""
    ends = time.monotonic() + 1.0
    while (process.status() == psutil.STATUS_STOPPED) is not stopped and time.monotonic() < ends:
        time.sleep(0.01)
    return (process.status() == psutil.STATUS_STOPPED) is stopped


SERVER = """
import subprocess, sys
from http.server import HTTPServer, SimpleHTTPRequestHandler
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""


def test_a_peer_runs_in_its_turns_only(tmp_path: Path) -> None:
    port = resolve_port(0, "a peer")
    with served([sys.executable, "-c", SERVER, str(port)], port, "/", os.environ, tmp_path / "log") as peer:
        processes = tree(peer.running)
        assert len(processes) == 2 and all(becomes(process, stopped=True) for process in processes)
        with peer.awake() as door:
            assert all(becomes(process, stopped=False) for process in processes)
            with urllib.request.urlopen(door.url.removesuffix("/predict"), timeout=5) as answer:
                assert answer.status == 200
        assert all(becomes(process, stopped=True) for process in processes)
    assert peer.running.returncode == -signal.SIGTERM  # it was not stopped when that came
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
