"""The step cache on flux-tiny's engine: fewer calls within limits of quality, mixed adapters, a cancel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from stepping import step_to_end, submit
from tiny_service import exported

from benchmarks.step_cache import (
    LIMITS,
    STEPS,
    Drawn,
    Twin,
    Wanted,
    below,
    figures,
    with_adapters,
    without_adapters,
)
from diffusion.jobs import Job
from diffusion.step_batcher import Bounds, StepBatcher
from families import FLUX
from families.loras import Lora

WANTED = [*with_adapters(3), *without_adapters(3)]


@pytest.fixture(scope="module")
def twin() -> Iterator[Twin]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Twin.load(exported("flux-tiny"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def every(twin: Twin) -> Drawn:
    """The pictures with every step predicted."""
    drawn = twin.draw(WANTED)
    assert drawn.calls == [STEPS] * len(WANTED)
    return drawn


@pytest.mark.parametrize(
    ("quality", "fewer", "median", "worst"), [("medium", 1.8, 50, 38), ("low", 2.5, 42, 30)]
)
def test_fewer_calls_draw_nearly_the_same(
    twin: Twin, every: Drawn, quality: str, fewer: float, median: float, worst: float
) -> None:
    found = figures(twin.draw(WANTED, quality), every)
    assert found["fewer calls"] >= fewer
    assert found["psnr median"] >= median and found["psnr min"] >= worst
    assert found["ssim median"] >= 0.99


def test_the_benchmark_names_each_limit_that_is_missed() -> None:
    good = {"quality": "low", "adapters": "none", **LIMITS["low"]}
    assert below([good, {**good, "quality": "high", "psnr median": 0}]) == []
    assert below([{**good, "psnr 5 %": 39.0}, {**good, "psnr median": float("nan")}]) == [
        "low, adapters none: psnr 5 % is 39.00, wanted 40 or more",
        "low, adapters none: psnr median is nan, wanted 45 or more",
    ]


def test_another_adapter_is_further_away_than_any_quality(twin: Twin, every: Drawn) -> None:
    """What the limits are worth: PSNR tells another picture."""
    others = [replace(each, loras=(Lora("travel"),)) for each in WANTED]
    assert figures(twin.draw(others, "low"), every)["psnr median"] < 30


def test_who_shares_the_calls_or_is_cancelled_changes_no_picture(twin: Twin) -> None:
    batcher = StepBatcher(twin.engine, Bounds(FLUX.max_rows(FLUX.denoiser)))
    early, cancelled, late = (twin.start(each, "medium") for each in WANTED[:3])
    plain, unwanted = twin.start(WANTED[3]), Job([cancelled], lambda _: None, key="unwanted")
    submit(batcher, early, plain)
    batcher.submit(unwanted)
    for _ in range(4):
        batcher.step()
    assert batcher.cancel("unwanted")
    submit(batcher, late)
    step_to_end(batcher)
    assert cancelled.running and cancelled.calls == 4
    alone = [drawn_alone(twin, WANTED[place], "medium") for place in (0, 2)]
    alone.append(drawn_alone(twin, WANTED[3], "high"))
    for sample, (pixels, calls) in zip([early, late, plain], alone, strict=True):
        assert sample.calls == calls
        assert np.array_equal(twin.pixels([sample]), pixels)


def drawn_alone(twin: Twin, wanted: Wanted, quality: str) -> tuple[np.ndarray, int]:
    drawn = twin.draw([wanted], quality)
    return drawn.pixels, drawn.calls[0]
