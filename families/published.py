"""The published checkpoints that are served at true size: their configs, as their repositories' files say.

Sources: model_index.json and each part's config.json of black-forest-labs/FLUX.1-dev and
stabilityai/stable-diffusion-xl-base-1.0, without what names a version, a place or the saved weights' type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from families.flux import FLUX
from families.sdxl import SDXL
from families.spec import Configs, FamilySpec

Config = Mapping[str, Any]
Changes = Mapping[str, Mapping[str, tuple[Any, Any]]]  # folder -> key -> (published, checkpoint's)

# Keys that say where a file comes from, not what it describes.
ORIGIN = frozenset({"_diffusers_version", "_name_or_path", "transformers_version", "torch_dtype", "dtype"})

# What a config.json may leave out: the value that the class named there then takes.
DEFAULTS: Mapping[str, Config] = {
    "FluxTransformer2DModel": {"axes_dims_rope": (16, 56, 56), "out_channels": None},
    "UNet2DConditionModel": {
        "attention_type": "default",
        "dropout": 0.0,
        "reverse_transformer_layers_per_block": None,
        "upcast_attention": False,
    },
    "AutoencoderKL": {
        "latents_mean": None,
        "latents_std": None,
        "mid_block_add_attention": True,
        "shift_factor": None,
        "use_post_quant_conv": True,
        "use_quant_conv": True,
    },
}


@dataclass(frozen=True)
class Published:
    """`index`: part of model_index.json -> (library, class); `native_size` in pixels.

    `max_sequence_length` is in tokens of the second text encoder.
    """

    name: str
    family: FamilySpec
    index: Mapping[str, tuple[str, str]]
    configs: Configs
    native_size: int
    max_sequence_length: int
    denoiser_sha256: str = ""  # no weights are here


CLIP: Config = {
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "pad_token_id": 1,
    "vocab_size": 49408,
}
CLIP_L: Config = {
    **CLIP,
    "architectures": ("CLIPTextModel",),
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
CLIP_BIG_G: Config = {
    **CLIP,
    "architectures": ("CLIPTextModelWithProjection",),
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
T5_XXL: Config = {
    "architectures": ("T5EncoderModel",),
    "classifier_dropout": 0.0,
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 32128,
}
FLUX_TRANSFORMER: Config = {
    "_class_name": "FluxTransformer2DModel",
    "attention_head_dim": 128,
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
SDXL_UNET: Config = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": (1, 2, 10),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "upcast_attention": None,
    "use_linear_projection": True,
}
VAE: Config = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "force_upcast": True,
    "in_channels": 3,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
SDXL_VAE: Config = {**VAE, "latent_channels": 4, "scaling_factor": 0.13025}
FLUX_VAE: Config = {
    **VAE,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}

FLUX_1_DEV = Published(
    name="FLUX.1-dev",
    family=FLUX,
    index={
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "T5TokenizerFast"),
        "transformer": ("diffusers", "FluxTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    },
    configs={
        "text_encoder": CLIP_L,
        "text_encoder_2": T5_XXL,
        "transformer": FLUX_TRANSFORMER,
        "vae": FLUX_VAE,
    },
    native_size=1024,
    max_sequence_length=512,
)
SDXL_BASE = Published(
    name="stable-diffusion-xl-base-1.0",
    family=SDXL,
    index={
        "scheduler": ("diffusers", "EulerDiscreteScheduler"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    },
    configs={"text_encoder": CLIP_L, "text_encoder_2": CLIP_BIG_G, "unet": SDXL_UNET, "vae": SDXL_VAE},
    native_size=1024,
    max_sequence_length=77,
)
PUBLISHED: Mapping[str, Published] = {published.name: published for published in (FLUX_1_DEV, SDXL_BASE)}


def published_of(family: FamilySpec) -> Published:
    """The published checkpoint of `family`."""
    return next(published for published in PUBLISHED.values() if published.family is family)


def published_named(name: str) -> Published:
    """The published checkpoint called `name`; ValueError lists the choices."""
    if name not in PUBLISHED:
        raise ValueError(f"unknown checkpoint {name!r}; choices: {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def complete(config: Config) -> dict[str, Any]:
    """`config` with its class's defaults for keys it leaves out, without origins; lists become tuples."""
    values = {**DEFAULTS.get(str(config.get("_class_name")), {}), **config}
    return {key: _frozen(value) for key, value in values.items() if key not in ORIGIN}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def changes(published: Published, configs: Configs) -> Changes:
    """What a checkpoint's `configs` change: folder -> key -> (published value, checkpoint's value).

    A key that one side leaves out counts as its class's default, else as None. Equal folders are left out.
    """
    found = {folder: _changed(config, configs[folder]) for folder, config in published.configs.items()}
    return {folder: keys for folder, keys in found.items() if keys}


def _changed(published: Config, own: Config) -> dict[str, tuple[Any, Any]]:
    before, after = complete(published), complete(own)
    pairs = {key: (before.get(key), after.get(key)) for key in sorted({*before, *after})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
