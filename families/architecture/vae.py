"""Both halves of AutoencoderKL, in the order of its state dict (diffusers' autoencoder_kl.py and vae.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from families.architecture.parts import Attention, Part, conv, linear, norm, picture
from families.architecture.resnet import resnet
from families.spec import ComponentSpec


def encoder(component: ComponentSpec, config: dict[str, Any]) -> Iterator[Part]:
    sizes, latents = config["block_out_channels"], 2 * config["latent_channels"]  # mean and log variance
    smallest = 1 << (len(sizes) - 1)
    yield conv("encoder.conv_in", config["in_channels"], sizes[0], picture(1))
    for number, (before, size) in enumerate(zip((sizes[0], *sizes), sizes, strict=False)):
        name, shrink = f"encoder.down_blocks.{number}", 1 << number
        yield from _resnets(name, before, size, config["layers_per_block"], shrink)
        if shrink < smallest:
            yield conv(f"{name}.downsamplers.0.conv", size, size, picture(2 * shrink))
    yield from _middle("encoder.mid_block", sizes[-1], smallest, config["mid_block_add_attention"])
    yield norm("encoder.conv_norm_out", sizes[-1], picture(smallest))
    yield conv("encoder.conv_out", sizes[-1], latents, picture(smallest))
    if config["use_quant_conv"]:
        yield conv("quant_conv", latents, latents, picture(smallest), kernel=1)


def decoder(component: ComponentSpec, config: dict[str, Any]) -> Iterator[Part]:
    sizes, latents = (*reversed(config["block_out_channels"]),), config["latent_channels"]
    smallest = 1 << (len(sizes) - 1)
    yield conv("decoder.conv_in", latents, sizes[0], picture(smallest))
    for number, (before, size) in enumerate(zip((sizes[0], *sizes), sizes, strict=False)):
        name, shrink = f"decoder.up_blocks.{number}", smallest >> number
        yield from _resnets(name, before, size, config["layers_per_block"] + 1, shrink)
        if shrink > 1:
            yield conv(f"{name}.upsamplers.0.conv", size, size, picture(shrink // 2))
    yield from _middle("decoder.mid_block", sizes[0], smallest, config["mid_block_add_attention"])
    yield norm("decoder.conv_norm_out", sizes[-1], picture(1))
    yield conv("decoder.conv_out", sizes[-1], config["out_channels"], picture(1))
    if config["use_post_quant_conv"]:
        yield conv("post_quant_conv", latents, latents, picture(smallest), kernel=1)


def _resnets(name: str, before: int, size: int, count: int, shrink: int) -> Iterator[Part]:
    for number in range(count):
        yield from resnet(f"{name}.resnets.{number}", size if number else before, size, picture(shrink))


def _middle(name: str, size: int, shrink: int, attention: bool) -> Iterator[Part]:
    if attention:
        yield from _attention(f"{name}.attentions.0", size, shrink)
    for number in range(2):
        yield from resnet(f"{name}.resnets.{number}", size, size, picture(shrink))


def _attention(name: str, size: int, shrink: int) -> Iterator[Part]:
    yield norm(f"{name}.group_norm", size, picture(shrink))
    for projection in ("to_q", "to_k", "to_v", "to_out.0"):
        yield linear(f"{name}.{projection}", size, size, picture(shrink))
    yield Attention(name, size, picture(shrink), picture(shrink))
