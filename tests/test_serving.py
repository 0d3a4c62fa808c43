"""A real tritonserver serves tiny models through our onnxruntime backend."""

from __future__ import annotations

import shutil
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tiny_repository import SLEEPER, WEIGHT, add_linear, add_lookup, add_python, finish
from tritonclient.utils import InferenceServerException

from serving import EmbeddedTriton, ServingError


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    """Serves two repositories."""
    one, two = (tmp_path_factory.mktemp("a folder with spaces") for _ in range(2))
    add_linear(one / "models")
    add_lookup(one / "models")
    shutil.copytree(one / "models" / "linear", two / "models" / "counted")  # asked by one test only
    add_python(two / "models", "sleeper", SLEEPER)
    finish(one)
    finish(two)
    with EmbeddedTriton([one, two], one / "logs") as server:
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
    assert all(client.is_model_ready(name) for name in ("linear", "lookup", "counted", "sleeper"))


@pytest.fixture
def repositories(tmp_path: Path) -> list[Path]:
    for name in ("one", "two"):
        add_linear(tmp_path / name / "models")
        finish(tmp_path / name)
    return [tmp_path / "one", tmp_path / "two"]


def test_two_models_of_one_name_are_refused_before_anything_starts(repositories: list[Path]) -> None:
    add_lookup(repositories[1] / "models")
    finish(repositories[1])
    logs = repositories[0] / "logs"
    with pytest.raises(ServingError, match="two repositories have linear: serve one checkpoint of a family"):
        EmbeddedTriton(repositories, logs).start()
    assert not logs.exists()


def test_every_repository_is_held_against_its_manifest(repositories: list[Path]) -> None:
    (repositories[1] / "models" / "linear" / "config.pbtxt").write_text("")
    with pytest.raises(ServingError, match=r"linear/config\.pbtxt was changed"):
        EmbeddedTriton(repositories, repositories[0] / "logs").start()


def test_a_graph_is_computed(client: grpc.InferenceServerClient) -> None:
    x = np.random.default_rng(0).standard_normal((4, 4), dtype=np.float32)
    np.testing.assert_allclose(infer(client, "linear", "x", x), x @ WEIGHT, rtol=1e-4)


def test_requests_share_a_batch(client: grpc.InferenceServerClient) -> None:
    rows = np.random.default_rng(1).standard_normal((4, 1, 4), dtype=np.float32)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda row: infer(client, "counted", "x", row), rows))
    np.testing.assert_allclose(np.stack(answers), rows @ WEIGHT, rtol=1e-4)
    assert executions(client, "counted", inferences=4) < 4


def executions(client: grpc.InferenceServerClient, model: str, inferences: int) -> int:
    """How many calls `inferences` requests were; Triton answers before it counts."""
    deadline = time.monotonic() + 30
    while True:
        found = client.get_inference_statistics(model).model_stats[0]
        if found.inference_count == inferences:
            return int(found.execution_count)
        assert time.monotonic() < deadline, f"{model} had {found.inference_count} inferences"
        time.sleep(0.05)


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
