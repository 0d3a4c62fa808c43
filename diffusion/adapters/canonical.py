"""Adapters as the store keeps them: diffusers' keys, and alpha as its `lora_adapter_metadata` says it.

Key `<component>.<module>.lora_A.weight` [rank, in], and lora_B [out, rank]. A module adds alpha / rank B A x,
with peft's meaning of r, lora_alpha, rank_pattern and alpha_pattern. Without metadata alpha is the rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.adapters.files import Contents
from families.adapters import AdapterError
from families.layers import LoraTarget

METADATA = "lora_adapter_metadata"  # diffusers' key of a file's metadata
KEY = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
PATTERN = re.compile(r"\^?[A-Za-z0-9_.\-]+")  # a module's name, or the end of it; ^ makes it the whole name
# What changes the meaning of A and B, or comes on top of them.
UNSUPPORTED = (
    "alora_invocation_tokens", "arrow_config", "fan_in_fan_out", "layer_replication", "lora_bias",
    "modules_to_save", "monteclora_config", "target_parameters", "trainable_token_indices",
    "use_bdlora", "use_dora", "use_qalora", "use_rslora",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """What an adapter adds to one linear: alpha / rank B A, of a [rank, in] and b [out, rank]."""

    a: Tensor
    b: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


Pairs = Mapping[str, Pair]  # by the name of the linear


@dataclass(frozen=True)
class Adapter:
    """All of an adapter, at its targets' places: lora_a [rank, sum_in] and lora_b [sum_out, rank].

    alpha / rank is in lora_b. `rank` is the largest of its modules; others have zeros below theirs.
    """

    lora_a: Tensor
    lora_b: Tensor

    @property
    def rank(self) -> int:
        return self.lora_a.shape[0]


def pairs_of(tensors: Mapping[str, Tensor], prefix: str, alphas: Alphas | None = None) -> Pairs:
    """Module -> pair, of keys that start with `prefix`; AdapterError names the first that has no pair."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key.removeprefix(prefix))
        if match is None or not key.startswith(prefix):
            raise AdapterError(f"{key} is not of the form {prefix}MODULE.lora_A.weight or lora_B.weight")
        halves.setdefault(match["module"], {})[match["part"]] = tensor
    return {module: _pair(module, half, alphas) for module, half in halves.items()}


def _pair(module: str, halves: Mapping[str, Tensor], alphas: Alphas | None) -> Pair:
    if lacking := {"A", "B"} - {*halves}:
        raise AdapterError(f"{module} has no lora_{lacking.pop()}.weight")
    a, b = halves["A"], halves["B"]
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        raise AdapterError(
            f"{module} has lora_A {list(a.shape)}, lora_B {list(b.shape)}; wanted are [rank, in], [out, rank]"
        )
    return Pair(a, b, alphas.of(module, a.shape[0]) if alphas else float(a.shape[0]))


def read_pairs(contents: Contents, component: str) -> Pairs:
    """Of a file as the store keeps it; AdapterError names the key or value that is wrong."""
    prefix = f"{component}."
    try:
        return pairs_of(contents.tensors, prefix, Alphas.read(contents.metadata, prefix))
    except AdapterError as error:
        raise AdapterError(f"{contents.path}: {error}") from None


def check_targets(pairs: Pairs, targets: Sequence[LoraTarget]) -> None:
    """AdapterError names the first module that is no target, or does not fit it."""
    known = {target.name: target for target in targets}
    for module, pair in pairs.items():
        if (target := known.get(module)) is None:
            raise AdapterError(f"{module} is none of the {len(known)} linears that an adapter may change")
        shape, wanted = (pair.b.shape[0], pair.a.shape[1]), (target.out_features, target.in_features)
        if shape != wanted:
            raise AdapterError(f"{module} is for a linear of {shape} [out, in], the checkpoint's is {wanted}")


def packed(pairs: Pairs, targets: Sequence[LoraTarget], dtype: torch.dtype) -> Adapter:
    """`pairs` at the places of `targets`: lora_a of `dtype`, lora_b float32, for scales are still to come."""
    rank, last = max(pair.rank for pair in pairs.values()), targets[-1]
    lora_a = torch.zeros(rank, last.in_offset + last.in_features, dtype=dtype)
    lora_b = torch.zeros(last.out_offset + last.out_features, rank)
    for target in targets:
        if pair := pairs.get(target.name):
            i, o = target.in_offset, target.out_offset
            lora_a[: pair.rank, i : i + target.in_features] = pair.a
            lora_b[o : o + target.out_features, : pair.rank] = pair.b.float() * (pair.alpha / pair.rank)
    return Adapter(lora_a, lora_b)


@dataclass(frozen=True)
class Alphas:
    """r, lora_alpha and the exceptions from them, of diffusers' metadata."""

    r: float
    lora_alpha: float
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]

    @classmethod
    def read(cls, metadata: Mapping[str, str], prefix: str) -> Alphas | None:
        """Of a file's metadata, whose keys start with `prefix`; None if it says nothing.

        AdapterError names what cannot be taken.
        """
        if METADATA not in metadata:
            return None
        values = _config(metadata[METADATA], prefix)
        for name in UNSUPPORTED:
            if values.get(name):
                raise AdapterError(f"{METADATA} has {name} {values[name]!r}, which is not supported")
        if values.get("bias", "none") not in (None, "none"):
            raise AdapterError(f"{METADATA} has bias {values['bias']!r}; choices: none")
        r, alpha = (_number(name, values.get(name)) for name in ("r", "lora_alpha"))
        patterns = (_pattern(name, values.get(name)) for name in ("rank_pattern", "alpha_pattern"))
        return cls(r, alpha, *patterns)

    def of(self, module: str, rank: int) -> float:
        """The alpha of `module`, whose tensors have this rank."""
        if (said := _matching(self.rank_pattern, module, self.r)) != rank:
            raise AdapterError(f"{module} has rank {rank}, {METADATA} says {said:g}")
        return _matching(self.alpha_pattern, module, self.lora_alpha)


def _config(text: str, prefix: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise AdapterError(f"{METADATA} is not JSON") from None
    if not isinstance(values, dict):
        raise AdapterError(f"{METADATA} is not an object")
    if other := next((key for key in values if not key.startswith(prefix)), None):
        raise AdapterError(f"{METADATA} has {other[:80]!r}, which does not start with {prefix}")
    return {key.removeprefix(prefix): value for key, value in values.items()}


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise AdapterError(f"{METADATA} has {name} {str(value)[:80]}, which is not a finite number above 0")
    return value


def _pattern(name: str, values: object) -> Mapping[str, float]:
    values = values or {}
    if not isinstance(values, dict):
        raise AdapterError(f"{METADATA} has {name} that is not an object")
    for pattern in values:
        # peft takes any regular expression; one of a stranger could run for hours.
        if not PATTERN.fullmatch(pattern):
            raise AdapterError(f"{METADATA} has {name} {pattern[:80]!r}, which is not the name of a module")
    return {pattern: _number(f"{name} {pattern}", value) for pattern, value in values.items()}


def _matching(patterns: Mapping[str, float], module: str, default: float) -> float:
    """peft's rule: the first pattern that is the module's name or the end of it, from a dot on."""
    for pattern, value in patterns.items():
        if module in (pattern, pattern.removeprefix("^")) or f".{module}".endswith(f".{pattern}"):
            return value
    return default
