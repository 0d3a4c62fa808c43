"""What cannot be applied whole is refused with the key at fault, and the store stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lora_files import CHECKPOINTS, TINY, FluxWidths, State, kohya_flux, peft, written, xlabs
from torch import Tensor

from families.adapters import AdapterError
from finetune.store import Base, Said, Store, open_base


@pytest.fixture(scope="module")
def base() -> Base:
    return open_base(CHECKPOINTS / "flux-tiny")


@pytest.fixture
def store(base: Base, tmp_path: Path) -> Store:
    """A store that has `food` already."""
    store = Store(tmp_path / "store")
    store.add(written(tmp_path / "food.safetensors", peft(base)), "food", base, Said(industry="food"))
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


Make = Callable[[Base], State]
LAST, LINEAR = "transformer.proj_out", "lora_unet_double_blocks_0_img_mlp_0"
A, B = f"{LAST}.lora_A.weight", f"{LAST}.lora_B.weight"
DOWN, UP, ALPHA = f"{LINEAR}.lora_down.weight", f"{LINEAR}.lora_up.weight", f"{LINEAR}.alpha"
MORE = "lora_unet_final_layer_linear"


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def pair(module: str, into: int, out: int) -> State:
    return {f"{module}.lora_A.weight": ones(2, into), f"{module}.lora_B.weight": ones(out, 2)}


def kohya_pair(module: str, into: int, out: int) -> State:
    return {f"{module}.lora_down.weight": ones(2, into), f"{module}.lora_up.weight": ones(out, 2)}


def peft_with(**changes: Tensor) -> Make:
    return lambda base: {**peft(base), **changes}


def peft_without(key: str) -> Make:
    return lambda base: {name: tensor for name, tensor in peft(base).items() if name != key}


def kohya_with(**changes: Tensor) -> Make:
    return lambda base: {**kohya_flux(TINY, 2, 4, rank=4, alpha=2), **changes}


def kohya(widths: FluxWidths, double: int, single: int) -> Make:
    return lambda base: kohya_flux(widths, double, single, rank=2, alpha=1)


def only(**state: Tensor) -> Make:
    return lambda base: state


OVERFLOWING = {DOWN: 5 * ones(4, 128).half(), UP: ones(512, 4).half(), ALPHA: torch.tensor(6e4).half()}
COMFY = kohya_pair("diffusion_model.double_blocks.0.img_mlp.0", 128, 512)
XLABS = "double_blocks.0.processor.qkv_lora1.down.weight"

# What is added -> the key that the refusal names, and more of its words.
REFUSED: dict[str, tuple[Make, str, str]] = {
    "A alone": (peft_without(B), A, "no B"),
    "B alone": (peft_without(A), B, "no A"),
    "no module of the checkpoint": (
        peft_with(**pair("transformer.x", 3, 3)),
        "transformer.x.lora_A.weight",
        "of the 53",
    ),
    "no target": (
        peft_with(**pair("transformer.x_embedder", 64, 128)),
        "x_embedder.lora_A.weight",
        "of the 53",
    ),
    "whole weights": (peft_with(**{f"{LAST}.weight": ones(2, 2)}), f"{LAST}.weight", "unknown"),
    "a text encoder's": (peft_with(**pair("text_encoder.x", 2, 2)), "text_encoder.x.lora_", "text encoder"),
    "kohya's of one": (kohya_with(**kohya_pair("lora_te1_x", 2, 2)), "lora_te1_x.lora_", "text encoder"),
    "DoRA": (kohya_with(**{f"{LINEAR}.dora_scale": ones(512, 1)}), f"{LINEAR}.dora_scale", "DoRA"),
    "peft's DoRA": (peft_with(**{f"{LAST}.lora_magnitude_vector": ones(64)}), "magnitude_vector", "DoRA"),
    "a bias": (peft_with(**{f"{LAST}.lora_B.bias": ones(64)}), f"{LAST}.lora_B.bias", "bias"),
    "LoKr": (only(**{"lora_unet_x.lokr_w1": ones(2, 2)}), "lora_unet_x.lokr_w1", "LoKr"),
    "LoCon": (
        kohya_with(**{f"{LINEAR}.lora_mid.weight": ones(4, 4, 3, 3)}),
        f"{LINEAR}.lora_mid.weight",
        "LoCon",
    ),
    "a convolution": (kohya_with(**{DOWN: ones(4, 128, 3, 3)}), DOWN, "[4, 128, 3, 3]"),
    "two ranks": (peft_with(**{A: ones(3, 128)}), A, "[3, 128]"),
    "a wrong shape": (peft_with(**{A: ones(2, 96)}), A, "(64, 96)"),
    "NaN": (peft_with(**{A: ones(2, 128) * torch.nan}), A, "not finite"),
    "alpha NaN": (kohya_with(**{ALPHA: torch.tensor(torch.nan)}), ALPHA, "not finite"),
    "alpha 0": (kohya_with(**{ALPHA: torch.tensor(0.0)}), ALPHA, "above 0"),
    "alpha below 0": (kohya_with(**{ALPHA: torch.tensor(-1.0)}), ALPHA, "above 0"),
    "two alphas": (kohya_with(**{ALPHA: ones(2)}), ALPHA, "one number"),
    "alpha true": (kohya_with(**{ALPHA: torch.tensor(True)}), ALPHA, "BOOL"),
    "alpha too large": (kohya_with(**OVERFLOWING), DOWN, "not finite"),
    "alpha alone": (kohya_with(**{"lora_unet_x.alpha": ones()}), "lora_unet_x.alpha", "no A"),
    "two formats": (
        lambda base: {**peft(base), **kohya(TINY, 1, 0)(base)},
        "lora_unet",
        "one file has one format",
    ),
    "a module twice": (kohya_with(**COMFY), "img_mlp", "are both of transformer_blocks.0.ff.net.0.proj"),
    "no such block": (kohya(TINY, 3, 0), "double_blocks_2", "of the 53"),
    "no such single block": (kohya(TINY, 0, 5), "single_blocks_4", "of the 53"),
    "linear1 of another width": (
        only(**kohya_pair("lora_unet_single_blocks_0_linear1", 128, 672)),
        "linear1",
        "672 rows",
    ),
    "what diffusers drops": (kohya_with(**kohya_pair(MORE, 128, 64)), MORE, "proj_out"),
    "BFL's control": (
        only(**{"double_blocks.0.norm.query_norm.scale": ones(2)}),
        "query_norm.scale",
        "unknown",
    ),
    "XLabs' of another width": (
        lambda base: xlabs(96, 1, 0, rank=2),
        "double_blocks.0.processor",
        "(96, 96)",
    ),
    "XLabs' half": (only(**{XLABS: ones(2, 128)}), XLABS, "no B"),
    "another family's": (
        lambda base: peft(open_base(CHECKPOINTS / "sdxl-tiny")),
        "unet.",
        "is for sdxl (it has unet.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_file_is_named_with_its_key_and_leaves_the_store_as_it_was(
    name: str, base: Base, store: Store, tmp_path: Path
) -> None:
    make, key, why = REFUSED[name]
    path, before = written(tmp_path / "bad.safetensors", make(base)), contents(store.folder)
    for label in ("bad", "food"):
        with pytest.raises(AdapterError) as refusal:
            store.add(path, label, base, Said(), replace=True)
        text = str(refusal.value)
        assert str(path) in text and key in text and why in text and "\n" not in text, text
    assert contents(store.folder) == before


SDXL_REFUSED: dict[str, tuple[State, str, str]] = {
    "PEFT with alpha": ({**pair("unet.x", 2, 2), "unet.x.alpha": ones()}, "unet.x", "unet.x.alpha"),
    "a convolution's block": (
        kohya_pair("lora_unet_input_blocks_1_0_in_layers_2", 2, 2),
        "in_layers_2",
        "of the 124",
    ),
    "time": (kohya_pair("lora_unet_time_embed_0", 2, 2), "lora_unet_time_embed_0", "of the 124"),
    "a block that is no number": (
        kohya_pair("lora_unet_input_blocks_x_1_proj_in", 2, 2),
        "input_blocks_x",
        "diffusers does not take it",
    ),
    "Flux": (pair("transformer.proj_out", 2, 2), "transformer.proj_out.lora_A.weight", "is for flux (it has"),
}


@pytest.mark.parametrize("name", SDXL_REFUSED)
def test_what_is_not_for_sdxls_unet_is_refused_too(name: str, tmp_path: Path) -> None:
    state, key, why = SDXL_REFUSED[name]
    path, store = written(tmp_path / "bad.safetensors", state), Store(tmp_path / "store")
    with pytest.raises(AdapterError) as refusal:
        store.add(path, "bad", open_base(CHECKPOINTS / "sdxl-tiny"), Said())
    assert key in str(refusal.value) and why in str(refusal.value), refusal.value
    assert not store.folder.exists()
