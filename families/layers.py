"""Every layer of a component, enumerated from a checkpoint's configs, and which an adapter may change.

Names and order are those of the state dict of the class that model_index.json names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from families.architecture import text_encoders, vae
from families.architecture.flux_transformer import flux_transformer
from families.architecture.parts import Attention, Layer, Part, Positions
from families.architecture.unet import unet
from families.published import complete
from families.spec import ComponentSpec, Configs, FamilySpec

__all__ = [
    "Attention",
    "Layer",
    "LoraTarget",
    "Positions",
    "attentions",
    "layers",
    "lora_targets",
    "parameters",
]

Builder = Callable[[ComponentSpec, dict[str, Any]], Iterator[Part]]

BUILDERS: Mapping[tuple[str, str], Builder] = {
    ("flux", "text_encoder"): text_encoders.clip,
    ("flux", "text_encoder_2"): text_encoders.t5,
    ("flux", "transformer"): flux_transformer,
    ("flux", "vae_encoder"): vae.encoder,
    ("flux", "vae_decoder"): vae.decoder,
    ("sdxl", "text_encoder"): text_encoders.clip,
    ("sdxl", "text_encoder_2"): text_encoders.clip_with_projection,
    ("sdxl", "unet"): unet,
    ("sdxl", "vae_encoder"): vae.encoder,
    ("sdxl", "vae_decoder"): vae.decoder,
}


@dataclass(frozen=True)
class LoraTarget:
    """A linear that an adapter may change: y = W x + B A x.

    A is lora_a[:, :, in_offset : in_offset + in_features] of lora_a [batch, rank, sum of in_features], and B
    lora_b[:, out_offset : out_offset + out_features] of lora_b [batch, sum of out_features, rank].
    """

    name: str
    in_features: int
    out_features: int
    in_offset: int
    out_offset: int


# What the enumeration takes for granted: key of a config.json -> the value it holds for, if the key is there.
ASSUMED: Mapping[str, object] = {
    "addition_embed_type": "text_time",
    "attention_type": "default",
    "class_embed_type": None,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "is_gated_act": True,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_dim": None,
    "use_linear_projection": True,
}


def _parts(family: FamilySpec, component: ComponentSpec, configs: Configs) -> Iterator[Part]:
    """ValueError where a config has a structure that the enumeration does not know."""
    config = complete(configs[component.folder])
    for key, value in ASSUMED.items():
        if config.get(key, value) != value:
            raise ValueError(
                f"{component.folder}/config.json: {key} {config[key]!r} is unknown; choices: {value}"
            )
    return BUILDERS[family.name, component.name](component, config)


def layers(family: FamilySpec, component: ComponentSpec, configs: Configs) -> tuple[Layer, ...]:
    """The layers with weights, in state-dict order; shapes of a checkpoint with these configs."""
    return tuple(part for part in _parts(family, component, configs) if isinstance(part, Layer))


def attentions(family: FamilySpec, component: ComponentSpec, configs: Configs) -> tuple[Attention, ...]:
    """The attentions, which have no weights of their own."""
    return tuple(part for part in _parts(family, component, configs) if isinstance(part, Attention))


def parameters(family: FamilySpec, component: ComponentSpec, configs: Configs) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape, in state-dict order."""
    return {
        name: shape for layer in layers(family, component, configs) for name, shape in layer.shapes.items()
    }


def lora_targets(family: FamilySpec, component: ComponentSpec, configs: Configs) -> tuple[LoraTarget, ...]:
    """The linears that an adapter may change, in state-dict order; empty but for the denoisers.

    Flux: all of both kinds of blocks, modulations included, and the last projection, as kohya's and
    ai-toolkit's files have them. SDXL: all of the UNet's transformers.
    """
    changed = LORA.get((family.name, component.name), lambda name: False)
    return tuple(_packed(layer for layer in layers(family, component, configs) if _is_target(layer, changed)))


def _is_target(layer: Layer, changed: Callable[[str], bool]) -> bool:
    return layer.kind == "linear" and changed(layer.name)


def _packed(linears: Iterable[Layer]) -> Iterator[LoraTarget]:
    in_offset = out_offset = 0
    for layer in linears:
        yield LoraTarget(layer.name, layer.in_features, layer.out_features, in_offset, out_offset)
        in_offset, out_offset = in_offset + layer.in_features, out_offset + layer.out_features


FLUX_BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")

LORA: Mapping[tuple[str, str], Callable[[str], bool]] = {
    ("flux", "transformer"): lambda name: name.startswith(FLUX_BLOCKS) or name == "proj_out",
    ("sdxl", "unet"): lambda name: ".attentions." in name,
}
