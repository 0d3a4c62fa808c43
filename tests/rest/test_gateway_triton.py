"""A Triton that is not there, dies, is late or is left by the client."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx2
import pytest
from gateway_support import (
    Gateway,
    eventually,
    gateway_before,
    is_problem,
    seal,
    unused_port,
    write_repository,
)

from gateway.samples import ORDERS
from serving import EmbeddedTriton
from serving.launch import Options

IMPATIENT = Options(exit_timeout_seconds=1)  # Triton waits that long for a dead stub


def journal(repository: Path) -> list[str]:
    return (repository / "journal").read_text().splitlines()


def server_pid(triton: EmbeddedTriton) -> int:
    """The process that listens on `triton`'s port: the one whose command line names it."""
    port = triton.grpc_url.split(":")[1]
    for folder in Path("/proc").glob("[0-9]*"):
        command = (folder / "cmdline").read_bytes().split(b"\0")
        if command[0].endswith(b"tritonserver") and any(port.encode() in word for word in command):
            return int(folder.name)
    raise LookupError(f"no tritonserver on {port}")


def test_without_triton_the_gateway_lives_and_says_so(tmp_path: Path) -> None:
    with gateway_before(f"127.0.0.1:{unused_port()}", tmp_path) as gateway:
        answer = gateway.post(prompt="a mug")
        is_problem(answer, 503, "try again later")
        assert answer.headers["retry-after"] == "2"
        ready = gateway.http.get("/readyz")
        is_problem(ready, 503, "does not draw at present: model server unreachable")
        assert ready.headers["retry-after"] == "2"
        assert gateway.http.get("/healthz").status_code == 200
        is_problem(gateway.post(prompt=""), 422)
        assert gateway.stored == set()


def test_a_triton_without_the_ensemble_is_not_ready(tmp_path: Path, triton: EmbeddedTriton) -> None:
    models = write_repository(tmp_path / "other") / "models"
    for order in ORDERS[1:]:
        shutil.rmtree(models / order.ensemble)
    (models / ORDERS[0].ensemble).rename(models / "another")
    config = models / "another" / "config.pbtxt"
    config.write_text(config.read_text().replace(ORDERS[0].ensemble, "another"))
    seal(tmp_path / "other")
    with EmbeddedTriton([tmp_path / "other"], tmp_path) as other:
        with gateway_before(other.grpc_url, tmp_path / "images") as gateway:
            is_problem(gateway.post(prompt="a mug"), 503)
            is_problem(gateway.http.get("/readyz"), 503, "does not draw at present: model not loaded")


def test_who_asks_for_what_is_not_served_is_told_what_is(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "other")
    for order in ORDERS[1:]:
        shutil.rmtree(repository / "models" / order.ensemble)
    seal(repository)
    served = f"choices: {ORDERS[0].task} by model '{ORDERS[0].family.name}'"
    with EmbeddedTriton([repository], tmp_path) as other:
        with gateway_before(other.grpc_url, tmp_path / "images") as gateway:
            problem = is_problem(
                gateway.post(prompt="a mug", model="sdxl"), 422, "by model 'sdxl' is not served here", served
            )
            assert problem["errors"][0]["loc"] == ["body", "model"]
            assert gateway.post(prompt="a mug").status_code == 200
            assert gateway.http.get("/readyz").status_code == 200


def test_errors_of_a_real_model_are_mapped(gateway: Gateway) -> None:
    before = gateway.stored
    is_problem(gateway.post(prompt="!invalid"), 500, "our fault")
    is_problem(gateway.post(prompt="!broken"), 502)
    is_problem(gateway.post(prompt="!shape"), 502, "images has shape (1, 64, 32, 3), expected (1, 64, 64, 3)")
    is_problem(gateway.post(prompt="!dtype"), 502, "images has dtype FP32, expected UINT8")
    assert gateway.stored == before
    assert gateway.post(prompt="a mug").status_code == 200


def test_a_late_picture_ends_at_the_deadline(
    triton: EmbeddedTriton, repository: Path, tmp_path: Path
) -> None:
    with gateway_before(triton.grpc_url, tmp_path, deadline_seconds=0.5) as gateway:
        cancelled, began = journal(repository).count("cancelled"), time.monotonic()
        is_problem(gateway.post(prompt="!sleep 20"), 504, "not ready in time")
        assert time.monotonic() - began < 2
        assert eventually(lambda: journal(repository).count("cancelled") == cancelled + 1)
        assert gateway.stored == set()


def test_when_the_client_leaves_the_model_stops(gateway: Gateway, repository: Path) -> None:
    before, cancelled = gateway.stored, journal(repository).count("cancelled")
    sleeping = journal(repository).count("!sleep")
    with httpx2.Client(trust_env=False, timeout=0.5) as client, pytest.raises(httpx2.ReadTimeout):
        client.post(f"{gateway.url}/generate-image", json={"prompt": "!sleep 20"})
    assert journal(repository).count("!sleep") == sleeping + 1
    assert eventually(lambda: journal(repository).count("cancelled") == cancelled + 1, seconds=2)
    assert gateway.stored == before
    assert gateway.post(prompt="a mug").status_code == 200


def test_a_dead_stub_shows_in_readiness(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", instances=1)
    with (
        EmbeddedTriton([repository], tmp_path, IMPATIENT) as triton,
        gateway_before(triton.grpc_url, tmp_path / "i") as gateway,
    ):
        assert gateway.http.get("/readyz").status_code == 200
        is_problem(gateway.post(prompt="!die"), 503)
        is_problem(gateway.http.get("/readyz"), 503, "does not draw")
        is_problem(gateway.post(prompt="a mug"), 503)
        assert gateway.stored == set() and gateway.http.get("/healthz").status_code == 200


def test_triton_killed_in_the_middle_and_started_again(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    with (
        EmbeddedTriton([repository], tmp_path, IMPATIENT) as first,
        gateway_before(first.grpc_url, tmp_path / "i") as gateway,
    ):
        assert gateway.post(prompt="a mug").status_code == 200
        before = gateway.stored

        def kill() -> None:
            eventually(lambda: "!sleep" in journal(repository))
            os.kill(server_pid(first), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        is_problem(gateway.post(prompt="!sleep 20"), 503, "try again later")
        killer.join()
        assert journal(repository).count("!sleep") == 1
        is_problem(gateway.post(prompt="a mug"), 503)
        assert gateway.stored == before
        first.stop()
        with EmbeddedTriton([repository], tmp_path, first.options):
            assert eventually(lambda: gateway.post(prompt="a mug").status_code == 200)
            assert gateway.http.get("/readyz").status_code == 200
