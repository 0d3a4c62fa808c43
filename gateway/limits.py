"""Picture sizes and text lengths that the served checkpoint takes, read from the ensemble's config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from gateway.base_image.fit import Sizing
from gateway.problems import ErrorItem
from gateway.replies import ReplyError


@dataclass(frozen=True)
class Limits:
    """Sizes in pixels, both ways; `max_sequence_length` in tokens of text_encoder_2.

    Adapters must have been trained on the denoiser of hash `denoiser_sha256`; their ranks add up to at most
    `max_rank`, 0 where the engine takes none.
    """

    checkpoint: str
    denoiser_sha256: str
    native_size: int
    min_size: int
    max_size: int
    size_multiple: int
    max_sequence_length: int
    max_rank: int

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Limits:
        """From the `parameters` of the ensemble's config; ReplyError names what is missing or no number."""
        missing = [field.name for field in fields(cls) if field.name not in parameters]
        if missing:
            raise ReplyError(f"the ensemble's config lacks parameter {', '.join(missing)}")
        checkpoint, sha256, *sizes = (parameters[field.name] for field in fields(cls))
        try:
            return cls(checkpoint, sha256, *map(int, sizes))
        except ValueError as error:
            raise ReplyError(f"a size in the ensemble's config is no number: {error}") from None

    def refusals(self, height: int | None, width: int | None) -> list[ErrorItem]:
        """One for each of these that is asked and cannot be drawn."""
        asked = {"height": height, "width": width}
        return [
            self._refusal(name, size)
            for name, size in asked.items()
            if size is not None and not self._takes(size)
        ]

    def _takes(self, size: int) -> bool:
        return self.min_size <= size <= self.max_size and size % self.size_multiple == 0

    def _refusal(self, name: str, size: int) -> ErrorItem:
        choices = f"multiples of {self.size_multiple} from {self.min_size} to {self.max_size} pixels"
        message = f"not a size of {self.checkpoint}; choices: {choices}"
        return ErrorItem(loc=["body", name], msg=message, type="size_out_of_range", input=size)

    def sizing(self, height: int | None, width: int | None) -> Sizing:
        """For fitting a base image."""
        return Sizing(self.size_multiple, self.min_size, self.max_size, self.native_size, height, width)
