"""Which size a base image gets, and which part of it is kept.

The picture is scaled until it covers that size, and what stands out is cut off at both ends alike. Stretching
would change the product's shape, and bars at the sides would be drawn on as if they were part of the picture.
The size is the supported one nearest to the picture's aspect. For aspects up to 4:1 the cut is at most 4 % of
the area with SDXL's steps of 32 around 1024 pixels (2 % with Flux's 16), but up to 24 % around the 128 pixels
of the tiny checkpoint; and it may be any share when the request names a side.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizing:
    """What the served checkpoint draws, and what the request asks for; all in pixels.

    Supported sides are the multiples of `multiple` from `min_size` to `max_size`; `native_size` is the side
    of the squares that the checkpoint was trained on. `height` and `width`, if not None, are taken as they
    are. ValueError if no side is supported.
    """

    multiple: int
    min_size: int
    max_size: int
    native_size: int
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        if not self.sides:
            raise ValueError(f"no multiple of {self.multiple} from {self.min_size} to {self.max_size}")

    @property
    def sides(self) -> range:
        """Every supported side, ascending."""
        smallest = -(-self.min_size // self.multiple) * self.multiple
        return range(smallest, self.max_size + 1, self.multiple)

    def nearest(self, side: float) -> int:
        """The supported side nearest to `side`."""
        rounded = round(side / self.multiple) * self.multiple
        return max(self.sides[0], min(rounded, self.sides[-1]))

    def allows(self, height: int, width: int) -> bool:
        """Each side is the requested one, or a supported one where none is requested."""
        pairs = ((height, self.height), (width, self.width))
        return all(side in self.sides if asked is None else side == asked for side, asked in pairs)

    def buckets(self) -> set[tuple[int, int]]:
        """(height, width) of about `native_size` squared: for each side, the other that comes nearest to it.

        The aspect-ratio buckets of SDXL (Podell et al. 2023, appendix I), for any native size.
        """
        area = self.native_size**2
        wide = {(self.nearest(area / width), width) for width in self.sides}
        return wide | {(height, self.nearest(area / height)) for height in self.sides}


def fitted_size(image_height: int, image_width: int, sizing: Sizing) -> tuple[int, int]:
    """(height, width) of the fitted picture, for an upright picture of these pixels.

    Both sides as requested; the other one by the picture's aspect if the request names one; else the bucket
    nearest to the picture's aspect, and among equals the one nearest to the native area.
    """
    height, width = sizing.height, sizing.width
    if height is not None:
        return height, sizing.nearest(height * image_width / image_height) if width is None else width
    if width is not None:
        return sizing.nearest(width * image_height / image_width), width

    def distance(bucket: tuple[int, int]) -> tuple[float, int, int]:
        height, width = bucket
        one, other = width * image_height, height * image_width
        return max(one / other, other / one), abs(height * width - sizing.native_size**2), height

    return min(sizing.buckets(), key=distance)


def cover_scale(image_height: int, image_width: int, height: int, width: int) -> float:
    """The factor at which the picture just covers `height` x `width`."""
    return max(height / image_height, width / image_width)


def cover_box(
    image_height: int, image_width: int, height: int, width: int
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom), in picture pixels, of the centred part with the aspect of the size."""
    scale = cover_scale(image_height, image_width, height, width)
    # The quotient of quotients may exceed the picture by a rounding error.
    box_height, box_width = min(height / scale, image_height), min(width / scale, image_width)
    left, top = (image_width - box_width) / 2, (image_height - box_height) / 2
    return left, top, left + box_width, top + box_height
