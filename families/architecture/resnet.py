"""ResnetBlock2D, which UNet and VAE share (diffusers' resnet.py)."""

from __future__ import annotations

from collections.abc import Iterator

from families.architecture.parts import ONCE, Part, Positions, conv, linear, norm


def resnet(
    name: str, in_channels: int, out_channels: int, positions: Positions, time: int = 0
) -> Iterator[Part]:
    """`time`: size of the time embedding; 0 where there is none."""
    yield norm(f"{name}.norm1", in_channels, positions)
    yield conv(f"{name}.conv1", in_channels, out_channels, positions)
    if time:
        yield linear(f"{name}.time_emb_proj", time, out_channels, ONCE)
    yield norm(f"{name}.norm2", out_channels, positions)
    yield conv(f"{name}.conv2", out_channels, out_channels, positions)
    if in_channels != out_channels:
        yield conv(f"{name}.conv_shortcut", in_channels, out_channels, positions, kernel=1)
