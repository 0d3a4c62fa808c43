"""The size a base image gets, and which part of it is kept."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.base_image.fit import Sizing, cover_box, fitted_size

TINY = Sizing(multiple=16, min_size=64, max_size=256, native_size=128)
LARGE = Sizing(multiple=8, min_size=256, max_size=2048, native_size=1024)
SIDES = st.integers(16, 8192)


@st.composite
def sizings(draw: st.DrawFn) -> Sizing:
    multiple = draw(st.sampled_from([8, 16, 32, 64]))
    sizes = (multiple * draw(st.integers(1, 40)) + draw(st.integers(0, 3)) for _ in range(3))
    smallest, native, largest = sorted(sizes)
    return Sizing(multiple, smallest - smallest % multiple, largest, native)


@pytest.mark.parametrize(
    ("image", "sizing", "fitted"),
    [
        ((128, 128), TINY, (128, 128)),
        ((3000, 3000), TINY, (128, 128)),
        ((600, 800), TINY, (112, 144)),
        ((800, 600), TINY, (144, 112)),
        ((100, 800), TINY, (64, 256)),
        ((800, 100), TINY, (256, 64)),
        ((64, 64), TINY, (128, 128)),
        ((3000, 4000), LARGE, (888, 1184)),
        ((1080, 1920), LARGE, (768, 1368)),
        ((1000, 2000), Sizing(16, 64, 256, 128, height=96), (96, 192)),
        ((1000, 2000), Sizing(16, 64, 256, 128, width=96), (64, 96)),
        ((1000, 2000), Sizing(16, 64, 256, 128, height=256), (256, 256)),
        ((1000, 2000), Sizing(16, 64, 256, 128, height=256, width=64), (256, 64)),
    ],
)
def test_known_sizes(image: tuple[int, int], sizing: Sizing, fitted: tuple[int, int]) -> None:
    assert fitted_size(*image, sizing) == fitted


@settings(deadline=None)
@given(SIDES, SIDES, sizings())
def test_a_fitted_size_is_supported_and_stays(height: int, width: int, sizing: Sizing) -> None:
    fitted = fitted_size(height, width, sizing)
    for side in fitted:
        assert side % sizing.multiple == 0 and sizing.min_size <= side <= sizing.max_size
    assert sizing.allows(*fitted)
    assert fitted_size(*fitted, sizing) == fitted


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(4, 16).map(lambda number: number * 16), sizings())
def test_one_requested_side_is_kept(height: int, width: int, asked: int, sizing: Sizing) -> None:
    bounds = sizing.multiple, sizing.min_size, sizing.max_size, sizing.native_size
    by_height, by_width = Sizing(*bounds, height=asked), Sizing(*bounds, width=asked)
    fitted = fitted_size(height, width, by_height)
    assert fitted[0] == asked and by_height.allows(*fitted)
    fitted = fitted_size(height, width, by_width)
    assert fitted[1] == asked and by_width.allows(*fitted)


@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from([TINY, LARGE]))
def test_the_aspect_is_nearly_kept(height: int, width: int, sizing: Sizing) -> None:
    """To half the way to the next bucket, whose two sides are one step away each.

    Unless the picture is longer than any bucket.
    """
    fitted_height, fitted_width = fitted_size(height, width, sizing)
    longest = sizing.max_size / sizing.min_size
    wanted = min(max(width / height, 1 / longest), longest)
    error = abs(math.log(fitted_width / fitted_height / wanted))
    shorter = min(fitted_height, fitted_width) - sizing.multiple
    assert error <= math.log(1 + sizing.multiple / shorter) + 1e-9


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_the_box_is_inside_centred_and_of_the_size_s_aspect(
    image_height: int, image_width: int, height: int, width: int
) -> None:
    left, top, right, bottom = cover_box(image_height, image_width, height, width)
    assert 0 <= left < right <= image_width and 0 <= top < bottom <= image_height
    assert math.isclose(left + right, image_width) and math.isclose(top + bottom, image_height)
    assert math.isclose((right - left) * height, (bottom - top) * width, rel_tol=1e-9)
    whole = max((right - left) / image_width, (bottom - top) / image_height)
    assert math.isclose(whole, 1, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("height", "width", "asked", "allowed"),
    [
        (128, 128, {}, True),
        (120, 128, {}, False),
        (48, 128, {}, False),
        (128, 272, {}, False),
        (128, 64, {"height": 128}, True),
        (64, 128, {"height": 128}, False),
        (8, 8, {"height": 8, "width": 8}, True),
    ],
)
def test_which_sizes_are_allowed(height: int, width: int, asked: dict[str, int], allowed: bool) -> None:
    assert Sizing(16, 64, 256, 128, **asked).allows(height, width) is allowed


def test_a_sizing_without_any_size_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of 64 from 65 to 127"):
        Sizing(multiple=64, min_size=65, max_size=127, native_size=96)
