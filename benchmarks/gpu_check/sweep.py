"""What is measured: batches, sizes of pictures, adapters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

RANKS = (0, 16, 64)
MIXED = (64, 0, 16, 16)  # of a batch's pictures, each with a pack of its own
RESIDENT, MOVED = "resident", "moved"


@dataclass(frozen=True)
class Entry:
    """`batch` square pictures of `size` pixels a side, with packs of `ranks`; none: no LoRA inputs.

    `tensors`: RESIDENT if latents, embeddings and packs stay on the device from step to step, MOVED if they
    come from the host every time, as they do where stages share nothing but host memory.
    """

    size: int
    batch: int
    ranks: tuple[int, ...] = ()
    tensors: str = RESIDENT

    @property
    def adapters(self) -> str:
        """In words."""
        if not self.ranks:
            return "no LoRA inputs"
        mixed = len({*self.ranks}) > 1
        return f"ranks {' '.join(map(str, self.ranks))}" if mixed else f"rank {self.ranks[0]}"

    @property
    def rank(self) -> int:
        """Of the call's packed inputs."""
        return max(self.ranks, default=0)


@dataclass(frozen=True)
class Sweep:
    """`matmul` is the side of the squares whose product is the device's peak."""

    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    matmul: int

    def without_lora(self) -> Iterator[Entry]:
        yield from (Entry(size, batch) for size in self.sizes for batch in self.batches)

    def with_lora(self) -> Iterator[Entry]:
        for size in self.sizes:
            for batch in self.batches:
                yield from (Entry(size, batch, (rank,) * batch) for rank in RANKS)
                if batch > 1:
                    yield Entry(size, batch, MIXED[:batch])
        for batch in self.batches:
            yield Entry(self.sizes[-1], batch, (RANKS[1],) * batch, MOVED)


FULL = Sweep(sizes=(512, 1024), batches=(1, 2, 4), matmul=8192)
TINY = Sweep(sizes=(64, 128), batches=(1, 2), matmul=512)
