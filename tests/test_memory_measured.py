"""Scratch and weights of a memory plan are those measured where they were, else estimates that grow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.errors import ExportError
from export.gpus import GPUS
from export.memory import PLANS, Demand, MemoryPlan, memory_plan
from export.memory_plan import published_configs
from export.scratch import Call, Measured, Measurements, estimate, read_measured, scratch

A100 = GPUS["A100-40"]
T5, TRANSFORMER, UNET = "flux.text_encoder_2", "flux.transformer", "sdxl.unet"


def planned(
    plan: str, measured: Measurements, size: int = 1024, batch: int = 1, shared: bool = False
) -> MemoryPlan:
    words = "shared" if shared else "engine"
    return memory_plan(A100, Demand(PLANS[plan], size, words, batch=batch), measured)


def entry(px: int, batch: int, precision: str, scratch: int, weights: int | None = None) -> Measured:
    return Measured(px, batch, precision, scratch, weights, "a run")


def row(plan: MemoryPlan, part: str, name: str) -> tuple[int, str]:
    """Bytes and source."""
    found = {(row.part, row.name): (row.size, row.source) for row in plan.rows}
    return found[part, name]


def test_estimates_grow_with_the_pixels_of_all_pictures() -> None:
    sizes = [estimate(TRANSFORMER, Call(px)).size for px in (256, 512, 768, 1024, 1536)]
    assert sizes == sorted(sizes) and (sizes[1], sizes[3]) == (900_000_000, 2_600_000_000)
    assert estimate(TRANSFORMER, Call(512, 4)) == estimate(TRANSFORMER, Call(1024))
    assert estimate("flux.vae_decoder", Call(1024)) == estimate("sdxl.vae_encoder", Call(1024))
    assert planned("E", {}, batch=4).part("scratch") == planned("E", {}, 2048).part("scratch")
    assert planned("E", {}, batch=4).part("weights") == planned("E", {}).part("weights")


@pytest.mark.parametrize(
    ("px", "batch", "size", "source"),
    [
        (512, 1, 1_000, "as measured in bf16 at 1024 px, batch 1: a run"),
        (1024, 1, 1_000, "as measured in bf16 at 1024 px, batch 1: a run"),
        (512, 2, 5_000, "as measured in bf16 at 1024 px, batch 4: a run"),
        (1024, 4, 5_000, "as measured in bf16 at 1024 px, batch 4: a run"),
        (2048, 4, 20_000, "scaled from 1024 px, batch 4 as measured in bf16: a run"),
        (1024, 6, 7_500, "scaled from 1024 px, batch 4 as measured in bf16: a run"),
        (1536, 1, 5_000, "scaled from 1024 px, batch 4 as measured in bf16: a run"),  # never less
    ],
)
def test_scratch_is_that_of_the_smallest_covering_measurement_or_scaled(
    px: int, batch: int, size: int, source: str
) -> None:
    measured = {TRANSFORMER: (entry(1024, 4, "bf16", 5_000), entry(1024, 1, "bf16", 1_000))}
    plan = planned("E", measured, px, batch)
    assert row(plan, "scratch", TRANSFORMER) == (size, source)


def test_a_measurement_in_the_very_precision_goes_before_one_in_16_bits() -> None:
    in_bf16, in_int8 = entry(1024, 1, "bf16", 3_000), entry(1024, 2, "int8", 4_000)
    figures = {
        (precision, len(some)): scratch(TRANSFORMER, precision, Call(1024), {TRANSFORMER: some})
        for precision in ("bf16", "int8", "fp32")
        for some in ((in_bf16, in_int8), (in_int8,))
    }
    assert {key: figure.size for key, figure in figures.items()} == {
        ("bf16", 2): 3_000, ("bf16", 1): 2_600_000_000, ("int8", 2): 4_000, ("int8", 1): 4_000,
        ("fp32", 2): 2_600_000_000, ("fp32", 1): 2_600_000_000,
    }  # fmt: skip
    assert figures["int8", 2].source == "measured at 1024 px, batch 2: a run"


def test_a_text_encoder_s_scratch_follows_the_batch_alone() -> None:
    measured = {T5: (entry(1024, 2, "bf16", 400_000_000),)}
    for px, batch, size, word in ((512, 1, 400_000_000, "as measured"), (1536, 2, 400_000_000, "as measured"),
                                  (512, 3, 600_000_000, "scaled from")):  # fmt: skip
        found = row(planned("E", measured, px, batch), "scratch", T5)
        assert found[0] == size and found[1].startswith(word)
    shared = planned("E", measured, shared=True)
    assert shared.total == planned("E", {}, shared=True).total  # smaller than the largest, which all share


def test_weights_are_measured_in_their_own_precision_and_whole() -> None:
    measured = {UNET: (entry(1024, 1, "fp16", 1, 5_200_000_000),), TRANSFORMER: (entry(1024, 1, "bf16", 1),)}
    plan = planned("E", measured)
    assert row(plan, "weights", f"{UNET} fp16") == (5_200_000_000, "measured: a run")
    assert row(planned("C", measured), "weights", f"{UNET} int8")[1] == "from the shapes"
    assert row(planned("A", measured), "weights", f"{TRANSFORMER} bf16")[1] == "from the shapes"


def test_what_was_measured_does_not_count_for_other_configs() -> None:
    configs = published_configs()
    smaller = {**configs["flux"]["transformer"], "num_layers": 4}
    other = {**configs, "flux": {**configs["flux"], "transformer": smaller}}
    measured = {TRANSFORMER: (entry(1024, 1, "bf16", 5_000, 5_000),)}
    for facts, sources in ((configs, {"measured: a run"}), (other, {"from the shapes"})):
        plan = memory_plan(A100, Demand({TRANSFORMER: "bf16"}, configs=facts), measured)
        assert {row.source for row in plan.rows if row.part == "weights"} == sources


def test_measured_figures_are_read_and_faults_named(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    assert read_measured(path) == {}
    good = {
        "px": 1024,
        "batch": 1,
        "precision": "fp16",
        "scratch_bytes": 5,
        "weights_bytes": 7,
        "source": "x",
    }
    cut = {**good, "batch": 4, "weights_bytes": None}
    path.write_text(json.dumps({UNET: [good, cut]}))
    found = (Measured(1024, 1, "fp16", 5, 7, "x"), Measured(1024, 4, "fp16", 5, None, "x"))
    assert read_measured(path) == {UNET: found}
    for text, fault in (
        ("{", "is not JSON"),
        ("[]", "holds a list, not an object"),
        (json.dumps({UNET: good}), "sdxl.unet is not a list of measurements"),
        (json.dumps({UNET: [{**good, "size": 1}]}), "sdxl.unet .*'size'; an entry has px, batch, "),
        (json.dumps({UNET: [{**good, "px": "1024"}]}), "sdxl.unet px '1024' is not a whole number from 1"),
        (json.dumps({UNET: [{**good, "batch": 0}]}), "sdxl.unet batch 0 is not a whole number from 1"),
        (json.dumps({UNET: [{**cut, "scratch_bytes": None}]}), "scratch_bytes None is not a whole number"),
        (json.dumps({"sdxl.vae": [good]}), "unknown component 'sdxl.vae'; choices: flux.text_encoder, "),
    ):
        path.write_text(text)
        with pytest.raises(ExportError, match=fault):
            read_measured(path)


def test_what_is_committed_can_be_read() -> None:
    read_measured()
