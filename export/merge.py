"""Adapters merged into a denoiser's weights before its engine is built: no LoRA inputs, no cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion.adapters.canonical import Adapter
from diffusion.adapters.packs import load
from export.checkpoint import Checkpoint
from export.errors import ExportError
from families.adapters import LORA_SCALE, AdapterEntry, AdapterError, AdapterIndex
from families.layers import LoraTarget, lora_targets
from families.loras import Applied, Lora, check_fit, scale_of
from families.spec import InvalidRequest

WEIGHT = ".weight"


@dataclass(frozen=True)
class Merge:
    """The adapters of a build, each with its scale, and the weights that they may change."""

    targets: Mapping[str, LoraTarget]  # weight -> its target
    adapters: tuple[tuple[Adapter, float], ...]
    applied: tuple[Applied, ...]

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """`weight`, or W + scale B A for each adapter, in float32, if it is a target's."""
        target = self.targets.get(name)
        return weight if target is None else weight.float() + self._added(target)

    def _added(self, target: LoraTarget) -> Tensor:
        inputs = slice(target.in_offset, target.in_offset + target.in_features)
        outputs = slice(target.out_offset, target.out_offset + target.out_features)
        parts = [scale * (lora.lora_b[outputs] @ lora.lora_a[:, inputs]) for lora, scale in self.adapters]
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def into(self, model: nn.Module) -> None:
        """Changes the weights of `model`, the denoiser of the checkpoint."""
        for name, parameter in model.named_parameters():
            if name in self.targets:
                parameter.copy_(self(name, parameter))


def merge_of(checkpoint: Checkpoint, choices: Sequence[str], store: Path) -> Merge:
    """For `choices` such as "food:0.8"; ExportError names an adapter that is missing, damaged or unfit."""
    family, denoiser = checkpoint.family, checkpoint.family.denoiser
    targets, index = lora_targets(family, denoiser, checkpoint.configs), AdapterIndex(store)
    try:
        loras = [chosen(choice) for choice in choices]
        found = [index.entry(family.name, lora.name) for lora in loras]
        _check(loras, found, checkpoint)
        adapters = [load(index.file(entry), entry, family, targets, torch.float32) for entry in found]
    except (AdapterError, InvalidRequest) as error:
        raise ExportError(f"--merge-lora: {error}") from None
    return Merge(
        {f"{target.name}{WEIGHT}": target for target in targets},
        tuple(zip(adapters, map(scale_of, loras, found), strict=True)),
        tuple(Applied.of(lora, entry) for lora, entry in zip(loras, found, strict=True)),
    )


def chosen(choice: str) -> Lora:
    """The adapter of `choice`, NAME or NAME:SCALE."""
    name, colon, scale = choice.partition(":")
    if not colon:
        return Lora(name)
    try:
        LORA_SCALE.check("scale", number := float(scale))
    except ValueError:
        raise ExportError(f"--merge-lora {choice!r}: the scale is no number in {LORA_SCALE}") from None
    return Lora(name, number)


def _check(loras: Sequence[Lora], entries: Sequence[AdapterEntry], checkpoint: Checkpoint) -> None:
    """Weights take any rank; InvalidRequest for what was trained on another checkpoint, or is named twice."""
    names = [lora.name for lora in loras]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"{twice} is named twice")
    check_fit(loras, entries, sum(entry.rank for entry in entries), checkpoint.denoiser_sha256)
