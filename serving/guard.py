"""Runs tritonserver and outlives its parent: whoever dies, no process and no shared memory stays.

A program of its own, run by path: `guard.py PARENT_PID SHM_PREFIX FOLDER GRACE_SECONDS COMMAND...`. SIGTERM
asks for an orderly end; the exit status is tritonserver's. A busy Python stub does not notice the death of
its server, so the guard adopts it and kills it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
WATCHED = {*STOP_SIGNALS, signal.SIGCHLD}
SHARED_MEMORY = Path("/dev/shm")
ORPHAN_GRACE_SECONDS = 3.0
NICENESS = 5  # engines take every core: who answers requests must not wait for them

libc = ctypes.CDLL(None)


def prepare_child() -> None:
    """Between fork and exec of tritonserver: signals reach it, it dies with the guard, and it is nice."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    os.nice(NICENESS)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(command: list[str]) -> subprocess.Popen[bytes]:
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=prepare_child)


def watch(triton: subprocess.Popen[bytes], parent: int) -> bool:
    """Wait until tritonserver ends, a stop is asked for or the parent is gone; False if it is gone."""
    while triton.poll() is None and os.getppid() == parent:
        received = signal.sigtimedwait(WATCHED, 0.5)
        if received is not None and received.si_signo in STOP_SIGNALS:
            break
    return os.getppid() == parent


def end(triton: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Ask tritonserver to end, then kill what is left of its process group and reap it."""
    triton.terminate()
    with suppress(subprocess.TimeoutExpired):
        triton.wait(grace_seconds)
    with suppress(ProcessLookupError):
        os.killpg(triton.pid, signal.SIGKILL)
    triton.wait()
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-triton.pid, 0)


def sweep(shm_prefix: str, folder: Path) -> None:
    for region in SHARED_MEMORY.glob(f"{shm_prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def main(parent: int, shm_prefix: str, folder: Path, grace_seconds: float, command: list[str]) -> int:
    triton = start(command)
    try:
        parent_lives = watch(triton, parent)
        end(triton, grace_seconds if parent_lives else min(grace_seconds, ORPHAN_GRACE_SECONDS))
    finally:
        sweep(shm_prefix, folder)
    return triton.returncode


if __name__ == "__main__":
    parent_pid, prefix, own_folder, grace, *argv = sys.argv[1:]
    status = main(int(parent_pid), prefix, Path(own_folder), float(grace), argv)
    sys.exit(status if status >= 0 else 128 - status)
