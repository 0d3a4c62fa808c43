"""The text of Triton's config.pbtxt, derived from component specs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from families.spec import ComponentSpec, FamilySpec, TensorSpec

MODEL_REPOSITORY = Path(__file__).resolve().parents[1] / "model_repository"
CONFIG = "config.pbtxt"


def component_config(family: FamilySpec, component: ComponentSpec) -> str:
    """config.pbtxt of the model that serves `component`; its engine file decides `backend`."""
    lines = [
        f"# Written by `python -m families` from families/{family.name}.py: change it there.",
        f'name: "{family.model_name(component)}"',
        f"max_batch_size: {family.max_batch_size}",
        *(_tensor("input", tensor) for tensor in component.inputs),
        *(_tensor("output", tensor) for tensor in component.outputs),
        "instance_group [ { count: 1 } ]",
    ]
    if component.response_cache:
        lines.append("response_cache { enable: true }")
    return "\n".join(lines) + "\n"


def _tensor(direction: str, tensor: TensorSpec) -> str:
    dims = ", ".join(str(size) for size in tensor.dims)
    return f'{direction} [ {{ name: "{tensor.name}" data_type: TYPE_{tensor.dtype} dims: [ {dims} ] }} ]'


def parameters(values: Mapping[str, object]) -> str:
    """Lines of config.pbtxt that carry `values` as string parameters."""
    return "".join(
        f'parameters {{ key: "{key}" value {{ string_value: {_quoted(value)} }} }}\n'
        for key, value in values.items()
    )


def _quoted(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def generated_configs(families: Mapping[str, FamilySpec]) -> Iterator[tuple[str, str]]:
    """(path below the model repository, text) of every config that specs decide."""
    for family in families.values():
        for component in family.components:
            yield f"{family.model_name(component)}/{CONFIG}", component_config(family, component)
