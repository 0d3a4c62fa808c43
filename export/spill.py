"""Weights for a builder: mapped from the checkpoint where they fit as they are, else converted on disk."""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes


class Buffer(NamedTuple):
    """Where a builder reads a weight; good as long as the Spill, or the mapped tensor, lives."""

    address: int
    bytes: int


class Spill:
    """Converted tensors in an unnamed file of `capacity` bytes: they take disk, not memory.

    A 24 GB checkpoint that is converted whole never has more of it resident than one tensor.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(max(capacity, 1))
            self._map = mmap.mmap(file.fileno(), max(capacity, 1))
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._used = 0

    def keep(self, tensor: Tensor) -> Buffer:
        """Copies `tensor`, contiguous, behind what is there."""
        start, buffer = self._used, self.reserve(tensor.numel() * tensor.element_size())
        place = self._bytes[start : start + buffer.bytes]
        place.copy_(tensor.contiguous().view(-1).view(torch.uint8))
        self._release(start, buffer.bytes)
        return buffer

    def reserve(self, size: int) -> Buffer:
        """`size` bytes of zeros, which take neither disk nor memory until they are written or read."""
        start = self._used
        self._used += padded(size)
        return Buffer(self._bytes.data_ptr() + start, size)

    def _release(self, start: int, size: int) -> None:
        """Gives the pages back to the file."""
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.flush(first, start + size - first)
        self._map.madvise(mmap.MADV_DONTNEED, first, start + size - first)


def padded(size: int) -> int:
    """`size` in bytes with what keeps the next tensor aligned."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def mapped(tensor: Tensor) -> Buffer:
    """A tensor that is read where it lies."""
    return Buffer(tensor.data_ptr(), tensor.numel() * tensor.element_size())
