"""A component's safetensors: checked against its structure, mapped into memory, never copied whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from export.checkpoint import check_weights
from export.errors import ExportError
from export.merge import Merge

VAE_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


class Weights:
    """The tensors in `folder`'s *.safetensors by state-dict name; links, as in the hub's cache, are followed.

    `merge` has adapters to add to them. ExportError names a file that is no safetensors, is cut short or is a
    pickle.
    """

    def __init__(self, folder: Path, merge: Merge | None = None) -> None:
        self.folder, self._merge = folder, merge
        self._files = {path: _opened(path) for path in _files(folder)}
        self._places = {name: path for path, file in self._files.items() for name in file.keys()}

    def check(self, module: nn.Module) -> None:
        """ExportError unless the files have each parameter of `module`, in its shape, and no others."""
        wanted = {name: list(parameter.shape) for name, parameter in module.named_parameters()}
        used = {name: self._saved(name) for name in wanted}
        for name, saved in used.items():
            if saved is None:
                raise ExportError(f"{self.folder} lacks the weight {name}")
            if (shape := self._slice(saved).get_shape()) != wanted[name]:
                raise ExportError(
                    f"{self.folder}: {name} has shape {shape}, its config.json wants {wanted[name]}"
                )
        self._refuse_extras(module, {str(saved) for saved in used.values()})

    def _refuse_extras(self, module: nn.Module, used: set[str]) -> None:
        """Buffers, names of tied weights and what the library says it ignores may be saved too."""
        known = {str(self._saved(name)) for name in module.state_dict()} | used
        ignored = [*(getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()), r"\.position_ids$"]
        extra = sorted(
            name for name in {*self._places} - known if not any(re.search(each, name) for each in ignored)
        )
        if extra:
            raise ExportError(f"{self.folder} has {len(extra)} weights too many, e.g. {extra[0]}")

    def tensor(self, name: str) -> Tensor:
        """The weight of this state-dict name; mapped, unless adapters change it, and read when it is used."""
        saved = self._saved(name)
        if saved is None:
            raise ExportError(f"{self.folder} lacks the weight {name}")
        tensor: Tensor = self._files[self._places[saved]].get_tensor(saved)
        return self._merge(name, tensor) if self._merge else tensor

    def __contains__(self, name: str) -> bool:
        return self._saved(name) is not None

    def _saved(self, name: str) -> str | None:
        return next((known for known in spellings(name) if known in self._places), None)

    def _slice(self, saved: str) -> Any:
        return self._files[self._places[saved]].get_slice(saved)


def spellings(name: str) -> Iterator[str]:
    """How files of different ages call the weight that today's classes call `name`."""
    yield name
    yield f"text_model.{name}"  # CLIPTextModel before transformers 5
    if name == "encoder.embed_tokens.weight":  # tied
        yield "shared.weight"
    if name == "shared.weight":
        yield "encoder.embed_tokens.weight"
    for today, before in VAE_ATTENTION.items():  # AutoencoderKL before diffusers 0.17
        yield name.replace(today, before)


def _files(folder: Path) -> list[Path]:
    """The safetensors of `folder`: what its index lists, else all in full precision."""
    check_weights(folder)
    indices = sorted(folder.glob("*.safetensors.index.json"), key=lambda path: path.name.count("."))
    if indices:
        return _indexed(indices[0])  # the one without a variant such as .fp16, if there is one
    # The hub keeps variants such as model.fp16.safetensors beside the file that the libraries load.
    return sorted(path for path in folder.glob("*.safetensors") if path.name.count(".") == 1)


def _indexed(index: Path) -> list[Path]:
    try:
        placed: Mapping[str, str] = json.loads(index.read_text())["weight_map"]
        names = sorted({str(Path(name)) for name in placed.values()})
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ExportError(f"{index} has no weight_map of names to files") from None
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ExportError(f"{index} names {name!r}, which is not beside it")
    return [index.parent / name for name in names]


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path} is no whole safetensors file: {error}") from None
