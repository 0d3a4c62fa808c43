"""Components as engines see them: every tensor batch-first, post-processing inside, FP32 at the border.

The wrapped model may compute in a lower type; adapters' packs come in that type and need no cast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn

from export.lora import Pack


def dtype_of(model: nn.Module) -> torch.dtype:
    """What `model` computes in."""
    return next(model.parameters()).dtype


def positions(input_ids: Tensor) -> Tensor:
    """[1, T]: CLIP keeps them in a buffer, which is not in the checkpoint's file."""
    return torch.arange(input_ids.shape[1])[None]


class TextEncoder(nn.Module):
    """input_ids int64 [B, 77] -> pooler_output [B, hidden_size]."""

    def __init__(self, text_encoder: Any) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        output: Tensor = self.text_encoder(input_ids, position_ids=positions(input_ids)).pooler_output
        return output.float()


class TextEncoder2(nn.Module):
    """input_ids int64 [B, T] -> last_hidden_state [B, T, d_model]; attends to padding, as FluxPipeline."""

    def __init__(self, text_encoder_2: Any) -> None:
        super().__init__()
        self.text_encoder_2 = text_encoder_2

    def forward(self, input_ids: Tensor) -> Tensor:
        output: Tensor = self.text_encoder_2(input_ids).last_hidden_state
        return output.float()


class HiddenStates(nn.Module):
    """input_ids int64 [B, 77] -> hidden_states [B, 77, hidden_size], the last but one."""

    def __init__(self, text_encoder: Any) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        output = self.text_encoder(input_ids, position_ids=positions(input_ids), output_hidden_states=True)
        hidden_states: Tensor = output.hidden_states[-2]
        return hidden_states.float()


class HiddenStatesAndProjection(nn.Module):
    """input_ids int64 [B, 77] -> hidden_states [B, 77, hidden_size], text_embeds [B, projection_dim]."""

    def __init__(self, text_encoder_2: Any) -> None:
        super().__init__()
        self.text_encoder_2 = text_encoder_2

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        output = self.text_encoder_2(input_ids, position_ids=positions(input_ids), output_hidden_states=True)
        return output.hidden_states[-2].float(), output.text_embeds.float()


class Unet(nn.Module):
    """One prediction; timestep is [B, 1]. `pack` is that of its LoraLinears, if it has any."""

    def __init__(self, unet: Any, pack: Pack | None = None) -> None:
        super().__init__()
        self.unet = unet
        self.pack = pack or Pack()

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor,
        time_ids: Tensor,
        lora_a: Tensor | None = None,
        lora_b: Tensor | None = None,
    ) -> Tensor:
        self.pack.a, self.pack.b = lora_a, lora_b
        dtype = dtype_of(self.unet)
        # text_embeds stays FP32: the UNet joins it with its FP32 time embeddings, and casts then.
        noise_pred: Tensor = self.unet(
            sample.to(dtype),
            timestep[:, 0],
            encoder_hidden_states.to(dtype),
            added_cond_kwargs={"text_embeds": text_embeds, "time_ids": time_ids},
            return_dict=False,
        )[0]
        return noise_pred.float()


class PositionEmbedding(nn.Module):
    """diffusers' FluxPosEmbed in FP32, as TensorRT has no FP64: ids [S, 3] -> cos, sin [S, D]."""

    def __init__(self, pos_embed: Any) -> None:
        super().__init__()
        self.theta, self.axes_dim = pos_embed.theta, pos_embed.axes_dim

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [self._axis(ids[:, axis].float(), size) for axis, size in enumerate(self.axes_dim)]
        cos, sin = zip(*pairs, strict=True)
        return torch.cat(cos, dim=-1), torch.cat(sin, dim=-1)

    def _axis(self, position: Tensor, size: int) -> tuple[Tensor, Tensor]:
        cos, sin = get_1d_rotary_pos_embed(
            size,
            position,
            theta=self.theta,
            repeat_interleave_real=True,
            use_real=True,
            freqs_dtype=torch.float32,
        )
        return cos, sin


class Transformer(nn.Module):
    """One prediction; timestep and guidance are [B, 1], position ids [B, S, 3], of which row 0 counts.

    `pack` is that of its LoraLinears, if it has any.
    """

    def __init__(self, transformer: Any, pack: Pack | None = None) -> None:
        super().__init__()
        self.transformer = transformer
        self.transformer.pos_embed = PositionEmbedding(transformer.pos_embed)
        self.pack = pack or Pack()

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor,
        lora_a: Tensor | None = None,
        lora_b: Tensor | None = None,
    ) -> Tensor:
        self.pack.a, self.pack.b = lora_a, lora_b
        dtype = dtype_of(self.transformer)
        sample: Tensor = self.transformer(
            hidden_states=hidden_states.to(dtype),
            encoder_hidden_states=encoder_hidden_states.to(dtype),
            pooled_projections=pooled_projections.to(dtype),
            timestep=timestep[:, 0],
            img_ids=img_ids[0],
            txt_ids=txt_ids[0],
            guidance=guidance[:, 0] if self.transformer.config.guidance_embeds else None,
            return_dict=False,
        )[0]
        return sample.float()


class VaeDecoder(nn.Module):
    """Scaled latents [B, C, h, w] -> images uint8 [B, 8h, 8w, 3], rounded as VaeImageProcessor does."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)
        images: Tensor = self.vae.decode(latents.to(dtype_of(self.vae)), return_dict=False)[0].float()
        images = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        return (images * 255).round().to(torch.uint8)


class VaeEncoder(nn.Module):
    """images uint8 [B, H, W, 3] -> mean and std [B, C, H/8, W/8] of the scaled latents."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # First to float: TensorRT permutes no uint8.
        pixels = images.to(torch.float32).permute(0, 3, 1, 2) / 255 * 2 - 1
        posterior = self.vae.encode(pixels.to(dtype_of(self.vae))).latent_dist
        scale, shift = self.vae.config.scaling_factor, self.vae.config.shift_factor or 0
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale


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
