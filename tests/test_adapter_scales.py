"""Which adapters an engine takes, and how strongly: scales, other checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_adapter_packs import Shelf, shelf

from families.adapters import index_text
from families.loras import Lora
from families.spec import InvalidRequest

__all__ = ["shelf"]  # a fixture


def test_an_adapter_of_another_checkpoint_is_refused(shelf: Shelf) -> None:
    other = replace(shelf.entries["all"], checkpoint="flux-big", checkpoint_sha256="e" * 64)
    (shelf.folder / "index.json").write_text(index_text({"flux": {"all": other}}))
    with pytest.raises(InvalidRequest, match="adapter all was trained on flux-big"):
        shelf.packs().packs([Lora("all")])


def test_an_adapter_has_a_scale_of_its_own(shelf: Shelf) -> None:
    weak = replace(shelf.entries["all"], scale=0.25)
    (shelf.folder / "index.json").write_text(index_text({"flux": {"all": weak}}))
    own, asked = (shelf.packs().packs([lora]) for lora in (Lora("all"), Lora("all", 0.25)))
    assert torch.equal(own.lora_b, asked.lora_b) and own.applied[0].scale == 0.25


def test_scale_0_is_zeros_and_is_told(shelf: Shelf) -> None:
    """It takes no rank either."""
    pack = shelf.packs(max_rank=5).packs([Lora("all", 0.0), Lora("some")])
    alone = shelf.packs().packs([Lora("some")])
    assert torch.equal(pack.lora_a[:, :5], alone.lora_a[:, :5])
    assert torch.equal(pack.lora_b[..., :5], alone.lora_b[..., :5])
    assert [(a.name, a.scale, a.modules_applied, a.modules) for a in pack.applied] == [
        ("all", 0.0, 0, 3),
        ("some", 1.0, 1, 1),
    ]
