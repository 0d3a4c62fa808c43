"""How tritonserver is launched: the folders it reads, its environment, its command line."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from families.adapters import STORE, store_folder
from serving.errors import ServingError
from serving.machine import Wheel
from serving.ports import LOOPBACK

OUR_BACKENDS = Path(__file__).with_name("backends")
SHARED_MODULE = "batching.py"
# The key is drawn at every start and told to no client. It guards against mistakes over gRPC: users of this
# machine can read it from the command line.
RESTRICTED = "shared-memory,model-repository,trace,logging"
CPU_OPTIONS = (
    "--backend-config=python,stub-timeout-seconds=120",
    "--pinned-memory-pool-byte-size=0",
    "--allow-gpu-metrics=false",
)
PINNED_BYTES = 256 * 2**20  # for copies to and from a GPU; of GPU memory Triton's own 64 MiB are reserved
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "AIP_MODE")


@dataclass(frozen=True)
class Options:
    """How to serve. A port of 0 means a free one; `adapters` is the folder of the store."""

    grpc_port: int = 0
    metrics_port: int = 0
    threads: int = len(os.sched_getaffinity(0))
    cache_bytes: int = 64 * 2**20  # response cache, for the models whose config turns it on
    startup_timeout_seconds: float = 300.0
    exit_timeout_seconds: int = 30  # for requests in flight
    adapters: Path = field(default_factory=store_folder)

    def __post_init__(self) -> None:
        for name in ("threads", "cache_bytes", "startup_timeout_seconds", "exit_timeout_seconds"):
            if getattr(self, name) < 1:
                raise ServingError(f"{name} is {getattr(self, name)}; it is at least 1")


@dataclass(frozen=True)
class Launch:
    """One start of tritonserver on folders of `models`; `folder` is its own, empty, removed at its end.

    `plans` says that TensorRT plans are among the engines.
    """

    wheel: Wheel
    libpython: Path
    models: Sequence[Path]
    folder: Path
    options: Options
    plans: bool
    shm_prefix: str = field(default_factory=lambda: f"triton_{secrets.token_hex(8)}_")

    def assemble(self) -> None:
        """Lay out the backend directory, libpython in a library folder of its own, and links to the models.

        Triton starts its stubs through a shell without quoting, so every path it sees lies in `folder`.
        """
        python, skipped = self.folder / "backends" / "python", shutil.ignore_patterns("__pycache__")
        # Copied, since Triton refuses a library behind a link that leads out of the backend directory.
        shutil.copytree(self.wheel.python_backend, python, ignore=skipped)
        for model in OUR_BACKENDS.glob("*/model.py"):
            ours = shutil.copytree(model.parent, python.parent / model.parent.name, ignore=skipped)
            shutil.copy(OUR_BACKENDS / SHARED_MODULE, ours)  # a stub imports from its backend's folder only
        (python / self.wheel.stub.name).symlink_to(self.wheel.stub)
        for link, models in zip(self._links(), self.models, strict=True):
            link.symlink_to(models)
        (self.folder / "lib").mkdir()
        (self.folder / "lib" / self.libpython.name).symlink_to(self.libpython)

    def _links(self) -> list[Path]:
        return [self.folder / f"models-{place}" for place in range(len(self.models))]

    def environment(self) -> dict[str, str]:
        """The caller's environment, with this interpreter's packages for the Python stubs."""
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        libraries = (str(self.folder / "lib"), str(self.wheel.libraries), os.environ.get("LD_LIBRARY_PATH"))
        return inherited | {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            # Stages take turns: each may use every core, but none may spin on a core that another needs.
            # (Those of a denoiser's call for one picture do, until it ends: docs/log.md.)
            "OMP_NUM_THREADS": str(self.options.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            STORE: str(self.options.adapters.resolve()),
        }

    def command(self) -> list[str]:
        return [str(self.wheel.server), *self._model_options(), *self._network_options()]

    def _model_options(self) -> list[str]:
        return [
            *(f"--model-repository={link}" for link in self._links()),
            "--model-control-mode=none",
            f"--backend-directory={self.folder / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self.shm_prefix}",
            f"--cache-directory={self.wheel.caches}",
            f"--cache-config=local,size={self.options.cache_bytes}",
            f"--exit-timeout-secs={self.options.exit_timeout_seconds}",
            *(self._gpu_options() if self.plans else CPU_OPTIONS),
        ]

    def _gpu_options(self) -> list[str]:
        """A plan of many gigabytes may take all of the start to load."""
        return [
            f"--backend-config=python,stub-timeout-seconds={self.options.startup_timeout_seconds:.0f}",
            f"--pinned-memory-pool-byte-size={PINNED_BYTES}",
            "--allow-gpu-metrics=true",
        ]

    def _network_options(self) -> list[str]:
        return [
            "--allow-http=false",
            "--allow-sagemaker=false",
            "--allow-vertex-ai=false",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self.options.grpc_port}",
            f"--grpc-restricted-protocol={RESTRICTED}:key={secrets.token_hex(16)}",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={self.options.metrics_port}",
        ]
