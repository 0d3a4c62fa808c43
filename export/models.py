"""One component as a torch module: with its weights, or as fake tensors that need no memory."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.layout import Structure
from export.lora import attach
from export.wrappers import WRAPPERS
from families import ComponentSpec
from families.layers import LoraTarget

LIBRARIES = ("diffusers", "transformers")


def load(
    checkpoint: Checkpoint,
    component: ComponentSpec,
    dtype: torch.dtype = torch.float32,
    targets: Sequence[LoraTarget] = (),
) -> nn.Module:
    """The component with its weights in `dtype`, whatever they are saved in."""
    folder = checkpoint.folder / component.folder
    library, kind = library_of(checkpoint, component), _class(checkpoint, component)
    # With this option transformers reports wrong shapes; diffusers names them in its exception.
    lenient = {"ignore_mismatched_sizes": True} if library == "transformers" else {}
    options = {"dtype": dtype, "use_safetensors": True, "local_files_only": True, **lenient}
    silence_loaders()
    try:
        model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # the libraries raise a dozen kinds for damaged files
        raise ExportError(f"{folder} does not load: {str(error).strip().splitlines()[0]}") from error
    _check_report(report, folder)
    return _wrapped(checkpoint, component, model.eval(), targets)


def _check_report(report: dict[str, Any], folder: Path) -> None:
    if missing := sorted(report["missing_keys"]):
        raise ExportError(f"{folder} lacks {len(missing)} weights, e.g. {missing[0]}")
    for name, saved, wanted in sorted(report["mismatched_keys"])[:1]:
        raise ExportError(f"{folder}: {name} has shape {list(saved)}, its config.json wants {list(wanted)}")


def silence_loaders() -> None:
    """Leaves it to `load` to say what is wrong, in one line."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New parameters are of `dtype`: a fake module cannot be cast afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def fake(
    structure: Structure,
    component: ComponentSpec,
    mode: FakeTensorMode,
    dtype: torch.dtype = torch.float32,
    targets: Sequence[LoraTarget] = (),
) -> nn.Module:
    """The component's structure alone: parameters have names, shapes and dtypes, no values.

    `targets` become linears that take adapters from the call's packed inputs.
    """
    library, kind = library_of(structure, component), _class(structure, component)
    build = _build_diffusers if library == "diffusers" else _build_transformers
    with mode, default_dtype(dtype):
        model = build(kind, dict(structure.configs[component.folder]), dtype).eval()
        return _wrapped(structure, component, model, targets)


def _wrapped(
    structure: Structure, component: ComponentSpec, model: Any, targets: Sequence[LoraTarget] = ()
) -> nn.Module:
    wrapper: Any = WRAPPERS[structure.family.name][component.name]
    module: nn.Module = wrapper(model, attach(model, targets)) if targets else wrapper(model)
    return module.eval()


def _build_diffusers(kind: Any, config: dict[str, Any], dtype: torch.dtype) -> Any:
    return kind.from_config(config)


def _build_transformers(kind: Any, config: dict[str, Any], dtype: torch.dtype) -> Any:
    # Eager: the exporter's decomposition of T5's fused attention yields strides that its reshape refuses.
    values = kind.config_class.from_dict({**config, "attn_implementation": "eager"})
    values.dtype = dtype  # some classes would build what the weights are saved in
    return kind(values)


def library_of(structure: Structure, component: ComponentSpec) -> str:
    """The library that has the class of `component`; ExportError if it is not one of ours."""
    library = structure.index[component.folder][0]
    if library not in LIBRARIES:
        raise ExportError(
            f"{structure.name}: {component.folder} is of {library!r}, not of {', '.join(LIBRARIES)}"
        )
    return str(library)


def _class(structure: Structure, component: ComponentSpec) -> Any:
    library, name = library_of(structure, component), structure.index[component.folder][1]
    found = getattr(importlib.import_module(library), name, None)
    if found is None:
        raise ExportError(f"{structure.name}: {component.folder}: {library} has no class {name!r}")
    return found


def inner(module: nn.Module) -> tuple[str, nn.Module]:
    """What a wrapper wraps, and under which attribute."""
    return next(module.named_children())
