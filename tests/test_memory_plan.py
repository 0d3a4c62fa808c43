"""Memory plans add up to what was worked out before, refuse what does not fit, and say what would."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from export.errors import ExportError
from export.gpus import GPUS, gpu_named
from export.memory import PLANS, Demand, MemoryPlan, check_memory, main, memory_plan
from export.scratch import Measured, estimate, read_measured

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


def planned(plan: str, size: int = 1024, scratch: str = "engine", **measured: Measured) -> MemoryPlan:
    """A named plan without measurements, or with these; `.` is `__` in their names."""
    found = {key.replace("__", "."): entry for key, entry in measured.items()}
    return memory_plan(A100, Demand(PLANS[plan], size, scratch), found)


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
    assert lines[0].startswith("A100-40, 42.5 GB usable; pictures to 1024 px; scratch: engine")
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
        (planned("A", 1024, "shared"), f"2.133 GB too much, .* it fits with {T5}=int8_weights$"),
        (planned("B"), r"2.570 GB too much, .* it fits with --scratch shared$"),
        (
            planned("A"),
            f"7.333 GB too much, most of it weights of {TRANSFORMER} bf16 .*it fits with {TRANSFORMER}=int8, "
            f"or more gently with --scratch shared and {T5}=int8_weights$",
        ),
        (planned("A", 1536), f"it fits with --scratch shared and {T5}=int8_weights and {UNET}=int8$"),
    ],
)
def test_a_refusal_names_what_is_too_much_and_what_would_fit(plan: MemoryPlan, said: str) -> None:
    assert re.search(said, refusal(plan))


def test_only_allowed_precisions_are_proposed() -> None:
    said = "it fits with --size 768, or more gently with --scratch shared and --size 1024$"
    with pytest.raises(ExportError, match=said):
        check_memory(planned("B", 1536), allowed={})
    with pytest.raises(ExportError, match=f"it fits with {TRANSFORMER}=int8$"):
        check_memory(planned("A"), allowed={TRANSFORMER: ("bf16", "int8")})


def test_what_nothing_mends_is_said() -> None:
    plan = memory_plan(A100, Demand({TRANSFORMER: "int8"}, adapters=1000), {})
    assert refusal(plan).endswith("nothing known makes it fit")


def test_adapters_take_what_their_rank_takes_for_each_denoiser() -> None:
    plan = memory_plan(A100, Demand(PLANS["E"], adapters=3, rank=16), {})
    sizes = {row.name: row.size for row in plan.rows if row.part == "adapters"}
    assert sizes == {"3 of flux.transformer, rank 16": 515_807_232, "3 of sdxl.unet, rank 16": 255_344_640}


def test_a_measurement_replaces_an_estimate_where_it_covers_the_size() -> None:
    entry = Measured(1024, 2, 1_500_000_000, 12_500_000_000, "trtexec on an A100", "int8")
    plan = planned("E", 1024, flux__transformer=entry)
    rows = {(row.part, row.name): row for row in plan.rows}
    for part, name, size in (
        ("scratch", TRANSFORMER, 1_500_000_000),
        ("weights", f"{TRANSFORMER} int8", 12_500_000_000),
    ):
        row = rows[part, name]
        assert (row.size, row.source) == (size, "measured at 1024 px, batch 2: trtexec on an A100")
    assert planned("E", 1536, flux__transformer=entry).part("scratch") == planned("E", 1536).part("scratch")
    assert planned("A", 1024, flux__transformer=entry).part("scratch") == planned("A").part("scratch")


def test_a_measurement_of_a_text_encoder_adds_its_scratch() -> None:
    entry = Measured(1024, 1, 400_000_000, 0, "nvidia-smi")
    plan = planned("E", flux__text_encoder_2=entry)
    assert plan.total - planned("E").total == 400_000_000
    assert (
        planned("E", 1024, "shared", flux__text_encoder_2=entry).total == planned("E", 1024, "shared").total
    )


def test_estimates_grow_with_the_pixels() -> None:
    sizes = [estimate(TRANSFORMER, px).size for px in (256, 512, 768, 1024, 1536)]
    assert sizes == sorted(sizes) and (sizes[1], sizes[3]) == (900_000_000, 2_600_000_000)
    assert estimate("flux.vae_decoder", 1024) == estimate("sdxl.vae_encoder", 1024)


def test_measured_figures_are_read_and_faults_named(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    assert read_measured(path) == {}
    entry = {"px": 1024, "batch": 1, "scratch_bytes": 5, "weights_bytes": 7, "source": "a run"}
    path.write_text(json.dumps({UNET: entry}))
    assert read_measured(path) == {UNET: Measured(1024, 1, 5, 7, "a run")}
    for text, fault in (
        ("{", "is not JSON"),
        ("[]", "holds a list, not an object"),
        (json.dumps({UNET: {**entry, "size": 1}}), "sdxl.unet .*'size'; an entry has px, batch, "),
        (json.dumps({UNET: {**entry, "px": "1024"}}), "sdxl.unet px '1024' is not a whole number"),
        (json.dumps({"sdxl.vae": entry}), "unknown component 'sdxl.vae'; choices: flux.text_encoder, "),
    ):
        path.write_text(text)
        with pytest.raises(ExportError, match=fault):
            read_measured(path)


def test_what_is_committed_can_be_read() -> None:
    read_measured()


def test_the_command_prints_the_table_and_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan", "E"]) == 0
    assert capsys.readouterr().out.count("\n") == 17
    assert main(["--plan", "E", "--components", f"{TRANSFORMER}=fp32"]) == 1
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
        (["--plan", "E", "--scratch", "none"], "unknown scratch 'none'; choices: engine, shared"),
        (["--plan", "E", "--size", "0"], "size 0 is less than 64"),
        (["--plan", "E", "--adapters", "-1"], "adapters -1 is less than 0"),
    ],
)
def test_unknown_words_name_the_choices(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert said in capsys.readouterr().err


def test_a_gpu_is_found_by_name() -> None:
    assert gpu_named("A100-40").compute_capability == "8.0"
