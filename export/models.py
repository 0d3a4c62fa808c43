"""One component as a torch module: with its weights, or as fake tensors that need no memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.wrappers import WRAPPERS
from families import ComponentSpec


def load(checkpoint: Checkpoint, component: ComponentSpec) -> nn.Module:
    """The component with its weights, in float32 whatever they are saved in."""
    folder = checkpoint.folder / component.folder
    library, kind = checkpoint.class_of(component)[0], _class(checkpoint, component)
    # With this option transformers reports wrong shapes; diffusers names them in its exception.
    lenient = {"ignore_mismatched_sizes": True} if library == "transformers" else {}
    options = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True, **lenient}
    _silence_loaders()
    try:
        model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # the libraries raise a dozen kinds for damaged files
        raise ExportError(f"{folder} does not load: {str(error).strip().splitlines()[0]}") from error
    _check_report(report, folder)
    return wrapper(checkpoint, component)(model.eval()).eval()


def wrapper(checkpoint: Checkpoint, component: ComponentSpec) -> Callable[[Any], nn.Module]:
    return WRAPPERS[checkpoint.family.name][component.name]


def _check_report(report: dict[str, Any], folder: Path) -> None:
    if missing := sorted(report["missing_keys"]):
        raise ExportError(f"{folder} lacks {len(missing)} weights, e.g. {missing[0]}")
    for name, saved, wanted in sorted(report["mismatched_keys"])[:1]:
        raise ExportError(f"{folder}: {name} has shape {list(saved)}, its config.json wants {list(wanted)}")


def _silence_loaders() -> None:
    """Leaves it to `load` to say what is wrong, in one line."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()


def fake(checkpoint: Checkpoint, component: ComponentSpec, mode: FakeTensorMode) -> nn.Module:
    """The component's structure alone: parameters have names, shapes and dtypes, no values."""
    library, _ = checkpoint.class_of(component)
    build = _build_diffusers if library == "diffusers" else _build_transformers
    with mode:
        return wrapper(checkpoint, component)(
            build(_class(checkpoint, component), checkpoint, component)
        ).eval()


def _build_diffusers(kind: Any, checkpoint: Checkpoint, component: ComponentSpec) -> Any:
    return kind.from_config(dict(checkpoint.configs[component.folder]))


def _build_transformers(kind: Any, checkpoint: Checkpoint, component: ComponentSpec) -> Any:
    # Eager: the exporter's decomposition of T5's fused attention yields strides that its reshape refuses.
    folder = checkpoint.folder / component.folder
    config = kind.config_class.from_pretrained(folder, local_files_only=True, attn_implementation="eager")
    config.dtype = torch.float32  # some classes would build what the weights are saved in
    return kind(config)


def _class(checkpoint: Checkpoint, component: ComponentSpec) -> Any:
    library, name = checkpoint.class_of(component)
    found = getattr(importlib.import_module(library), name, None)
    if found is None:
        raise ExportError(f"{component.folder}: {library} has no class {name!r}")
    return found


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, shared ones under each of their names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}
