"""Facts of the model families that we serve: components, tensors, sizes, defaults. Standard library only."""

from families.flux import FLUX
from families.spec import Axes, ComponentSpec, FamilySpec, InvalidRequest, Range, TensorSpec, Width

FAMILIES: dict[str, FamilySpec] = {family.name: family for family in (FLUX,)}

__all__ = [
    "FAMILIES",
    "FLUX",
    "Axes",
    "ComponentSpec",
    "FamilySpec",
    "InvalidRequest",
    "Range",
    "TensorSpec",
    "Width",
    "family_named",
]


def family_named(name: str) -> FamilySpec:
    """The family called `name`; ValueError lists the choices."""
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; choices: {', '.join(FAMILIES)}")
    return FAMILIES[name]
