"""Our tensorrt backend, as far as it goes without a GPU: all but the CUDA calls of its plan_session.

TensorRT-RTX, which has the same interface, stands for TensorRT. Where it is served, torch is the plan.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorrt_rtx as trt
import torch
import tritonclient.grpc as grpc
from tiny_plans import VERSION, add_plan, finish_plans, pretend_gpus, pretend_tensorrt
from tritonclient.utils import InferenceServerException

from serving import EmbeddedTriton
from serving.backends.batching import answered, separated

BACKENDS = Path("serving/backends").resolve()
DTYPES = {"FP32": np.float32, "BF16": ml_dtypes.bfloat16, "INT64": np.int64, "UINT8": np.uint8}
# y = x + the sum of lora_a, in place of a plan; x of 13 is a fault, x of 14 too much for the memory.
SESSION = """
import torch
from plan_tensors import PlanInput, PlanTensor, TYPES, check_config

class PlanSession:
    def __init__(self, model_config):
        x = dict(TYPES.values())[model_config["input"][0]["data_type"]]
        name = model_config["input"][0]["data_type"]
        self.inputs = {
            "x": PlanInput("x", name, x, (1, 1), (4, 8)),
            "lora_a": PlanInput("lora_a", "TYPE_BF16", torch.bfloat16, (1, 0, 3), (4, 16, 3)),
        }
        self.outputs = {"y": PlanTensor("y", name, x)}
        check_config(model_config, self.inputs, self.outputs)

    def run(self, requests):
        batch = {name: torch.cat([arrays[name] for arrays in requests]) for name in self.inputs}
        for name, array in batch.items():
            self.inputs[name].check(array.shape)
            assert array.dtype == self.inputs[name].dtype
        if (batch["x"] == 13).any():
            raise RuntimeError("TensorRT refused to run")
        if (batch["x"] == 14).any():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [batch["x"] + batch["lora_a"].sum(dim=(1, 2)).to(batch["x"].dtype)[:, None]]

def open_session(model_config, file, instance_kind, device_id):
    assert file.name == "model.plan" and file.is_file()
    return PlanSession(model_config)
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[ModuleType]:
    """The backend's plan_session, which imports the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", trt)
        patch.syspath_prepend(str(BACKENDS / "tensorrt"))
        yield importlib.import_module("plan_session")
    for name in ("plan_session", "plan_tensors"):
        del sys.modules[name]


@pytest.fixture(scope="module")
def tensors(backend: ModuleType) -> Any:
    return sys.modules["plan_tensors"]


def test_requests_of_the_same_inputs_that_agree_behind_axis_0_share_a_batch() -> None:
    shapes = [(1, 3), (2, 3), (1, 5), (1, 3)]
    requests = [{"x": np.full(shape, place)} for place, shape in enumerate(shapes)]
    requests.append({"x": np.full((1, 3), 4), "y": np.zeros((1, 3))})
    calls: list[list[float]] = []

    def run(batch: list[dict[str, Any]]) -> list[str]:
        calls.append([arrays["x"].flat[0] for arrays in batch])
        return [f"answer {arrays['x'].flat[0]}" for arrays in batch]

    answers = answered(requests, True, run, str)
    assert answers == [f"answer {place}" for place in range(5)] and calls == [[0, 1, 3], [2], [4]]
    calls.clear()
    assert answered(requests, False, run, str) == answers and calls == [[0], [1], [2], [3], [4]]


def test_only_the_guilty_of_a_batch_fails() -> None:
    def run(batch: list[dict[str, Any]]) -> list[float]:
        if any(arrays["x"][0] == 2 for arrays in batch):
            raise RuntimeError("no twos")
        return [float(arrays["x"][0]) for arrays in batch]

    requests = [{"x": torch.tensor([number])} for number in (1, 2, 3)]
    assert answered(requests, True, run, str) == [1, "no twos", 3]


@pytest.mark.parametrize("join", [np.concatenate, torch.cat])
def test_each_request_gets_its_rows(join: Any) -> None:
    rows = [np.arange(6).reshape(2, 3), np.arange(3).reshape(1, 3)]
    rows = rows if join is np.concatenate else [torch.from_numpy(array) for array in rows]
    (one,), (two,) = separated([join(rows)], [{"x": array} for array in rows])
    assert (one == rows[0]).all() and (two == rows[1]).all()
    assert separated([join(rows)], [{"x": rows[0]}])[0][0].shape == (3, 3)


@pytest.mark.parametrize("shape", [(1, 16, 64), (4, 4096, 64), (2, 300, 64)])
def test_a_shape_within_the_profile_is_taken(tensors: Any, shape: tuple[int, ...]) -> None:
    known = tensors.PlanInput("hidden_states", "TYPE_BF16", torch.bfloat16, (1, 16, 64), (4, 4096, 64))
    known.check(torch.empty(shape, device="meta").shape)


@pytest.mark.parametrize("shape", [(1, 15, 64), (5, 16, 64), (1, 16, 65), (1, 16), (1, 16, 64, 1)])
def test_a_shape_outside_the_profile_is_named(tensors: Any, shape: tuple[int, ...]) -> None:
    known = tensors.PlanInput("hidden_states", "TYPE_BF16", torch.bfloat16, (1, 16, 64), (4, 4096, 64))
    with pytest.raises(tensors.InvalidInput) as caught:
        known.check(torch.empty(shape, device="meta").shape)
    taken = "the plan takes [1..4, 16..4096, 64]"
    assert str(caught.value) == f"input hidden_states has shape {list(shape)}; {taken}"


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        (trt.DataType.BF16, ("TYPE_BF16", torch.bfloat16)),
        (trt.DataType.INT64, ("TYPE_INT64", torch.int64)),
        (trt.DataType.UINT8, ("TYPE_UINT8", torch.uint8)),
        (trt.DataType.HALF, ("TYPE_FP16", torch.float16)),
    ],
)
def test_types_have_tritons_and_torchs_names(tensors: Any, kind: Any, types: tuple[str, Any]) -> None:
    assert tensors.types_of("x", kind) == types


def test_a_type_that_triton_does_not_carry_is_named(tensors: Any) -> None:
    with pytest.raises(ValueError, match=r"tensor x of the plan is of DataType\.FP8; choices: .*BF16"):
        tensors.types_of("x", trt.DataType.FP8)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "z"}, "inputs are {'z': 'TYPE_FP32'} in config.pbtxt, {'x': 'TYPE_FP32'} in the plan"),
        ({"data_type": "TYPE_FP16"}, "inputs are {'x': 'TYPE_FP16'} in config.pbtxt"),
        ({"batch": 8}, "max_batch_size is 8, but x takes [1..4, 1..8] in the plan"),
    ],
    ids=["name", "type", "batch"],
)
def test_a_config_that_differs_from_its_plan_is_named(tensors: Any, config: Any, said: str) -> None:
    x = {"name": "x", "data_type": "TYPE_FP32", "batch": 4, **config}
    inputs = {"x": tensors.PlanInput("x", "TYPE_FP32", torch.float32, (1, 1), (4, 8))}
    whole = {"input": [x], "output": [], "max_batch_size": x.pop("batch")}
    with pytest.raises(ValueError) as caught:
        tensors.check_config(whole, inputs, {})
    assert said in str(caught.value)


def test_errors_have_tritons_codes(tensors: Any) -> None:
    assert tensors.error_code(tensors.InvalidInput("x")) == "INVALID_ARG"
    assert tensors.error_code(torch.OutOfMemoryError("x")) == "UNAVAILABLE"
    assert tensors.error_code(RuntimeError("x")) == "INTERNAL"


def test_what_is_no_plan_is_refused(backend: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"not a plan" * 99)
    with pytest.raises(ValueError, match=r"refuses model\.plan; its reason is in Triton's log"):
        backend.load(tmp_path / "model.plan")


def test_an_instance_on_the_cpu_is_refused(backend: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="KIND_GPU, this is one of KIND_CPU"):
        backend.open_session({}, tmp_path / "model.plan", "CPU", 0)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.InferenceServerClient]:
    """A real tritonserver with the backend; only the CUDA part is replaced."""
    folder = tmp_path_factory.mktemp("plans")
    for dtype in DTYPES:
        add_plan(folder / "repository" / "models", dtype.lower(), dtype)
    finish_plans(folder / "repository")
    ours = shutil.copytree(BACKENDS, folder / "backends", ignore=shutil.ignore_patterns("__pycache__"))
    (ours / "tensorrt" / "plan_session.py").write_text(SESSION)
    (ours / "tensorrt" / "tensorrt.py").write_text("from tensorrt_rtx import *")
    with pytest.MonkeyPatch.context() as patch:
        pretend_gpus(patch, folder / "bin", "8.0")
        pretend_tensorrt(patch, folder / "python", f"__version__ = {VERSION!r}")
        patch.setattr("serving.launch.OUR_BACKENDS", ours)
        with EmbeddedTriton([folder / "repository"], folder / "logs") as triton:
            with grpc.InferenceServerClient(triton.grpc_url) as connected:
                yield connected


def infer(
    client: grpc.InferenceServerClient, dtype: str, x: Any, lora_a: Any = ((0.5, 0.25, 0.25),)
) -> np.ndarray:
    array = np.asarray(x, DTYPES[dtype])
    pack = np.broadcast_to(np.asarray(lora_a, ml_dtypes.bfloat16), (len(array), len(lora_a), 3))
    tensors = [grpc.InferInput("x", array.shape, dtype), grpc.InferInput("lora_a", pack.shape, "BF16")]
    for tensor, values in zip(tensors, (array, np.ascontiguousarray(pack)), strict=True):
        tensor.set_data_from_numpy(values)
    return client.infer(dtype.lower(), tensors, client_timeout=60).as_numpy("y")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_crosses_the_border(client: grpc.InferenceServerClient, dtype: str) -> None:
    answer = infer(client, dtype, [[1, 2, 100], [4, 5, 6]])
    assert answer.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(answer.astype(np.float32), [[2, 3, 101], [5, 6, 7]])


def outcomes(client: grpc.InferenceServerClient, rows: list[Any]) -> list[Any]:
    """What each of `rows` gets, asked at once: its answer or its error."""

    def ask(row: Any) -> Any:
        try:
            return infer(client, "FP32", [row]).tolist()[0]
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(len(rows)) as pool:
        return list(pool.map(ask, rows))


def test_requests_of_a_batch_get_their_own_answer_or_error(client: grpc.InferenceServerClient) -> None:
    good, fault, memory, other = outcomes(client, [[1, 1], [13, 1], [14, 1], [2, 2]])
    assert (good, other) == ([2, 2], [3, 3])
    assert (fault.status(), memory.status()) == ("StatusCode.INTERNAL", "StatusCode.UNAVAILABLE")
    assert fault.message() == "fp32: TensorRT refused to run"


def test_a_shape_outside_the_profile_is_the_requests_own_fault(client: grpc.InferenceServerClient) -> None:
    good, wrong = outcomes(client, [[1] * 8, [1] * 9])
    assert good == [2] * 8
    assert wrong.status() == "StatusCode.INVALID_ARGUMENT"
    assert wrong.message() == "fp32: input x has shape [1, 9]; the plan takes [1..4, 1..8]"


def test_an_empty_pack_is_no_adapter(client: grpc.InferenceServerClient) -> None:
    np.testing.assert_array_equal(infer(client, "FP32", [[1, 2]], lora_a=np.empty((0, 3))), [[1, 2]])
