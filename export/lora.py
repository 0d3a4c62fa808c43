"""LoRA in the graph: linears that add an adapter's part, taken from the packed inputs of the call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from families.layers import LoraTarget


@dataclass
class Pack:
    """The packed adapters of the call that is being traced: a [B, R, sum_in], b [B, sum_out, R]."""

    a: Tensor | None = None
    b: Tensor | None = None


class LoraLinear(nn.Linear):
    """`W x + bias + B (A x)` for x [B, in] or [B, S, in]; A and B are row n's for sample n."""

    pack: Pack
    target: LoraTarget

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight, self.bias) + self.adapted(input)

    def adapted(self, input: Tensor) -> Tensor:
        """B (A x)."""
        assert self.pack.a is not None and self.pack.b is not None
        i, o = self.target.in_offset, self.target.out_offset
        down = self.pack.a[:, :, i : i + self.in_features].transpose(1, 2)
        up = self.pack.b[:, o : o + self.out_features, :].transpose(1, 2)
        # Not `@`, which reshapes: torch.export spends half an hour and more on those of SDXL's UNet.
        rows = input if input.dim() == 3 else input.unsqueeze(1)
        added = torch.bmm(torch.bmm(rows, down), up)
        return added if input.dim() == 3 else added.squeeze(1)


def attach(model: nn.Module, targets: Iterable[LoraTarget]) -> Pack:
    """Makes each of `targets` in `model` a LoraLinear, under its own name; the pack that they read."""
    pack = Pack()
    for target in targets:
        linear = model.get_submodule(target.name)
        linear.__class__ = LoraLinear  # keeps parameters and their names where they are
        linear.pack, linear.target = pack, target  # type: ignore[assignment]
    return pack
