"""The language of facts: tensors, components and families; names, shapes and limits derive from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Axes = Mapping[str, int]  # axis name -> size, see FamilySpec.axes
Configs = Mapping[str, Mapping[str, Any]]  # checkpoint folder -> its config.json


class InvalidRequest(ValueError):
    """A request asks for what it may not; the message names the thing, the value and the choices."""


NUMPY_DTYPES = {
    "FP32": "float32", "FP16": "float16", "BF16": "bfloat16",
    "INT32": "int32", "INT64": "int64", "UINT8": "uint8",
}  # fmt: skip


@dataclass(frozen=True)
class Width:
    """A dimension that the checkpoint decides: `key` in `folder`/config.json. It is -1 in a config.pbtxt."""

    folder: str
    key: str

    def resolve(self, configs: Configs) -> int:
        return int(configs[self.folder][self.key])


Dimension = int | str | Width  # an int is fixed, a str names an axis that the request decides


@dataclass(frozen=True)
class TensorSpec:
    """One engine input or output. `shape` leaves out the leading batch axis, which every tensor has.

    `dtype` is Triton's name without `TYPE_`, at the engine's border; lower precision stays inside.
    `meaning` is what clients of an ensemble are told.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...]
    meaning: str = ""

    @property
    def numpy_dtype(self) -> str:
        return NUMPY_DTYPES[self.dtype]

    @property
    def dims(self) -> list[int]:
        """Triton's `dims`: -1 wherever the request or the checkpoint decides."""
        return [size if isinstance(size, int) else -1 for size in self.shape]

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """ONNX dynamic axes: position (batch is 0) -> axis name."""
        named = {place: size for place, size in enumerate(self.shape, start=1) if isinstance(size, str)}
        return {0: "batch", **named}

    def sizes(self, axes: Axes, configs: Configs) -> tuple[int, ...]:
        """The concrete shape, batch first, of a call with these axes on a checkpoint with these configs."""
        return (axes["batch"], *(self._size(size, axes, configs) for size in self.shape))

    @staticmethod
    def _size(size: Dimension, axes: Axes, configs: Configs) -> int:
        if isinstance(size, Width):
            return size.resolve(configs)
        return axes[size] if isinstance(size, str) else size


@dataclass(frozen=True)
class ComponentSpec:
    """A part of a checkpoint that becomes an engine; `name` is the served word, `folder` the checkpoint's."""

    name: str
    folder: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    response_cache: bool = False  # Triton answers a repeated input from its cache
    rows_per_picture: int = 1  # rows of a call that one picture may take: 2 with classifier-free guidance
    denoiser: bool = False  # called once a step, in batches that the scheduler makes

    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """ONNX: tensor name -> {position: axis name}."""
        return {tensor.name: tensor.dynamic_axes for tensor in (*self.inputs, *self.outputs)}

    def input_sizes(self, axes: Axes, configs: Configs) -> dict[str, tuple[int, ...]]:
        """Input name -> shape; three of these (min, opt, max) make an optimization profile."""
        return {tensor.name: tensor.sizes(axes, configs) for tensor in self.inputs}


@dataclass(frozen=True)
class Step:
    """A model of an ensemble. `inputs` and `outputs`: its tensor -> the ensemble's; a name alone is both."""

    model: str  # without the family's prefix
    inputs: tuple[str | tuple[str, str], ...]
    outputs: tuple[str | tuple[str, str], ...]


@dataclass(frozen=True)
class EnsembleSpec:
    """The models that do one task, chained; its tensors are what clients send and get."""

    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    steps: tuple[Step, ...]

    @property
    def takes_image(self) -> bool:
        return any(tensor.name == "image" for tensor in self.inputs)


@dataclass(frozen=True)
class Range:
    """Allowed numbers, ends included, with the value used when a request names none."""

    minimum: float
    default: float
    maximum: float

    def __str__(self) -> str:
        return f"{self.minimum:g}..{self.maximum:g}"

    def check(self, name: str, value: float) -> None:
        """InvalidRequest unless `value` is in the range; a NaN never is."""
        if not self.minimum <= value <= self.maximum:
            raise InvalidRequest(f"{name} {value} is not in {self}")


def check_strength(strength: float, num_inference_steps: int) -> None:
    """InvalidRequest unless `strength` is in (0, 1] and leaves a step to make."""
    if not 0 < strength <= 1:
        raise InvalidRequest(f"strength {strength} is not above 0 and at most 1")
    if strength * num_inference_steps < 1:
        least = math.ceil(1000 / num_inference_steps) / 1000  # rounded up: what is told must do
        raise InvalidRequest(
            f"strength {strength} of num_inference_steps {num_inference_steps} is less than one step; "
            f"strength must be at least {least:g}, or the steps more"
        )


@dataclass(frozen=True)
class FamilySpec:
    """A model family: its components and what a request to it may ask for."""

    name: str
    pipeline: str  # diffusers' class, as model_index.json names it
    schedulers: tuple[str, ...]  # diffusers' classes that a request may name; the first is the checkpoint's
    components: tuple[ComponentSpec, ...]
    ensembles: tuple[EnsembleSpec, ...]
    max_batch_size: int  # pictures in one request
    max_running: int  # pictures that are denoised at once, of however many requests
    vae_scale_factor: int  # pixels per latent pixel, each way
    latent_multiple: int  # latent heights and widths divide by it: Flux's patch, the UNet's halvings
    max_prompt_characters: int
    num_inference_steps: Range
    guidance_scale: Range
    default_strength: float
    qualities: tuple[str, ...]  # that a request may name, if there is more than one; the first is the default

    @property
    def size_multiple(self) -> int:
        """Heights and widths in pixels are multiples of this."""
        return self.vae_scale_factor * self.latent_multiple

    def check_size(self, name: str, size: int, sizes: Range) -> None:
        """InvalidRequest unless `size` (pixels) is in `sizes`, a target's, and divides by `size_multiple`."""
        sizes.check(name, size)
        if size % self.size_multiple:
            choices = f"{sizes} in steps of {self.size_multiple}"
            raise InvalidRequest(
                f"{name} {size} is not a multiple of {self.size_multiple}; choices: {choices}"
            )

    def check_scheduler(self, name: str) -> None:
        """InvalidRequest unless `name` is one of `schedulers`."""
        if name not in self.schedulers:
            raise InvalidRequest(
                f"scheduler {name!r} is not one of {self.name}'s; choices: {', '.join(self.schedulers)}"
            )

    def check_quality(self, name: str) -> None:
        """InvalidRequest unless `name` is one of `qualities`."""
        if name not in self.qualities:
            raise InvalidRequest(
                f"quality {name!r} is not one of {self.name}'s; choices: {', '.join(self.qualities)}"
            )

    def ensemble(self, task: str) -> EnsembleSpec:
        return next(ensemble for ensemble in self.ensembles if ensemble.task == task)

    def ensemble_name(self, ensemble: EnsembleSpec) -> str:
        """The Triton model that is `ensemble`."""
        return f"{self.name}_{ensemble.task}"

    def component(self, name: str) -> ComponentSpec:
        for component in self.components:
            if component.name == name:
                return component
        raise ValueError(
            f"{self.name} has no component {name!r}; it has {', '.join(c.name for c in self.components)}"
        )

    def max_rows(self, component: ComponentSpec) -> int:
        """Rows of the largest call of `component`, where no engine's profile sets a limit."""
        pictures = self.max_running if component.denoiser else self.max_batch_size
        return pictures * component.rows_per_picture

    def key(self, component: ComponentSpec) -> str:
        """The name of `component` among all families' ones: "flux.transformer"."""
        return f"{self.name}.{component.name}"

    @property
    def denoiser(self) -> ComponentSpec:
        return next(component for component in self.components if component.denoiser)

    def model_name(self, component: ComponentSpec) -> str:
        """The Triton model that serves `component`."""
        return f"{self.name}_{component.name}"

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latents of a picture of these pixels."""
        return height // self.vae_scale_factor, width // self.vae_scale_factor

    def axes(self, *, batch: int, height: int, width: int, text_length: int, rank: int = 0) -> Axes:
        """Sizes of every axis for a call on pictures of height x width pixels and `text_length` tokens.

        `rank` is that of the packed adapters; 0 means none.

        Raises ValueError if height or width is not a multiple of `size_multiple`.
        """
        for name, size in (("height", height), ("width", width)):
            if size <= 0 or size % self.size_multiple:
                raise ValueError(f"{name} {size} is not a positive multiple of {self.size_multiple}")
        latent_height, latent_width = self.latent_size(height, width)
        tokens = (latent_height // self.latent_multiple) * (latent_width // self.latent_multiple)
        return {
            "batch": batch,
            "height": height,
            "width": width,
            "latent_height": latent_height,
            "latent_width": latent_width,
            "image_tokens": tokens,
            "text_length": text_length,
            "rank": rank,
        }

    @property
    def axis_multiples(self) -> Axes:
        """Axis -> what its size always divides by, where that is more than 1."""
        pixels, latents = self.size_multiple, self.latent_multiple
        return {"height": pixels, "width": pixels, "latent_height": latents, "latent_width": latents}
