"""The language of facts: tensors, components and families; names, shapes and limits derive from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Axes = Mapping[str, int]  # axis name -> size, see FamilySpec.axes
Configs = Mapping[str, Mapping[str, Any]]  # checkpoint folder -> its config.json


class InvalidRequest(ValueError):
    """A request asks for what it may not; the message names the thing, the value and the choices."""


NUMPY_DTYPES = {"FP32": "float32", "INT32": "int32", "INT64": "int64", "UINT8": "uint8"}


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
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...]

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

    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """ONNX: tensor name -> {position: axis name}."""
        return {tensor.name: tensor.dynamic_axes for tensor in (*self.inputs, *self.outputs)}

    def input_sizes(self, axes: Axes, configs: Configs) -> dict[str, tuple[int, ...]]:
        """Input name -> shape; three of these (min, opt, max) make an optimization profile."""
        return {tensor.name: tensor.sizes(axes, configs) for tensor in self.inputs}


@dataclass(frozen=True)
class Range:
    """Allowed numbers, ends included, with the value used when a request names none."""

    minimum: float
    default: float
    maximum: float

    def check(self, name: str, value: float) -> None:
        """InvalidRequest unless `value` is in the range; a NaN never is."""
        if not self.minimum <= value <= self.maximum:
            raise InvalidRequest(f"{name} {value} is not in {self.minimum}..{self.maximum}")


@dataclass(frozen=True)
class FamilySpec:
    """A model family: its components and what a request to it may ask for."""

    name: str
    pipeline: str  # diffusers' classes, as model_index.json names them
    scheduler: str
    components: tuple[ComponentSpec, ...]
    max_batch_size: int
    vae_scale_factor: int  # pixels per latent pixel, each way
    patch_size: int  # latent pixels per token, each way
    max_prompt_characters: int
    num_inference_steps: Range
    guidance_scale: Range

    @property
    def size_multiple(self) -> int:
        """Heights and widths in pixels are multiples of this."""
        return self.vae_scale_factor * self.patch_size

    def check_size(self, name: str, size: int, sizes: Range) -> None:
        """InvalidRequest unless `size` (pixels) is in `sizes`, a target's, and divides by `size_multiple`."""
        sizes.check(name, size)
        if size % self.size_multiple:
            choices = f"{sizes.minimum}..{sizes.maximum} in steps of {self.size_multiple}"
            raise InvalidRequest(
                f"{name} {size} is not a multiple of {self.size_multiple}; choices: {choices}"
            )

    def component(self, name: str) -> ComponentSpec:
        for component in self.components:
            if component.name == name:
                return component
        raise ValueError(
            f"{self.name} has no component {name!r}; it has {', '.join(c.name for c in self.components)}"
        )

    def model_name(self, component: ComponentSpec) -> str:
        """The Triton model that serves `component`."""
        return f"{self.name}_{component.name}"

    def axes(self, *, batch: int, height: int, width: int, text_length: int) -> Axes:
        """Sizes of every axis for a call on pictures of height x width pixels and `text_length` tokens.

        Raises ValueError if height or width is not a multiple of `size_multiple`.
        """
        for name, size in (("height", height), ("width", width)):
            if size <= 0 or size % self.size_multiple:
                raise ValueError(f"{name} {size} is not a positive multiple of {self.size_multiple}")
        latent_height, latent_width = height // self.vae_scale_factor, width // self.vae_scale_factor
        return {
            "batch": batch,
            "height": height,
            "width": width,
            "latent_height": latent_height,
            "latent_width": latent_width,
            "image_tokens": (latent_height // self.patch_size) * (latent_width // self.patch_size),
            "text_length": text_length,
        }
