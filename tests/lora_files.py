"""LoRA files as the ecosystems write them, of random weights for the random checkpoints' denoisers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from small_graphs import Case, for_cpu
from torch import Tensor, nn

from export import models
from finetune.store import Base, open_base

State = dict[str, Tensor]
CHECKPOINTS = Path(__file__).parent.parent / "assets" / "checkpoints"
PIPELINES = {"flux": FluxPipeline, "sdxl": StableDiffusionXLPipeline}
DENOISERS = {"flux": "transformer", "sdxl": "unet"}
# Endings of the modules that the usual scripts train, in both families.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Bench:
    """A random checkpoint, its denoiser with packed inputs, and what writes and reads LoRA files for it."""

    family: str
    folder: Path
    base: Base
    case: Case

    @classmethod
    def open(cls, family: str, folder: Path) -> Bench:
        return cls(family, folder, open_base(folder), for_cpu(folder, DENOISERS[family], lora=True))

    @property
    def component(self) -> str:
        return DENOISERS[self.family]

    def denoiser(self) -> nn.Module:
        """diffusers' own module, with its weights."""
        return models.inner(self.case.module())[1]

    def state(self, seed: int = 0, rank: int = 4, modules: tuple[str, ...] = (), **config: Any) -> State:
        """peft's state dict of such an adapter: keys without prefix."""
        return get_peft_model_state_dict(self.trained(seed, rank, modules, **config))

    def trained(
        self, seed: int = 0, rank: int = 4, modules: tuple[str, ...] = (), **config: Any
    ) -> nn.Module:
        """`denoiser` with an adapter on the modules that end so, or on every target."""
        names = [target.name for target in self.base.targets if not modules or target.name.endswith(modules)]
        # An expression, for peft takes a list's names for the ends of names: proj_out would be many.
        target = "|".join(name.replace(".", r"\.") for name in names)
        alpha = config.pop("lora_alpha", rank)
        denoiser: Any = self.denoiser()
        denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=target, **config))
        random = torch.Generator().manual_seed(seed)
        for name, parameter in denoiser.named_parameters():
            if "lora_" in name:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=random)
        return denoiser

    def diffusers_file(
        self, folder: Path, denoiser: nn.Module, metadata: bool = True, older: bool = False
    ) -> Path:
        """As diffusers' training scripts save an adapter; `older`: with the keys that SDXL's still writes."""
        layers = get_peft_model_state_dict(denoiser)
        if older:
            layers = convert_state_dict_to_diffusers(layers)
        about = _collate_lora_metadata({self.component: denoiser}) if metadata else {}
        PIPELINES[self.family].save_lora_weights(folder, **{f"{self.component}_lora_layers": layers}, **about)
        return folder / "pytorch_lora_weights.safetensors"


def peft(base: Base, rank: int = 2, seed: int = 0) -> State:
    """An adapter of every target, in diffusers' form, that no library made."""
    random, state = torch.Generator().manual_seed(seed), State()
    for target in base.targets:
        key = f"{base.family.denoiser.name}.{target.name}.lora_"
        state[f"{key}A.weight"] = torch.randn(rank, target.in_features, generator=random)
        state[f"{key}B.weight"] = torch.randn(target.out_features, rank, generator=random)
    return state


def written(path: Path, state: Mapping[str, Tensor], **metadata: str) -> Path:
    return saved(path, state, metadata)


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def saved(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, path, metadata)
    return path


def with_alphas(state: State, alpha: float) -> State:
    """PEFT's keys with an alpha key for each module, as some trainers add them."""
    modules = {key.rsplit(".lora_", 1)[0] for key in state}
    return {**state, **{f"{module}.alpha": torch.tensor(alpha) for module in modules}}


def ai_toolkit(path: Path, state: State) -> Path:
    """As ai-toolkit saves Flux: PEFT's keys with the pipeline's prefix, in half precision, and no alpha."""
    about = {"software": json.dumps({"name": "ai-toolkit", "repo": "ostris/ai-toolkit", "version": "0.7"})}
    half = {key: tensor.bfloat16() for key, tensor in prefixed(state, "transformer.").items()}
    return saved(path, half, {**about, "format": "pt", "name": "food", "version": "1.0"})


def kohya_sdxl(state: State) -> State:
    """By diffusers' own converter, which takes alpha for the rank and writes it as an integer."""
    return convert_state_dict_to_kohya(prefixed(state, "unet."))


def sgm_sdxl(state: State, alpha: float, layers_per_block: int) -> State:
    """As sd-scripts names the same: by the blocks of Stability AI's UNet, input, middle and output."""
    named = {_sgm(key, layers_per_block): tensor for key, tensor in kohya_sdxl(state).items()}
    return {key: torch.tensor(alpha) if key.endswith(".alpha") else tensor for key, tensor in named.items()}


def _sgm(key: str, layers_per_block: int) -> str:
    each = layers_per_block + 1
    if "_mid_block_attentions_0_" in key:
        return key.replace("_mid_block_attentions_0_", "_middle_block_1_")
    rest = key.removeprefix("lora_unet_")
    side, _, block, _, layer, rest = rest.split("_", 5)
    number = each * int(block) + int(layer) + (side == "down")
    return f"lora_unet_{'input' if side == 'down' else 'output'}_blocks_{number}_1_{rest}"


@dataclass(frozen=True)
class FluxWidths:
    """Sizes of a Flux transformer's linears, in the words of Black Forest Labs' keys."""

    width: int
    mlp: int

    @property
    def double(self) -> dict[str, tuple[int, int]]:
        """Name in a double block -> in and out features."""
        w, m = self.width, self.mlp
        sizes = {
            "attn_qkv": (w, 3 * w),
            "attn_proj": (w, w),
            "mlp_0": (w, m),
            "mlp_2": (m, w),
            "mod_lin": (w, 6 * w),
        }
        return {f"{stream}_{name}": size for stream in ("img", "txt") for name, size in sizes.items()}

    @property
    def single(self) -> dict[str, tuple[int, int]]:
        w, m = self.width, self.mlp
        return {"linear1": (w, 3 * w + m), "linear2": (w + m, w), "modulation_lin": (w, 3 * w)}


TINY = FluxWidths(128, 512)  # flux-tiny's


def kohya_flux(widths: FluxWidths, double: int, single: int, rank: int, alpha: float, seed: int = 0) -> State:
    """As sd-scripts names a Flux adapter: fused q, k, v; lora_down, lora_up and alpha."""
    random, state = torch.Generator().manual_seed(seed), State()
    names = {f"double_blocks_{n}_{key}": size for n in range(double) for key, size in widths.double.items()}
    names |= {f"single_blocks_{n}_{key}": size for n in range(single) for key, size in widths.single.items()}
    for name, (into, out) in names.items():
        state[f"lora_unet_{name}.lora_down.weight"] = 0.1 * torch.randn(rank, into, generator=random)
        state[f"lora_unet_{name}.lora_up.weight"] = 0.1 * torch.randn(out, rank, generator=random)
        state[f"lora_unet_{name}.alpha"] = torch.tensor(alpha)
    return state


def xlabs(width: int, double: int, single: int, rank: int, seed: int = 0) -> State:
    """As XLabs' trainer names it: processors of the attentions, no alpha."""
    random, state = torch.Generator().manual_seed(seed), State()
    names = {
        f"double_blocks.{n}.processor.{kind}_lora{stream}": (width, out)
        for n in range(double)
        for stream in (1, 2)
        for kind, out in (("qkv", 3 * width), ("proj", width))
    }
    for n in range(single):
        names[f"single_blocks.{n}.processor.qkv_lora"] = (width, 3 * width)
        names[f"single_blocks.{n}.processor.proj_lora"] = (5 * width, width)
    for name, (into, out) in names.items():
        state[f"{name}.down.weight"] = 0.1 * torch.randn(rank, into, generator=random)
        state[f"{name}.up.weight"] = 0.1 * torch.randn(out, rank, generator=random)
    return state
