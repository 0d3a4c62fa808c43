"""The tensors of a plan: their types to Triton and to torch, their shapes in the optimization profile."""

from dataclasses import dataclass

import tensorrt as trt
import torch

PROFILE = 0
# TensorRT's type -> Triton's in config.pbtxt, torch's. No other type crosses the border of a plan.
TYPES = {
    trt.DataType.FLOAT: ("TYPE_FP32", torch.float32),
    trt.DataType.HALF: ("TYPE_FP16", torch.float16),
    trt.DataType.BF16: ("TYPE_BF16", torch.bfloat16),
    trt.DataType.INT64: ("TYPE_INT64", torch.int64),
    trt.DataType.INT32: ("TYPE_INT32", torch.int32),
    trt.DataType.INT8: ("TYPE_INT8", torch.int8),
    trt.DataType.UINT8: ("TYPE_UINT8", torch.uint8),
    trt.DataType.BOOL: ("TYPE_BOOL", torch.bool),
}


class InvalidInput(ValueError):
    """A request's array is not what the plan takes; the message names input, shape and range."""


def error_code(error):
    """The name of the TritonError code for what running a batch raised."""
    if isinstance(error, InvalidInput):
        return "INVALID_ARG"
    return "UNAVAILABLE" if isinstance(error, torch.OutOfMemoryError) else "INTERNAL"


@dataclass(frozen=True)
class PlanTensor:
    """`type` is Triton's, `dtype` torch's."""

    name: str
    type: str
    dtype: torch.dtype


@dataclass(frozen=True)
class PlanInput(PlanTensor):
    """`least` and `most` are the smallest and the largest shape of the optimization profile."""

    least: tuple[int, ...]
    most: tuple[int, ...]

    def check(self, shape):
        """InvalidInput unless the profile covers `shape`."""
        fits = all(low <= size <= high for low, size, high in zip(self.least, shape, self.most, strict=False))
        if len(shape) != len(self.least) or not fits:
            raise InvalidInput(f"input {self.name} has shape {list(shape)}; the plan takes {self.ranges}")

    @property
    def ranges(self):
        sizes = zip(self.least, self.most, strict=True)
        return f"[{', '.join(str(low) if low == high else f'{low}..{high}' for low, high in sizes)}]"


def read_tensors(engine):
    """The plan's inputs and outputs by name; ValueError names one of a type that Triton does not carry."""
    inputs, outputs = {}, {}
    for place in range(engine.num_io_tensors):
        name = engine.get_tensor_name(place)
        types = types_of(name, engine.get_tensor_dtype(name))
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            least, _, most = engine.get_tensor_profile_shape(name, PROFILE)
            inputs[name] = PlanInput(name, *types, tuple(least), tuple(most))
        else:
            outputs[name] = PlanTensor(name, *types)
    return inputs, outputs


def types_of(name, kind):
    if kind not in TYPES:
        raise ValueError(f"tensor {name} of the plan is of {kind}; choices: {', '.join(map(str, TYPES))}")
    return TYPES[kind]


def check_config(model_config, inputs, outputs):
    """ValueError unless config.pbtxt has these names and types, and a batch size that the profile covers."""
    for kind, tensors in (("input", inputs), ("output", outputs)):
        configured = {entry["name"]: entry["data_type"] for entry in model_config[kind]}
        found = {name: known.type for name, known in tensors.items()}
        if configured != found:
            raise ValueError(f"{kind}s are {configured} in config.pbtxt, {found} in the plan")
    largest = model_config["max_batch_size"]
    for known in inputs.values():
        if known.most[0] < largest:
            raise ValueError(
                f"max_batch_size is {largest}, but {known.name} takes {known.ranges} in the plan"
            )
