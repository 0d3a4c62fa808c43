"""Files of all ecosystems -> diffusers' keys, by diffusers' own converters, one linear of a file at a time.

One at a time, because converters drop silently what they do not know: what comes out of each must be whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders import FluxLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from diffusion.adapters.canonical import KEY, METADATA, Alphas, Pair, Pairs, check_targets, pairs_of
from diffusion.adapters.files import Contents
from families.adapters import AdapterError
from families.layers import LoraTarget
from families.spec import Configs, FamilySpec

SUFFIXES = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_down.weight": "A",
    ".lora_up.weight": "B",
    ".down.weight": "A",
    ".up.weight": "B",
    ".alpha": "alpha",
}
UNSUPPORTED = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "lora_mid": "LoCon",
    ".bias": "a bias",
    ".diff": "a difference of whole weights",
}
TEXT_ENCODERS = ("lora_te", "text_encoder")
# Keys of sd-scripts and of ComfyUI for the layer that is q, k, v and the MLP of a single block in one.
LINEAR1 = re.compile(r"(?:lora_unet_|diffusion_model\.)single_blocks[._](\d+)[._]linear1")
LINEAR1_PARTS = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
LINEAR1_ROWS = (3072, 3072, 3072, 12288)  # FLUX.1's, which diffusers' converter takes for granted


@dataclass(frozen=True)
class Linear:
    """The tensors of a file that belong together: its keys -> tensors, by part A, B, alpha."""

    name: str  # what their keys have in common
    keys: Mapping[str, str]  # part -> key
    tensors: Mapping[str, Tensor]

    @property
    def format(self) -> str:
        if "lora_down" in self.keys["A"]:
            return "kohya"
        return "xlabs" if "_blocks." in self.name and ".processor." in self.name else "diffusers"


@dataclass(frozen=True)
class Converted:
    """An adapter in diffusers' form. `data` is what the store keeps, `format` what the file was."""

    pairs: Pairs
    format: str
    data: bytes


def convert(
    contents: Contents, family: FamilySpec, targets: Sequence[LoraTarget], configs: Configs
) -> Converted:
    """The file of any known format, for a checkpoint with these targets and configs.

    AdapterError names the key that is unknown, incomplete, of a wrong shape or not supported.
    """
    try:
        linears = _linears(contents.tensors)
        kind = _format(linears)
        pairs = dict(_pairs(linears, contents.metadata, family, targets, configs))
    except AdapterError as error:
        raise AdapterError(f"{contents.path}: {error}") from None
    prefix = f"{family.denoiser.name}."
    kept = all(key.startswith(prefix) and KEY.fullmatch(key) for key in contents.tensors)
    return Converted(
        pairs,
        _origin(kind, linears, contents.metadata, prefix),
        contents.data if kept else written(pairs, prefix),
    )


def written(pairs: Pairs, prefix: str) -> bytes:
    """A safetensors file of `pairs` that diffusers loads; its metadata say what alpha is."""
    tensors = {
        f"{prefix}{module}.lora_{part}.weight": half.clone(memory_format=torch.contiguous_format)
        for module, pair in pairs.items()
        for part, half in (("A", pair.a), ("B", pair.b))
    }
    first = next(iter(pairs.values()))
    config = {
        "r": first.rank,
        "lora_alpha": first.alpha,
        "target_modules": [*pairs],
        # With ^, since without it proj_out would be any module whose name ends so.
        "rank_pattern": {f"^{name}": p.rank for name, p in pairs.items() if p.rank != first.rank},
        "alpha_pattern": {f"^{name}": p.alpha for name, p in pairs.items() if p.alpha != first.alpha},
    }
    text = json.dumps({f"{prefix}{key}": value for key, value in config.items()})
    return save(tensors, metadata={"format": "pt", METADATA: text})


def _linears(tensors: Mapping[str, Tensor]) -> list[Linear]:
    parts: dict[str, dict[str, str]] = {}
    for key in tensors:
        name, part = _split(key)
        if part in parts.setdefault(name, {}):
            raise AdapterError(f"{key} and {parts[name][part]} are both there")
        parts[name][part] = key
    return [_linear(name, keys, tensors) for name, keys in parts.items()]


def _split(key: str) -> tuple[str, str]:
    """What `key` has in common with its like, and its part; AdapterError if it has no place in a LoRA."""
    for mark, what in UNSUPPORTED.items():
        if mark in key:
            raise AdapterError(f"{key} is {what}, which is not supported")
    if key.startswith(TEXT_ENCODERS):
        raise AdapterError(f"{key} is of a text encoder; adapters are of the denoiser alone")
    for suffix, part in SUFFIXES.items():
        if key.endswith(suffix) and key != suffix:
            return key.removesuffix(suffix), part
    raise AdapterError(f"{key} is unknown; choices: keys that end in {', '.join(SUFFIXES)}")


def _linear(name: str, keys: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Linear:
    if lacking := sorted({"A", "B"} - {*keys}):
        raise AdapterError(f"{next(iter(keys.values()))} has no {lacking[0]} beside it")
    a, b = tensors[keys["A"]], tensors[keys["B"]]
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        raise AdapterError(
            f"{keys['A']} {list(a.shape)} and {keys['B']} {list(b.shape)} are not [rank, in] and [out, rank]"
        )
    if "alpha" in keys and not (tensors[keys["alpha"]].numel() == 1 and tensors[keys["alpha"]].item() > 0):
        raise AdapterError(f"{keys['alpha']} is not one number above 0")
    return Linear(name, keys, {key: tensors[key] for key in keys.values()})


def _format(linears: Sequence[Linear]) -> str:
    first = linears[0]
    for linear in linears:
        if linear.format != first.format:
            raise AdapterError(
                f"{first.keys['A']} is {first.format}'s, {linear.keys['A']} {linear.format}'s: "
                "one file has one format"
            )
    return first.format


def _origin(kind: str, linears: Sequence[Linear], metadata: Mapping[str, str], prefix: str) -> str:
    """The format in the words of the index, which tells writers of diffusers' keys apart."""
    if kind != "diffusers":
        return kind
    if "ai-toolkit" in metadata.get("software", ""):
        return "ai-toolkit"
    plain = any("alpha" in linear.keys or not linear.name.startswith(prefix) for linear in linears)
    return "peft" if plain else "diffusers"


def _pairs(
    linears: Sequence[Linear],
    metadata: Mapping[str, str],
    family: FamilySpec,
    targets: Sequence[LoraTarget],
    configs: Configs,
) -> Iterator[tuple[str, Pair]]:
    """Module -> pair of all linears; no module comes twice."""
    prefix = f"{family.denoiser.name}."
    bare = not any(linear.name.startswith(prefix) for linear in linears)
    alphas = _alphas(linears, metadata, "" if bare else prefix)
    found: dict[str, str] = {}
    for linear in linears:
        key = linear.keys["A"]
        try:
            pairs = _converted(linear, family, targets, configs, alphas)
            check_targets(pairs, targets)
            _check_finite(pairs)
        except AdapterError as error:
            raise AdapterError(f"{key}: {error}") from None
        for module, pair in pairs.items():
            if module in found:
                raise AdapterError(f"{key} and {found[module]} are both of {module}")
            found[module] = key
            yield module, pair


def _check_finite(pairs: Pairs) -> None:
    """Converters multiply alpha into the weights, in their own type."""
    if not all(torch.isfinite(half).all() for pair in pairs.values() for half in (pair.a, pair.b)):
        raise AdapterError("alpha makes values that are not finite")


def _alphas(linears: Sequence[Linear], metadata: Mapping[str, str], prefix: str) -> Alphas | None:
    alphas = Alphas.read(metadata, prefix)
    if alphas is None:
        return None
    for linear in linears:
        if linear.format != "diffusers" or "alpha" in linear.keys:
            raise AdapterError(f"{[*linear.keys.values()][-1]} and {METADATA} both say what alpha is")
    return alphas


def _converted(
    linear: Linear,
    family: FamilySpec,
    targets: Sequence[LoraTarget],
    configs: Configs,
    alphas: Alphas | None,
) -> Pairs:
    """What `linear` is in diffusers' words: of a fused one several modules."""
    prefix = f"{family.denoiser.name}."
    bare = linear.format == "diffusers" and not linear.name.startswith(prefix)
    tensors = {f"{prefix if bare else ''}{key}": tensor for key, tensor in linear.tensors.items()}
    fused = LINEAR1.fullmatch(linear.name)
    if fused:
        tensors |= _at_published_width(linear, fused[1], targets)
    try:
        state, alpha = READERS[family.name](tensors, configs[family.denoiser.folder])
    except Exception as error:  # converters raise a dozen kinds
        raise AdapterError(f"diffusers does not take it: {' '.join(str(error).split())[:200]!r}") from None
    pairs = pairs_of(state, prefix, alphas)
    if not pairs:
        raise AdapterError("diffusers ignores it")
    if fused:
        rows = {target.name: target.out_features for target in targets}
        pairs = {module: replace(pair, b=pair.b[: rows[module]]) for module, pair in pairs.items()}
    return {m: replace(pair, alpha=float(alpha)) for m, pair in pairs.items()} if alpha else pairs


def _at_published_width(linear: Linear, block: str, targets: Sequence[LoraTarget]) -> dict[str, Tensor]:
    """B of a single block's linear1 with rows of zeros, so that its parts begin where FLUX.1's do."""
    rows = {target.name: target.out_features for target in targets}
    names = [f"single_transformer_blocks.{block}.{part}" for part in LINEAR1_PARTS]
    if lacking := next((name for name in names if name not in rows), None):
        raise AdapterError(f"{lacking} is none of the {len(rows)} linears that an adapter may change")
    b = linear.tensors[linear.keys["B"]]
    sizes = [rows[name] for name in names]
    if b.shape[0] != sum(sizes):
        raise AdapterError(f"{linear.keys['B']} has {b.shape[0]} rows, the checkpoint's q, k, v, MLP {sizes}")
    parts = zip(torch.split(b, sizes), LINEAR1_ROWS, strict=True)
    padded = [functional.pad(part, (0, 0, 0, rows - part.shape[0])) for part, rows in parts]
    return {linear.keys["B"]: torch.cat(padded)}


State = tuple[Mapping[str, Tensor], float | None]  # what came out, and the alpha that is not yet in it


def _flux(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> State:
    state, alphas = FluxLoraLoaderMixin.lora_state_dict({**tensors}, return_alphas=True)
    return state, _only(alphas)


def _sdxl(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> State:
    """`config` is the UNet's: sd-scripts counts its blocks in another way."""
    layout = SimpleNamespace(layers_per_block=config["layers_per_block"])
    state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict({**tensors}, unet_config=layout)
    return convert_unet_state_dict_to_peft(state), _only(alphas)


def _only(alphas: Mapping[str, Any] | None) -> float | None:
    return next((float(alpha) for alpha in (alphas or {}).values()), None)


READERS: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], State]] = {
    "flux": _flux,
    "sdxl": _sdxl,
}
