"""Arrays as inputs of Triton requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput
from tritonclient.utils import np_to_triton_dtype

from families import TensorSpec
from families.spec import NUMPY_DTYPES


def input_of(name: str, array: NDArray[Any]) -> InferInput:
    """`array` [B, ...]; texts are bytes in an array of objects."""
    made = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def column(tensor: TensorSpec, values: Sequence[str | int | float | bytes]) -> InferInput:
    """`tensor` [B, 1], one of `values` a row."""
    dtype = object if tensor.dtype == "STRING" else NUMPY_DTYPES[tensor.dtype]
    rows = [[value.encode() if isinstance(value, str) else value] for value in values]
    return input_of(tensor.name, np.array(rows, dtype))
