"""The embedded Triton: a context manager around one tritonserver on loopback, ready when entered."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from serving.errors import ServingError
from serving.guard import sweep
from serving.launch import Launch, Options
from serving.machine import find_libpython, find_wheel, library_folders
from serving.plans import runs_plans
from serving.ports import LOOPBACK, resolve_port
from serving.repository import MODELS, model_names, open_repository
from serving.startup_log import StartupLog

GUARD = Path(__file__).with_name("guard.py")
KILL_AFTER_SECONDS = 5.0  # beyond Triton's own exit timeout
POLL_SECONDS = 0.1


def silent(_: str) -> None:
    """Shows no progress."""


def own_folder() -> Path:
    """A new temporary folder, whose path Triton can hand to a shell without quotes."""
    if shlex.quote(tempfile.gettempdir()) != tempfile.gettempdir():
        raise ServingError(
            f"temporary folder {tempfile.gettempdir()!r} needs a plain name: set TMPDIR to another"
        )
    return Path(tempfile.mkdtemp(prefix="triton-"))


class EmbeddedTriton:
    """`with EmbeddedTriton([repository], log_folder) as triton:` serves at `triton.grpc_url`.

    The repositories are assembled ones, of different families; Triton's output is appended to
    `log_folder`/triton.log. Entering waits until every model is ready and raises ServingError if the machine
    lacks something, a repository is wrong, a port is taken or a model does not load. Leaving, or the death of
    this process, ends Triton, its Python stubs and their shared memory.
    """

    def __init__(
        self,
        repositories: Sequence[Path],
        log_folder: Path | str,
        options: Options | None = None,
        report: Callable[[str], None] = silent,
    ) -> None:
        self.repositories = [repository.resolve() for repository in repositories]
        self.log = Path(log_folder).resolve() / "triton.log"
        self.options = options or Options()
        self.report = report
        self._launch: Launch | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def grpc_url(self) -> str:
        """host:port for tritonclient.grpc; the port is known once entered."""
        return f"{LOOPBACK}:{self.options.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self.options.metrics_port}/metrics"

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def __enter__(self) -> EmbeddedTriton:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start Triton and wait until every model is ready."""
        self._launch = launch = self._prepare()
        startup = StartupLog.following(self.log)
        try:
            launch.assemble()
            self._guard = self._spawn(launch)
            self._await_ready(startup, model_names(launch.models))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End Triton; requests in flight get the exit timeout. Harmless when it does not run."""
        if self._guard is not None:
            self._guard.terminate()
            self._guard.wait()
        if self._launch is not None:
            sweep(self._launch.shm_prefix, self._launch.folder)  # the guard did, unless it was killed

    def wait(self) -> None:
        """Block while Triton serves; ServingError when it ends by itself."""
        if self._guard is not None:
            status = self._guard.wait()
            raise ServingError(f"tritonserver ended with status {status}; its log: {self.log}")

    def _prepare(self) -> Launch:
        wheel, libpython = find_wheel(), find_libpython(library_folders())
        manifests = [open_repository(repository, self.report) for repository in self.repositories]
        models = [repository / MODELS for repository in self.repositories]
        model_names(models)  # before anything starts: two repositories may not serve one name
        grpc_port = resolve_port(self.options.grpc_port, "gRPC")
        metrics_port = resolve_port(self.options.metrics_port, "metrics", taken=grpc_port)
        self.options = replace(self.options, grpc_port=grpc_port, metrics_port=metrics_port)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        plans = any(runs_plans(manifest) for manifest in manifests)
        return Launch(wheel, libpython, models, own_folder(), self.options, plans)

    def _spawn(self, launch: Launch) -> subprocess.Popen[bytes]:
        """The guard runs in a session of its own, so that Ctrl-C reaches this process only."""
        grace = launch.options.exit_timeout_seconds + KILL_AFTER_SECONDS
        guarded = [str(os.getpid()), launch.shm_prefix, str(launch.folder), str(grace), *launch.command()]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), *guarded],
                env=launch.environment(),
                cwd=launch.folder / "lib",  # the stubs import from their working folder first
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _await_ready(self, startup: StartupLog, models: list[str]) -> None:
        began, shown = time.monotonic(), 0
        self.report(f"triton: loading {len(models)} models")
        while True:
            listening, loaded = startup.listening(), startup.loaded()
            for place, name in enumerate(loaded[shown:], start=shown + 1):
                self.report(f"triton: [{place}/{len(models)}] {name}, {time.monotonic() - began:.1f} s")
            shown = len(loaded)
            if listening:
                break
            self._check_start(startup, time.monotonic() - began, set(models) - set(loaded))
            time.sleep(POLL_SECONDS)
        self.report(f"triton: ready in {time.monotonic() - began:.1f} s at {self.grpc_url}")

    def _check_start(self, startup: StartupLog, waited_seconds: float, missing: set[str]) -> None:
        if not self.running:
            raise ServingError(f"Triton did not start; its log: {self.log}\n" + "\n".join(startup.reasons()))
        if waited_seconds > self.options.startup_timeout_seconds:
            waiting = f"waiting for {', '.join(sorted(missing))}" if missing else "waiting for its ports"
            raise ServingError(
                f"Triton is not ready after {waited_seconds:.0f} s, {waiting}; its log: {self.log}"
            )
