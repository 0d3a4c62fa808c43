"""Picture sizes and text lengths that the served checkpoint takes, read from the ensemble's config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from families import FLUX
from gateway.problems import ErrorItem
from gateway.replies import ReplyError
from gateway.validation import invalid


@dataclass(frozen=True)
class Limits:
    """Sizes in pixels, both ways; `max_sequence_length` in tokens of text_encoder_2."""

    checkpoint: str
    native_size: int
    min_size: int
    max_size: int
    max_sequence_length: int

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Limits:
        """From the `parameters` of the ensemble's config; ReplyError names what is missing or no number."""
        missing = [field.name for field in fields(cls) if field.name not in parameters]
        if missing:
            raise ReplyError(f"the ensemble's config lacks parameter {', '.join(missing)}")
        checkpoint, *sizes = (parameters[field.name] for field in fields(cls))
        try:
            return cls(checkpoint, *map(int, sizes))
        except ValueError as error:
            raise ReplyError(f"a size in the ensemble's config is no number: {error}") from None

    def height_and_width(self, height: int | None, width: int | None) -> tuple[int, int]:
        """What to draw, native size where None is asked; a Problem lists the sizes outside the limits."""
        asked = {"height": height or self.native_size, "width": width or self.native_size}
        wrong = [
            self._refusal(name, size)
            for name, size in asked.items()
            if not self.min_size <= size <= self.max_size
        ]
        if wrong:
            raise invalid(wrong)
        return asked["height"], asked["width"]

    def _refusal(self, name: str, size: int) -> ErrorItem:
        choices = f"multiples of {FLUX.size_multiple} from {self.min_size} to {self.max_size} pixels"
        message = f"out of range; choices: {choices}"
        return ErrorItem(loc=["body", name], msg=message, type="size_out_of_range", input=size)
