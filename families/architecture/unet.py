"""UNet2DConditionModel as SDXL has it, in the order of its state dict (diffusers' unet_2d_condition.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from families.architecture.parts import ONCE, Attention, Part, Positions, conv, linear, norm, picture, tokens
from families.architecture.resnet import resnet
from families.spec import ComponentSpec

LATENT_PIXELS = 8  # pixels that a latent pixel spans, each way


@dataclass(frozen=True)
class Shape:
    """Sizes that all blocks share: of the time embedding, of text states, and the text's positions."""

    time: int
    context: int
    text: Positions


@dataclass(frozen=True)
class Level:
    """A resolution: its channels, the depth of its transformers (0: none), its positions and the resnets."""

    channels: int
    depth: int
    shrink: int
    resnets: int

    @property
    def positions(self) -> Positions:
        return picture(self.shrink)


def unet(component: ComponentSpec, config: dict[str, Any]) -> Iterator[Part]:
    text = next(tensor for tensor in component.inputs if tensor.name == "encoder_hidden_states").shape[0]
    first, *_, last = levels = _levels(config, "down_block_types")
    shape = Shape(4 * first.channels, config["cross_attention_dim"], tokens(text))
    yield conv("conv_in", config["in_channels"], first.channels, first.positions, config["conv_in_kernel"])
    yield from _embedding("time_embedding", first.channels, shape.time)
    yield from _embedding("add_embedding", config["projection_class_embeddings_input_dim"], shape.time)
    yield from _down(levels, shape)
    yield from _up(_levels(config, "up_block_types"), _skips(levels), shape)
    yield from _middle(last, _depths(config)[-1], shape)
    yield norm("conv_norm_out", first.channels, first.positions)
    yield conv("conv_out", first.channels, config["out_channels"], first.positions, config["conv_out_kernel"])


def _depths(config: dict[str, Any]) -> Sequence[int]:
    """Transformer blocks of each level, a single number being every level's."""
    depths = config["transformer_layers_per_block"]
    return [depths] * len(config["block_out_channels"]) if isinstance(depths, int) else depths


def _levels(config: dict[str, Any], kinds: str) -> list[Level]:
    """The levels in the order that the data passes them, for `down_block_types` or `up_block_types`."""
    up = kinds == "up_block_types"
    channels, depths = config["block_out_channels"], _depths(config)
    shrinks = [LATENT_PIXELS << place for place in range(len(channels))]
    places = [*range(len(channels))][:: -1 if up else 1]  # the way up starts where the way down ends
    return [
        Level(
            channels[place],
            depths[place] if kind.startswith("CrossAttn") else 0,
            shrinks[place],
            config["layers_per_block"] + up,
        )
        for place, kind in zip(places, config[kinds], strict=True)
    ]


def _skips(levels: Sequence[Level]) -> list[int]:
    """Channels of what the way down keeps for the way up, in the order in which it is made."""
    kept = [levels[0].channels]
    for level in levels[:-1]:
        kept += [level.channels] * (level.resnets + 1)  # and the downsampler
    return kept + [levels[-1].channels] * levels[-1].resnets


def _embedding(name: str, size: int, time: int) -> Iterator[Part]:
    yield linear(f"{name}.linear_1", size, time, ONCE)
    yield linear(f"{name}.linear_2", time, time, ONCE)


def _down(levels: Sequence[Level], shape: Shape) -> Iterator[Part]:
    channels = levels[0].channels
    for number, level in enumerate(levels):
        name = f"down_blocks.{number}"
        inputs = [channels, *[level.channels] * (level.resnets - 1)]
        yield from _block(name, level, inputs, shape)
        channels = level.channels
        if number < len(levels) - 1:
            yield conv(f"{name}.downsamplers.0.conv", channels, channels, picture(2 * level.shrink))


def _up(levels: Sequence[Level], skips: list[int], shape: Shape) -> Iterator[Part]:
    channels = levels[0].channels
    for number, level in enumerate(levels):
        name = f"up_blocks.{number}"
        before = [channels, *[level.channels] * (level.resnets - 1)]
        yield from _block(name, level, [size + skips.pop() for size in before], shape)
        channels = level.channels
        if number < len(levels) - 1:
            yield conv(f"{name}.upsamplers.0.conv", channels, channels, picture(level.shrink // 2))


def _block(name: str, level: Level, inputs: Sequence[int], shape: Shape) -> Iterator[Part]:
    """A resnet for each of `inputs`, its channels, and where the level has them a transformer after each."""
    for number in range(len(inputs) if level.depth else 0):
        yield from _transformer(f"{name}.attentions.{number}", level, shape)
    for number, size in enumerate(inputs):
        yield from resnet(f"{name}.resnets.{number}", size, level.channels, level.positions, shape.time)


def _middle(last: Level, depth: int, shape: Shape) -> Iterator[Part]:
    yield from _transformer("mid_block.attentions.0", Level(last.channels, depth, last.shrink, 2), shape)
    for number in range(2):
        name = f"mid_block.resnets.{number}"
        yield from resnet(name, last.channels, last.channels, last.positions, shape.time)


def _transformer(name: str, level: Level, shape: Shape) -> Iterator[Part]:
    channels, positions = level.channels, level.positions
    yield norm(f"{name}.norm", channels, positions)
    yield linear(f"{name}.proj_in", channels, channels, positions)
    for number in range(level.depth):
        yield from _transformer_block(f"{name}.transformer_blocks.{number}", channels, positions, shape)
    yield linear(f"{name}.proj_out", channels, channels, positions)


def _transformer_block(name: str, channels: int, positions: Positions, shape: Shape) -> Iterator[Part]:
    yield norm(f"{name}.norm1", channels, positions)
    yield from _attention(f"{name}.attn1", channels, positions, channels, positions)
    yield norm(f"{name}.norm2", channels, positions)
    yield from _attention(f"{name}.attn2", channels, positions, shape.context, shape.text)
    yield norm(f"{name}.norm3", channels, positions)
    yield linear(f"{name}.ff.net.0.proj", channels, 8 * channels, positions)  # GEGLU: values and gates
    yield linear(f"{name}.ff.net.2", 4 * channels, channels, positions)


def _attention(name: str, width: int, queries: Positions, context: int, keys: Positions) -> Iterator[Part]:
    yield linear(f"{name}.to_q", width, width, queries, bias=False)
    yield linear(f"{name}.to_k", context, width, keys, bias=False)
    yield linear(f"{name}.to_v", context, width, keys, bias=False)
    yield linear(f"{name}.to_out.0", width, width, queries)
    yield Attention(name, width, queries, keys)
