"""How large the inputs of a denoiser's linears get, seen while stock diffusers draws prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FluxPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.files import replacing_file
from export.merge import Merge
from export.smoothquant import quantised_names
from families import ComponentSpec, FamilySpec

FORMAT = "smoothquant-calibration-1"
PROMPTS = 64  # flux-tiny: 4 give pictures 4 to 10 dB worse than 16 or 64, which are alike; they must vary


@dataclass(frozen=True)
class Settings:
    """How the prompts are drawn: at the checkpoint's native size, prompt n of them with seed `seed` + n.

    `dtype` is torch's name of what the pipeline computes in, `device` where. Neither may change what is
    found by more than rounding; large checkpoints need a GPU and bfloat16.
    """

    num_inference_steps: int
    guidance_scale: float
    seed: int = 0
    batch_size: int = 4
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class Calibration:
    """`absmax`: linear of `component` -> largest magnitude of each of its inputs, float32 [in]."""

    component: str  # family.component
    checkpoint_sha256: str
    prompts_sha256: str
    settings: Settings
    absmax: Mapping[str, Tensor]


def default_settings(family: FamilySpec) -> Settings:
    """What a request gets that names neither steps nor guidance; on a GPU in bfloat16, where there is one."""
    settings = Settings(int(family.num_inference_steps.default), family.guidance_scale.default)
    on_gpu = torch.cuda.is_available()
    return replace(settings, device="cuda", dtype="bfloat16") if on_gpu else settings


def calibrate(
    checkpoint: Checkpoint,
    component: ComponentSpec,
    prompts: Sequence[str],
    settings: Settings,
    merge: Merge | None = None,
) -> Calibration:
    """Draws `prompts` and watches the linears that become int8; equal arguments give equal numbers.

    `merge` has adapters that the component's weights get first.

    ExportError if there are no prompts, no such linears, or if an input is not finite.
    """
    if not prompts:
        raise ExportError("calibration needs prompts; it got none")
    name = checkpoint.family.key(component)
    pipeline = _pipeline(checkpoint, settings)
    model = getattr(pipeline, component.folder)
    if merge:
        merge.into(model)
    linears = quantised_names(name, (path for path, module in model.named_modules()))
    if not linears:
        raise ExportError(f"{name} has no linears that become int8 with their inputs")
    with watched({linear: model.get_submodule(linear) for linear in linears}) as absmax:
        for start in range(0, len(prompts), settings.batch_size):
            _draw(pipeline, checkpoint, prompts[start : start + settings.batch_size], start, settings)
    _check_finite(absmax)
    return Calibration(name, checkpoint.sha256(), prompts_sha256(prompts), settings, absmax)


def kept(
    path: Path,
    checkpoint: Checkpoint,
    component: ComponentSpec,
    prompts: Sequence[str],
    settings: Settings,
    merge: Merge | None = None,
) -> Calibration:
    """What the file at `path` holds, which is calibrated and written first where there is none."""
    if path.is_file():
        return load(path, checkpoint, component)
    found = calibrate(checkpoint, component, prompts, settings, merge)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as partial:
        save(found, partial)
    return found


def prompts_sha256(prompts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()


def _pipeline(checkpoint: Checkpoint, settings: Settings) -> Any:
    dtype = getattr(torch, settings.dtype)
    pipeline = DiffusionPipeline.from_pretrained(checkpoint.folder, dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(settings.device)


def _draw(
    pipeline: Any, checkpoint: Checkpoint, prompts: Sequence[str], first: int, settings: Settings
) -> None:
    """Draws latents alone: nothing after the denoiser is watched."""
    seeds = range(settings.seed + first, settings.seed + first + len(prompts))
    text = (
        {"max_sequence_length": checkpoint.max_sequence_length} if isinstance(pipeline, FluxPipeline) else {}
    )
    pipeline(
        list(prompts),
        height=checkpoint.native_size,
        width=checkpoint.native_size,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="latent",
        **text,
    )


@contextmanager
def watched(linears: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Fills what it yields: name -> largest magnitude of each input so far, float32 [in] on the CPU."""
    absmax: dict[str, Tensor] = {}
    hooks = [module.register_forward_pre_hook(_observer(name, absmax)) for name, module in linears.items()]
    try:
        yield absmax
    finally:
        for hook in hooks:
            hook.remove()


def _observer(name: str, absmax: dict[str, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest = inputs[0].detach().abs().flatten(0, -2).amax(dim=0).float().cpu()
        absmax[name] = torch.maximum(absmax.get(name, largest), largest)

    return observe


def _check_finite(absmax: Mapping[str, Tensor]) -> None:
    for name, largest in absmax.items():
        if not torch.isfinite(largest).all():
            raise ExportError(f"inputs of {name} are not finite: calibrate in a wider dtype")


def save(calibration: Calibration, path: Path) -> None:
    """One safetensors file: a tensor a linear; all the rest is metadata."""
    metadata = {
        "format": FORMAT,
        "component": calibration.component,
        "checkpoint_sha256": calibration.checkpoint_sha256,
        "prompts_sha256": calibration.prompts_sha256,
        "settings": json.dumps(asdict(calibration.settings)),
    }
    save_file(dict(calibration.absmax), path, metadata)


def load(path: Path, checkpoint: Checkpoint, component: ComponentSpec) -> Calibration:
    """What `save` wrote; ExportError unless it is of this component of this very checkpoint."""
    metadata, absmax = _read(path)
    wanted = {"component": checkpoint.family.key(component), "checkpoint_sha256": checkpoint.sha256()}
    for name, value in wanted.items():
        if metadata[name] != value:
            raise ExportError(
                f"{path} has {name} {metadata[name]}, {checkpoint.name} wants {value}: calibrate again"
            )
    settings = Settings(**json.loads(metadata["settings"]))
    return Calibration(absmax=absmax, settings=settings, prompts_sha256=metadata["prompts_sha256"], **wanted)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path} is no calibration: {error}") from None
    if metadata.get("format") != FORMAT:
        raise ExportError(f"{path} has format {metadata.get('format')!r}; this code reads {FORMAT!r}")
    return metadata, tensors
