"""A checkpoint in diffusers' layout: checked, described and hashed without loading weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from export.errors import ExportError
from families import FAMILIES, FamilySpec
from families.hashes import sha256_of_file, sha256_of_files, sha256_of_weights
from families.spec import Configs, Width

INDEX = "model_index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CLIP_LENGTH = 77
TEXT_LENGTHS = 8, 512  # tokens; FluxPipeline refuses a longer max_sequence_length


@dataclass(frozen=True)
class Checkpoint:
    """A folder that `open_checkpoint` found good. `index` is model_index.json: part -> (library, class)."""

    folder: Path
    family: FamilySpec
    index: dict[str, Any]
    configs: Configs

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def native_size(self) -> int:
        """Pixels of a side of the pictures that the checkpoint was trained on."""
        return int(self.configs["vae"]["sample_size"])

    @property
    def max_sequence_length(self) -> int:
        """Tokens that the second text encoder reads."""
        return _text_length(self.folder / "tokenizer_2", *_text_lengths(self.family))

    @property
    def parts(self) -> list[str]:
        """The folders that model_index.json names."""
        return [name for name, value in self.index.items() if isinstance(value, list) and value[0]]

    def sha256(self, *parts: str) -> str:
        """Hash of the files of `parts`, or of the whole checkpoint."""
        files = [
            path for part in parts or self.parts for path in (self.folder / part).rglob("*") if path.is_file()
        ]
        return sha256_of_files(self.folder, [*files, self.folder / INDEX], self._digest)

    @property
    def denoiser_sha256(self) -> str:
        """Hash of the denoiser's weights: what its adapters were trained on."""
        return sha256_of_weights(self.folder / self.family.denoiser.folder, self._digest)

    @cached_property
    def _digest(self) -> Callable[[Path], str]:
        """A file's hash, which is worked out once: the whole checkpoint's needs it, and its component's."""
        return cache(sha256_of_file)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Checks that `folder` has every part of a known family; ExportError names what is wrong."""
    if not folder.is_dir():
        raise ExportError(f"checkpoint {folder} is not a folder")
    if not (folder / INDEX).is_file():
        raise ExportError(f"checkpoint {folder} is not in diffusers' layout: it has no {INDEX}")
    index = read_json(folder / INDEX)
    family = _family_of(index, folder)
    for component in family.components:
        check_weights(folder / component.folder)
    configs = {c.folder: read_json(folder / c.folder / "config.json") for c in family.components}
    checkpoint = Checkpoint(folder.absolute(), family, index, configs)
    _check_parts(checkpoint)
    _check_numbers(checkpoint)
    return checkpoint


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ExportError(f"checkpoint file {path} is missing")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ExportError(f"{path} holds a {type(values).__name__}, not an object")
    return values


def _family_of(index: dict[str, Any], folder: Path) -> FamilySpec:
    pipeline = index.get("_class_name")
    for family in FAMILIES.values():
        if family.pipeline == pipeline:
            return family
    choices = ", ".join(family.pipeline for family in FAMILIES.values())
    raise ExportError(f"checkpoint {folder} is of pipeline {pipeline!r}; choices: {choices}")


def check_weights(folder: Path) -> None:
    """ExportError unless `folder` has safetensors; a pickle is named, and never read."""
    if not folder.is_dir():
        raise ExportError(f"checkpoint folder {folder} is missing")
    if any(folder.glob("*.safetensors")):
        return
    for pattern in PICKLES:
        if pickle := next(folder.glob(pattern), None):
            raise ExportError(f"{pickle} is a pickle, which can run code; only safetensors are read")
    raise ExportError(f"{folder} has no weights: no *.safetensors")


def _text_length(tokenizer: Path, least: int, most: int) -> int:
    path = tokenizer / "tokenizer_config.json"
    length = read_json(path).get("model_max_length")
    if not isinstance(length, int) or not least <= length <= most:
        raise ExportError(f"{path}: model_max_length {length!r} is not in {least}..{most}")
    return length


def _text_lengths(family: FamilySpec) -> tuple[int, int]:
    """The least and the most tokens that `family`'s second text encoder may read."""
    (length,) = family.component("text_encoder_2").inputs[0].shape
    return (length, length) if isinstance(length, int) else TEXT_LENGTHS


def _check_parts(checkpoint: Checkpoint) -> None:
    folder, family = checkpoint.folder, checkpoint.family
    for part in ("tokenizer", "tokenizer_2", "scheduler", *(c.folder for c in family.components)):
        if part not in checkpoint.parts or not (folder / part).is_dir():
            raise ExportError(f"checkpoint {folder} lacks {part}")
    if (scheduler := checkpoint.index["scheduler"][1]) != family.schedulers[0]:
        raise ExportError(
            f"{folder} has scheduler {scheduler}; {family.name} is served with {family.schedulers[0]}"
        )
    _text_length(folder / "tokenizer", CLIP_LENGTH, CLIP_LENGTH)
    _text_length(folder / "tokenizer_2", *_text_lengths(family))


def _check_numbers(checkpoint: Checkpoint) -> None:
    """The configs have every number that specs refer to, and the VAE shrinks as the family says."""
    family, configs = checkpoint.family, checkpoint.configs
    tensors = [
        tensor for component in family.components for tensor in (*component.inputs, *component.outputs)
    ]
    widths = {
        (size.folder, size.key) for tensor in tensors for size in tensor.shape if isinstance(size, Width)
    }
    for folder, key in sorted({*widths, ("vae", "sample_size"), ("vae", "block_out_channels")}):
        if key not in configs[folder]:
            raise ExportError(f"{checkpoint.folder / folder}/config.json has no {key!r}")
    scale = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    if scale != family.vae_scale_factor:
        raise ExportError(
            f"{checkpoint.folder}/vae shrinks {scale} times; {family.name}'s {family.vae_scale_factor}"
        )
