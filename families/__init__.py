"""Facts of the model families that we serve: components, tensors, sizes, defaults. Standard library only."""

from families.flux import FLUX
from families.sdxl import SDXL
from families.spec import (
    Axes,
    ComponentSpec,
    EnsembleSpec,
    FamilySpec,
    InvalidRequest,
    Range,
    TensorSpec,
    Width,
    check_strength,
)

FAMILIES: dict[str, FamilySpec] = {family.name: family for family in (FLUX, SDXL)}

__all__ = [
    "FAMILIES",
    "FLUX",
    "SDXL",
    "Axes",
    "ComponentSpec",
    "EnsembleSpec",
    "FamilySpec",
    "InvalidRequest",
    "Range",
    "TensorSpec",
    "Width",
    "check_strength",
    "family_named",
]


def family_named(name: str) -> FamilySpec:
    """The family called `name`; ValueError lists the choices."""
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; choices: {', '.join(FAMILIES)}")
    return FAMILIES[name]
