"""One picture's request to Triton and its answer, in the tensors that families/ lays down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from families import FAMILIES, EnsembleSpec, FamilySpec, TensorSpec
from families.control import PRIORITIES
from families.lora import APPLIED_LORAS, LORAS
from families.loras import Applied, Lora, applied_of, loras_text
from gateway.replies import Expected, ReplyError


@dataclass(frozen=True)
class Order:
    """A task of a family: which ensemble draws."""

    family: FamilySpec
    task: str

    def __str__(self) -> str:
        """For people who made a request."""
        return f"{self.task} by model '{self.family.name}'"

    @property
    def spec(self) -> EnsembleSpec:
        return self.family.ensemble(self.task)

    @property
    def ensemble(self) -> str:
        """The Triton model's name."""
        return self.family.ensemble_name(self.spec)


@dataclass(frozen=True)
class Sample:
    """One picture to draw; height and width in pixels, `image` uint8 [height, width, 3] or None.

    The fields are called as the ensembles' inputs are.
    """

    order: Order
    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    height: int
    width: int
    loras: tuple[Lora, ...] = ()
    strength: float | None = None
    image: NDArray[np.uint8] | None = None
    quality: str = "high"
    priority: str = PRIORITIES[0]

    def inputs(self) -> list[InferInput]:
        """The ensemble's inputs, each with a batch axis of 1."""
        values = {**vars(self), LORAS.name: loras_text(self.loras)}
        return [input_tensor(tensor, values[tensor.name]) for tensor in self.order.spec.inputs]

    def outputs(self) -> list[Expected]:
        """What must come back for this sample."""
        axes = {"batch": 1, "height": self.height, "width": self.width}
        return [Expected(t.name, t.dtype, t.sizes(axes, {})) for t in self.order.spec.outputs]


@dataclass(frozen=True)
class Picture:
    """`pixels` uint8 [height, width, 3]; `tokens`: field -> int32 [encoder, (kept, dropped)]."""

    pixels: NDArray[np.uint8]
    tokens: Mapping[str, NDArray[np.int32]]
    loras: tuple[Applied, ...]


ORDERS = [Order(family, ensemble.task) for family in FAMILIES.values() for ensemble in family.ensembles]


def picture_of(found: Mapping[str, NDArray[Any]], asked: Sequence[Lora]) -> Picture:
    """ReplyError if a count of tokens is negative, or what was applied is not what was `asked`."""
    tokens = {
        name.removesuffix("_tokens"): counts[0] for name, counts in found.items() if name.endswith("_tokens")
    }
    for name, counts in tokens.items():
        if (counts < 0).any():
            raise ReplyError(f"{name}_tokens has negative counts: {counts.tolist()}")
    return Picture(found["images"][0], tokens, _applied(found[APPLIED_LORAS.name], asked))


def _applied(told: NDArray[Any], asked: Sequence[Lora]) -> tuple[Applied, ...]:
    """Those in the engine's weights come first, then those of the request, in its order."""
    try:
        applied = applied_of(told.item().decode())
    except ValueError as error:
        raise ReplyError(f"{APPLIED_LORAS.name}: {error}") from None
    last = applied[len(applied) - len(asked) :]
    if [(lora.name, lora.scale) for lora in last] != [(lora.name, lora.scale) for lora in asked]:
        raise ReplyError(f"{APPLIED_LORAS.name} tells of {list(applied)}, asked were {list(asked)}")
    return applied


def input_tensor(spec: TensorSpec, value: Any) -> InferInput:
    """The tensor [1, ...] of `value`, which is one element or an array."""
    array = np.asarray(value.encode() if isinstance(value, str) else value, _numpy_dtype(spec.dtype))
    shaped = array[None] if array.ndim else array.reshape(1, 1)
    tensor = InferInput(spec.name, shaped.shape, np_to_triton_dtype(shaped.dtype))
    tensor.set_data_from_numpy(shaped)
    return tensor


def _numpy_dtype(name: str) -> Any:
    return object if name == "STRING" else triton_to_np_dtype(name)
