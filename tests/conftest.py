"""Fixtures that several rooms share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from small_graphs import Case
    from tiny_service import Service


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Flux checkpoint of random weights, in diffusers' layout, with flux-tiny's structure."""
    return written("flux", tmp_path_factory)


@pytest.fixture(scope="session")
def random_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of SDXL."""
    return written("sdxl", tmp_path_factory)


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The industries' data set with three training pictures and a held-out one each. Only to be read."""
    from finetune import sectors  # as below

    folder = tmp_path_factory.mktemp("dataset")
    sectors.make(folder, sectors.Numbers(train=3, held_out=1))
    return folder


def written(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from random_checkpoint import write  # here, because torch takes seconds to import

    return write(family, tmp_path_factory.mktemp("checkpoints") / f"{family}-random")


@pytest.fixture(scope="session")
def exported(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`random_checkpoint` as `python -m export` leaves it for target cpu. Only to be read."""
    output = tmp_path_factory.mktemp("build") / "flux-random-cpu"
    command = ["--checkpoint", str(random_checkpoint), "--target", "cpu", "--output", str(output)]
    subprocess.run([sys.executable, "-m", "export", *command], check=True)
    return output


@pytest.fixture(
    scope="session", params=["flux", pytest.param("sdxl", marks=pytest.mark.slow)], ids=lambda name: name
)
def lora_denoiser(request: pytest.FixtureRequest) -> Case:
    """The denoiser for ONNX Runtime in fp32, with LoRA inputs. Its graph is to be cloned, not changed."""
    from small_graphs import for_cpu  # as above

    if request.param == "flux":
        return for_cpu(request.getfixturevalue("random_checkpoint"), "transformer", lora=True)
    return for_cpu(request.getfixturevalue("random_sdxl"), "unet", lora=True)


@pytest.fixture(scope="session")
def plan_case(random_checkpoint: Path) -> Case:
    """Flux's VAE decoder for an A100, in BF16. Its graph is to be cloned, not changed."""
    from small_graphs import for_a100  # as above

    return for_a100(random_checkpoint, "vae_decoder")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The shipped checkpoints, served."""
    from tiny_service import running  # as above

    with running(tmp_path_factory.mktemp("service")) as service:
        yield service
