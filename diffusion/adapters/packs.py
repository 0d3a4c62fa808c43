"""What an engine takes of adapters: merged by putting their ranks side by side, which is exact."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from diffusion.adapters import files
from diffusion.adapters.canonical import Adapter, Pairs, check_targets, packed, read_pairs
from families.adapters import AdapterEntry, AdapterError, AdapterIndex
from families.layers import LoraTarget
from families.lora import RANKS
from families.loras import Applied, Lora, check_fit, scale_of
from families.spec import FamilySpec

# FLUX.1-dev's adapters of rank 16 take 0.26 GB each, their packs in 16 bit 0.13 GB.
HOST_BYTES, CACHE_BYTES = 4 * 2**30, 2**30


@dataclass(frozen=True)
class Pack:
    """Merged adapters: lora_a [1, rank, sum_in], lora_b [1, sum_out, rank] with all scales in it.

    Of the targets' order and offsets, see LoraTarget. Not to be written to: packs are shared.
    """

    lora_a: Tensor
    lora_b: Tensor
    applied: tuple[Applied, ...]

    def zeros(self) -> Pack:
        """No adapters, for the same engine."""
        return Pack(torch.zeros_like(self.lora_a), torch.zeros_like(self.lora_b), applied=())


def stacked(packs: Sequence[Pack]) -> tuple[Tensor, Tensor]:
    """A row for each pack: lora_a [B, R, sum_in], lora_b [B, sum_out, R]; zeros fill up to rank R."""
    rank = max(pack.lora_a.shape[1] for pack in packs)
    return (
        torch.cat([_with_rank(pack.lora_a, 1, rank) for pack in packs]),
        torch.cat([_with_rank(pack.lora_b, 2, rank) for pack in packs]),
    )


def _with_rank(tensor: Tensor, axis: int, rank: int) -> Tensor:
    """`tensor` of three axes with zeros after its `axis`, up to size `rank`."""
    missing = rank - tensor.shape[axis]
    return functional.pad(tensor, (0, 0) * (2 - axis) + (0, missing)) if missing else tensor


Value = TypeVar("Value")


class Cache(Generic[Value]):
    """The values that were used last, of at most so many bytes in all; any thread may use it.

    `counts` has how often one was asked for that is kept, as "hits", and that is not, as "misses".
    """

    def __init__(self, limit: int) -> None:
        self._limit, self.bytes, self.counts = limit, 0, Counter[str]()
        self._lock, self._kept = threading.Lock(), OrderedDict[Hashable, tuple[Value, int]]()

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            self.counts["hits" if key in self._kept else "misses"] += 1
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keeps `value`, of `size` bytes, in place of what was used longest ago; nothing over the limit."""
        with self._lock:
            self._drop(key)
            if size > self._limit:
                return
            while self.bytes + size > self._limit:
                self._drop(next(iter(self._kept)))
            self._kept[key] = value, size
            self.bytes += size

    def _drop(self, key: Hashable) -> None:
        _, size = self._kept.pop(key, (None, 0))
        self.bytes -= size


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


class Packs:
    """The packs of a store's adapters, for an engine with these `targets` that takes ranks up to `max_rank`.

    They are of `dtype`, on `device`. Up to `cache_bytes` of them are kept, and HOST_BYTES of loaded adapters,
    which are on the CPU. `denoiser_sha256` is of the engine's weights (`hashes.sha256_of_weights`).
    """

    def __init__(
        self,
        folder: Path,
        family: FamilySpec,
        targets: Sequence[LoraTarget],
        max_rank: int,
        dtype: torch.dtype,
        device: str,
        denoiser_sha256: str,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._index, self._family, self._targets = AdapterIndex(folder), family, targets
        self._max_rank, self._dtype, self._device = max_rank, dtype, device
        self._denoiser_sha256 = denoiser_sha256
        self._adapters, self._packs = Cache[Adapter](HOST_BYTES), Cache[tuple[Tensor, Tensor]](cache_bytes)

    @property
    def counts(self) -> Mapping[str, int]:
        """Of `packs`: those that were kept, "hits", and those that had to be merged, "misses"."""
        return self._packs.counts

    def packs(self, loras: Sequence[Lora]) -> Pack:
        """The pack of `loras`, merged in their order; without any, zeros of the smallest rank.

        InvalidRequest names an adapter that the store does not have, that was trained on another checkpoint,
        or ranks above max_rank in sum; AdapterError a file that is damaged or does not fit.
        """
        entries = [self._index.entry(self._family.name, lora.name) for lora in loras]
        check_fit(loras, entries, self._max_rank, self._denoiser_sha256)
        scales = [scale_of(lora, entry) for lora, entry in zip(loras, entries, strict=True)]
        active = [(entry, scale) for entry, scale in zip(entries, scales, strict=True) if scale]
        merged = self._kept(active) if active else self._none
        return Pack(*merged, tuple(Applied.of(lora, e) for lora, e in zip(loras, entries, strict=True)))

    @cached_property
    def _none(self) -> tuple[Tensor, Tensor]:
        return self._merged([])

    def _kept(self, active: Sequence[tuple[AdapterEntry, float]]) -> tuple[Tensor, Tensor]:
        key = tuple((entry.sha256, scale) for entry, scale in active)
        merged = self._packs.get(key)
        if merged is None:
            merged = self._merged([(self._adapter(entry), scale) for entry, scale in active])
            self._packs.put(key, merged, _bytes(*merged))
        return merged

    def _adapter(self, entry: AdapterEntry) -> Adapter:
        adapter = self._adapters.get(entry.sha256)
        if adapter is None:
            adapter = load(self._index.file(entry), entry, self._family, self._targets, self._dtype)
            self._adapters.put(entry.sha256, adapter, _bytes(adapter.lora_a, adapter.lora_b))
        return adapter

    def _merged(self, adapters: Sequence[tuple[Adapter, float]]) -> tuple[Tensor, Tensor]:
        last = self._targets[-1]
        sum_in, sum_out = last.in_offset + last.in_features, last.out_offset + last.out_features
        rank = self._bucket(sum(adapter.rank for adapter, _ in adapters))
        lora_a, lora_b = torch.zeros(1, rank, sum_in), torch.zeros(1, sum_out, rank)
        start = 0
        for adapter, scale in adapters:
            end = start + adapter.rank
            lora_a[0, start:end], lora_b[0, :, start:end] = adapter.lora_a, scale * adapter.lora_b
            start = end
        merged = lora_a.to(self._device, self._dtype), lora_b.to(self._device, self._dtype)
        if not all(torch.isfinite(tensor).all() for tensor in merged):
            scales = [scale for _, scale in adapters]
            raise AdapterError(f"these adapters' values, at scales {scales}, overflow {self._dtype}")
        return merged

    def _bucket(self, rank: int) -> int:
        fitting = [bucket for bucket in (*RANKS, self._max_rank) if rank <= bucket <= self._max_rank]
        return min(fitting)


def read_kept(path: Path, entry: AdapterEntry, family: FamilySpec) -> Pairs:
    """The kept file of `entry`; AdapterError if it is not what the index says."""
    pairs = read_pairs(files.read(path, entry.sha256), family.denoiser.name)
    found = max(pair.rank for pair in pairs.values()), len(pairs)
    if found != (entry.rank, entry.modules):
        raise AdapterError(
            f"{path} has rank {found[0]} and {found[1]} modules, "
            f"the index says {entry.rank} and {entry.modules}"
        )
    return pairs


def load(
    path: Path, entry: AdapterEntry, family: FamilySpec, targets: Sequence[LoraTarget], dtype: torch.dtype
) -> Adapter:
    """The kept file of `entry`, packed; AdapterError if it is another, or does not fit `targets`."""
    pairs = read_kept(path, entry, family)
    try:
        check_targets(pairs, targets)
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from None
    return packed(pairs, targets, dtype)
