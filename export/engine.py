"""ONNX graph and weights -> TensorRT plan, by `tensorrt` on its GPU or `tensorrt_rtx` on any machine.

Networks are strongly typed: TensorRT 11 has no others, and TensorRT-RTX is asked for nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from export.builder_log import new_log, new_monitor
from export.builders import load_builder
from export.errors import ExportError
from export.files import check_disk, replacing_file
from export.finished import TYPES, Engine, Shapes, agree, check_finished, described
from export.spill import Buffer
from families import ComponentSpec

TIMINGS = Path("build", "timing")  # of kernels, by version and GPU: worth hours to the next build


@dataclass(frozen=True)
class Job:
    """One build: `graph` is the ONNX without weights, `weights` where each lies, by initializer name."""

    component: ComponentSpec
    graph: bytes
    weights: Mapping[str, Buffer]
    shapes: Shapes
    compute_capability: str  # "8.0"

    @property
    def weights_bytes(self) -> int:
        return sum(buffer.bytes for buffer in self.weights.values())


def build(name: str, job: Job, path: Path) -> Engine:
    """Writes the plan to `path`, whole or not at all. ExportError repeats the builder's own words."""
    trt = load_builder(name)
    check_disk(path.parent, f"the plan of {job.component.name}", job.weights_bytes)
    log, started = new_log(trt), time.perf_counter()
    builder, network, _parser = parsed(trt, log, job)
    config = _configured(trt, builder, job)
    with replacing_file(path) as partial:
        if not _serialize(trt, builder, network, config, partial):
            log.failures.append("the builder made no plan")
        _raise_failures(log, job)
        _keep_timings(trt, config, job)
        engine = described(trt, log, time.perf_counter() - started, partial)
        check_finished(engine, job.component, job.shapes)
    return engine


def parsed(trt: ModuleType, log: Any, job: Job) -> tuple[Any, Any, Any]:
    """(builder, network, parser) of the job's graph, whose weights stay where they are.

    The parser has to outlive the use of the network, whose weights are its own.
    """
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    loaded = parser.load_model_proto(job.graph)
    for weight, buffer in job.weights.items():
        loaded = loaded and parser.load_initializer(weight, buffer.address, buffer.bytes)
    if not (loaded and parser.parse_model_proto()):
        log.failures.append("the parser refuses the graph")
    _raise_failures(log, job)
    check_network(trt, network, job.component)
    return builder, network, parser


def known_weights(name: str, job: Job) -> list[str]:
    """Those of the job's weights that the parsed network knows by name; nothing is built."""
    trt = load_builder(name)
    _builder, network, _parser = parsed(trt, new_log(trt), job)
    return [weight for weight in job.weights if network.mark_weights_refittable(weight)]


def _raise_failures(log: Any, job: Job) -> None:
    if log.failures:
        words = " | ".join(" ".join(failure.split()) for failure in log.failures[:4])
        raise ExportError(f"{job.component.name}: {words}")


def check_network(trt: ModuleType, network: Any, component: ComponentSpec) -> None:
    """ExportError unless the network's inputs and outputs have the component's names, types and shapes."""
    inputs = [network.get_input(place) for place in range(network.num_inputs)]
    outputs = [network.get_output(place) for place in range(network.num_outputs)]
    found = {tensor.name: (tensor.dtype, list(tensor.shape)) for tensor in (*inputs, *outputs)}
    for tensor in (*component.inputs, *component.outputs):
        dtype = getattr(trt.DataType, TYPES[tensor.dtype])
        if (
            tensor.name not in found
            or found[tensor.name][0] != dtype
            or found[tensor.name][1][0] != -1
            or not agree(tensor.dims, found[tensor.name][1])
        ):
            raise ExportError(
                f"{component.name}: the network has {found.get(tensor.name, 'no such tensor')} where "
                f"{tensor.name} is {tensor.dtype} {['batch', *tensor.shape]}"
            )


def _configured(trt: ModuleType, builder: Any, job: Job) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = new_monitor(trt, job.component.name)
    if trt.__name__ == "tensorrt_rtx":  # builds for a GPU that is not here, and so cannot time kernels
        config.num_compute_capabilities = 1
        name = f"SM{job.compute_capability.replace('.', '')}"
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    else:
        cache = _timings(trt, job)
        timings = config.create_timing_cache(cache.read_bytes() if cache.is_file() else b"")
        if not config.set_timing_cache(timings, ignore_mismatch=False):
            raise ExportError(f"{cache} is no timing cache of this TensorRT and GPU: remove it")
    _add_profile(builder, config, job)
    return config


def _add_profile(builder: Any, config: Any, job: Job) -> None:
    profile = builder.create_optimization_profile()
    for name, shapes in job.shapes.items():
        profile.set_shape(name, *shapes)
        if [list(shape) for shape in profile.get_shape(name)] != shapes:
            raise ExportError(f"{job.component.name}: the profile has {profile.get_shape(name)} for {name}")
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"{job.component.name}: the builder refuses the profile {dict(job.shapes)}")


def _timings(trt: ModuleType, job: Job) -> Path:
    return TIMINGS / f"{trt.__name__}-{trt.__version__}-{job.compute_capability}.cache"


def _keep_timings(trt: ModuleType, config: Any, job: Job) -> None:
    """The next build on this GPU need not time the same kernels again."""
    if trt.__name__ == "tensorrt_rtx":  # has nothing to keep, and deprecates the question
        return
    TIMINGS.mkdir(parents=True, exist_ok=True)
    with replacing_file(_timings(trt, job)) as partial:
        partial.write_bytes(memoryview(config.get_timing_cache().serialize()))


def _serialize(trt: ModuleType, builder: Any, network: Any, config: Any, path: Path) -> bool:
    """Streams the plan to `path`: it may be 24 GB, and the builder holds one copy already."""

    class Writer(trt.IStreamWriter):  # type: ignore[misc, name-defined]
        def __init__(self, file: Any) -> None:
            trt.IStreamWriter.__init__(self)
            self.file = file

        def write(self, data: bytes) -> int:
            return int(self.file.write(data))

    with path.open("wb") as file:
        built = builder.build_serialized_network_to_stream(network, config, Writer(file))
        file.flush()
        os.fsync(file.fileno())
    return bool(built)
