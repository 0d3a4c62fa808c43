"""A real tritonserver serves tiny models through our onnxruntime backend."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tiny_repository import SLEEPER, WEIGHT, add_linear, add_lookup, add_python, finish
from tritonclient.utils import InferenceServerException

from serving import EmbeddedTriton


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    folder = tmp_path_factory.mktemp("a folder with spaces")
    add_linear(folder / "models")
    add_lookup(folder / "models")
    add_python(folder / "models", "sleeper", SLEEPER)
    finish(folder)
    with EmbeddedTriton(folder, folder / "logs") as server:
        yield server


@pytest.fixture
def client(triton: EmbeddedTriton) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(triton.grpc_url) as connected:
        yield connected


def infer(client: grpc.InferenceServerClient, model: str, name: str, array: np.ndarray) -> np.ndarray:
    dtype = {"float32": "FP32", "int32": "INT32", "int64": "INT64"}[array.dtype.name]
    tensor = grpc.InferInput(name, array.shape, dtype)
    tensor.set_data_from_numpy(array)
    return client.infer(model, [tensor], client_timeout=30).as_numpy("y")


def test_all_models_are_ready_when_entered(client: grpc.InferenceServerClient) -> None:
    assert client.is_server_ready()
    assert all(client.is_model_ready(name) for name in ("linear", "lookup", "sleeper"))


def test_a_graph_is_computed(client: grpc.InferenceServerClient) -> None:
    x = np.random.default_rng(0).standard_normal((4, 4), dtype=np.float32)
    np.testing.assert_allclose(infer(client, "linear", "x", x), x @ WEIGHT, rtol=1e-4)


def test_requests_share_a_batch(client: grpc.InferenceServerClient) -> None:
    rows = np.random.default_rng(1).standard_normal((4, 1, 4), dtype=np.float32)
    before = client.get_inference_statistics("linear").model_stats[0]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda row: infer(client, "linear", "x", row), rows))
    after = client.get_inference_statistics("linear").model_stats[0]
    np.testing.assert_allclose(np.stack(answers), rows @ WEIGHT, rtol=1e-4)
    assert after.inference_count - before.inference_count == 4
    assert after.execution_count - before.execution_count < 4


def test_a_repeated_request_is_answered_from_the_cache(client: grpc.InferenceServerClient) -> None:
    ids = np.array([[3, 3, 3]], np.int64)
    first = infer(client, "lookup", "ids", ids)
    np.testing.assert_array_equal(infer(client, "lookup", "ids", ids), first)
    assert client.get_inference_statistics("lookup").model_stats[0].inference_stats.cache_hit.count == 1


def test_one_bad_request_of_a_batch_fails_alone(client: grpc.InferenceServerClient) -> None:
    def look_up(row: int) -> np.ndarray | InferenceServerException:
        try:
            return infer(client, "lookup", "ids", np.array([[row]], np.int64))
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(look_up, [0, 1, 9, 2]))
    fault = answers.pop(2)
    np.testing.assert_array_equal(np.concatenate(answers)[:, 0], WEIGHT[:3])
    assert isinstance(fault, InferenceServerException)
    assert fault.status() == "StatusCode.INVALID_ARGUMENT"
    assert "lookup" in fault.message() and "out of data bounds" in fault.message()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((1, 5), np.float32), ["linear", "for input: x", "Got: 5 Expected: 4"]),
        (np.zeros((1, 4), np.int32), ["linear", "'x'", "INT32", "FP32"]),
        (np.zeros((1, 4, 1), np.float32), ["linear", "'x'"]),
        (np.zeros((5, 4), np.float32), ["linear", "batch-size must be <= 4"]),
    ],
    ids=["width", "dtype", "rank", "batch"],
)
def test_a_wrong_input_is_an_invalid_argument(
    client: grpc.InferenceServerClient, array: np.ndarray, said: list[str]
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(client, "linear", "x", array)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert all(words in caught.value.message() for words in said), caught.value.message()


def test_metrics_are_served_on_loopback(triton: EmbeddedTriton) -> None:
    with urllib.request.urlopen(triton.metrics_url, timeout=10) as response:
        assert b"nv_inference_count" in response.read()


@pytest.mark.parametrize(
    "call", ["get_model_repository_index", "get_system_shared_memory_status", "get_log_settings"]
)
def test_control_over_grpc_is_refused(client: grpc.InferenceServerClient, call: str) -> None:
    with pytest.raises(InferenceServerException, match="restricted"):
        getattr(client, call)()


def test_the_log_is_kept(triton: EmbeddedTriton) -> None:
    assert "successfully loaded 'linear'" in triton.log.read_text()
