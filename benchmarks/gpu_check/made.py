"""A denoiser of random weights on a device, and pictures for it to draw."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_check.sweep import RESIDENT, Entry
from diffusion.adapters import Pack
from diffusion.checkpoint import load_scheduler
from diffusion.denoise import Sample
from diffusion.flux import FluxPicture, FluxText
from diffusion.sdxl import SdxlPicture, SdxlText
from diffusion.settings import Settings
from export.checkpoint import open_checkpoint
from export.layout import Structure
from export.lora import attach
from export.targets import COMPUTE, TARGETS
from export.wrappers import WRAPPERS
from families import ComponentSpec, FamilySpec
from families.costs import adapter_flops, flops
from families.layers import LoraTarget, lora_targets
from families.published import published_of
from families.spec import NUMPY_DTYPES, Axes

CHECKPOINTS = Path(__file__).parent.parent.parent / "assets" / "checkpoints"
STD = 0.02  # of the weights, and of the packs


def structure_of(family: FamilySpec, true_size: bool) -> Structure:
    """The published checkpoint's, or the tiny one's."""
    return published_of(family) if true_size else open_checkpoint(_tiny(family))


def _tiny(family: FamilySpec) -> Path:
    return CHECKPOINTS / f"{family.name}-tiny"


def precision_of(family: FamilySpec, true_size: bool) -> str:
    """The 16-bit one of the A100's target at true size, else fp32."""
    return TARGETS["a100"].sixteen_bit(family.key(family.denoiser)) if true_size else "fp32"


def dtype_of(precision: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, NUMPY_DTYPES[COMPUTE[precision]])
    return dtype


@torch.no_grad()
def filled(model: nn.Module, place: torch.device) -> nn.Module:
    """`model`, of the meta device, with normal numbers drawn on `place`; norms' scales are ones."""
    model = model.to_empty(device=place)
    random = torch.Generator(place).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and name.endswith("weight"):
            parameter.fill_(1)
        else:
            parameter.normal_(0, STD, generator=random)
    return model


@dataclass(frozen=True)
class Made:
    """The denoiser of `structure` as `export` wraps it: every tensor batch-first, FP32 at the border."""

    structure: Structure
    module: Any  # of WRAPPERS
    place: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, structure: Structure, place: torch.device, dtype: torch.dtype) -> Made:
        family, component = structure.family, structure.family.denoiser
        library, kind = structure.index[component.folder]
        with torch.device("meta"):  # nothing of 24 GB is ever on the host
            config = dict(structure.configs[component.folder])
            model = getattr(importlib.import_module(library), kind).from_config(config)
            nn.Module.to(model, dtype)  # diffusers' own warns that checkpoints may want FP32 in places
        wrapper = WRAPPERS[family.name][component.name]
        return cls(structure, wrapper(filled(model, place)).eval(), place, dtype)

    @property
    def family(self) -> FamilySpec:
        return self.structure.family

    @property
    def component(self) -> ComponentSpec:
        return self.family.denoiser

    @property
    def targets(self) -> tuple[LoraTarget, ...]:
        return lora_targets(self.family, self.component, self.structure.configs)

    def attach(self) -> None:
        """Gives the module LoRA inputs; from now on it needs packs."""
        (model,) = self.module.children()
        self.module.pack = attach(model, self.targets)

    def axes(self, entry: Entry) -> Axes:
        """Of one call for all pictures of `entry`."""
        rows = entry.batch * self.component.rows_per_picture
        length = self.structure.max_sequence_length
        sizes = {"height": entry.size, "width": entry.size, "text_length": length}
        return self.family.axes(batch=rows, rank=entry.rank, **sizes)

    def flops(self, entry: Entry) -> int:
        """Of a step."""
        known = self.family, self.component, self.structure.configs, self.axes(entry)
        return flops(*known) + adapter_flops(*known)

    def samples(self, entry: Entry, steps: int) -> list[Sample]:
        """The pictures of `entry` before their first step, each with a seed of its own."""
        place = self.place if entry.tensors == RESIDENT else torch.device("cpu")
        packs = self._packs(entry, place)
        samples = [self._start(entry, seed, steps, place, pack) for seed, pack in enumerate(packs)]
        for sample in samples:
            sample.latents = sample.latents.to(place)  # diffusion/ draws them on the host
        return samples

    def _packs(self, entry: Entry, place: torch.device) -> list[Pack | None]:
        """One for each picture: the same for all, or all different."""
        if not entry.ranks:
            return [None] * entry.batch
        if len({*entry.ranks}) == 1:
            return [self._pack(entry.rank, 0, place)] * entry.batch
        return [self._pack(rank, seed, place) for seed, rank in enumerate(entry.ranks)]

    def _pack(self, rank: int, seed: int, place: torch.device) -> Pack:
        last = self.targets[-1]
        sums = last.in_offset + last.in_features, last.out_offset + last.out_features
        shapes = (1, rank, sums[0]), (1, sums[1], rank)
        a, b = (normal(shape, seed, self.place, self.dtype, STD).to(place) for shape in shapes)
        return Pack(a, b, applied=())

    def _start(
        self, entry: Entry, seed: int, steps: int, place: torch.device, adapters: Pack | None
    ) -> Sample:
        family, texts = self.family, self._texts(entry, place)
        guidance, kind = family.guidance_scale.default, family.schedulers[0]
        settings = Settings(seed, steps, guidance, entry.size, entry.size, kind)
        # A step costs the same whatever numbers its scheduler has.
        scheduler, embeds = load_scheduler(_tiny(family)), texts["encoder_hidden_states"]
        channels = int(self.structure.configs["vae"]["latent_channels"])
        if family.name == "flux":
            flux_text = FluxText(embeds, texts["pooled_projections"])
            return FluxPicture(scheduler, channels).start(settings, flux_text, adapters=adapters)
        text, picture = SdxlText(embeds, texts["text_embeds"]), SdxlPicture(scheduler, channels)
        return picture.start(settings, text, text.zeros(), adapters=adapters)

    def _texts(self, entry: Entry, place: torch.device) -> Mapping[str, Tensor]:
        """Random inputs of a call for one row."""
        shapes = self.component.input_sizes({**self.axes(entry), "batch": 1}, self.structure.configs)
        drawn = {name: normal(shape, 0, self.place, torch.float32, 1.0) for name, shape in shapes.items()}
        return {name: tensor.to(place) for name, tensor in drawn.items()}


def normal(shape: tuple[int, ...], seed: int, place: torch.device, dtype: torch.dtype, std: float) -> Tensor:
    """Numbers drawn on `place`."""
    random = torch.Generator(place).manual_seed(seed)
    return torch.empty(shape, device=place, dtype=dtype).normal_(0, std, generator=random)
