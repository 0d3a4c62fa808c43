"""Between Triton's Python backend and procedures: requests, answers, errors, calls of other models."""

from __future__ import annotations

import json
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from diffusion.adapters.packs import Pack
from diffusion.errors import Cancelled, EngineError, Expired, QueueFull, Stopping
from diffusion.latents import BaseImage
from diffusion.settings import Settings
from families import ComponentSpec, FamilySpec, InvalidRequest, Range
from families.lora import APPLIED_LORAS, LORA_A, LORA_B, OPTIONAL_PACKS
from families.loras import check_applied
from families.spec import NUMPY_DTYPES

Outputs = Mapping[str, Tensor | NDArray[Any]]


@dataclass(frozen=True)
class Deployment:
    """Where a stage is served; `checkpoint` holds the parts that export gave it, without weights."""

    model: str
    checkpoint: Path
    parameters: Mapping[str, str]
    dtypes: Mapping[str, str]  # output -> Triton's name of its type

    @classmethod
    def of(cls, args: Mapping[str, str]) -> Deployment:
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        dtypes = {output["name"]: output["data_type"].removeprefix("TYPE_") for output in config["output"]}
        return cls(args["model_name"], Path(args["model_repository"], "checkpoint"), parameters, dtypes)

    @property
    def sizes(self) -> Range:
        """Pixels of a picture's sides."""
        return Range(*(self.integer(name) for name in ("min_size", "native_size", "max_size")))

    def output_dtype(self, name: str) -> torch.dtype:
        """torch's type of the output `name`."""
        dtype: torch.dtype = getattr(torch, NUMPY_DTYPES[self.dtypes[name]])
        return dtype

    def check(self, names: Iterable[str]) -> None:
        """ValueError, when the model is loaded and not with every request, if an integer is missing."""
        for name in names:
            self.integer(name)

    def integer(self, name: str) -> int:
        """The parameter `name` of the model's config, which export writes."""
        if name not in self.parameters:
            raise ValueError(
                f"{self.model} has no parameter {name!r}: another version made the repository; export again"
            )
        return int(self.parameters[name])


@dataclass(frozen=True)
class Request:
    """One Triton request. Every tensor has its batch axis first."""

    raw: Any

    def array(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = self._input(name).as_numpy()
        return array

    def tensor(self, name: str) -> Tensor:
        return _to_torch(self._input(name))

    def _input(self, name: str) -> Any:
        """InvalidRequest if `name` was not sent: some tasks need what a config calls optional."""
        found = pb_utils.get_input_tensor_by_name(self.raw, name)
        if found is None:
            raise InvalidRequest(f"{name} is missing")
        return found

    def column(self, name: str) -> list[Any]:
        """The values of a [B, 1] tensor, one a row."""
        values: list[Any] = self.array(name).reshape(-1).tolist()
        return values

    def decimals(self, name: str) -> list[float]:
        """The values of a [B, 1] FP32 tensor as they were written: 0.6, not the 0.60000002 that it holds.

        A share of the steps is rounded to whole ones, so a little more or less may be a step.
        """
        return [float(str(value)) for value in self.array(name).reshape(-1)]

    def texts(self, name: str) -> list[str]:
        """The values of a [B, 1] STRING tensor; InvalidRequest if one is not UTF-8."""
        try:
            return [value.decode() for value in self.column(name)]
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from None

    def rows(self, name: str) -> list[Tensor]:
        """The rows of a tensor, each [1, ...]."""
        return list(torch.split(self.tensor(name), 1))

    def has(self, name: str) -> bool:
        """Whether the optional tensor `name` was sent."""
        return pb_utils.get_input_tensor_by_name(self.raw, name) is not None

    @property
    def id(self) -> str:
        """What the client calls the request. An ensemble hands it on, as it does timeout and parameters."""
        return str(self.raw.request_id())

    @property
    def timeout_seconds(self) -> float | None:
        """Triton's `timeout` of the request, None if it has none."""
        return self.raw.timeout() / 1e6 or None

    def parameter(self, name: str, default: str) -> str:
        """A parameter that the client gave the request beside its tensors."""
        return str(json.loads(self.raw.parameters() or "{}").get(name, default))

    def cancelled(self) -> bool:
        """Whether the client is gone; Triton 2.51 does not tell an ensemble's steps. Costs 0.15 ms."""
        return bool(self.raw.is_cancelled())


class Stage(ABC):
    """Base of a model.py: `setup` once, `run` for each request; an error answers its own request."""

    def initialize(self, args: Mapping[str, str]) -> None:
        torch.set_num_threads(1)  # the heavy work is in engines; stages must not take their cores
        self.setup(Deployment.of(args))

    @abstractmethod
    def setup(self, deployment: Deployment) -> None: ...

    @abstractmethod
    def run(self, request: Request) -> Outputs: ...

    def execute(self, requests: Iterable[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            return response(self.run(Request(request)))
        except Exception as error:
            return refusal(error)


def response(outputs: Outputs) -> Any:
    return pb_utils.InferenceResponse([_from_any(name, value) for name, value in outputs.items()])


CODES = {  # names in TritonError, which is there only after this module is imported
    InvalidRequest: "INVALID_ARG",
    Cancelled: "CANCELLED",
    Expired: "UNAVAILABLE",
    QueueFull: "UNAVAILABLE",
    Stopping: "UNAVAILABLE",
}


def refusal(error: Exception) -> Any:
    """The answer to a request that `error` ended; what is nobody's doing but ours is logged."""
    if code := CODES.get(type(error)):
        return _failure(str(error), code)
    log_error(error)
    return _failure(f"{type(error).__name__}: {error}", "INTERNAL")


def log_error(error: Exception) -> None:
    """Into Triton's log, with where it was raised."""
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))


def sender(request: Request) -> Callable[[Any], None]:
    """Takes the answer to `request` at any later time, once; the stage then returns None for it."""
    found = request.raw.get_response_sender()
    return lambda answer: found.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def settings(request: Request, family: FamilySpec) -> list[Settings]:
    """What each row asks; the size is the base image's where there is one."""
    count = len(request.array("seed"))
    heights, widths = _sizes(request, count)
    columns = [request.column(name) for name in ("seed", "num_inference_steps", "guidance_scale")]
    names = request.texts("scheduler") if request.has("scheduler") else [family.schedulers[0]] * count
    strengths = request.decimals("strength") if request.has("image") else [None] * count
    qualities = request.texts("quality") if request.has("quality") else [family.qualities[0]] * count
    rows = zip(*columns, heights, widths, names, strengths, qualities, strict=True)
    return [Settings(*row) for row in rows]


def _sizes(request: Request, count: int) -> tuple[list[int], list[int]]:
    if request.has("image"):
        height, width = request.array("image").shape[1:3]
        return [height] * count, [width] * count
    if not (request.has("height") and request.has("width")):
        raise InvalidRequest("neither image nor height and width are given; give one of them")
    return request.column("height"), request.column("width")


def base_images(request: Request, count: int) -> list[BaseImage | None]:
    """The VAE encoder's answer for each row, None where the request has no base image."""
    if not request.has("image"):
        return [None] * count
    return [
        BaseImage(*row) for row in zip(request.rows("image_mean"), request.rows("image_std"), strict=True)
    ]


def packs(request: Request, deployment: Deployment) -> list[Pack | None]:
    """Each row's pack; None where it has no adapters and the engine can do without packs.

    Raises what the `lora` stage refused.
    """
    for text in request.texts(APPLIED_LORAS.name):
        check_applied(text)
    if not deployment.integer("max_rank"):
        return [None] * len(request.array("seed"))
    rows = zip(request.rows(LORA_A), request.rows(LORA_B), strict=True)
    sent = [Pack(lora_a, lora_b, applied=()) for lora_a, lora_b in rows]
    if not deployment.integer(OPTIONAL_PACKS):
        return list(sent)
    return [pack if pack.lora_b.any() else None for pack in sent]


class ModelEngine:
    """Calls the Triton model that serves `component`; an Engine of `diffusion.denoise`.

    A tensor on the CPU that the call before had too is not copied to shared memory again: nobody may write to
    one that was sent, until `forget`.
    """

    def __init__(self, family: FamilySpec, component: ComponentSpec) -> None:
        self._model, self._output = family.model_name(component), component.outputs[0].name
        self._sent: dict[str, tuple[Tensor, Any]] = {}

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Inputs by name -> the component's one output; EngineError if the model fails."""
        self._sent = {name: self._pair(name, tensor) for name, tensor in inputs.items()}
        return call(self._model, [sent for _, sent in self._sent.values()], self._output)

    def forget(self) -> None:
        """Frees what the last call had."""
        self._sent = {}

    def _pair(self, name: str, tensor: Tensor) -> tuple[Tensor, Any]:
        """`tensor` and Triton's tensor of it."""
        last = self._sent.get(name)
        if last is not None and last[0] is tensor and tensor.device.type == "cpu":
            return last
        return tensor, _from_torch(name, tensor)


def call(model: str, inputs: Sequence[Any], output: str) -> Tensor:
    """`output` of the Triton model `model`. Raises EngineError with its message if it fails."""
    request = pb_utils.InferenceRequest(
        model_name=model, inputs=list(inputs), requested_output_names=[output]
    )
    response = request.exec()
    if response.has_error():
        raise EngineError(f"{model}: {response.error().message()}")
    answer = pb_utils.get_output_tensor_by_name(response, output)
    if answer is None:
        raise EngineError(f"{model} answered without {output}")
    return _to_torch(answer)


def _failure(message: str, code: str) -> Any:
    error = pb_utils.TritonError
    return pb_utils.InferenceResponse(error=error(message, getattr(error, code)))


def _to_torch(tensor: Any) -> Tensor:
    return from_dlpack(tensor.to_dlpack())


def _from_torch(name: str, tensor: Tensor) -> Any:
    return pb_utils.Tensor.from_dlpack(name, tensor.contiguous())


def _from_any(name: str, value: Tensor | NDArray[Any]) -> Any:
    return pb_utils.Tensor(name, value) if isinstance(value, np.ndarray) else _from_torch(name, value)
