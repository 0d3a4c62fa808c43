"""The service with the shipped checkpoints: real Triton with both, a gateway before it."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from families.adapters import FILE_NAME
from finetune.dataset import Pixels
from gateway.app import create_app
from gateway.demo import fetch
from gateway.server import background
from gateway.settings import Settings
from serving import EmbeddedTriton
from serving.launch import Options

NAMES = ("flux-tiny", "sdxl-tiny")
ASSETS, ADAPTERS = Path("assets/checkpoints"), Path("assets/adapters")


@dataclass(frozen=True)
class Service:
    """The running service: REST at `url`, Triton's gRPC at `triton_url`, the store of adapters at `store`."""

    url: str
    triton_url: str
    store: Path

    def ask(self, prompt: str, image: Pixels | None = None, **fields: Any) -> dict[str, Any]:
        """The answer to a request, with `image` uint8 [H, W, 3] as its base image."""
        base = {} if image is None else {"base_image_url": data_uri(image)}
        body = {"prompt": prompt, **base, **fields}
        answer: dict[str, Any] = json.loads(fetch(f"{self.url}/generate-image", body))
        return answer

    def png(self, prompt: str, image: Pixels | None = None, **fields: Any) -> bytes:
        return fetch(self.ask(prompt, image, **fields)["generated_image_url"])

    def picture(self, prompt: str, image: Pixels | None = None, **fields: Any) -> Pixels:
        """uint8 [H, W, 3]."""
        return np.asarray(Image.open(io.BytesIO(self.png(prompt, image, **fields))))


def data_uri(pixels: Pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def exported(name: str) -> Path:
    """The repository of a shipped checkpoint, exported unless that has been done."""
    output = Path(f"build/{name}-cpu")
    command = ["--checkpoint", str(ASSETS / name), "--target", "cpu", "--output", str(output)]
    output.parent.mkdir(exist_ok=True)
    with FileLock(f"{output}.lock"):  # other processes of pytest-xdist want it too
        subprocess.run([sys.executable, "-m", "export", *command], check=True)
    return output


@contextmanager
def running(folder: Path) -> Iterator[Service]:
    """Serves both checkpoints with a copy of the shipped adapters; logs and pictures go to `folder`."""
    store = folder / "adapters"
    shutil.copytree(ADAPTERS / "files", store / "files")
    shutil.copy(ADAPTERS / FILE_NAME, store)
    with serving([exported(name) for name in NAMES], folder, store) as service:
        yield service


@contextmanager
def serving(repositories: list[Path], folder: Path, store: Path) -> Iterator[Service]:
    """Serves `repositories` with the adapters of `store`; logs and pictures go to `folder`."""
    with EmbeddedTriton(repositories, folder / "logs", Options(adapters=store)) as triton:
        pictures = {"storage_folder": folder / "pictures", "public_url": None}
        settings = Settings(triton_url=triton.grpc_url, adapters=store, **pictures)
        with background(create_app(settings), settings) as url:
            yield Service(url, triton.grpc_url, store)
