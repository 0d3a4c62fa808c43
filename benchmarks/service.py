"""The service under test, as it is deployed: Triton, and a gateway in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from tritonclient.grpc import InferenceServerClient

from gateway.demo import OPENER
from serving import EmbeddedTriton, ServingError

START_SECONDS = 60.0
STOP_SECONDS = 30.0
KILLED_SECONDS = 5.0  # until killed children are gone; longer only where init does not reap them


@dataclass(frozen=True)
class Spent:
    """What Triton counted of a model: seconds in queues, seconds computing, cache hits included, requests."""

    queue: float
    compute: float
    requests: int = 0
    hits: int = 0
    hit_seconds: float = 0.0
    success: float = 0.0

    def __sub__(self, earlier: Spent) -> Spent:
        return Spent(
            *(now - then for now, then in zip(vars(self).values(), vars(earlier).values(), strict=True))
        )


@dataclass(frozen=True)
class Service:
    """The running service: REST at `url`; `triton` is its own."""

    url: str
    triton: EmbeddedTriton
    client: InferenceServerClient

    def statistics(self) -> dict[str, Spent]:
        """By model, since the start."""
        return {model.name: spent(model.inference_stats) for model in self._models()}

    def _models(self) -> Sequence[object]:
        models: Sequence[object] = self.client.get_inference_statistics().model_stats
        return models


def spent(stats: object) -> Spent:
    """Of Triton's InferStatistics."""
    parts = (stats.compute_input, stats.compute_infer, stats.compute_output, stats.cache_hit)
    seconds = [part.ns / 1e9 for part in (stats.queue, stats.cache_hit, stats.success)]
    compute = sum(part.ns for part in parts) / 1e9
    return Spent(seconds[0], compute, stats.success.count, stats.cache_hit.count, seconds[1], seconds[2])


def change(before: Mapping[str, Spent], after: Mapping[str, Spent]) -> dict[str, Spent]:
    return {name: after[name] - before[name] for name in after}


@contextmanager
def serving(repositories: Sequence[Path], folder: Path) -> Iterator[Service]:
    """Serves assembled `repositories`; logs and pictures go to `folder`."""
    with (
        EmbeddedTriton(repositories, folder / "logs") as triton,
        InferenceServerClient(triton.grpc_url) as client,
        gateway(triton.grpc_url, folder) as url,
    ):
        yield Service(url, triton, client)


@contextmanager
def gateway(triton_url: str, folder: Path) -> Iterator[str]:
    """`python -m gateway` before a running Triton; gives its URL."""
    environment = {**os.environ, "POSTPULSE_STORAGE_FOLDER": str(folder / "pictures")}
    command = [sys.executable, "-m", "gateway", "--triton", triton_url, "--port", "0"]
    with process(command, folder / "gateway.log", environment) as running:
        url = _announced(running, folder / "gateway.log")
        await_answer(f"{url}/readyz", running)
        yield url


@contextmanager
def process(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs as long as the block, its output in `log`; its own children end with it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        running = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield running
        finally:
            _stop(running)


def _stop(running: subprocess.Popen[bytes]) -> None:
    """SIGTERM for the program, then SIGKILL for what is left of its children and of its session."""
    children = tree(running)[1:]
    running.terminate()
    try:
        running.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        running.kill()
    try:
        os.killpg(running.pid, 9)
    except ProcessLookupError:
        pass
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    running.wait()
    psutil.wait_procs(children, KILLED_SECONDS)


def tree(running: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The program, and all processes below it, sessions of their own too; none if it has ended."""
    try:
        program = psutil.Process(running.pid)
        return [program, *program.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _announced(running: subprocess.Popen[bytes], log: Path) -> str:
    """The address that the gateway prints."""
    ended = time.monotonic() + START_SECONDS
    while time.monotonic() < ended and running.poll() is None:
        lines = log.read_text().splitlines()
        found = [line.split()[1] for line in lines if line.startswith("gateway: http")]
        if found:
            return found[0]
        time.sleep(0.05)
    raise ServingError(f"the gateway did not start; its log: {log}\n{log.read_text()[-2000:]}")


def await_answer(url: str, running: subprocess.Popen[bytes], seconds: float = START_SECONDS) -> None:
    """Until `url` answers with success; ServingError if the program ends or that takes too long."""
    ended = time.monotonic() + seconds
    while time.monotonic() < ended and running.poll() is None:
        try:
            with OPENER.open(url, timeout=5):
                return
        except OSError:  # refused, or an HTTP error
            time.sleep(0.1)
    state = (
        f"ended with status {running.returncode}" if running.poll() is not None else f"took {seconds:.0f} s"
    )
    raise ServingError(f"{url} does not answer: its program {state}")
