"""Components as engines see them: every tensor batch-first, post-processing inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class TextEncoder(nn.Module):
    """input_ids int64 [B, 77] -> pooler_output [B, hidden_size]."""

    def __init__(self, text_encoder: Any) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        output: Tensor = self.text_encoder(input_ids).pooler_output
        return output


class TextEncoder2(nn.Module):
    """input_ids int64 [B, T] -> last_hidden_state [B, T, d_model]; attends to padding, as FluxPipeline."""

    def __init__(self, text_encoder_2: Any) -> None:
        super().__init__()
        self.text_encoder_2 = text_encoder_2

    def forward(self, input_ids: Tensor) -> Tensor:
        output: Tensor = self.text_encoder_2(input_ids).last_hidden_state
        return output


class Transformer(nn.Module):
    """One prediction; timestep and guidance are [B, 1], position ids [B, S, 3], of which row 0 counts."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor,
    ) -> Tensor:
        sample: Tensor = self.transformer(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            timestep=timestep[:, 0],
            img_ids=img_ids[0],
            txt_ids=txt_ids[0],
            guidance=guidance[:, 0] if self.transformer.config.guidance_embeds else None,
            return_dict=False,
        )[0]
        return sample


class VaeDecoder(nn.Module):
    """Scaled latents [B, C, h, w] -> images uint8 [B, 8h, 8w, 3], rounded as VaeImageProcessor does."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        latents = latents / self.vae.config.scaling_factor + self.vae.config.shift_factor
        images: Tensor = self.vae.decode(latents, return_dict=False)[0]
        images = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        return (images * 255).round().to(torch.uint8)


WRAPPERS: dict[str, Callable[[Any], nn.Module]] = {
    "text_encoder": TextEncoder,
    "text_encoder_2": TextEncoder2,
    "transformer": Transformer,
    "vae_decoder": VaeDecoder,
}
