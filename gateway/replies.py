"""Triton's reply -> arrays, after checking every tensor's name, dtype, shape and byte length."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype


class ReplyError(Exception):
    """Triton answered OK with something that is not what was asked for."""


@dataclass(frozen=True)
class Expected:
    """An output tensor as it must come back: dtype as specs call it, shape with the batch axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def datatype(self) -> str:
        """The dtype's name in Triton's protocol."""
        return "BYTES" if self.dtype == "STRING" else self.dtype

    @property
    def byte_length(self) -> int:
        return math.prod(self.shape) * np.dtype(triton_to_np_dtype(self.datatype)).itemsize


def arrays(response: Any, expected: Sequence[Expected]) -> dict[str, NDArray[Any]]:
    """Name -> array of a ModelInferResponse; ReplyError names the first tensor that is not as expected.

    No expected dtype is a float, so a reply with NaN or infinity is refused by its dtype.
    """
    names, wanted = [tensor.name for tensor in response.outputs], [tensor.name for tensor in expected]
    if sorted(names) != sorted(wanted):
        raise ReplyError(f"outputs are {names}, expected {wanted}")
    if len(response.raw_output_contents) != len(names):
        raise ReplyError(f"{len(response.raw_output_contents)} raw contents for {len(names)} outputs")
    return {tensor.name: _array(response, names.index(tensor.name), tensor) for tensor in expected}


def _array(response: Any, place: int, expected: Expected) -> NDArray[Any]:
    tensor, raw = response.outputs[place], response.raw_output_contents[place]
    _agree(expected, "dtype", tensor.datatype, expected.datatype)
    _agree(expected, "shape", tuple(tensor.shape), expected.shape)
    if expected.datatype == "BYTES":
        return _texts(raw, expected)
    _agree(expected, "byte length", len(raw), expected.byte_length)
    return np.frombuffer(raw, triton_to_np_dtype(expected.datatype)).reshape(expected.shape)


def _texts(raw: bytes, expected: Expected) -> NDArray[Any]:
    """Each element is its length, in 4 bytes, and as many bytes of UTF-8."""
    try:
        texts = deserialize_bytes_tensor(raw)
    except struct.error:
        raise ReplyError(f"{expected.name} is cut short") from None
    _agree(expected, "number of texts", len(texts), math.prod(expected.shape))
    _agree(expected, "byte length", len(raw), sum(4 + len(text) for text in texts))
    shaped: NDArray[Any] = texts.reshape(expected.shape)
    return shaped


def _agree(expected: Expected, what: str, got: object, want: object) -> None:
    if got != want:
        raise ReplyError(f"{expected.name} has {what} {got}, expected {want}")
