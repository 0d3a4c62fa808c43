"""Pictures made to hurt are refused, odd ones are not, and neither costs more than the limits."""

from __future__ import annotations

import asyncio
import json
import random

import numpy as np
import pytest
from decoder_child import PATIENT, SUPPORTED, answered, decoded
from hostile_images import accepted, jpeg_of_comments, jpeg_of_size, photo, refused, saved

from gateway.base_image.decode import Decoder
from gateway.base_image.errors import BaseImageError, BaseImageRefused
from gateway.base_image.fit import Sizing

REFUSED, ACCEPTED = refused(), accepted()
# What the kernel may let pass before it ends a child that has used up its two seconds.
CPU_SECONDS = 2.1
FUZZED = [saved(photo(), kind) for kind in ("PNG", "JPEG", "WEBP")]


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_pictures_are_refused(name: str) -> None:
    content, message = REFUSED[name]
    answer = answered(content)
    ready, header = answer.output.splitlines()
    assert ready == b"ready" and json.loads(header).keys() == {"refused"}
    assert message in json.loads(header)["refused"] and len(header) < 200
    assert answer.memory < 300 and answer.seconds < 2


@pytest.mark.parametrize("name", ACCEPTED)
def test_odd_but_good_pictures_are_accepted(name: str) -> None:
    answer = answered(ACCEPTED[name])
    ready, header, pixels = answer.output.split(b"\n", 2)
    height, width = json.loads(header)["height"], json.loads(header)["width"]
    assert SUPPORTED.allows(height, width) and len(pixels) == height * width * 3
    assert answer.memory < 300 and answer.seconds < 2


def test_too_much_time_is_refused() -> None:
    content = jpeg_of_comments(2_600_000)
    with pytest.raises(BaseImageRefused, match="cannot be decoded within 2 CPU seconds and 300 MB"):
        decoded(content)
    assert answered(content).seconds < CPU_SECONDS


def test_too_much_memory_is_refused() -> None:
    content = jpeg_of_size(5000, 5000, "CMYK", progressive=True, subsampling=0)
    large = Sizing(multiple=16, min_size=64, max_size=4096, native_size=4096)
    with pytest.raises(BaseImageRefused):
        decoded(content, large)
    assert answered(content, large).memory < 300


@pytest.mark.parametrize("size", [0, 10 * 2**20 + 1])
def test_nothing_and_too_much_are_refused(size: int) -> None:
    with pytest.raises(BaseImageRefused, match=f"has {size} bytes; choices: 1 to 10485760"):
        decoded((saved(photo(), "PNG") + bytes(size))[:size])


def damaged(seed: int) -> bytes:
    """Up to eight bytes changed, or the end cut off."""
    chance = random.Random(seed)
    content = bytearray(chance.choice(FUZZED))
    if chance.random() < 0.2:
        return bytes(content[: chance.randrange(len(content))])
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


async def fuzz(seeds: range) -> dict[int, object]:
    decoder = Decoder(PATIENT)
    answers = [decoder.decode(damaged(seed), SUPPORTED) for seed in seeds]
    return dict(zip(seeds, await asyncio.gather(*answers, return_exceptions=True), strict=True))


@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 3100), marks=pytest.mark.slow)], ids=["100", "3000"]
)
def test_damaged_pictures_are_decoded_or_refused(seeds: range) -> None:
    answers = asyncio.run(fuzz(seeds))
    right = np.ndarray | BaseImageError
    assert not {seed: answer for seed, answer in answers.items() if not isinstance(answer, right)}
    assert {type(answer) for answer in answers.values()} == {np.ndarray, BaseImageRefused}
