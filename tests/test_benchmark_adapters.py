"""The benchmarks of adapters at their smallest: rows are whole, and all ways come to the same numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from benchmarks.adapters import batch, cost, switch
from benchmarks.adapters.batch import Loop
from benchmarks.adapters.cost import Engines
from benchmarks.adapters.made import store_of, structure_of, topology, write_transformer
from benchmarks.adapters.switch import Place, Warm, answer
from benchmarks.adapters.turns import Row, Seconds, cpu_ratio, in_turns, line, ratio, spread, table
from export.checkpoint import Checkpoint

CONFIG = topology(blocks=1, single_blocks=1, heads=2, axes_dims_rope=(4, 6, 6))
NAME = "flux-little"
SIZE, TEXT_LENGTH = 64, 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Flux's transformer with a block of each kind."""
    return write_transformer(CONFIG, tmp_path_factory.mktemp("checkpoints") / NAME)


@pytest.fixture(scope="module")
def engines(checkpoint: Checkpoint) -> Engines:
    return Engines.of(structure_of(CONFIG, NAME), checkpoint.folder)


def check(row: Row, benchmark: str) -> None:
    """A machine can read it, and every number of it is one."""
    values = json.loads(line(row))
    assert (values["benchmark"], values["checkpoint"]) == (benchmark, NAME)
    assert len(values["ratio quartiles"]) == 2
    for value in values.values():
        assert not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize(("rank", "scale"), [(4, 0.0), (16, 1.0)])
def test_an_engine_with_packs_is_compared_with_the_one_without(
    engines: Engines, rank: int, scale: float
) -> None:
    row = cost.measured(engines, SIZE, TEXT_LENGTH, rank, scale, rounds=1)
    check(row, "cost")
    assert row["difference"] > 1e-3 if scale else row["difference"] <= 1e-6
    assert row["flops ratio"] > 1 + rank / 100  # in a width of 32


def test_all_ways_to_another_adapter_come_to_the_same_prediction(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    place = Place.of(checkpoint, tmp_path)
    rows = list(switch.measured(place, rounds=1))
    ways = [row["way"] for row in rows]
    assert ways in ([*switch.WAYS], [way for way in switch.WAYS if way != switch.DISK])
    for row in rows:
        check(row, "switch")
        assert row["difference"] < 1e-5, row["way"]
    red, blue = (answer(Warm(place), name) for name in switch.NAMES)
    assert cost.difference(red, blue) > 0.01


def test_rows_of_different_adapters_are_compared_with_rows_of_one(
    engines: Engines, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    ranks = {"small": 4, "middle": 8, "large": 16, "odd": 3}
    store_of(tmp_path / "adapters", checkpoint.folder, ranks)
    packs = batch.packs_of(engines.lora, tmp_path / "adapters", checkpoint)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    loop = Loop(engines.lora, scheduler, packs, SIZE, steps=2)
    row = batch.measured(loop, ranks, rounds=1)
    check(row, "batch")
    assert row["difference"] == 0  # not a bit
    small, large = (loop([name]) for name in ("small", "large"))
    assert cost.difference(small, large) > 1e-3
    for name in ranks:  # alone, and first of four
        others = [other for other in ranks if other != name]
        assert torch.equal(loop([name, *others])[:1], loop([name])), name


def test_turns_are_taken_and_ratios_are_of_the_same_round() -> None:
    order = list[str]()
    calls = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    timings = in_turns(calls, rounds=2, before={"b": lambda: order.append("before b")})
    assert order == ["a", "b", "a", "before b", "b", "before b", "b", "a"]
    assert {name: len(each) for name, each in timings.items()} == {"a": 2, "b": 2}
    known = {
        "a": [Seconds(2.0, 1.0), Seconds(6.0, 1.0), Seconds(3.0, 1.0)],
        "b": [Seconds(1.0, 1.0), Seconds(2.0, 1.0), Seconds(3.0, 4.0)],
    }
    assert ratio(known, "a", "b") == spread([2.0, 3.0, 1.0])
    assert cpu_ratio(known, "a", "b").median == 1.0
    assert batch.throughput_ratio({**known, "mixed": known["b"]}, ["a", "b"], "wall") == spread([1.5, 2, 1])


def test_a_table_has_a_line_for_each_row_and_json_has_its_numbers() -> None:
    row = {"benchmark": "cost", "rank": 16, "ratio": spread([1.0, 2.0, 3.0])}
    assert table([row, row]).splitlines()[1:] == ["cost       16    2 [1.5, 2.5]"] * 2
    wanted = {"benchmark": "cost", "rank": 16, "ratio": 2.0, "ratio quartiles": [1.5, 2.5]}
    assert json.loads(line(row)) == wanted
