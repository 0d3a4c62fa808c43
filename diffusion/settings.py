"""What a request asks of one picture, and whether it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from families import FamilySpec, InvalidRequest, Range, check_strength


@dataclass(frozen=True)
class Settings:
    """Height and width are in pixels. `strength` is None without a base image."""

    seed: int
    num_inference_steps: int
    guidance_scale: float
    height: int
    width: int
    scheduler: str
    strength: float | None = None
    quality: str = "high"

    def check(self, family: FamilySpec, sizes: Range) -> None:
        """InvalidRequest unless `family` may draw this in a deployment that takes `sizes` in pixels."""
        if self.seed < 0:
            raise InvalidRequest(f"seed {self.seed} is negative; choices: 0..{2**63 - 1}")
        family.num_inference_steps.check("num_inference_steps", self.num_inference_steps)
        family.guidance_scale.check("guidance_scale", self.guidance_scale)
        family.check_size("height", self.height, sizes)
        family.check_size("width", self.width, sizes)
        family.check_scheduler(self.scheduler)
        family.check_quality(self.quality)
        if self.strength is not None:
            check_strength(self.strength, self.num_inference_steps)


def check_rows(family: FamilySpec, rows: Sequence[Settings], sizes: Range) -> None:
    """InvalidRequest unless every row of one request may be drawn, and all have one size."""
    for row in rows:
        row.check(family, sizes)
    for name in ("height", "width"):
        if len(found := {getattr(row, name) for row in rows}) > 1:
            raise InvalidRequest(
                f"{name} differs between a request's rows ({sorted(found)}); send them apart"
            )
