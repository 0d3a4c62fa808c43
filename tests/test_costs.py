"""Layers, parameters and FLOPs are those of the real classes, at true size and of the shipped checkpoints."""

from __future__ import annotations

import importlib
import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from export.lora import attach
from export.wrappers import WRAPPERS
from families import FAMILIES, FamilySpec
from families.costs import adapter_bytes, adapter_flops, flops, parameter_count, weight_bytes
from families.layers import lora_targets, parameters
from families.published import FLUX_1_DEV, PUBLISHED, SDXL_BASE, Published
from families.spec import Axes, Configs

CHECKPOINTS = Path(__file__).parent.parent / "assets" / "checkpoints"
HALVES = {"vae_encoder": ("encoder.", "quant_conv."), "vae_decoder": ("decoder.", "post_quant_conv.")}
COMPONENTS = [
    (published.name, component.name)
    for published in PUBLISHED.values()
    for component in published.family.components
]
DENOISERS = {FLUX_1_DEV.name: "transformer", SDXL_BASE.name: "unet"}
SIZES = ("true", "tiny")


@cache
def configs_of(name: str, size: str) -> Configs:
    published = PUBLISHED[name]
    folder = CHECKPOINTS / f"{published.family.name}-tiny"
    read = {part: json.loads((folder / part / "config.json").read_text()) for part in published.configs}
    return published.configs if size == "true" else read


@cache
def model_of(name: str, folder: str, size: str) -> Any:
    """The real class on the meta device."""
    library, kind = PUBLISHED[name].index[folder]
    found = getattr(importlib.import_module(library), kind)
    config = dict(configs_of(name, size)[folder])
    with torch.device("meta"):
        if library == "diffusers":
            return found.from_config(config).eval()
        return found(found.config_class.from_dict(config)).eval()


def inputs_of(published: Published, component: str, axes: Axes, configs: Configs) -> dict[str, Tensor]:
    dtypes = {"FP32": torch.float32, "INT64": torch.int64, "UINT8": torch.uint8}
    spec = published.family.component(component)
    sizes = spec.input_sizes(axes, configs)
    return {
        tensor.name: torch.zeros(sizes[tensor.name], dtype=dtypes[tensor.dtype], device="meta")
        for tensor in spec.inputs
    }


@torch.no_grad()
def counted(name: str, component: str, size: str, axes: Axes) -> int:
    """torch's FLOPs of one call."""
    published = PUBLISHED[name]
    model = model_of(name, published.family.component(component).folder, size)
    wrapper = WRAPPERS[published.family.name][component](model)
    inputs = inputs_of(published, component, axes, configs_of(name, size))
    with FlopCounterMode(display=False) as counter:
        wrapper(**inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "component"), COMPONENTS)
def test_parameters_are_those_of_the_real_class(name: str, component: str, size: str) -> None:
    family = PUBLISHED[name].family
    spec = family.component(component)
    model = model_of(name, spec.folder, size)
    wanted = [
        (parameter, tuple(tensor.shape))
        for parameter, tensor in model.named_parameters()
        if parameter.startswith(HALVES.get(component, ""))
    ]
    assert [*parameters(family, spec, configs_of(name, size)).items()] == wanted


@pytest.mark.parametrize(
    ("size", "batch", "height", "width"),
    [("true", 1, 512, 512), ("true", 1, 1024, 1024), ("true", 2, 512, 768), ("tiny", 2, 512, 768)],
)
@pytest.mark.parametrize(("name", "component"), COMPONENTS)
def test_flops_are_torchs(name: str, component: str, batch: int, height: int, width: int, size: str) -> None:
    published = PUBLISHED[name]
    length = published.max_sequence_length
    axes = published.family.axes(batch=batch, height=height, width=width, text_length=length)
    ours = flops(published.family, published.family.component(component), configs_of(name, size), axes)
    assert ours == counted(name, component, size, axes)


@pytest.mark.parametrize("name", DENOISERS)
def test_adapters_flops_are_torchs(name: str) -> None:
    published, configs = PUBLISHED[name], configs_of(name, "tiny")
    family, folder = published.family, DENOISERS[name]
    known = family, family.component(folder), configs
    axes = family.axes(batch=2, height=128, width=64, text_length=77, rank=6)
    model = deepcopy(model_of(name, folder, "tiny"))
    wrapper = WRAPPERS[family.name][folder](model, attach(model, targets := lora_targets(*known)))
    packs = {"lora_a": (2, 6, targets[-1].in_offset + targets[-1].in_features),
             "lora_b": (2, targets[-1].out_offset + targets[-1].out_features, 6)}  # fmt: skip
    inputs = inputs_of(published, folder, axes, configs)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        wrapper(**inputs, **{pack: torch.zeros(shape, device="meta") for pack, shape in packs.items()})
    assert flops(*known, axes) + adapter_flops(*known, axes) == counter.get_total_flops()


def total(published: Published, *components: str) -> int:
    family = published.family
    return sum(parameter_count(family, family.component(name), published.configs) for name in components)


def test_counts_are_the_published() -> None:
    assert total(FLUX_1_DEV, "transformer") == 11_901_408_320
    assert total(FLUX_1_DEV, "text_encoder_2") == 4_762_310_656
    assert total(FLUX_1_DEV, "text_encoder") == total(SDXL_BASE, "text_encoder") == 123_060_480
    assert total(FLUX_1_DEV, "vae_encoder", "vae_decoder") == 83_819_683
    assert total(SDXL_BASE, "text_encoder_2") == 694_659_840
    assert total(SDXL_BASE, "unet") == 2_567_463_684
    assert total(SDXL_BASE, "vae_encoder", "vae_decoder") == 83_653_863


# FLOPs of one call that the project's note on physical limits counted on its own, by its function.
LIMITS = [
    (FLUX_1_DEV, "transformer", 512, 21_502_600_151_040),  # flux_flops(512)
    (FLUX_1_DEV, "transformer", 1024, 74_384_653_418_496),  # flux_flops(1024)
    (SDXL_BASE, "unet", 512, 1_588_778_762_240),  # sdxl_unet(512).flops
    (SDXL_BASE, "unet", 1024, 6_761_236_398_080),  # sdxl_unet(1024).flops
    (FLUX_1_DEV, "vae_decoder", 512, 2_514_971_787_264),  # vae_decoder(512, 16).flops
    (FLUX_1_DEV, "vae_decoder", 1024, 10_472_204_009_472),  # vae_decoder(1024, 16).flops
    (FLUX_1_DEV, "vae_encoder", 512, 1_117_563_912_192),  # vae_encoder(512, 16).flops
    (FLUX_1_DEV, "vae_encoder", 1024, 4_882_572_509_184),  # vae_encoder(1024, 16).flops
    (FLUX_1_DEV, "text_encoder_2", 1024, 4_844_723_109_888),  # t5_xxl()[0]
    (FLUX_1_DEV, "text_encoder", 1024, 13_298_503_680),  # CLIP_L[0]
]


@pytest.mark.parametrize(("published", "component", "size", "counted"), LIMITS)
def test_flops_are_those_of_the_limits(published: Published, component: str, size: int, counted: int) -> None:
    family = published.family
    axes = family.axes(batch=1, height=size, width=size, text_length=published.max_sequence_length)
    assert flops(family, family.component(component), published.configs, axes) == counted


def linears_of(name: str, size: str) -> list[tuple[str, int, int]]:
    """The linears of the real class that an adapter may change, found by the modules they are in."""
    model = model_of(name, DENOISERS[name], size)
    roots: list[nn.Module] = (
        [model.transformer_blocks, model.single_transformer_blocks, model.proj_out]
        if name == FLUX_1_DEV.name
        else [module for module in model.modules() if isinstance(module, Transformer2DModel)]
    )
    inside = {id(module) for root in roots for module in root.modules() if isinstance(module, nn.Linear)}
    return [
        (place, module.in_features, module.out_features)
        for place, module in model.named_modules()
        if id(module) in inside
    ]


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [(FLUX_1_DEV.name, "true", 495), (FLUX_1_DEV.name, "tiny", 53)]
    + [(SDXL_BASE.name, "true", 722), (SDXL_BASE.name, "tiny", 124)],
)
def test_lora_targets_are_the_linears_in_state_dict_order(name: str, size: str, count: int) -> None:
    family = PUBLISHED[name].family
    targets = lora_targets(family, family.component(DENOISERS[name]), configs_of(name, size))
    found = [(target.name, target.in_features, target.out_features) for target in targets]
    assert found == linears_of(name, size) and len(found) == count
    for before, after in zip(targets, targets[1:], strict=False):
        assert after.in_offset == before.in_offset + before.in_features
        assert after.out_offset == before.out_offset + before.out_features
    assert (targets[0].in_offset, targets[0].out_offset) == (0, 0)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_only_denoisers_have_lora_targets(family: FamilySpec) -> None:
    published = next(entry for entry in PUBLISHED.values() if entry.family is family)
    having = [c.name for c in family.components if lora_targets(family, c, published.configs)]
    assert having == [DENOISERS[published.name]]


def test_bytes_follow_the_precision() -> None:
    family, configs = FLUX_1_DEV.family, FLUX_1_DEV.configs
    transformer = family.component("transformer")
    assert weight_bytes(family, transformer, configs, "bf16") == 23_802_816_640
    assert weight_bytes(family, transformer, configs, "int8") == 11_901_408_320
    assert adapter_bytes(family, transformer, configs, rank=16) == 343_871_488 // 2
    with pytest.raises(ValueError, match="unknown precision 'int4'; choices: fp32, bf16, fp16, int8, "):
        weight_bytes(family, transformer, configs, "int4")


def test_an_unknown_structure_is_refused() -> None:
    configs = {**SDXL_BASE.configs, "unet": {**SDXL_BASE.configs["unet"], "use_linear_projection": False}}
    with pytest.raises(ValueError, match=r"unet/config\.json: use_linear_projection False"):
        parameters(SDXL_BASE.family, SDXL_BASE.family.component("unet"), configs)
