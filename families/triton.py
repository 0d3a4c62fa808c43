"""The text of Triton's config.pbtxt, derived from component specs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from families.lora import PACKS
from families.spec import ComponentSpec, EnsembleSpec, FamilySpec, Step, TensorSpec

MODEL_REPOSITORY = Path(__file__).resolve().parents[1] / "model_repository"
CONFIG = "config.pbtxt"


def component_config(family: FamilySpec, component: ComponentSpec) -> str:
    """config.pbtxt of the model that serves `component`; its engine file decides `backend`."""
    lines = [
        f"# Written by `python -m families` from families/{family.name}.py: change it there.",
        f'name: "{family.model_name(component)}"',
        f"max_batch_size: {family.max_rows(component)}",
        *(tensor_line("input", t, t.dims, optional=t.name in PACKS) for t in component.inputs),
        *(tensor_line("output", tensor, tensor.dims) for tensor in component.outputs),
        "instance_group [ { count: 1 } ]",
    ]
    if component.response_cache:
        lines.append("response_cache { enable: true }")
    return "\n".join(lines) + "\n"


def ensemble_config(family: FamilySpec, ensemble: EnsembleSpec) -> str:
    """config.pbtxt of `ensemble`. The parameter `tensor.NAME` tells clients what the tensor is."""
    tensors = (*ensemble.inputs, *ensemble.outputs)
    lines = [
        f"# Written by `python -m families` from families/{family.name}.py: change it there.",
        f'name: "{family.ensemble_name(ensemble)}"',
        'platform: "ensemble"',
        f"max_batch_size: {family.max_batch_size}",
        *(tensor_line("input", tensor, tensor.dims) for tensor in ensemble.inputs),
        *(tensor_line("output", tensor, tensor.dims) for tensor in ensemble.outputs),
        parameters({f"tensor.{tensor.name}": tensor.meaning for tensor in tensors}) + "ensemble_scheduling {",
        *(_step(family, step) for step in ensemble.steps),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _step(family: FamilySpec, step: Step) -> str:
    lines = [f'    model_name: "{family.name}_{step.model}"', "    model_version: -1"]
    lines += [f"    {_map('input_map', entry)}" for entry in step.inputs]
    lines += [f"    {_map('output_map', entry)}" for entry in step.outputs]
    return "\n".join(["  step {", *lines, "  }"])


def _map(kind: str, entry: str | tuple[str, str]) -> str:
    own, outer = (entry, entry) if isinstance(entry, str) else entry
    return f'{kind} {{ key: "{own}" value: "{outer}" }}'


def tensor_line(direction: str, tensor: TensorSpec, dims: Iterable[int], optional: bool = False) -> str:
    """Declares `tensor` as "input" or "output", with `dims` that leave out the batch."""
    fields = f'name: "{tensor.name}" data_type: TYPE_{tensor.dtype} dims: {numbers(dims)}'
    return f"{direction} [ {{ {fields}{' optional: true' if optional else ''} }} ]"


def numbers(values: Iterable[int]) -> str:
    """A repeated field's values."""
    return f"[ {', '.join(map(str, values))} ]"


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
        for ensemble in family.ensembles:
            yield f"{family.ensemble_name(ensemble)}/{CONFIG}", ensemble_config(family, ensemble)
