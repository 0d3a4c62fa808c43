"""The loop steps samples side by side: who shares a call, who joins and leaves, what a bad answer does."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import inf, nan

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from diffusion.denoise import Denoiser, Inputs, Sample, denoise, group
from diffusion.errors import BadPrediction, Cancelled, EngineError


class Line(Sample):
    """Latents [1, width]; a call has `rows` rows of it, each with a text of its own; their mean counts."""

    def __init__(self, seed: int = 0, steps: int = 4, rows: int = 1, width: int = 3) -> None:
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(steps)
        generator = torch.Generator().manual_seed(seed)
        super().__init__(scheduler, scheduler.timesteps, torch.randn(1, width, generator=generator), rows)
        self.text = torch.randn(rows, 1, generator=generator)

    @property
    def group_key(self) -> Hashable:
        return self.latents.shape[1]

    def constants(self) -> Inputs:
        return {"text": self.text}

    def inputs(self) -> Inputs:
        return {
            "latents": self.latents.expand(self.rows, -1),
            "timestep": self.timestep.expand(self.rows, 1),
        }

    def guided(self, prediction: Tensor) -> Tensor:
        return prediction.mean(dim=0, keepdim=True)


class Engine:
    """Answers each row by itself, to the last bit, whatever rows are beside it; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Tensor]] = []

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.calls.append(dict(inputs))
        return inputs["latents"] * inputs["text"] + inputs["timestep"] / 1000

    @property
    def batches(self) -> list[int]:
        return [len(call["latents"]) for call in self.calls]


@pytest.fixture
def engine() -> Engine:
    return Engine()


def alone(seed: int, steps: int = 4, rows: int = 1) -> Tensor:
    sample = Line(seed, steps, rows)
    denoise([sample], Engine(), max_rows=8)
    return sample.result()


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
    denoiser, early, late = Denoiser(engine, max_rows=8), Line(1, steps=6, rows=2), Line(2)
    for _ in range(3):
        denoiser.tick([early])
    denoise([early, late], engine, max_rows=8)
    assert engine.batches == [2, 2, 2, 3, 3, 3, 1]
    assert torch.equal(early.result(), alone(1, 6, 2)) and torch.equal(late.result(), alone(2))


def test_only_samples_of_one_key_share_a_call() -> None:
    wide, plain = [Line(width=5) for _ in range(2)], [Line() for _ in range(2)]
    assert group([plain[0], wide[0], plain[1], wide[1]], max_rows=8) == [tuple(plain), tuple(wide)]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([1, 1, 1, 1, 1], [[1, 1, 1, 1], [1]]),
        ([2, 2, 2], [[2, 2], [2]]),
        ([1, 2, 2, 1], [[1, 2], [2, 1]]),
        ([2, 1, 1, 1, 2], [[2, 1, 1], [1, 2]]),
        ([], []),
    ],
)
def test_no_call_has_too_many_rows(rows: list[int], wanted: list[list[int]], engine: Engine) -> None:
    samples = [Line(place, steps=2, rows=count) for place, count in enumerate(rows)]
    groups = group(samples, max_rows=4)
    assert [[sample.rows for sample in members] for members in groups] == wanted
    assert [sample for members in groups for sample in members] == samples
    denoise(samples, engine, max_rows=4)
    assert engine.batches == 2 * [sum(members) for members in wanted]
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


def test_nobody_waiting_ends_the_loop(engine: Engine) -> None:
    with pytest.raises(Cancelled):
        denoise([Line()], engine, 8, cancelled=lambda: len(engine.calls) == 2)
    assert len(engine.calls) == 2
