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
# "family.component" -> both.
COMPONENTS: dict[str, tuple[FamilySpec, ComponentSpec]] = {
    family.key(component): (family, component)
    for family in FAMILIES.values()
    for component in family.components
}

__all__ = [
    "COMPONENTS",
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
