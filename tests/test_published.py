"""The published configs are whole, and the shipped checkpoints differ from them in sizes alone."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from families.published import (
    DEFAULTS,
    FLUX_1_DEV,
    PUBLISHED,
    SDXL_BASE,
    Published,
    changes,
    complete,
    published_named,
)
from families.spec import Configs

CHECKPOINTS = Path(__file__).parent.parent / "assets" / "checkpoints"
TINY = {"flux-tiny": FLUX_1_DEV, "sdxl-tiny": SDXL_BASE}
PARTS = [(published, folder) for published in PUBLISHED.values() for folder in published.configs]
DIFFUSERS = [(published, folder) for published, folder in PARTS if published.index[folder][0] == "diffusers"]

# The keys that a shipped checkpoint may change: sizes, depths, what follows from its own vocabulary ...
CLIP = {"hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "projection_dim"}
VOCABULARY = {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}
VAE = {"block_out_channels", "layers_per_block", "norm_num_groups", "sample_size", "mid_block_add_attention"}
UNET = {
    "addition_time_embed_dim", "attention_head_dim", "block_out_channels", "cross_attention_dim",
    "layers_per_block", "norm_num_groups", "projection_class_embeddings_input_dim", "sample_size",
    "transformer_layers_per_block",
}  # fmt: skip
TRANSFORMER = {
    "attention_head_dim", "axes_dims_rope", "joint_attention_dim", "num_attention_heads", "num_layers",
    "num_single_layers", "pooled_projection_dim",
}  # fmt: skip
T5 = {"d_ff", "d_kv", "d_model", "num_heads", "num_layers", "vocab_size"}
# ... and what changes nothing: training, the decoder that the class leaves out, None for False.
IDLE_CLIP = {"dropout"}
IDLE_T5 = {
    "decoder_start_token_id", "dropout_rate", "is_decoder", "is_encoder_decoder", "num_decoder_layers",
    "output_past", "scale_decoder_outputs", "tie_word_embeddings", "use_cache",
}  # fmt: skip
MAY_CHANGE: dict[str, dict[str, set[str]]] = {
    "flux-tiny": {
        "text_encoder": CLIP | VOCABULARY | IDLE_CLIP,
        "text_encoder_2": T5 | IDLE_T5,
        "transformer": TRANSFORMER,
        "vae": VAE | {"scaling_factor", "shift_factor"},
    },
    "sdxl-tiny": {
        "text_encoder": CLIP | VOCABULARY | IDLE_CLIP,
        "text_encoder_2": CLIP | VOCABULARY | IDLE_CLIP | {"hidden_act"},
        "unet": UNET | {"upcast_attention"},
        "vae": VAE,
    },
}

# Keys of the files that the classes read no more, or (tie_word_embeddings) settle on their own.
UNREAD = {"_class_name", "dropout", "decoder_start_token_id", "output_past", "tie_word_embeddings"}


def configs_of(checkpoint: str) -> Configs:
    folders = TINY[checkpoint].configs
    return {
        folder: json.loads((CHECKPOINTS / checkpoint / folder / "config.json").read_text())
        for folder in folders
    }


def class_of(published: Published, folder: str) -> Any:
    library, name = published.index[folder]
    return getattr(importlib.import_module(library), name)


def taken(published: Published, folder: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the real class takes from `config`, its own defaults among them."""
    kind = class_of(published, folder)
    if published.index[folder][0] == "transformers":
        return complete(kind.config_class.from_dict(dict(config)).to_dict())
    import torch

    with torch.device("meta"):
        return complete(kind.from_config(dict(config)).config)


@pytest.mark.parametrize("checkpoint", TINY)
def test_a_shipped_checkpoint_changes_what_it_may_and_all_of_that(checkpoint: str) -> None:
    found = changes(TINY[checkpoint], configs_of(checkpoint))
    assert {folder: set(keys) for folder, keys in found.items()} == MAY_CHANGE[checkpoint]


@pytest.mark.parametrize("checkpoint", TINY)
def test_a_shipped_checkpoint_has_the_published_classes(checkpoint: str) -> None:
    index = json.loads((CHECKPOINTS / checkpoint / "model_index.json").read_text())
    published = TINY[checkpoint]
    parts = {"scheduler", *published.configs}
    assert {part: tuple(index[part]) for part in parts} == {part: published.index[part] for part in parts}
    assert index["_class_name"] == published.family.pipeline


def test_a_structural_change_is_named() -> None:
    configs = {**SDXL_BASE.configs, "vae": {**SDXL_BASE.configs["vae"], "use_quant_conv": False}}
    assert changes(SDXL_BASE, configs) == {"vae": {"use_quant_conv": (True, False)}}


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_a_file_with_the_published_configs_changes_nothing(published: Published) -> None:
    file = {"_diffusers_version": "0.30.0.dev0", "torch_dtype": "bfloat16"}
    saved = {
        folder: {**json.loads(json.dumps(config)), **file} for folder, config in published.configs.items()
    }
    assert changes(published, saved) == {}


@pytest.mark.parametrize(("published", "folder"), PARTS, ids=lambda value: getattr(value, "name", value))
def test_the_real_class_takes_every_value(published: Published, folder: str) -> None:
    wanted = complete(published.configs[folder])
    values = taken(published, folder, published.configs[folder])
    assert {*wanted} - {*values} <= UNREAD
    assert {key: values[key] for key in wanted if key in values and key not in UNREAD} == {
        key: value for key, value in wanted.items() if key in values and key not in UNREAD
    }


@pytest.mark.parametrize(("published", "folder"), DIFFUSERS, ids=lambda value: getattr(value, "name", value))
def test_what_a_config_leaves_out_is_the_class_default(published: Published, folder: str) -> None:
    config = published.configs[folder]
    defaults = DEFAULTS[str(config["_class_name"])]
    values = taken(published, folder, {key: config[key] for key in config if key not in defaults})
    assert {key: values[key] for key in defaults} == dict(defaults)
    assert {key for key in values if not key.startswith("_")} <= {*complete(config)}


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_sizes_are_those_of_the_configs_and_specs(published: Published) -> None:
    assert published.native_size == published.configs["vae"]["sample_size"]
    assert {component.folder for component in published.family.components} == {*published.configs}
    (length,) = published.family.component("text_encoder_2").inputs[0].shape
    assert length in ("text_length", published.max_sequence_length)


def test_an_unknown_name_lists_the_choices() -> None:
    assert published_named("FLUX.1-dev") is FLUX_1_DEV
    with pytest.raises(ValueError, match=r"'flux'; choices: FLUX\.1-dev, stable-diffusion-xl-base-1\.0$"):
        published_named("flux")
