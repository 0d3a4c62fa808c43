"""perf_analyzer's input files of a run: real inputs of Triton's Python models, random ones of engines."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from benchmarks.inputs import PROMPTS, SIZE, encoded
from benchmarks.run import checkpoint, layout_of
from benchmarks.triton_inputs import input_of
from export import parity
from families import ComponentSpec
from families.spec import NUMPY_DTYPES
from gateway.samples import ORDERS, Order

RANK = 4  # of the pack of no adapters
Arrays = Mapping[str, NDArray[Any]]
Entry = Mapping[str, Any]


def inputs_of(client: InferenceServerClient, name: str, count: int, steps: int) -> dict[str, Iterable[Entry]]:
    """Model -> entries for `count` requests, for every ensemble and every other model of the family."""
    family = checkpoint(name).family
    orders = [order for order in ORDERS if order.family is family]
    found: dict[str, Iterable[Entry]] = {
        order.ensemble: [ensemble_entry(order, number, steps) for number in range(count)] for order in orders
    }
    for component in family.components:
        found[family.model_name(component)] = engine_entries(name, component, count)
    for order in orders:
        for model, arrays in walked(client, order, steps):
            found.setdefault(model, repeat(entry_of(arrays)))
    return found


def ensemble_entry(order: Order, number: int, steps: int) -> Entry:
    """With a prompt of its own."""
    tensors = order.spec.inputs
    entry = {tensor.name: encoded(order.family, tensor, number % len(PROMPTS)) for tensor in tensors}
    entry["prompt"]["content"] = [f"{entry['prompt']['content'][0]}, take {number}"]
    entry["num_inference_steps"]["content"] = [steps]
    return entry


def engine_entries(name: str, component: ComponentSpec, count: int) -> Iterable[Entry]:
    """Random inputs for calls of one row; text encoders get many, since Triton caches their answers."""
    found = checkpoint(name)
    layout = layout_of(found)
    spec, axes = layout.spec(component), layout.axes(1, SIZE, SIZE, found.max_sequence_length, RANK)

    def entry(seed: int) -> Entry:
        return entry_of(_numpy(parity.random_inputs(spec, axes, found.configs, seed)))

    return map(entry, range(count)) if component.response_cache else repeat(entry(0))


def _numpy(tensors: Mapping[str, Any]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def entry_of(arrays: Arrays) -> Entry:
    """perf_analyzer's form of tensors [1, ...]: bytes as base64, or texts; shapes without the batch axis."""
    return {
        name: {"content": _content(array), "shape": list(array.shape[1:])} for name, array in arrays.items()
    }


def _content(array: NDArray[Any]) -> Any:
    if array.dtype == object:
        return [text.decode() for text in array.reshape(-1)]
    return {"b64": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}


def walked(client: InferenceServerClient, order: Order, steps: int) -> Iterator[tuple[str, Arrays]]:
    """Each model of an ensemble with the inputs that it gets in one real request, step after step."""
    entry = ensemble_entry(order, 0, steps)
    tensors = {t.name: _array(t.dtype, entry[t.name]) for t in order.spec.inputs}
    for step in client.get_model_config(order.ensemble).config.ensemble_scheduling.step:
        given = {inner: tensors[outer] for inner, outer in step.input_map.items()}
        yield step.model_name, given
        answer = client.infer(step.model_name, [input_of(*pair) for pair in given.items()])
        tensors.update({outer: answer.as_numpy(inner) for inner, outer in step.output_map.items()})


def _array(dtype: str, value: Mapping[str, Any]) -> NDArray[Any]:
    """Of perf_analyzer's form, with a batch axis of 1."""
    content = value["content"]
    if isinstance(content, dict):
        return np.frombuffer(base64.b64decode(content["b64"]), np.uint8).reshape(1, *value["shape"])
    if dtype == "STRING":
        return np.array([[content[0].encode()]], dtype=object)
    return np.array([content], dtype=NUMPY_DTYPES[dtype])
