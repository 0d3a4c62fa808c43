"""Helpers of the gateway's tests: a stand-in repository, a gateway, a lying gRPC server."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor

from export import manifest
from families.hashes import sha256_of_file
from families.triton import parameters
from gateway.app import create_app
from gateway.samples import ORDERS, Order
from gateway.server import background
from gateway.settings import Settings

DENOISER = "d" * 64  # hash of the served weights
PARAMETERS = {
    "checkpoint": "stand-in",
    "native_size": "64",
    "min_size": "32",
    "max_size": "128",
    "size_multiple": "16",
    "max_sequence_length": "64",
    "max_rank": "16",
    "denoiser_sha256": DENOISER,
}


def write_repository(folder: Path, instances: int = 2) -> Path:
    """A repository whose models are the stand-in under every ensemble's name; journal: `folder`/journal."""
    (folder / "journal").parent.mkdir(parents=True, exist_ok=True)
    (folder / "journal").touch()
    for order in ORDERS:
        version = folder / "models" / order.ensemble / "1"
        version.mkdir(parents=True)
        shutil.copyfile(Path(__file__).with_name("gateway_stand_in.py"), version / "model.py")
        (version.parent / "config.pbtxt").write_text(stand_in_config(order, folder / "journal", instances))
    seal(folder)
    return folder


def stand_in_config(order: Order, journal: Path, instances: int) -> str:
    tensors = [("input", tensor) for tensor in order.spec.inputs]
    tensors += [("output", tensor) for tensor in order.spec.outputs]
    lines = [f'name: "{order.ensemble}" backend: "python" max_batch_size: 4']
    lines += [
        f'{kind} [ {{ name: "{t.name}" data_type: TYPE_{t.dtype} dims: {t.dims} }} ]' for kind, t in tensors
    ]
    lines += [f"instance_group [ {{ count: {instances} kind: KIND_CPU }} ]"]
    told = {**PARAMETERS, "size_multiple": order.family.size_multiple, "journal": journal}
    return "\n".join(lines) + "\n" + parameters(told)


def seal(repository: Path) -> None:
    """Write the manifest that makes a folder with models/ an assembled repository."""
    paths = [path for path in (repository / "models").rglob("*") if path.is_file()]
    files = {path.relative_to(repository).as_posix(): sha256_of_file(path) for path in paths}
    manifest.write(
        manifest.Manifest("stand-in", "", "flux", "cpu", "", "", {}, {}, "", {}, files), repository
    )


class Gateway:
    """A running gateway: `post` sends JSON to /generate-image, `stored` lists the files it keeps."""

    def __init__(self, url: str, folder: Path) -> None:
        self.http = httpx2.Client(base_url=url, timeout=60, trust_env=False)
        self.url, self.folder = url, folder

    def post(self, **body: Any) -> httpx2.Response:
        content = json.dumps(body)  # httpx2's own JSON refuses lone surrogates
        return self.http.post(
            "/generate-image", content=content, headers={"Content-Type": "application/json"}
        )

    @property
    def stored(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@contextmanager
def gateway_before(triton_url: str, folder: Path, **settings: Any) -> Iterator[Gateway]:
    """A real uvicorn on a free loopback port, without adapters unless told."""
    settings = {"adapters": folder.with_name("no-adapters"), **settings}
    chosen = Settings(triton_url=triton_url, storage_folder=folder, **settings)
    with background(create_app(chosen), chosen) as url:
        gateway = Gateway(url, folder)
        with gateway.http:
            yield gateway


def is_problem(answer: httpx2.Response, status: int, *words: str) -> dict[str, Any]:
    """The body, checked to be problem+json of `status` whose detail has every one of `words`."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status and problem["request_id"] == answer.headers["x-request-id"]
    assert {"type", "title", "detail", "instance"} <= set(problem)
    for word in words:
        assert word in problem["detail"], problem
    return problem


def eventually(check: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether `check` comes true within so many seconds."""
    ends = time.monotonic() + seconds
    while not check() and time.monotonic() < ends:
        time.sleep(0.02)
    return check()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


Reply = Callable[[service_pb2.ModelInferRequest, grpc.ServicerContext], service_pb2.ModelInferResponse]


class Liar(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Speaks Triton's protocol: `reply` answers `served` ensembles. Counts calls, notes cancellations."""

    def __init__(self) -> None:
        self.calls, self.configs, self.cancelled = 0, 0, list[bytes]()
        self.parameters, self.served = dict(PARAMETERS), {"flux_text_to_image"}
        self.reply: Reply = lambda request, context: good_reply()

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.check_served(request.name, context)
        self.configs += 1
        config = model_config_pb2.ModelConfig()
        for key, value in self.parameters.items():
            config.parameters[key].string_value = value
        return service_pb2.ModelConfigResponse(config=config)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ModelReadyResponse(ready=request.name in self.served)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.model_name.endswith("_scheduler"):
            self.cancelled += [
                deserialize_bytes_tensor(raw).item()
                for raw, tensor in zip(request.raw_input_contents, request.inputs, strict=True)
                if tensor.name == "cancel"
            ]
            return service_pb2.ModelInferResponse()
        self.check_served(request.model_name, context)
        self.calls += 1
        return self.reply(request, context)

    def check_served(self, name: str, context: grpc.ServicerContext) -> None:
        if name not in self.served:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found")

    def fail(self, code: grpc.StatusCode, message: str) -> None:
        """From now on every inference ends with this status."""
        self.reply = lambda request, context: context.abort(code, message)


@contextmanager
def listening(liar: Liar) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(liar, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()


def good_reply(
    images: Any = None, tokens: Any = None, applied: bytes = b"[]"
) -> service_pb2.ModelInferResponse:
    """An honest answer for a native-size picture, or one with these arrays."""
    reply = service_pb2.ModelInferResponse()
    add_output(reply, "images", np.zeros((1, 64, 64, 3), np.uint8) if images is None else images)
    add_output(reply, "prompt_tokens", np.array([[[9, 0], [7, 0]]], np.int32) if tokens is None else tokens)
    add_output(reply, "applied_loras", np.array([[applied]], dtype=np.object_))
    return reply


def add_output(reply: service_pb2.ModelInferResponse, name: str, array: Any) -> None:
    datatype = np_to_triton_dtype(array.dtype)
    reply.outputs.add(name=name, datatype=datatype, shape=array.shape)
    raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()
    reply.raw_output_contents.append(raw)
