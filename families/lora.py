"""Adapters as engine inputs: packed, one per row of a batch, at offsets that the architecture fixes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from families.spec import ComponentSpec, Step, TensorSpec

LORA_A, LORA_B = PACKS = "lora_a", "lora_b"
# Ranks that packs have, so that batches of them are seldom padded. From 4 on: ONNX Runtime multiplies by a
# single row in another order, so rank 1 would differ in its last bits beside rank 4; rank 0 fails.
RANKS = (4, 8, 16, 32, 64)
OPTIONAL_PACKS = "optional_packs"  # parameter of the scheduler: 1 if a call without adapters needs no packs
STAGE = "lora"  # the model that merges what a request names into a pack
LORAS = TensorSpec(
    "loras",
    "STRING",
    (1,),
    'adapters: JSON, a list of at most 8 {"name": ..., "scale": -2..2; left out: its own}; blank: none',
)
APPLIED_LORAS = TensorSpec(
    "applied_loras", "STRING", (1,),
    "adapters that were applied: JSON, a list of name, sha256, scale, modules_applied, modules",
)  # fmt: skip
# Triton 2.51 never ends an ensemble's request whose step fails beside another one. So this step waits for the
# tokenizer, which may refuse the prompt, and hands what it refuses itself to the scheduler, which says so.
MERGE = Step(STAGE, (LORAS.name, "prompt_tokens"), (LORA_A, LORA_B, APPLIED_LORAS.name))


def with_lora(component: ComponentSpec, sum_in: int, sum_out: int, dtype: str) -> ComponentSpec:
    """`component` with the inputs lora_a [batch, rank, sum_in] and lora_b [batch, sum_out, rank].

    Each target at offsets `i`, `o` computes `W x + lora_b[:, o:o+out] (lora_a[:, :, i:i+in] x)`, so that
    zeros are the base model. `sum_in` and `sum_out` add up the targets' sizes.
    """
    lora_a = TensorSpec(LORA_A, dtype, ("rank", sum_in), "A of every target, along the last axis")
    lora_b = TensorSpec(LORA_B, dtype, (sum_out, "rank"), "B of every target, along the axis before the last")
    return replace(component, inputs=(*component.inputs, lora_a, lora_b))


def without_adapters(file: Path) -> Path:
    """Where, beside the ONNX graph `file` with packs as inputs, the same graph without them is."""
    return file.with_name(f"{file.stem}.without_adapters{file.suffix}")
