"""The benchmark of encoders at its smallest: rows are whole, pictures are at hand, PNGs are checked."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import encoding
from benchmarks.adapters.turns import line
from gateway.encoding import OUTPUT_FORMATS

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 41, 3), dtype=np.uint8)


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_every_encoder_has_a_row_that_a_machine_can_read(output_format: str) -> None:
    rows = [json.loads(line(row)) for row in encoding.measured(output_format, "noise", PIXELS, rounds=1)]
    assert [row["encoder"] for row in rows] == [*encoding.encoders(output_format)]
    assert (rows[0]["encoder"], rows[0]["cpu ratio"], rows[0]["bytes ratio"]) == ("the gateway", 1, 1)
    for row in rows:
        assert row["bytes"] > 100 and row["cpu ms"] > 0 and len(row["cpu ms quartiles"]) == 2
        assert row["PSNR dB"] == "lossless" or output_format != "png" and row["PSNR dB"] > 5


def test_a_library_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError

    monkeypatch.setattr(encoding, "OTHERS", {"png": [missing, encoding.png_by_pillow]})
    assert [*encoding.encoders("png")] == ["the gateway", "Pillow 1", "Python's zlib 1, Up"]


def test_an_encoder_that_changes_pixels_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"wrong": lambda pixels: OUTPUT_FORMATS["png"](pixels ^ 1)}
    monkeypatch.setattr(encoding, "OTHERS", {"png": [wrong.items]})
    with pytest.raises(ValueError, match="wrong changes the pixels of noise"):
        list(encoding.measured("png", "noise", PIXELS, rounds=1))


def test_the_pictures_are_at_hand_and_differ() -> None:
    found = dict(encoding.pictures(256))
    assert len({pixels.tobytes() for pixels in found.values()}) == len(encoding.PHOTOGRAPHS) + 3
    assert {pixels.shape for pixels in found.values()} == {(256, 256, 3)}
    assert all(path.is_file() for path in encoding.DRAWN)
