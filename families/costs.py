"""What a component costs: parameters, FLOPs of a call, bytes of weights and of adapters.

FLOP = 2 x MAC; matrix products, convolutions and attention count, norms and activations do not: those are
memory traffic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from families.layers import attentions, layers, lora_targets, parameters
from families.spec import Axes, ComponentSpec, Configs, FamilySpec

# Bytes of one weight. int8: weights and activations; int8_weights: weights alone, products in 16 bits.
WEIGHT_BYTES: Mapping[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "int8_weights": 1}
ADAPTER_BYTES = 2  # an adapter's numbers are 16-bit


def parameter_count(family: FamilySpec, component: ComponentSpec, configs: Configs) -> int:
    return sum(math.prod(shape) for shape in parameters(family, component, configs).values())


def flops(family: FamilySpec, component: ComponentSpec, configs: Configs, axes: Axes) -> int:
    """FLOPs of one call; `axes["batch"]` counts rows, so a picture with guidance takes two of the UNet's."""
    of_layers = sum(layer.flops(axes) for layer in layers(family, component, configs))
    return of_layers + sum(attention.flops(axes) for attention in attentions(family, component, configs))


def weight_bytes(family: FamilySpec, component: ComponentSpec, configs: Configs, precision: str) -> int:
    """Bytes of the weights if all were in `precision`; ValueError lists the choices.

    The scales of int8, and norms, biases and embeddings that stay in 16 bits, are not in it: some percent.
    """
    if precision not in WEIGHT_BYTES:
        raise ValueError(f"unknown precision {precision!r}; choices: {', '.join(WEIGHT_BYTES)}")
    return WEIGHT_BYTES[precision] * parameter_count(family, component, configs)


def adapter_bytes(family: FamilySpec, component: ComponentSpec, configs: Configs, rank: int) -> int:
    """Bytes of one adapter of `rank`: lora_a [rank, in] and lora_b [out, rank] of every LoRA target."""
    targets = lora_targets(family, component, configs)
    return ADAPTER_BYTES * rank * sum(target.in_features + target.out_features for target in targets)


def adapter_flops(family: FamilySpec, component: ComponentSpec, configs: Configs, axes: Axes) -> int:
    """FLOPs that packs of rank `axes["rank"]` add to a call; zeros that fill a row up to the rank count."""
    targets = {target.name for target in lora_targets(family, component, configs)}
    return sum(
        2 * axes["rank"] * (layer.in_features + layer.out_features) * layer.rows(axes)
        for layer in layers(family, component, configs)
        if layer.name in targets
    )
