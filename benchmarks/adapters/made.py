"""What the benchmarks are made with: engines, checkpoints of other sizes, adapters of random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import onnxruntime
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor

from diffusion.adapters.canonical import Pair
from diffusion.adapters.convert import written
from export import parity, values
from export.checkpoint import INDEX, Checkpoint
from export.component import weightless
from export.layout import Layout, Structure
from export.targets import TARGETS
from export.weights import Weights
from families import FLUX, Axes, ComponentSpec, FamilySpec
from families.layers import LoraTarget
from families.published import FLUX_1_DEV, Config
from finetune.store import Said, Store, open_base

PARTS = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")  # Flux's others


def topology(blocks: int, single_blocks: int, heads: int, axes_dims_rope: tuple[int, int, int]) -> Config:
    """FLUX.1-dev's config with other numbers; the rotated sizes of a head add up to its width."""
    changed = {
        "num_layers": blocks,
        "num_single_layers": single_blocks,
        "num_attention_heads": heads,
        "attention_head_dim": sum(axes_dims_rope),
        "axes_dims_rope": axes_dims_rope,
        "joint_attention_dim": heads * sum(axes_dims_rope),
    }
    return {**FLUX_1_DEV.configs["transformer"], **changed}


def structure_of(config: Config, name: str) -> Structure:
    """FLUX.1-dev's with this transformer."""
    return replace(FLUX_1_DEV, name=name, configs={**FLUX_1_DEV.configs, "transformer": config})


def write_transformer(config: Config, folder: Path) -> Checkpoint:
    """A checkpoint in `folder` with a transformer of random weights, and nothing else."""
    torch.manual_seed(0)
    FluxTransformer2DModel.from_config(dict(config)).save_pretrained(folder / FLUX.denoiser.folder)
    (folder / INDEX).write_text(json.dumps({"_class_name": FLUX.pipeline}))
    structure = structure_of(config, folder.name)
    return Checkpoint(folder, FLUX, dict(structure.index), structure.configs)


def pipeline_of(transformer: FluxTransformer2DModel) -> FluxPipeline:
    """Stock diffusers' pipeline with a transformer alone, which takes adapters all the same."""
    return FluxPipeline(transformer=transformer, **dict.fromkeys(PARTS))


@dataclass(frozen=True)
class Denoiser:
    """The denoiser of `layout` in ONNX Runtime, on one thread."""

    layout: Layout
    session: onnxruntime.InferenceSession

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """As `diffusion.denoise.Engine`."""
        (answer,) = self.session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return torch.from_numpy(answer)

    @property
    def family(self) -> FamilySpec:
        return self.layout.family

    @property
    def component(self) -> ComponentSpec:
        return self.family.denoiser

    def axes(self, rows: int, size: int, text_length: int, rank: int = 0) -> Axes:
        """Of a call with `rows` rows for square pictures of `size` pixels."""
        return self.layout.axes(rows, size, size, text_length, rank)

    def inputs(self, axes: Axes) -> dict[str, Tensor]:
        """Random ones, packs included."""
        return parity.random_inputs(self.layout.spec(self.component), axes, self.layout.checkpoint.configs)


def denoiser(structure: Structure, folder: Path, lora: bool) -> Denoiser:
    """With the weights of the checkpoint in `folder`; `lora` gives it the inputs for packs."""
    layout = Layout(structure, TARGETS["cpu"], lora=lora)
    component = layout.family.denoiser
    model, _ = weightless(layout, component)
    values.fill(model, Weights(folder / component.folder), {})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    graph = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Denoiser(layout, session)


def random_pairs(targets: Sequence[LoraTarget], rank: int, seed: int, size: float = 0.05) -> dict[str, Pair]:
    """An adapter that changes every target's outputs by about `size`."""
    random = torch.Generator().manual_seed(seed)
    return {target.name: _pair(target, rank, size, random) for target in targets}


def _pair(target: LoraTarget, rank: int, size: float, random: torch.Generator) -> Pair:
    a = torch.randn(rank, target.in_features, generator=random) / target.in_features**0.5
    b = torch.randn(target.out_features, rank, generator=random) * size / rank**0.5
    return Pair(a, b, float(rank))


def store_of(folder: Path, checkpoint: Path, ranks: Mapping[str, int]) -> Store:
    """A store in `folder` with random adapters for `checkpoint`: name -> rank."""
    base, store = open_base(checkpoint), Store(folder)
    folder.mkdir(parents=True)
    for seed, (name, rank) in enumerate(ranks.items()):
        file = folder.with_name(f"{name}.safetensors")
        file.write_bytes(written(random_pairs(base.targets, rank, seed), f"{base.family.denoiser.name}."))
        store.add(file, name, base, Said())
    return store
