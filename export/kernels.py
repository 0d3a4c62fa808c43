"""Parts of denoisers written for ONNX Runtime: one operator per kernel, nothing that nobody reads.

Its optimizer finds none of this in the nodes that diffusers' own code exports as. The pictures are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxSingleTransformerBlock
from torch import Tensor, nn
from torch.nn import functional

from export.wrappers import PositionEmbedding

Rotary = tuple[Tensor, Tensor]  # cos, sin [S, D / 2]


def use_kernels(model: nn.Module) -> None:
    """Makes the attentions and group norms of `model`, a denoiser that is to be traced, single operators."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = InstanceGroupNorm
        elif isinstance(module, FluxAttention):
            module.set_processor(JointAttention())
        elif isinstance(module, Attention):
            module.set_processor(CrossAttention())
        elif isinstance(module, PositionEmbedding):
            module.__class__ = PairEmbedding
    singles = [module for module in model.modules() if isinstance(module, FluxSingleTransformerBlock)]
    for last in singles[-1:]:
        last.__class__ = LastSingleBlock


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """[B, S, H * D], [B, T, H * D] twice -> [B, S, H * D]; the kernel parts the heads."""
    answer: Tensor = torch.onnx.ops.attention(query, key, value, q_num_heads=heads, kv_num_heads=heads)[0]
    return answer


def rotated(tensor: Tensor, rotary: Rotary, heads: int) -> Tensor:
    """[B, S, H * D] -> the same, each head turned by `rotary` in FP32, as apply_rotary_emb does."""
    cos, sin = (part[None].expand(tensor.shape[0], -1, -1) for part in rotary)
    turned = torch.onnx.ops.rotary_embedding(tensor.float(), cos, sin, interleaved=True, num_heads=heads)
    return turned.to(tensor.dtype)


class PairEmbedding(PositionEmbedding):
    """ids [S, 3] -> cos, sin [S, D / 2]: one number for the two that it turns."""

    def forward(self, ids: Tensor) -> Rotary:
        angles = [ids[:, axis, None] * self._frequencies(size) for axis, size in enumerate(self.axes_dim)]
        joined = torch.cat(angles, dim=-1)
        return joined.cos(), joined.sin()

    def _frequencies(self, size: int) -> Tensor:
        """As diffusers' get_1d_rotary_pos_embed has them."""
        frequencies: Tensor = 1.0 / (self.theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
        return frequencies


class JointAttention:
    """diffusers' FluxAttnProcessor, with heads side by side in the last axis all the way."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        assert image_rotary_emb is not None
        parts = _projected(hidden_states, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)
        if encoder_hidden_states is not None:
            projections = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
            text = _projected(encoder_hidden_states, *projections, attn.norm_added_q, attn.norm_added_k)
            parts = [torch.cat(pair, dim=1) for pair in zip(text, parts, strict=True)]
        query, key = (rotated(part, image_rotary_emb, attn.heads) for part in parts[:2])
        answer = attention(query, key, parts[2], attn.heads)
        if encoder_hidden_states is None:
            return answer
        lengths = [encoder_hidden_states.shape[1], hidden_states.shape[1]]
        of_text, of_image = torch.split(answer, lengths, dim=1)
        return attn.to_out[0](of_image), attn.to_add_out(of_text)


def _projected(
    tensor: Tensor, to_q: nn.Module, to_k: nn.Module, to_v: nn.Module, norm_q: Any, norm_k: Any
) -> list[Tensor]:
    """Query, key and value [B, S, H * D] of one stream."""
    return [_by_head(norm_q, to_q(tensor)), _by_head(norm_k, to_k(tensor)), to_v(tensor)]


def _by_head(norm: Any, tensor: Tensor) -> Tensor:
    (size,) = norm.normalized_shape
    normed: Tensor = norm(tensor.reshape(*tensor.shape[:2], -1, size)).flatten(2)
    return normed


class LastSingleBlock(FluxSingleTransformerBlock):  # type: ignore[misc]
    """Leaves out what it would answer for the text: nobody reads it."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: Rotary | None = None,
        joint_attention_kwargs: None = None,
    ) -> tuple[Tensor, Tensor]:
        start = encoder_hidden_states.shape[1]
        normed, gate = self.norm(torch.cat([encoder_hidden_states, hidden_states], dim=1), emb=temb)
        attended = self.attn(hidden_states=normed, image_rotary_emb=image_rotary_emb)[:, start:]
        widened = self.act_mlp(self.proj_mlp(normed[:, start:]))
        answer = self.proj_out(torch.cat([attended, widened], dim=2))
        return encoder_hidden_states, hidden_states + gate.unsqueeze(1) * answer


class CrossAttention:
    """diffusers' AttnProcessor2_0 for a UNet's blocks, which have no mask, no norms and no residual there."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: None
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        answer = attention(attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source), attn.heads)
        projected: Tensor = attn.to_out[0](answer)
        return projected


class InstanceGroupNorm(nn.GroupNorm):
    """As an instance norm of groups: ONNX Runtime takes opset 21's GroupNormalization to pieces."""

    def forward(self, input: Tensor) -> Tensor:
        groups = input.reshape(input.shape[0], self.num_groups, -1)
        normed = functional.instance_norm(groups, eps=self.eps).reshape(input.shape)
        shape = [-1] + [1] * (input.dim() - 2)
        return normed * self.weight.reshape(shape) + self.bias.reshape(shape)
