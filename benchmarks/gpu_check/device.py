"""Where the check runs, and its clock."""

from __future__ import annotations

import os
import platform
import time
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any

import torch

from export.process import peak_gb

Mark = Any  # a moment: seconds, or a CUDA event


class Device(ABC):
    """`name` as its maker has it; `cap` is the bytes of its memory that torch may take, None: all."""

    place: torch.device
    name: str
    cap: int | None

    @abstractmethod
    def mark(self) -> Mark:
        """The moment when what was asked of the device so far is done."""

    @abstractmethod
    def seconds(self, begin: Mark, end: Mark) -> float: ...

    @abstractmethod
    def forget(self) -> None:
        """Gives unused memory back; `peak_bytes` starts anew where the device can."""

    @abstractmethod
    def peak_bytes(self) -> int: ...


class Gpu(Device):
    """The first CUDA device; more than `cap` bytes raise torch.OutOfMemoryError.

    The cap is on torch's allocator: CUDA's context, about half a GB, comes on top.
    """

    def __init__(self, cap: int) -> None:
        self.place, self.cap = torch.device("cuda", 0), cap
        properties = torch.cuda.get_device_properties(self.place)
        self.name = properties.name
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap / properties.total_memory), self.place)

    def mark(self) -> Mark:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Mark, end: Mark) -> float:
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000

    def forget(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.place)

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self.place)


class Cpu(Device):
    """One thread. `peak_bytes` is of the whole process since it began."""

    def __init__(self) -> None:
        self.place, self.cap = torch.device("cpu"), None
        self.name = f"{platform.machine()} CPU of {os.cpu_count()} cores"
        torch.set_num_threads(1)

    def mark(self) -> Mark:
        return time.perf_counter()

    def seconds(self, begin: Mark, end: Mark) -> float:
        return float(end - begin)

    def forget(self) -> None: ...

    def peak_bytes(self) -> int:
        return int(peak_gb() * 1e9)


def matmul_peak(device: Device, dtype: torch.dtype, size: int, rounds: int = 100) -> float:
    """FLOP/s of [size, size] times [size, size]: the fastest of `rounds`."""
    random = torch.Generator(device.place).manual_seed(0)
    where = {"device": device.place, "dtype": dtype}
    # Not zeros, with which GPUs are faster.
    a, b = (torch.randn(size, size, generator=random, **where) for _ in range(2))
    out, marks = torch.empty_like(a), [device.mark()]
    for _ in range(rounds):
        torch.mm(a, b, out=out)
        marks.append(device.mark())
    return 2 * size**3 / min(device.seconds(*pair) for pair in pairwise(marks))
