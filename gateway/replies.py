"""Triton's reply -> arrays, after checking every tensor's name, dtype, shape and byte length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import triton_to_np_dtype


class ReplyError(Exception):
    """Triton answered OK with something that is not what was asked for."""


@dataclass(frozen=True)
class Expected:
    """An output tensor as it must come back: Triton's dtype name, shape with the batch axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def byte_length(self) -> int:
        return math.prod(self.shape) * np.dtype(triton_to_np_dtype(self.datatype)).itemsize


def arrays(response: Any, expected: Sequence[Expected]) -> dict[str, NDArray[Any]]:
    """Name -> array of a ModelInferResponse; ReplyError names the first tensor that is not as expected.

    All expected dtypes are integers, so a reply with NaN or infinity is refused by its dtype.
    """
    names, wanted = [tensor.name for tensor in response.outputs], [tensor.name for tensor in expected]
    if sorted(names) != sorted(wanted):
        raise ReplyError(f"outputs are {names}, expected {wanted}")
    if len(response.raw_output_contents) != len(names):
        raise ReplyError(f"{len(response.raw_output_contents)} raw contents for {len(names)} outputs")
    return {tensor.name: _array(response, names.index(tensor.name), tensor) for tensor in expected}


def _array(response: Any, place: int, expected: Expected) -> NDArray[Any]:
    tensor, raw = response.outputs[place], response.raw_output_contents[place]
    for what, got, want in (
        ("dtype", tensor.datatype, expected.datatype),
        ("shape", tuple(tensor.shape), expected.shape),
        ("byte length", len(raw), expected.byte_length),
    ):
        if got != want:
            raise ReplyError(f"{expected.name} has {what} {got}, expected {want}")
    return np.frombuffer(raw, triton_to_np_dtype(expected.datatype)).reshape(expected.shape)
