"""Memory plans add up to what was worked out before, refuse what does not fit, and say what would."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from export.errors import ExportError
from export.gpus import GPUS, gpu_named
from export.memory import PLANS, Demand, MemoryPlan, check_memory, main, memory_plan

A100 = GPUS["A100-40"]
T5, TRANSFORMER, UNET = "flux.text_encoder_2", "flux.transformer", "sdxl.unet"

# As the project's note on physical limits prints them (its function print_memory): plan, pixels, then GB of
# weights, total and free with one shared scratch, total and free with scratch per engine.
LIMITS = [
    ("A", 1024, "40.4", "44.6", "-2.1", "49.8", "-7.3"),
    ("A", 512, "40.4", "42.5", "-0.0", "44.1", "-1.6"),
    ("B", 1024, "35.7", "39.9", "2.6", "45.1", "-2.6"),
    ("B", 512, "35.7", "37.8", "4.7", "39.4", "3.1"),
    ("C", 1024, "33.1", "37.3", "5.2", "42.5", "-0.0"),
    ("C", 512, "33.1", "35.2", "7.3", "36.8", "5.7"),
    ("D", 1024, "31.9", "36.1", "6.4", "41.3", "1.2"),
    ("D", 512, "31.9", "34.0", "8.5", "35.6", "6.9"),
    ("E", 1024, "23.8", "28.0", "14.5", "33.2", "9.3"),
    ("E", 512, "23.8", "25.9", "16.6", "27.5", "15.0"),
    ("F", 1024, "28.5", "32.7", "9.8", "37.9", "4.6"),
    ("F", 512, "28.5", "30.6", "11.9", "32.2", "10.3"),
]


def planned(plan: str, size: int = 1024, scratch: str = "engine", batch: int = 1) -> MemoryPlan:
    """A named plan, from estimates."""
    return memory_plan(A100, Demand(PLANS[plan], size, scratch, batch=batch), {})


def refusal(plan: MemoryPlan) -> str:
    with pytest.raises(ExportError) as raised:
        check_memory(plan)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(("name", "size", "weights", "shared", "left", "engine", "left_engine"), LIMITS)
def test_the_named_plans_are_those_of_the_limits(
    name: str, size: int, weights: str, shared: str, left: str, engine: str, left_engine: str
) -> None:
    one, each = planned(name, size, "shared"), planned(name, size, "engine")
    values = (one.part("weights"), one.total, one.free, each.total, each.free)
    assert [f"{value / 1e9:.1f}" for value in values] == [weights, shared, left, engine, left_engine]
    for plan, free in ((one, left), (each, left_engine)):
        if free.startswith("-"):
            refusal(plan)
        else:
            check_memory(plan)


def test_a_row_says_where_its_number_comes_from() -> None:
    lines = planned("E").table().splitlines()
    assert lines[0].startswith("A100-40, 42.5 GB usable; pictures to 1024 px, batch 1; scratch: engine")
    rows = {" ".join(line.split()[:2]): line for line in lines[1:]}
    assert rows["scratch sdxl.unet"].endswith("3.00  estimate")
    assert rows["contexts CUDA"].endswith("1.20  estimate")
    assert rows["weights flux.transformer"].endswith("11.90  from the shapes")
    assert rows["weights sdxl.text_encoder"].endswith(
        "0.00  one copy with flux.text_encoder, if the weights are equal"
    )
    assert rows["total 33.17"] and rows["free 9.33"]


def test_the_clip_that_both_families_have_counts_once_in_one_precision() -> None:
    names = ("flux.text_encoder", "sdxl.text_encoder")
    once = memory_plan(A100, Demand(dict.fromkeys(names, "fp16")), {})
    twice = memory_plan(A100, Demand(dict(zip(names, ("fp16", "fp32"), strict=True))), {})
    assert once.part("weights") == 246_120_960
    assert twice.part("weights") == 3 * 246_120_960


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (planned("A", 1024, "shared"), f"2.133 GB too much, .* it fits with --components {T5}=int8_weights$"),
        (planned("B"), r"2.570 GB too much, .* it fits with --scratch shared$"),
        (
            planned("A"),
            f"7.333 GB too much, most of it weights of {TRANSFORMER} bf16 .*it fits with --components "
            f"{TRANSFORMER}=int8, or more gently with --scratch shared --components {T5}=int8_weights$",
        ),
        (
            planned("A", 1536),
            f"it fits with --scratch shared --components {T5}=int8_weights {UNET}=int8$",
        ),
        (
            planned("E", batch=4),
            "it fits with --scratch shared$",
        ),
        (planned("E", batch=4, scratch="context"), "it fits with --scratch shared$"),
        (planned("B", 1024, "shared", batch=4), "it fits with --batch 1$"),
    ],
)
def test_a_refusal_names_what_is_too_much_and_what_would_fit(plan: MemoryPlan, said: str) -> None:
    assert re.search(said, refusal(plan))


def test_what_nothing_mends_is_said() -> None:
    plan = memory_plan(A100, Demand({TRANSFORMER: "int8"}, adapters=1000), {})
    assert refusal(plan).endswith("nothing known makes it fit")


def test_adapters_take_what_their_rank_takes_for_each_denoiser() -> None:
    plan = memory_plan(A100, Demand(PLANS["E"], adapters=3, rank=16), {})
    sizes = {row.name: row.size for row in plan.rows if row.part == "adapters"}
    assert sizes == {"3 of flux.transformer, rank 16": 515_807_232, "3 of sdxl.unet, rank 16": 255_344_640}


def test_each_context_has_its_own_scratch_where_engines_do_not_take_turns() -> None:
    rows = [row for row in planned("E", scratch="context").rows if row.part == "scratch"]
    vaes = {f"{family}.vae_{half}" for family in ("flux", "sdxl") for half in ("encoder", "decoder")}
    assert {row.name for row in rows} == {TRANSFORMER, UNET, *vaes}
    assert planned("E", scratch="context").total - planned("E").total == 3 * 2_600_000_000


def test_lora_inputs_have_buffers_of_the_largest_call_beside_the_adapters() -> None:
    demand = Demand(PLANS["E"], adapters=3, batch=4, lora_rank=64)
    plan = memory_plan(A100, demand, {})
    sizes = {row.name: row.size for row in plan.rows if row.part == "inputs"}
    assert sizes == {
        f"{TRANSFORMER}: 4 rows, rank 64": 2_750_971_904,
        f"{UNET}: 8 rows, rank 64": 8 * 4 * 255_344_640 // 3,  # guidance doubles its rows
    }
    assert plan.part("adapters") == 515_807_232 + 255_344_640
    assert memory_plan(A100, replace(demand, lora_rank=0), {}).part("inputs") == 0


@pytest.fixture
def measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measured.json: the UNet's scratch is 7 GB at 1024 px, a picture at a time."""
    path = tmp_path / "measured.json"
    figures = {"px": 1024, "batch": 1, "precision": "fp16", "scratch_bytes": 7_000_000_000}
    path.write_text(json.dumps({UNET: [{**figures, "weights_bytes": None, "source": "a run"}]}))
    monkeypatch.setattr("export.scratch.MEASURED", path)


@pytest.mark.usefixtures("measurements")
@pytest.mark.parametrize(("name", "size", "_weights", "shared", "left", "engine", "left_engine"), LIMITS)
def test_the_command_prints_the_limits_from_estimates(
    capsys: pytest.CaptureFixture[str],
    name: str, size: int, _weights: str, shared: str, left: str, engine: str, left_engine: str,
) -> None:  # fmt: skip
    for word, total, free in (("shared", shared, left), ("engine", engine, left_engine)):
        words = ["--plan", name, "--size", str(size), "--scratch", word, "--estimates"]
        assert main(words) == free.startswith("-")
        sums = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[-2:]]
        # Printed to 0.01, which may round what was rounded to 0.1 the other way.
        assert sums == pytest.approx([float(total), float(free)], abs=0.0551)


@pytest.mark.usefixtures("measurements")
def test_the_command_counts_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan", "E"]) == 0
    assert "7.00  measured at 1024 px, batch 1: a run" in capsys.readouterr().out
    assert main(["--plan", "E", "--batch", "2"]) == 1
    assert "14.00  scaled from 1024 px, batch 1: a run" in capsys.readouterr().out


def test_the_command_prints_the_table_and_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan", "E", "--estimates"]) == 0
    assert capsys.readouterr().out.count("\n") == 17
    assert main(["--plan", "E", "--components", f"{TRANSFORMER}=fp32", "--estimates"]) == 1
    printed = capsys.readouterr()
    assert "weights   flux.transformer fp32" in printed.out and printed.err.count("\n") == 1
    assert printed.err.startswith("export.memory: A100-40 has 42.5 GB")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "T4", "--plan", "E"], "unknown GPU 'T4'; choices: A100-40, H100, H200"),
        (["--plan", "Z"], "unknown plan 'Z'; choices: A, B, C, D, E, F"),
        ([], "name --components or a --plan; choices: A, B, C, D, E, F"),
        (["--components", "flux.unet=int8"], "unknown component 'flux.unet'; choices: flux.text_encoder, "),
        (["--components", "sdxl.unet=int4"], "unknown precision 'int4' of sdxl.unet; choices: fp32, "),
        (["--components", "sdxl.unet"], "'sdxl.unet' is not COMPONENT=PRECISION"),
        (["--plan", "E", "--scratch", "none"], "unknown scratch 'none'; choices: engine, shared, context"),
        (["--plan", "E", "--size", "0"], "size 0 is less than 64"),
        (["--plan", "E", "--adapters", "-1"], "adapters -1 is less than 0"),
        (["--plan", "E", "--batch", "0"], "batch 0 is less than 1"),
        (["--plan", "E", "--lora-rank", "-1"], "lora_rank -1 is less than 0"),
    ],
)
def test_unknown_words_name_the_choices(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert said in capsys.readouterr().err


def test_a_gpu_is_found_by_name() -> None:
    assert gpu_named("A100-40").compute_capability == "8.0"
