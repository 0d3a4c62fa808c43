"""How long it takes until another adapter counts: ours, cached and from a file, beside stock diffusers'."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from benchmarks.adapters.cost import difference
from benchmarks.adapters.made import pipeline_of, store_of, topology, write_transformer
from benchmarks.adapters.turns import Row, cpu_milliseconds, in_turns, milliseconds, ratio
from diffusion.adapters import Packs, stacked
from export import models, parity
from export.checkpoint import Checkpoint, open_checkpoint
from export.layout import Layout
from export.targets import TARGETS
from export.wrappers import WRAPPERS
from families.adapters import AdapterIndex
from families.loras import Lora

# FLUX.1-dev's 19 + 38 blocks, which count here, in a width that does not.
FULL = topology(blocks=19, single_blocks=38, heads=2, axes_dims_rope=(4, 6, 6))
RANK = 8
NAMES = ("red", "blue")  # of the adapters that take turns
TRIES = 20  # at dropping a file from memory


@dataclass(frozen=True)
class Place:
    """A Flux checkpoint and a store with adapters `NAMES` for it."""

    checkpoint: Checkpoint
    index: AdapterIndex

    @classmethod
    def of(cls, checkpoint: Checkpoint, folder: Path) -> Place:
        store = store_of(folder / "adapters", checkpoint.folder, dict.fromkeys(NAMES, RANK))
        return cls(checkpoint, store.index)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.checkpoint, TARGETS["cpu"], lora=True)

    def file(self, name: str) -> Path:
        return self.index.file(self.index.entries("flux")[name])

    def packs(self) -> Packs:
        """With nothing in its cache."""
        family, layout = self.layout.family, self.layout
        targets = layout.targets(family.denoiser)
        return Packs(
            self.index.folder,
            family,
            targets,
            layout.max_rank,
            torch.float32,
            "cpu",
            self.checkpoint.denoiser_sha256,
        )

    def transformer(self) -> FluxTransformer2DModel:
        return FluxTransformer2DModel.from_pretrained(self.checkpoint.folder / "transformer")


class Switch(ABC):
    """A way from one adapter to another."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @abstractmethod
    def to(self, name: str) -> None:
        """From here on the adapter `name` counts, alone."""

    @abstractmethod
    def module(self) -> nn.Module:
        """The denoiser with the adapter that counts; called as its engine is."""


class Warm(Switch):
    """Ours, packs in the cache: what an engine is called with."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.packs = place.packs()

    def to(self, name: str) -> None:
        self.lora_a, self.lora_b = stacked([self.packs.packs([Lora(name)])])

    def module(self) -> nn.Module:
        component = self.place.layout.family.denoiser
        targets = self.place.layout.targets(component)
        return Packed(
            models.load(self.place.checkpoint, component, targets=targets), self.lora_a, self.lora_b
        )


class Packed(nn.Module):
    """A module that takes packs, with some."""

    def __init__(self, inner: nn.Module, lora_a: Tensor, lora_b: Tensor) -> None:
        super().__init__()
        self.inner, self.lora_a, self.lora_b = inner, lora_a, lora_b

    def forward(self, **inputs: Tensor) -> Tensor:
        answer: Tensor = self.inner(**inputs, lora_a=self.lora_a, lora_b=self.lora_b)
        return answer


class Cold(Warm):
    """Ours, from a file that the operating system has in memory."""

    def to(self, name: str) -> None:
        self.packs = self.place.packs()
        super().to(name)


class FromDisk(Cold):
    """Ours, from a file that it does not have in memory: of a copy, as it keeps what diffusers has mapped."""

    def __init__(self, place: Place) -> None:
        copy = place.index.folder.with_name("adapters-on-disk")
        shutil.copytree(place.index.folder, copy)
        super().__init__(replace(place, index=AdapterIndex(copy)))

    def forget(self) -> None:
        """RuntimeError if a file stays in memory, which would time something else."""
        for path in (self.place.index.path, *(self.place.file(name) for name in NAMES)):
            if not forget(path):
                raise RuntimeError(f"{path} stays in the page cache")


class Stock(Switch):
    """Of diffusers, with a pipeline of its own."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.pipeline: FluxPipeline = pipeline_of(place.transformer())

    def load(self, name: str, adapter_name: str, **options: bool) -> None:
        self.pipeline.load_lora_weights(self.place.file(name), adapter_name=adapter_name, **options)

    def module(self) -> nn.Module:
        return WRAPPERS["flux"]["transformer"](self.pipeline.transformer)


class Fused(Stock):
    """unfuse_lora, unload_lora_weights, load_lora_weights, fuse_lora: while it draws, as fast as without."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.fuse(NAMES[0])

    def to(self, name: str) -> None:
        self.pipeline.unfuse_lora(components=["transformer"])
        self.pipeline.unload_lora_weights()
        self.fuse(name)

    def fuse(self, name: str) -> None:
        self.load(name, name)
        self.pipeline.fuse_lora(components=["transformer"])


class SetAdapters(Stock):
    """set_adapters: both are loaded, in layers of PEFT."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        with warnings.catch_warnings(action="ignore"):  # PEFT asks whether two adapters are wanted
            for name in NAMES:
                self.load(name, name)

    def to(self, name: str) -> None:
        self.pipeline.set_adapters(name)


class Hotswap(Stock):
    """load_lora_weights(hotswap=True): a file's values in place of others' in layers of PEFT."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.pipeline.enable_lora_hotswap(target_rank=RANK)
        self.load(NAMES[0], "hot")

    def to(self, name: str) -> None:
        self.load(name, "hot", hotswap=True)


WAYS: Mapping[str, type[Switch]] = {
    "ours, cached": Warm,
    "ours, file in page cache": Cold,
    "ours, file on disk": FromDisk,
    "diffusers set_adapters, both loaded": SetAdapters,
    "diffusers hotswap": Hotswap,
    "diffusers unfuse, unload, load, fuse": Fused,
}
WARM, COLD, DISK, *_ = WAYS


def forget(path: Path) -> bool:
    """Has the operating system drop a file from memory, which needs no rights; whether it did."""
    for _ in range(TRIES):
        if _dropped(path):
            return True
        time.sleep(0.05)  # pages that another core has just touched stay for a moment
    return False


def _dropped(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)  # what is not written yet cannot be dropped
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError:  # a read that would have to wait
        return True
    finally:
        os.close(descriptor)
    return False


def of_checkpoint(checkpoint: Path, folder: Path, rounds: int) -> Iterator[Row]:
    yield from measured(Place.of(open_checkpoint(checkpoint), folder), rounds)


def of_full(folder: Path, rounds: int) -> Iterator[Row]:
    """For Flux's own number of blocks, of random weights, which are left in `folder`."""
    yield from measured(Place.of(write_transformer(FULL, folder / "flux-full"), folder), rounds)


def measured(place: Place, rounds: int) -> Iterator[Row]:
    """A row for each way; without the one from disk where files cannot be dropped from memory."""
    models.silence_loaders()
    droppable = forget(place.file(NAMES[0]))
    ways = {name: way(place) for name, way in WAYS.items() if droppable or name != DISK}
    before = {name: way.forget for name, way in ways.items() if isinstance(way, FromDisk)}
    timings = in_turns({name: turn(way) for name, way in ways.items()}, rounds, before)
    wanted = answer(ways[WARM])
    for name, way in ways.items():
        yield {
            "benchmark": "switch",
            "checkpoint": place.checkpoint.name,
            "targets": len(place.layout.targets(place.layout.family.denoiser)),
            "rank": RANK,
            "way": name,
            "ms": milliseconds(timings, name),
            "cpu ms": cpu_milliseconds(timings, name),
            "ratio": ratio(timings, name, WARM),
            "ratio to page cache": ratio(timings, name, COLD),
            "difference": difference(answer(way), wanted),
        }


def turn(way: Switch) -> Callable[[], None]:
    """To the adapter that does not count now."""
    names = cycle(reversed(NAMES))
    return lambda: way.to(next(names))


@torch.inference_mode()
def answer(way: Switch, name: str = NAMES[1]) -> Tensor:
    """What the denoiser says with the adapter `name` to always the same inputs, float32."""
    place = way.place
    component, configs = place.layout.family.denoiser, place.checkpoint.configs
    inputs = parity.random_inputs(component, place.layout.axes(1, 64, 64, text_length=8), configs)
    way.to(name)
    said: Tensor = way.module()(**inputs)
    return said
