"""FluxTransformer2DModel, in the order of its state dict (diffusers' transformer_flux.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from families.architecture.parts import ONCE, Attention, Part, Positions, linear, norm
from families.spec import ComponentSpec

TIMESTEP_CHANNELS = (
    256  # sinusoids of timestep and guidance, fixed in CombinedTimestepGuidanceTextProjEmbeddings
)
MLP_RATIO = 4
IMAGE = Positions(axes=("image_tokens",))
TEXT = Positions(axes=("text_length",))
BOTH = Positions(axes=("text_length", "image_tokens"))


def flux_transformer(component: ComponentSpec, config: dict[str, Any]) -> Iterator[Part]:
    width = config["num_attention_heads"] * config["attention_head_dim"]
    head = config["attention_head_dim"]
    yield from _condition("time_text_embed", config, width)
    yield linear("context_embedder", config["joint_attention_dim"], width, TEXT)
    yield linear("x_embedder", config["in_channels"], width, IMAGE)
    for number in range(config["num_layers"]):
        yield from _double_block(f"transformer_blocks.{number}", width, head)
    for number in range(config["num_single_layers"]):
        yield from _single_block(f"single_transformer_blocks.{number}", width, head)
    yield linear("norm_out.linear", width, 2 * width, ONCE)
    channels = config["out_channels"] or config["in_channels"]
    yield linear("proj_out", width, config["patch_size"] ** 2 * channels, IMAGE)


def _condition(name: str, config: dict[str, Any], width: int) -> Iterator[Part]:
    """Embeddings of timestep, guidance (if distilled) and pooled text."""
    sizes = {"timestep_embedder": TIMESTEP_CHANNELS, "guidance_embedder": TIMESTEP_CHANNELS}
    if not config["guidance_embeds"]:
        del sizes["guidance_embedder"]
    for embedder, size in {**sizes, "text_embedder": config["pooled_projection_dim"]}.items():
        yield linear(f"{name}.{embedder}.linear_1", size, width, ONCE)
        yield linear(f"{name}.{embedder}.linear_2", width, width, ONCE)


def _double_block(name: str, width: int, head: int) -> Iterator[Part]:
    yield linear(f"{name}.norm1.linear", width, 6 * width, ONCE)
    yield linear(f"{name}.norm1_context.linear", width, 6 * width, ONCE)
    yield from _query_key_value(f"{name}.attn", width, head, IMAGE)
    yield linear(f"{name}.attn.to_out.0", width, width, IMAGE)
    for size in ("norm_added_q", "norm_added_k"):
        yield norm(f"{name}.attn.{size}", head, TEXT, bias=False)
    for projection in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        yield linear(f"{name}.attn.{projection}", width, width, TEXT)
    yield from _feed_forward(f"{name}.ff", width, IMAGE)
    yield from _feed_forward(f"{name}.ff_context", width, TEXT)
    yield Attention(f"{name}.attn", width, BOTH, BOTH)


def _single_block(name: str, width: int, head: int) -> Iterator[Part]:
    yield linear(f"{name}.norm.linear", width, 3 * width, ONCE)
    yield linear(f"{name}.proj_mlp", width, MLP_RATIO * width, BOTH)
    yield linear(f"{name}.proj_out", (1 + MLP_RATIO) * width, width, BOTH)
    yield from _query_key_value(f"{name}.attn", width, head, BOTH)
    yield Attention(f"{name}.attn", width, BOTH, BOTH)


def _query_key_value(name: str, width: int, head: int, positions: Positions) -> Iterator[Part]:
    for size in ("norm_q", "norm_k"):
        yield norm(f"{name}.{size}", head, positions, bias=False)
    for projection in ("to_q", "to_k", "to_v"):
        yield linear(f"{name}.{projection}", width, width, positions)


def _feed_forward(name: str, width: int, positions: Positions) -> Iterator[Part]:
    yield linear(f"{name}.net.0.proj", width, MLP_RATIO * width, positions)
    yield linear(f"{name}.net.2", MLP_RATIO * width, width, positions)
