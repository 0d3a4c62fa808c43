"""CLIP's and T5's text encoders, in the order of their state dicts (transformers 5's modeling files)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from families.architecture.parts import ONCE, Attention, Part, Positions, embedding, linear, norm, tokens
from families.spec import ComponentSpec


def clip(component: ComponentSpec, config: dict[str, Any]) -> Iterator[Part]:
    """CLIPTextModel; checkpoints written before transformers 5 put `text_model.` before every name."""
    yield from _clip_text_model("", component, config)


def clip_with_projection(component: ComponentSpec, config: dict[str, Any]) -> Iterator[Part]:
    """CLIPTextModelWithProjection."""
    yield from _clip_text_model("text_model.", component, config)
    yield linear("text_projection", config["hidden_size"], config["projection_dim"], ONCE, bias=False)


def _clip_text_model(prefix: str, component: ComponentSpec, config: dict[str, Any]) -> Iterator[Part]:
    width, positions = config["hidden_size"], tokens(component.inputs[0].shape[0])
    yield embedding(f"{prefix}embeddings.token_embedding", config["vocab_size"], width, positions)
    places = config["max_position_embeddings"]
    yield embedding(f"{prefix}embeddings.position_embedding", places, width, positions)
    for number in range(config["num_hidden_layers"]):
        name = f"{prefix}encoder.layers.{number}"
        yield from _clip_layer(name, width, config["intermediate_size"], positions)
    yield norm(f"{prefix}final_layer_norm", width, positions)


def _clip_layer(name: str, width: int, inner: int, positions: Positions) -> Iterator[Part]:
    for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
        yield linear(f"{name}.self_attn.{projection}", width, width, positions)
    yield norm(f"{name}.layer_norm1", width, positions)
    yield linear(f"{name}.mlp.fc1", width, inner, positions)
    yield linear(f"{name}.mlp.fc2", inner, width, positions)
    yield norm(f"{name}.layer_norm2", width, positions)
    yield Attention(f"{name}.self_attn", width, positions, positions)


def t5(component: ComponentSpec, config: dict[str, Any]) -> Iterator[Part]:
    """T5EncoderModel of version 1.1: gated feed-forward, the position bias in the first block only."""
    width, positions = config["d_model"], tokens(component.inputs[0].shape[0])
    yield embedding("shared", config["vocab_size"], width, positions)
    for number in range(config["num_layers"]):
        yield from _t5_block(f"encoder.block.{number}", config, positions, first=number == 0)
    yield norm("encoder.final_layer_norm", width, positions, bias=False)


def _t5_block(name: str, config: dict[str, Any], positions: Positions, first: bool) -> Iterator[Part]:
    width, attention = config["d_model"], f"{name}.layer.0.SelfAttention"
    heads, inner = config["num_heads"], config["num_heads"] * config["d_kv"]
    for projection in ("q", "k", "v"):
        yield linear(f"{attention}.{projection}", width, inner, positions, bias=False)
    yield linear(f"{attention}.o", inner, width, positions, bias=False)
    if first:
        buckets = config["relative_attention_num_buckets"]
        yield embedding(f"{attention}.relative_attention_bias", buckets, heads, positions)
    yield norm(f"{name}.layer.0.layer_norm", width, positions, bias=False)
    yield from _t5_feed_forward(f"{name}.layer.1", width, config["d_ff"], positions)
    yield Attention(attention, inner, positions, positions)


def _t5_feed_forward(name: str, width: int, inner: int, positions: Positions) -> Iterator[Part]:
    for projection in ("wi_0", "wi_1"):
        yield linear(f"{name}.DenseReluDense.{projection}", width, inner, positions, bias=False)
    yield linear(f"{name}.DenseReluDense.wo", inner, width, positions, bias=False)
    yield norm(f"{name}.layer_norm", width, positions, bias=False)
