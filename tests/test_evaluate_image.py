"""Image to image: the pairs ask for another colour and nothing else; scores say what pictures show."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from random_checkpoint import build

from finetune import checker
from finetune.captions import full_caption
from finetune.evaluate_image import (
    PAIRS,
    SIZE,
    SLACK,
    STRENGTHS,
    drawn,
    image_to_image,
    is_monotone,
    labelled_grid,
    monotone,
    pairs,
    repaint,
    scores,
    similarity,
)
from finetune.scene import COLOURS, held_out_scenes

ALL, FEW = pairs(), pairs(20)
BASES, ASKED = drawn([pair.base for pair in FEW]), drawn([pair.asked for pair in FEW])


def test_the_strengths_are_tenths_up_to_one() -> None:
    assert STRENGTHS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def test_the_pairs_are_always_the_same_and_no_base_comes_twice() -> None:
    assert len(ALL) == PAIRS == len({pair.base for pair in ALL})
    assert ALL[:20] == FEW


def test_a_pair_differs_in_colour_and_nothing_else() -> None:
    held_out = held_out_scenes()
    for pair in ALL:
        assert pair.asked.colour != pair.base.colour
        assert replace(pair.asked, colour=pair.base.colour) == pair.base
        assert pair.base in held_out


def test_every_colour_is_asked_for_and_left() -> None:
    for colours in ([pair.asked.colour for pair in ALL], [pair.base.colour for pair in ALL]):
        assert set(colours) == set(COLOURS)
        assert max(Counter(colours).values()) <= PAIRS // 5


def test_a_prompt_is_the_base_s_caption_with_the_asked_colour() -> None:
    for pair in ALL:
        before = full_caption(pair.base, random.Random(f"prompt {pair.base.seed}")).split()
        after = pair.prompt.split()
        changed = [(a.strip(","), b.strip(",")) for a, b in zip(before, after, strict=True) if a != b]
        assert (pair.base.colour, pair.asked.colour) in changed
        assert set(changed) <= {(pair.base.colour, pair.asked.colour), ("a", "an"), ("an", "a")}


def test_only_the_product_s_colour_changes_in_the_pictures_of_a_pair() -> None:
    for base, asked in zip(BASES, ASKED, strict=True):
        assert not np.array_equal(base, asked)
        assert np.array_equal(base[:12], asked[:12])  # above every product


def test_the_base_itself_scores_as_untouched() -> None:
    row = scores(checker.load(), BASES, BASES, FEW)
    assert row["SSIM"] == pytest.approx(1.0)
    assert row["asked colour"] == 0
    assert row["base colour"] >= 0.9 and row["product"] >= 0.9


def test_the_asked_scene_scores_as_arrived() -> None:
    row = scores(checker.load(), ASKED, BASES, FEW)
    assert row["asked colour"] >= 0.9 and row["product"] >= 0.9
    assert row["base colour"] == 0
    assert 0.6 < row["SSIM"] < 0.999


def test_noise_and_another_scene_are_not_similar() -> None:
    noise = np.random.default_rng(0).integers(0, 256, BASES.shape, dtype=np.uint8)
    assert similarity(noise, BASES) < 0.05
    assert similarity(np.roll(BASES, 1, axis=0), BASES) < similarity(ASKED, BASES)


@pytest.mark.parametrize(
    ("values", "slack", "rises"),
    [
        ([], 0, True),
        ([0.1, 0.1, 0.5], 0, True),
        ([0.1, 0.5, 0.4], 0, False),
        ([0.1, 0.5, 0.4], 0.2, True),
        ([0.5, 0.4, 0.3, 0.2], 0.15, False),  # small falls that add up
        ([-0.9, -0.8, -0.7], 0, True),
    ],
)
def test_a_monotone_curve_rises_but_for_the_slack(values: list[float], slack: float, rises: bool) -> None:
    assert is_monotone(values, slack) is rises


def test_both_curves_are_judged_in_their_own_direction() -> None:
    good = [{"SSIM": 0.9, "asked colour": 0.0}, {"SSIM": 0.5, "asked colour": 0.9}]
    assert monotone(good) == {"SSIM falls": True, "asked colour rises": True}
    assert monotone(good[::-1]) == {"SSIM falls": False, "asked colour rises": False}
    one_turns_back = [{"SSIM": 0.9, "asked colour": 0.9}, {"SSIM": 0.9, "asked colour": 0.9 - 1 / PAIRS}]
    assert 1 / PAIRS < SLACK < 2 / PAIRS
    assert monotone(one_turns_back)["asked colour rises"]


def test_the_grid_shows_each_picture_below_its_column_s_name() -> None:
    sheet = np.asarray(labelled_grid({"base image": BASES, "strength 1": ASKED}, ["red mug", "blue mug"]))
    top, left = sheet.shape[0] - 2 * SIZE, sheet.shape[1] - 2 * SIZE
    assert np.array_equal(sheet[top : top + SIZE, left : left + SIZE], BASES[0])
    assert np.array_equal(sheet[top + SIZE :, left + SIZE :], ASKED[1])
    for label in (sheet[:top, left:-SIZE], sheet[:top, -SIZE:], sheet[top:-SIZE, :left]):
        assert label.min() == 0 and label.max() == 255  # written on


@pytest.mark.parametrize(
    ("family", "name"),
    [("flux", "FluxImg2ImgPipeline"), ("sdxl", "StableDiffusionXLImg2ImgPipeline")],
)
def test_stock_image_to_image_starts_from_the_base_and_repeats_itself(family: str, name: str) -> None:
    pipeline = image_to_image(build(family))
    assert type(pipeline).__name__ == name
    prompts = [pair.prompt for pair in FEW[:2]]
    first, again = (repaint(pipeline, BASES[:2], prompts, 0.5, 2, 3.0) for _ in range(2))
    other = repaint(pipeline, BASES[2:4], prompts, 0.5, 2, 3.0)
    assert first.shape == (2, SIZE, SIZE, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
