"""Engines without LoRA inputs, served: adapters in their weights, and what is asked of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import adapter_files
import numpy as np
import pytest
from stock import difference
from tiny_service import ASSETS, Service, exported, serving

from gateway.demo import DemoError

PROMPT, ASKED = "a red mug on a blue gradient background", {"seed": 4, "num_inference_steps": 8}


@contextmanager
def dedicated(folder: Path, store: Path, *options: str) -> Iterator[Service]:
    """flux-tiny exported with `options`: all but the transformer is taken from the shipped export."""
    repository = folder / "repository"
    shutil.copytree(exported("flux-tiny"), repository)
    where = ["--checkpoint", str(ASSETS / "flux-tiny"), "--target", "cpu", "--output", str(repository)]
    command = [sys.executable, "-m", "export", *where, "--adapters", str(store), *options]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.count("kept") == 4, said
    with serving([repository], folder, store) as service:
        yield service


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dedicated") / "adapters"
    adapter_files.add(folder, "flux-tiny", "brand", 6, seed=1, industry="food")
    return folder


def test_an_engine_of_a_brand_draws_as_the_adapter_does_and_takes_no_other(
    service: Service, store: Path, tmp_path: Path
) -> None:
    adapter_files.add(service.store, "flux-tiny", "brand", 6, seed=1)
    asked = [{"name": "brand", "scale": 0.7}]
    wanted = service.picture(PROMPT, loras=asked, **ASKED)
    with dedicated(tmp_path, store, "--merge-lora", "brand:0.7") as brand:
        assert difference(brand.picture(PROMPT, **ASKED), wanted) <= 1
        (lora,) = brand.ask(PROMPT, industry="food", **ASKED)["loras"]
        assert (lora["name"], lora["scale"], lora["modules_applied"]) == ("brand", 0.7, 53)
        with pytest.raises(DemoError, match="this engine takes no adapters; asked: brand of rank 6"):
            brand.ask(PROMPT, loras=asked, **ASKED)


def test_the_base_is_the_engine_without_lora_inputs(service: Service, store: Path, tmp_path: Path) -> None:
    """What requests without adapters get from an engine that takes them, zeros, is the base model."""
    with dedicated(tmp_path, store, "--without-lora") as plain:
        for seed in range(4):
            fields = {**ASKED, "seed": seed}
            without, zeros = (each.picture(PROMPT, **fields) for each in (plain, service))
            assert difference(without, zeros) <= 1
            assert np.array_equal(zeros, service.picture(PROMPT, **fields))
