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


class HiddenStates(nn.Module):
    """input_ids int64 [B, 77] -> hidden_states [B, 77, hidden_size], the last but one."""

    def __init__(self, text_encoder: Any) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden_states: Tensor = self.text_encoder(input_ids, output_hidden_states=True).hidden_states[-2]
        return hidden_states


class HiddenStatesAndProjection(nn.Module):
    """input_ids int64 [B, 77] -> hidden_states [B, 77, hidden_size], text_embeds [B, projection_dim]."""

    def __init__(self, text_encoder_2: Any) -> None:
        super().__init__()
        self.text_encoder_2 = text_encoder_2

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        output = self.text_encoder_2(input_ids, output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds


class Unet(nn.Module):
    """One prediction; timestep is [B, 1]."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor,
        time_ids: Tensor,
    ) -> Tensor:
        noise_pred: Tensor = self.unet(
            sample,
            timestep[:, 0],
            encoder_hidden_states,
            added_cond_kwargs={"text_embeds": text_embeds, "time_ids": time_ids},
            return_dict=False,
        )[0]
        return noise_pred


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
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)
        images: Tensor = self.vae.decode(latents, return_dict=False)[0]
        images = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        return (images * 255).round().to(torch.uint8)


class VaeEncoder(nn.Module):
    """images uint8 [B, H, W, 3] -> mean and std [B, C, H/8, W/8] of the scaled latents."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 255 * 2 - 1
        posterior = self.vae.encode(pixels).latent_dist
        scale, shift = self.vae.config.scaling_factor, self.vae.config.shift_factor or 0
        return (posterior.mean - shift) * scale, posterior.std * scale


WRAPPERS: dict[str, dict[str, Callable[[Any], nn.Module]]] = {
    "flux": {
        "text_encoder": TextEncoder,
        "text_encoder_2": TextEncoder2,
        "transformer": Transformer,
        "vae_encoder": VaeEncoder,
        "vae_decoder": VaeDecoder,
    },
    "sdxl": {
        "text_encoder": HiddenStates,
        "text_encoder_2": HiddenStatesAndProjection,
        "unet": Unet,
        "vae_encoder": VaeEncoder,
        "vae_decoder": VaeDecoder,
    },
}
