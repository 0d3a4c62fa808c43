"""The step cache on flux-tiny's engine: fewer calls within limits of quality, mixed adapters, a cancel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_service import exported

from benchmarks.step_cache import STEPS, Drawn, Twin, Wanted, figures, with_adapters, without_adapters
from diffusion.denoise import Denoiser
from diffusion.step_cache import QUALITIES
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
    found = figures(twin.draw(WANTED, QUALITIES[quality]), every)
    assert found["fewer calls"] >= fewer
    assert found["psnr median"] >= median and found["psnr min"] >= worst
    assert found["ssim median"] >= 0.99


def test_another_adapter_is_further_away_than_any_quality(twin: Twin, every: Drawn) -> None:
    """What the limits are worth: PSNR tells another picture."""
    others = [replace(each, loras=(Lora("travel"),)) for each in WANTED]
    assert figures(twin.draw(others, QUALITIES["low"]), every)["psnr median"] < 30


def test_who_shares_the_calls_or_is_cancelled_changes_no_picture(twin: Twin) -> None:
    tolerance, denoiser = QUALITIES["medium"], Denoiser(twin.engine, FLUX.max_rows(FLUX.denoiser))
    early, cancelled, late = (twin.start(each, tolerance) for each in WANTED[:3])
    plain = twin.start(WANTED[3], None)
    running = [early, cancelled, plain]
    for tick in range(STEPS):
        if tick == 4:
            running = [early, late, plain]
        denoiser.tick([sample for sample in running if sample.running])
    assert cancelled.running and cancelled.calls == 4
    alone = [drawn_alone(twin, WANTED[place], tolerance) for place in (0, 2)] + [drawn_alone(twin, WANTED[3])]
    for sample, (pixels, calls) in zip([early, late, plain], alone, strict=True):
        assert sample.calls == calls
        assert np.array_equal(twin.pixels([sample]), pixels)


def drawn_alone(twin: Twin, wanted: Wanted, tolerance: float | None = None) -> tuple[np.ndarray, int]:
    drawn = twin.draw([wanted], tolerance)
    return drawn.pixels, drawn.calls[0]
