"""The proof without a GPU: engines compile for SM80, the true graphs export and parse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from export.engines_check import cases
from export.errors import ExportError
from export.targets import TARGETS
from export.true_size import found
from families import COMPONENTS

DENOISERS = ("flux.transformer", "sdxl.unet")


def run(module: str, *arguments: str) -> tuple[int, list[str]]:
    """Exit status and lines of `python -m module`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=environment
    )
    return ended.returncode, ended.stdout.splitlines()


def test_the_cases_are_the_targets_precisions_with_and_without_lora() -> None:
    listed = [
        (case.checkpoint.removesuffix("-tiny") + "." + case.component, case.precision) for case in cases()
    ]
    wanted = {
        (key, precision) for key, allowed in TARGETS["a100"].precisions.items() for precision in allowed
    }
    assert set(listed) == wanted
    twice = {pair for pair in listed if listed.count(pair) == 2}
    assert twice == {pair for pair in wanted if pair[0] in DENOISERS}
    assert len(listed) == len(wanted) + len(twice)


@pytest.mark.parametrize(
    "components",
    [
        pytest.param([key for key in COMPONENTS if key not in DENOISERS], id="encoders and VAEs"),
        pytest.param(DENOISERS, id="denoisers", marks=pytest.mark.slow),  # small ones: test_engine.py
    ],
)
def test_every_engine_of_the_target_compiles(components: Sequence[str]) -> None:
    status, lines = run("export.engines_check", "--components", *components)
    rows = [line for line in lines if line.startswith(("flux.", "sdxl."))]
    assert status == 0, "\n".join(lines)
    assert len(rows) == len(cases(components)) and lines[-1].startswith("all compiled")


def test_an_unknown_component_is_named() -> None:
    with pytest.raises(ExportError, match=r"unknown component 'flux\.unet'; choices: flux\.text_encoder, "):
        found("flux.unet")
    with pytest.raises(ExportError, match=r"unknown component 'flux\.unet'; choices: flux\.text_encoder, "):
        cases(["flux.unet"])


@pytest.mark.slow
@pytest.mark.parametrize("key", COMPONENTS)
def test_the_true_graph_exports_and_parses(key: str) -> None:
    """All weights by state-dict name, all known to the parser, in less than 3 GB: the command checks that."""
    status, lines = run("export.true_size", "--components", key)
    rows = [line.split() for line in lines if line.startswith(key)]
    assert status == 0, "\n".join(lines)
    assert len(rows) == len(TARGETS["a100"].precisions[key])
    assert all(row[3:5] == ["100%", "100%"] for row in rows)
