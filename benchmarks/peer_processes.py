"""Starts the programs of `peers/`: stock diffusers alone, behind LitServe, behind BentoML."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from benchmarks.client import Body, Door
from benchmarks.service import await_answer, process, tree
from benchmarks.tools.environments import environment, python_of
from benchmarks.tools.errors import ToolError
from gateway.server import LOOPBACK
from serving.ports import resolve_port

PROGRAMS = Path("benchmarks/peers").absolute()
START_SECONDS = 180.0


@dataclass(frozen=True)
class Way:
    """How a peer is run. `spins`: its threads wait for work by spinning, as OpenMP does by default."""

    workers: int
    threads: int
    batch: int = 1
    spins: bool = True

    def environment(self, checkpoint: Path) -> Mapping[str, str]:
        policy = {} if self.spins else {"OMP_WAIT_POLICY": "PASSIVE"}
        return {
            **os.environ,
            **policy,
            "PEER_CHECKPOINT": str(checkpoint.absolute()),
            "PEER_WORKERS": str(self.workers),
            "OMP_NUM_THREADS": str(self.threads),
            "HF_HUB_OFFLINE": "1",
            "BENTOML_DO_NOT_TRACK": "true",
            "PYTHONWARNINGS": "ignore",
        }

    def __str__(self) -> str:
        waiting = "" if self.spins else ", OMP_WAIT_POLICY=PASSIVE"
        batches = f", batches of up to {self.batch}" if self.batch > 1 else ""
        return f"{self.workers} workers x {self.threads} threads{batches}{waiting}"


def peers() -> Path:
    """The environment's folder, made when first wanted."""
    return environment("peers", PROGRAMS / "requirements.txt", sees_ours=True)


@dataclass(frozen=True)
class Drawn:
    """What stock diffusers drew: uint8 [height, width, 3], and how long its call took."""

    pixels: NDArray[np.uint8]
    seconds: float


@dataclass(frozen=True)
class Stock:
    """A running `stock.py`, which draws a picture at a time."""

    running: subprocess.Popen[str]

    def __call__(self, body: Body) -> Drawn:
        """ToolError if the program has ended."""
        assert self.running.stdin and self.running.stdout
        self.running.stdin.write(json.dumps(dict(body)) + "\n")
        self.running.stdin.flush()
        if not (line := self.running.stdout.readline()):
            raise ToolError(f"stock diffusers ended with status {self.running.wait()}")
        said = json.loads(line)
        return Drawn(pixels_of(base64.b64decode(said["png"])), said["seconds"])


def pixels_of(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)))


@contextmanager
def stock(checkpoint: Path, mode: str, way: Way, log: Path) -> Iterator[Stock]:
    """`mode` is eager or compile; it runs as long as the block."""
    command = [str(python_of(peers())), str(PROGRAMS / "stock.py"), mode]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as errors:
        running = subprocess.Popen(
            command,
            env=way.environment(checkpoint),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with running:
            yield Stock(running)
            assert running.stdin
            running.stdin.close()  # it ends with its input


@dataclass(frozen=True)
class Peer:
    """A running server, with all its processes stopped but for its turns: an idle one may poll."""

    door: Door
    running: subprocess.Popen[bytes]

    @contextmanager
    def awake(self) -> Iterator[Door]:
        self.send(signal.SIGCONT)
        try:
            yield self.door
        finally:
            self.send(signal.SIGSTOP)

    def send(self, number: signal.Signals) -> None:
        """To all its processes: BentoML's workers have sessions of their own."""
        for each in tree(self.running):
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)


@contextmanager
def served(
    command: Sequence[str], port: int, ready: str, environment: Mapping[str, str], log: Path
) -> Iterator[Peer]:
    """Ready when it answers at the path `ready`."""
    with process(command, log, environment) as running:
        await_answer(f"http://{LOOPBACK}:{port}{ready}", running, START_SECONDS)
        peer = Peer(Door(f"http://{LOOPBACK}:{port}/predict"), running)
        peer.send(signal.SIGSTOP)
        try:
            yield peer
        finally:
            peer.send(signal.SIGCONT)


@contextmanager
def litserve(checkpoint: Path, way: Way, log: Path) -> Iterator[Peer]:
    port = resolve_port(0, "LitServe")
    script = [str(python_of(peers())), str(PROGRAMS / "litserve_server.py")]
    command = [*script, str(port), str(way.workers), str(way.batch)]
    with served(command, port, "/health", way.environment(checkpoint), log) as peer:
        yield peer


@contextmanager
def bentoml(checkpoint: Path, way: Way, log: Path) -> Iterator[Peer]:
    port = resolve_port(0, "BentoML")
    module = ["bentoml", "serve", "bentoml_service:Diffusers", "--working-dir", str(PROGRAMS)]
    where = ["--host", LOOPBACK, "--port", str(port)]
    command = [str(python_of(peers())), "-m", *module, *where]
    told = {**way.environment(checkpoint), "BENTOML_HOME": str(log.parent / "bentoml")}
    with served(command, port, "/readyz", told, log) as peer:
        yield peer


Start = Callable[[Path, Way, Path], AbstractContextManager[Peer]]  # checkpoint, way, log
