"""Samples stepped by one engine: who shares a call, who joins, what a bad answer does."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, nan

import pytest
import torch
from lines import Engine, Line, alone
from stepping import join_later, shared_calls
from torch import Tensor

from diffusion.adapters.packs import Pack
from diffusion.errors import BadPrediction, EngineError
from diffusion.step_batcher import denoise
from families.lora import LORA_A, LORA_B


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize("rows", [1, 2])
def test_a_sample_makes_its_steps_and_ends(engine: Engine, rows: int) -> None:
    sample, untouched = Line(steps=3, rows=rows), Line(steps=3, rows=rows)
    assert sample.running
    denoise([sample], engine, max_rows=8)
    assert not sample.running
    assert [float(call["timestep"][0]) for call in engine.calls] == untouched.timesteps.tolist()
    scheduler, latents = untouched.scheduler, untouched.latents
    for timestep in scheduler.timesteps:
        prediction = latents * untouched.text + timestep / 1000
        mean = prediction.mean(dim=0, keepdim=True)
        latents = scheduler.step(mean, timestep, latents, return_dict=False)[0]
    assert torch.equal(sample.result(), latents)


def test_samples_of_one_call_do_not_touch_each_other(engine: Engine) -> None:
    wanted = [(1, 4, 1), (2, 7, 2), (3, 2, 1)]
    together = [Line(*want) for want in wanted]
    denoise(together, engine, max_rows=8)
    assert engine.batches == [4, 4, 3, 3, 2, 2, 2]
    for want, sample in zip(wanted, together, strict=True):
        assert torch.equal(sample.result(), alone(*want))


def test_a_sample_may_join_others_that_are_half_done(engine: Engine) -> None:
    early, late = Line(1, steps=6, rows=2), Line(2)
    join_later(early, late, engine, max_rows=8, steps=3)
    assert engine.batches == [2, 2, 2, 3, 3, 3, 1]
    assert torch.equal(early.result(), alone(1, 6, 2)) and torch.equal(late.result(), alone(2))


def test_packs_are_sent_only_beside_a_row_that_has_one(engine: Engine) -> None:
    lora_a, lora_b = torch.ones(1, 4, 3), torch.ones(1, 5, 4)
    plain, adapted = Line(1, steps=4, rows=2), Line(2, steps=2)
    adapted.adapters = Pack(lora_a, lora_b, applied=())
    denoise([plain, adapted], engine, max_rows=8)
    assert [LORA_A in call for call in engine.calls] == [True, True, False, False]
    assert torch.equal(engine.calls[0][LORA_A], torch.cat([0 * lora_a, 0 * lora_a, lora_a]))
    assert torch.equal(engine.calls[0][LORA_B], torch.cat([0 * lora_b, 0 * lora_b, lora_b]))


def test_only_samples_of_one_key_share_a_call(engine: Engine) -> None:
    wide, plain = [Line(width=5) for _ in range(2)], [Line() for _ in range(2)]
    assert shared_calls([plain[0], wide[0], plain[1], wide[1]], engine, max_rows=8) == [plain, wide]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([1, 1, 1, 1, 1], [4, 4, 2]),
        ([2, 2, 2], [4, 4, 4]),
        ([1, 2, 2, 1], [4, 4, 4]),
        ([2, 1, 1, 1, 2], [4, 4, 4, 2]),
        ([], []),
    ],
)
def test_calls_are_full_but_never_too_large(rows: list[int], wanted: list[int], engine: Engine) -> None:
    samples = [Line(place, steps=2, rows=count) for place, count in enumerate(rows)]
    denoise(samples, engine, max_rows=4)
    assert engine.batches == wanted
    for place, sample in enumerate(samples):
        assert torch.equal(sample.result(), alone(place, 2, sample.rows))


def test_a_group_s_constants_are_joined_once_while_its_members_stay(engine: Engine) -> None:
    denoise([Line(), Line(steps=6)], engine, max_rows=8)
    texts = [call["text"].data_ptr() for call in engine.calls]
    assert len(set(texts[:4])) == 1 and len(set(texts[4:])) == 1
    assert texts[0] != texts[4]


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_a_prediction_that_is_not_finite_ends_its_own_sample_only(value: float, engine: Engine) -> None:
    spoilt, sound = Line(1, rows=2), Line(2)

    def spoiling(inputs: Mapping[str, Tensor]) -> Tensor:
        prediction = engine(inputs)
        if len(engine.calls) == 2:
            prediction[1, 0] = value  # one number of one row of the first
        return prediction

    denoise([spoilt, sound], spoiling, max_rows=8)
    with pytest.raises(BadPrediction, match="not finite at step 2"):
        spoilt.result()
    assert engine.batches == [3, 3, 1, 1]
    assert torch.equal(sound.result(), alone(2))


def test_an_answer_of_another_shape_is_an_engine_s_error() -> None:
    with pytest.raises(EngineError, match=r"\(2, 2\), expected \(2, 3\)"):
        denoise([Line(rows=2)], lambda inputs: inputs["latents"][:, 1:], max_rows=8)
