"""The check for GPUs at its tiny size, on the CPU: a row for each entry, with figures that can be."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_check import made as made_module
from benchmarks.gpu_check import measure, wheels
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.check import Plan, plan_of, rows
from benchmarks.gpu_check.device import Cpu
from benchmarks.gpu_check.made import Made, dtype_of, precision_of, structure_of
from benchmarks.gpu_check.sweep import MIXED, MOVED, TINY, Entry
from diffusion.step_batcher import denoise
from families import FAMILIES, FLUX, FamilySpec
from families.costs import adapter_flops, flops

BOTH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `make gpu-check` prints where there is no GPU, and the folder of what it keeps."""
    folder = tmp_path_factory.mktemp("results")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(sys, "argv", ["gpu_check", "--keep", str(folder)])
        main()
    return printed.getvalue(), folder


@pytest.fixture(scope="module")
def kept(ran: tuple[str, Path]) -> list[dict[str, Any]]:
    (file,) = ran[1].iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-[a-z0-9-]+\.jsonl", file.name)
    return [json.loads(line) for line in file.read_text().splitlines()]


def entries() -> list[Entry]:
    return [*TINY.without_lora(), *TINY.with_lora()]


def test_it_says_that_no_gpu_was_there(ran: tuple[str, Path], kept: list[dict[str, Any]]) -> None:
    assert "ready, not run on a GPU" in ran[0]
    assert all((row["sizes"], row["cap_bytes"], row["cuda"]) == ("tiny", None, None) for row in kept)
    assert all(row["torch"] == torch.__version__ and row["date"] and row["device"] for row in kept)


def test_every_entry_has_a_row(ran: tuple[str, Path], kept: list[dict[str, Any]]) -> None:
    found = [
        (row["checkpoint"], Entry(row["size"], row["batch"], tuple(row["ranks"]), row["tensors"]))
        for row in kept
    ]
    assert found == [(f"{family}-tiny", entry) for family in FAMILIES for entry in entries()]
    assert len(re.findall(r"^\w+-tiny .* %", ran[0], re.MULTILINE)) == len(found)


@BOTH
def test_flops_are_those_of_families(family: FamilySpec, kept: list[dict[str, Any]]) -> None:
    structure = structure_of(family, true_size=False)
    known = family, family.denoiser, structure.configs
    for row in kept:
        if row["checkpoint"] == structure.name:
            axes = family.axes(
                batch=row["batch"] * family.denoiser.rows_per_picture,
                height=row["size"],
                width=row["size"],
                text_length=structure.max_sequence_length,
                rank=max(row["ranks"], default=0),
            )
            assert row["flops"] == flops(*known, axes) + adapter_flops(*known, axes)


def test_figures_can_be(kept: list[dict[str, Any]]) -> None:
    for row in kept:
        assert 0 < row["utilisation"] <= 1.5
        assert row["utilisation"] == pytest.approx(row["flops"] / row["peak"] / row["step"])
        assert 0 < row["engine"] <= row["step"] and row["moving"] >= 0
        assert row["peak_bytes"] > 0


def drawn(made: Made, entry: Entry) -> Tensor:
    """Latents after a step."""
    samples = made.samples(entry, 1)
    denoise(samples, measure.Engine(made.module, Cpu()), made.family.max_rows(made.component))
    return torch.cat([sample.result() for sample in samples])


@BOTH
def test_every_picture_of_a_batch_has_its_own_pack(family: FamilySpec) -> None:
    made = Made.of(structure_of(family, true_size=False), torch.device("cpu"), torch.float32)
    without = drawn(made, Entry(64, 2))
    made.attach()
    torch.testing.assert_close(drawn(made, Entry(64, 2, (0, 0))), without)
    mixed, moved = (drawn(made, Entry(64, 2, (64, 0), tensors)) for tensors in ("resident", MOVED))
    torch.testing.assert_close(mixed, moved)
    torch.testing.assert_close(mixed[1], without[1])
    assert (mixed[0] - without[0]).abs().max() > 1e-3


@BOTH
def test_true_sizes_stay_on_their_device(family: FamilySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's meta device, which has shapes and no numbers; sums of tensors there and elsewhere fail."""
    meta = torch.device("meta")
    monkeypatch.setattr(made_module, "filled", lambda model, place: model)
    monkeypatch.setattr(
        made_module,
        "normal",
        lambda shape, seed, place, dtype, std: torch.empty(shape, device=place, dtype=dtype),
    )
    monkeypatch.setattr(torch, "isfinite", lambda prediction: torch.ones(prediction.shape, dtype=torch.bool))
    made = Made.of(structure_of(family, true_size=True), meta, dtype_of(precision_of(family, true_size=True)))
    for entry in (Entry(1024, 2), Entry(1024, 4, MIXED)):
        if entry.ranks:
            made.attach()
        samples, engine = made.samples(entry, 1), measure.Engine(made.module, OnMeta())
        with FlopCounterMode(display=False) as counter:
            denoise(samples, engine, family.max_rows(family.denoiser))
        assert counter.get_total_flops() == made.flops(entry)
        assert all(sample.latents.is_meta and sample.step == 1 for sample in samples)


class OnMeta(Cpu):
    def __init__(self) -> None:
        self.place = torch.device("meta")


def plan(seconds: float) -> Plan:
    return Plan(Cpu(), TINY, [FLUX], seconds)


def test_what_does_not_fit_is_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(measure, "timed", full)
    found = [*rows(plan(60), say=lambda _: None)]
    assert len(found) == len(entries())
    assert "no memory" in found[0].words() and json.loads(found[0].line({}))["utilisation"] is None


def test_what_there_is_no_time_for_is_said() -> None:
    said: list[str] = []
    assert not [*rows(plan(0), say=said.append)]
    assert "flux-tiny: out of time before Entry(size=64, batch=1" in said[-1]


def test_a_gpu_is_for_true_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_check.check.Gpu", lambda cap: Cpu())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert plan_of([FLUX], 40, 1, tiny=False).true_size
    assert not plan_of([FLUX], 40, 1, tiny=True).true_size


def test_missing_diffusers_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    with pytest.raises(
        SystemExit, match=r"^error: torch and diffusers are needed \(.*\); install .*--wheels FOLDER$"
    ):
        main()


def test_wheels_can_be_imported_while_it_runs(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "found_in_a_wheel-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("found_in_a_wheel.py", "NUMBER = 7\n")
    with wheels.importable(tmp_path):
        assert importlib.import_module("found_in_a_wheel").NUMBER == 7
    del sys.modules["found_in_a_wheel"]
    assert importlib.util.find_spec("found_in_a_wheel") is None
