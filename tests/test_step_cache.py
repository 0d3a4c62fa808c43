"""The step cache on predictions that are known: what it skips, and that it makes good what it forecast."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion.step_cache import MAX_SKIPS, QUALITIES, StepCache, divided_difference

Predict = Callable[[Tensor, float], Tensor]  # latents, sigma -> prediction
START = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
UNHURRIED = settings(max_examples=50, deadline=None)
TOLERANCES = st.sampled_from([0.0, 1e-4, 0.01, 0.1, inf])


@st.composite
def falling(draw: st.DrawFn) -> list[float]:
    """Sigmas of 1 to 50 steps and the end, 0, at strides that differ up to tenfold."""
    strides = draw(st.lists(st.floats(0.1, 1), min_size=1, max_size=50))
    total = sum(strides)
    return [sum(strides[step:]) / total for step in range(len(strides) + 1)]


def walk(predict: Predict, sigmas: list[float], tolerance: float | None) -> tuple[Tensor, list[int]]:
    """The latents at the end, and the steps that were predicted; all of them without a tolerance."""
    cache = None if tolerance is None else StepCache(tolerance, sigmas)
    latents, made = START, []
    for step, sigma in enumerate(sigmas[:-1]):
        prediction = cache.forecast(step) if cache else None
        if prediction is None:
            made.append(step)
            prediction = predict(latents, sigma)
            prediction = cache.observe(step, prediction) if cache else prediction
        latents = latents + (sigmas[step + 1] - sigma) * prediction
    return latents, made


def polynomial(seed: int, degree: int) -> Predict:
    """Predictions that are of this degree in sigma, whatever the latents."""
    factors = torch.randn(degree + 1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda latents, sigma: sum((f * sigma**n for n, f in enumerate(factors)), torch.zeros(6))


def rough(seed: int) -> Predict:
    """Predictions that nothing foretells."""
    generator = torch.Generator().manual_seed(seed)
    return lambda latents, sigma: torch.randn(6, generator=generator, dtype=torch.float64)


def flowing(latents: Tensor, sigma: float) -> Tensor:
    """The velocity of a Gaussian of deviation 0.5 around 1: what a perfect model of it would predict."""
    variance = (1 - sigma) ** 2 * 0.25 + sigma**2
    centred = latents - (1 - sigma)
    return ((sigma - (1 - sigma) * 0.25) / variance) * centred - 1


@UNHURRIED
@given(
    sigmas=falling(), tolerance=TOLERANCES, seed=st.integers(0, 9), degree=st.sampled_from([0, 1, 2, None])
)
def test_the_first_three_steps_and_the_last_are_made_and_no_more_than_so_many_skipped(
    sigmas: list[float], tolerance: float, seed: int, degree: int | None
) -> None:
    predict = rough(seed) if degree is None else polynomial(seed, degree)
    _, made = walk(predict, sigmas, tolerance)
    last = len(sigmas) - 2
    assert {*range(min(3, last)), last} <= {*made}
    gaps = [after - before - 1 for before, after in zip(made, made[1:], strict=False)]
    assert max(gaps, default=0) <= MAX_SKIPS


@UNHURRIED
@given(sigmas=falling(), seed=st.integers(0, 9), degree=st.sampled_from([0, 1, 2]))
def test_predictions_up_to_quadratic_in_sigma_end_where_they_would(
    sigmas: list[float], seed: int, degree: int
) -> None:
    expected, every = walk(polynomial(seed, degree), sigmas, None)
    found, made = walk(polynomial(seed, degree), sigmas, inf)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert len(made) < len(every) or len(every) < 5


@UNHURRIED
@given(sigmas=falling(), seed=st.integers(0, 9))
def test_forecasts_of_predictions_linear_in_sigma_are_exact(sigmas: list[float], seed: int) -> None:
    cache, predict = StepCache(inf, sigmas), polynomial(seed, 1)
    for step, sigma in enumerate(sigmas[:-1]):
        forecast, expected = cache.forecast(step), predict(START, sigma)
        if forecast is None:
            assert torch.equal(cache.observe(step, expected), expected) or step > 3
        else:
            torch.testing.assert_close(forecast, expected, rtol=0, atol=1e-9)


@UNHURRIED
@given(sigmas=falling(), seed=st.integers(0, 9))
def test_what_nothing_foretells_is_never_skipped_without_tolerance(sigmas: list[float], seed: int) -> None:
    latents, made = walk(rough(seed), sigmas, 0.0)
    assert made == [*range(len(sigmas) - 1)]
    assert torch.equal(latents, walk(rough(seed), sigmas, None)[0])  # and nothing is changed


@UNHURRIED
@given(sigmas=falling(), exponent=st.integers(-20, 20))
def test_the_scale_of_predictions_decides_nothing(sigmas: list[float], exponent: int) -> None:
    scale = 2.0**exponent
    unscaled = walk(polynomial(3, 4), sigmas, 0.01)[1]
    assert walk(lambda *where: scale * polynomial(3, 4)(*where), sigmas, 0.01)[1] == unscaled


@UNHURRIED
@given(order=st.lists(st.sampled_from([0, 1, 2]), max_size=200))
def test_samples_in_any_order_do_not_touch_each_other(order: list[int]) -> None:
    sigmas = [1 - step / 28 for step in range(29)]
    caches, steps, answers = [StepCache(0.02, sigmas) for _ in range(3)], [0] * 3, [[], [], []]
    for who in [*order, *[who for who in range(3) for _ in range(28)]]:
        if steps[who] < 28:
            answers[who].append(answer(caches[who], steps[who], polynomial(who, 4), sigmas))
            steps[who] += 1
    for who in range(3):
        alone = StepCache(0.02, sigmas)
        expected = [answer(alone, step, polynomial(who, 4), sigmas) for step in range(28)]
        assert all(torch.equal(*pair) for pair in zip(answers[who], expected, strict=True))


def answer(cache: StepCache, step: int, predict: Predict, sigmas: list[float]) -> Tensor:
    forecast = cache.forecast(step)
    return cache.observe(step, predict(START, sigmas[step])) if forecast is None else forecast


def test_a_smaller_tolerance_makes_more_steps_and_errs_less() -> None:
    sigmas = [1 - step / 28 for step in range(29)]
    expected, _ = walk(flowing, sigmas, None)
    found = [walk(flowing, sigmas, tolerance) for tolerance in (0.1, 0.001)]
    errors = [float((latents - expected).abs().max()) for latents, _ in found]
    counts = [len(made) for _, made in found]
    assert errors == sorted(errors, reverse=True) and errors[0] < 0.1
    assert counts == sorted(counts) and 3 < counts[0] < counts[-1] < 28


def test_making_good_errs_less_than_forecasting_alone() -> None:
    sigmas = [1 - step / 28 for step in range(29)]
    expected, _ = walk(flowing, sigmas, None)
    cache, latents = StepCache(0.05, sigmas), START
    for step, sigma in enumerate(sigmas[:-1]):
        prediction = cache.forecast(step)
        if prediction is None:
            prediction = flowing(latents, sigma)
            cache.observe(step, prediction)  # and what makes good is dropped
        latents = latents + (sigmas[step + 1] - sigma) * prediction
    alone = float((latents - expected).abs().max())
    assert float((walk(flowing, sigmas, 0.05)[0] - expected).abs().max()) < alone / 2


def test_an_engine_may_use_its_memory_again() -> None:
    sigmas = [1 - step / 28 for step in range(29)]
    memory, predict = torch.zeros(6, dtype=torch.float64), polynomial(1, 3)
    reused: Predict = lambda latents, sigma: memory.copy_(predict(latents, sigma))  # noqa: E731
    torch.testing.assert_close(walk(reused, sigmas, 0.02), walk(predict, sigmas, 0.02), rtol=0, atol=0)


def test_a_prediction_that_is_not_finite_comes_back_so() -> None:
    cache = StepCache(inf, [1 - step / 9 for step in range(10)])
    for step in range(3):
        cache.observe(step, START * step**2)
    assert cache.forecast(3) is not None
    assert not torch.isfinite(cache.observe(4, START * torch.nan)).any()


def test_divided_differences_are_newton_s() -> None:
    cubed = [(x, torch.tensor(x**3)) for x in (1.0, 2.0, 4.0, 7.0)]
    expected = [1.0, 7.0, 7.0, 1.0]  # 1; (8 - 1) / 1; ((64 - 8) / 2 - 7) / 3; 1 of any cubic
    assert [float(divided_difference(cubed[:count])) for count in (1, 2, 3, 4)] == pytest.approx(expected)


def test_high_quality_has_no_cache_and_lower_ones_tolerate_more() -> None:
    assert [*QUALITIES] == ["high", "medium", "low"] and QUALITIES["high"] is None
    assert 0 < QUALITIES["medium"] < QUALITIES["low"]
