"""What the parts of one run share: the service, folders, how often to measure, the machine's limit."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from onnx import TensorProto, helper

from benchmarks.adapters.turns import timed
from benchmarks.client import Door
from benchmarks.service import Service, serving
from export.checkpoint import Checkpoint, open_checkpoint
from export.layout import Layout
from export.targets import TARGETS
from families import ComponentSpec, FamilySpec
from families.costs import flops
from serving.backends.onnxruntime.onnx_engine import OnnxEngine, open_session

CHECKPOINTS = ("flux-tiny", "sdxl-tiny")
CORES = len(os.sched_getaffinity(0))
PROMPT = "a red mug on a blue gradient background"
PEAK_SIZE, PEAK_ROUNDS = 768, 60  # short, so that some fall between what neighbours do


class NoTime(Exception):
    """The run's time is over."""

    def __init__(self) -> None:
        super().__init__("no time was left; --minutes gives more")


@dataclass(frozen=True)
class Run:
    """`output` gets what is kept, `work` what is not; `rounds` is how often a figure is measured.

    Nothing is begun after `until`, of time.monotonic.
    """

    output: Path
    work: Path
    rounds: int
    until: float
    stack: ExitStack
    takes: Iterator[int] = field(default_factory=itertools.count)

    @cached_property
    def service(self) -> Service:
        """With both tiny checkpoints; started when first wanted, ended with the run."""
        repositories = [repository(name) for name in CHECKPOINTS]
        return self.stack.enter_context(serving(repositories, self.work / "service"))

    def check_time(self) -> None:
        """NoTime if it is over. Asked before what takes long: what has begun is measured to its end."""
        if time.monotonic() > self.until:
            raise NoTime

    @property
    def door(self) -> Door:
        """Of the service: the client fetches the picture too."""
        return Door(f"{self.service.url}/generate-image", follows=True)

    def fresh(self) -> dict[str, Any]:
        """A prompt that no request had before, so that no cache knows it, and its seed."""
        take = next(self.takes)
        return {"prompt": f"{PROMPT}, take {take}", "seed": take}

    @cached_property
    def peak(self) -> float:
        """FLOP/s of the machine: the best of some products of large float32 matrices, on all its cores."""
        return matmul_peak()

    def floor_ms(self, name: str, size: int, steps: int) -> float:
        """Milliseconds of one text-to-image request's arithmetic at the machine's peak."""
        return 1000 * request_flops(checkpoint(name), size, steps) / self.peak


def repository(name: str) -> Path:
    """FileNotFoundError says how it is made."""
    folder = Path(f"build/{name}-cpu")
    if not (folder / "manifest.json").exists():
        raise FileNotFoundError(f"{folder} is no repository: `make repositories` exports it")
    return folder


def checkpoint(name: str) -> Checkpoint:
    return open_checkpoint(Path("assets/checkpoints") / name)


def layout_of(found: Checkpoint) -> Layout:
    """As the repository's engines are: for this machine, with inputs for packs."""
    return Layout(found, TARGETS["cpu"], lora=True)


def request_flops(found: Checkpoint, size: int, steps: int) -> int:
    """Text encoders, a call a step, the VAE's decoder."""
    layout, family = layout_of(found), found.family
    rows = family.denoiser.rows_per_picture
    counts = {family.denoiser.name: steps, "vae_encoder": 0}
    total = 0
    for component in family.components:
        of_call = 1 if component.folder == "vae" else rows
        axes = layout.axes(of_call, size, size, found.max_sequence_length)
        total += counts.get(component.name, 1) * flops(family, component, found.configs, axes)
    return total


def matmul_peak(size: int = PEAK_SIZE, rounds: int = PEAK_ROUNDS) -> float:
    """FLOP/s of the fastest of `rounds` products of [size, size] matrices, by torch and by ONNX Runtime."""
    products = (_by_torch(size), _by_onnxruntime(size))
    return 2 * size**3 / min(timed(product).wall for product in products for _ in range(1 + rounds))


def _by_torch(size: int) -> Callable[[], object]:
    torch.set_num_threads(CORES)
    matrix = torch.rand(size, size)
    return lambda: matrix @ matrix


def _by_onnxruntime(size: int) -> Callable[[], object]:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in "abc"]
    product = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([product], "product", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    matrix = torch.rand(size, size).numpy()
    session = open_session(model.SerializeToString(), CORES)
    return lambda: session.run(None, {"a": matrix, "b": matrix})


def engine(name: str, family: FamilySpec, component: ComponentSpec) -> OnnxEngine:
    """A component of the repository as the service's backend runs it, on all cores."""
    file = repository(name) / "models" / family.model_name(component) / "1" / "model.onnx"
    return OnnxEngine(file, CORES, spins=component.denoiser)


@contextmanager
def running(output: Path, work: Path, rounds: int, until: float) -> Iterator[Run]:
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        yield Run(output, work, rounds, until, stack)
