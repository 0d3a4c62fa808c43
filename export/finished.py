"""What a finished engine is, by its builder's listing or its own word, and whether that was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from export.builder_log import Tensor, listed_tensors, total_bytes
from export.errors import ExportError
from families import ComponentSpec

# Triton's names of types -> TensorRT's.
TYPES = {"FP32": "FLOAT", "FP16": "HALF", "BF16": "BF16", "INT64": "INT64", "UINT8": "UINT8"}

Shapes = Mapping[str, list[list[int]]]  # input -> its [min, opt, max] shapes


@dataclass(frozen=True)
class Engine:
    """A finished plan. `layers` are JSON or a builder's words, as an EngineInspector lists them."""

    builder: str
    version: str
    seconds: float
    plan_bytes: int
    weights_bytes: int
    device_memory_bytes: int  # of one execution context at the profile's largest shapes, weights aside
    tensors: dict[str, Tensor]
    layers: tuple[Any, ...]

    def description(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "tensors": {name: each._asdict() for name, each in self.tensors.items()}}


def described(trt: ModuleType, log: Any, seconds: float, path: Path) -> Engine:
    """The plan at `path`. RTX cannot load it without a GPU, so there its builder's listing has to tell."""
    tell = listed if trt.__name__ == "tensorrt_rtx" else inspected
    tensors, layers, device_memory = tell(trt, log, path)
    return Engine(
        builder=trt.__name__,
        version=trt.__version__,
        seconds=seconds,
        plan_bytes=path.stat().st_size,
        weights_bytes=total_bytes(log.lines, "Weights"),
        device_memory_bytes=device_memory,
        tensors=tensors,
        layers=layers,
    )


Told = tuple[dict[str, Tensor], tuple[Any, ...], int]


def listed(trt: ModuleType, log: Any, path: Path) -> Told:
    """From the builder's log."""
    layers = tuple(line for line in log.lines if line.startswith("Name: "))
    return listed_tensors(log.lines), layers, total_bytes(log.lines, "Activation")


def inspected(trt: ModuleType, log: Any, path: Path) -> Told:
    """From the engine itself, on its GPU."""
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise ExportError(f"the plan does not load again: {' | '.join(log.failures)}")
    names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
    inspector = engine.create_engine_inspector()
    layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    tensors = {name: _tensor(trt, engine, name) for name in names}
    return tensors, tuple(layers.get("Layers", ())), engine.device_memory_size_v2


def _tensor(trt: ModuleType, engine: Any, name: str) -> Tensor:
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    shapes = engine.get_tensor_profile_shape(name, 0) if is_input else ()
    dtype = engine.get_tensor_dtype(name).name
    return Tensor(dtype, list(engine.get_tensor_shape(name)), [list(shape) for shape in shapes])


def agree(dims: list[int], shape: list[int]) -> bool:
    """`shape`, whose first is the batch, has the numbers of `dims` wherever those are known."""
    return all(wanted in (-1, size) for wanted, size in zip(dims, shape[1:], strict=True))


def check_finished(engine: Engine, component: ComponentSpec, shapes: Shapes) -> None:
    """ExportError unless the engine has the component's tensors, no others, and the profile asked for."""
    for tensor in (*component.inputs, *component.outputs):
        found, dtype = engine.tensors.get(tensor.name), TYPES[tensor.dtype]
        wanted = (dtype, shapes.get(tensor.name, []))
        if found is None or (found.dtype, found.profile) != wanted or not agree(tensor.dims, found.shape):
            raise ExportError(
                f"{component.name}: the engine has {found or 'no such tensor'} where {tensor.name} is "
                f"{dtype} {['batch', *tensor.dims]} with profile {wanted[1]}"
            )
    if len(engine.tensors) != len(component.inputs) + len(component.outputs):
        raise ExportError(f"{component.name}: the engine has other tensors too: {', '.join(engine.tensors)}")
