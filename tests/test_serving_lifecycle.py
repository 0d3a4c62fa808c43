"""The embedded Triton starts with clear errors, ends without remains, however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tiny_repository import SLEEPER, add_linear, add_python, finish

from serving import EmbeddedTriton, ServingError
from serving.launch import Options
from serving.machine import find_libpython

ROOT = Path(__file__).parent.parent
RAISES = """
class TritonPythonModel:
    def initialize(self, args):
        raise KeyError("no such vocabulary")
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add_python(tmp_path / "models", "sleeper", SLEEPER)
    finish(tmp_path)
    return tmp_path


def processes(words: str) -> dict[int, str]:
    """pid -> command line, of processes that have `words` in it."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words in command:
            found[int(folder.name)] = command
    return found


def tritonserver(grpc_url: str) -> int:
    port = grpc_url.rsplit(":")[-1]
    found = processes(f"--grpc-port={port} ")
    return next(pid for pid, command in found.items() if "guard.py" not in command)


def guard(prefix: str) -> int:
    return next(pid for pid, command in processes(prefix).items() if "guard.py" in command)


def shm_prefix(grpc_url: str) -> str:
    """Part of the command lines of tritonserver, its stubs and its guard, and of shared memory's names."""
    command = processes("")[tritonserver(grpc_url)]
    return command.split("shm-region-prefix-name=")[1].split()[0]


def remains(prefix: str) -> list[str]:
    return [*processes(prefix).values(), *(path.name for path in Path("/dev/shm").glob(f"{prefix}*"))]


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)


class Served:
    """`python -m serving` in a process of its own."""

    def __init__(self, repository: Path, *more: Path) -> None:
        file = repository / "addresses.json"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving", "--repository", *map(str, (repository, *more))]
            + ["--grpc-port", "0", "--metrics-port", "0"]
            + ["--log-dir", str(repository), "--addresses", str(file)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_until(lambda: file.exists() or self.process.poll() is not None, 60)
        self.grpc_url: str = json.loads(file.read_text())["grpc_url"]
        self.prefix = shm_prefix(self.grpc_url)
        self.addresses = file

    def ended(self) -> tuple[int, str]:
        """Exit status and output."""
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output


@contextmanager
def serving(*repositories: Path) -> Iterator[Served]:
    started = Served(*repositories)
    with started.process:
        yield started
        started.process.kill()
    wait_until(lambda: not remains(started.prefix), 15)


@pytest.fixture
def served(repository: Path) -> Iterator[Served]:
    with serving(repository) as started:
        yield started


def sleep_in_model(grpc_url: str, seconds: float) -> None:
    tensor = grpc.InferInput("seconds", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.array([[seconds]], np.float32))
    with grpc.InferenceServerClient(grpc_url) as client:
        client.infer("sleeper", [tensor])


@pytest.fixture
def busy(served: Served) -> Iterator[Served]:
    """Its stub sleeps in a request for a minute: it doesn't notice the death of its server."""
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(sleep_in_model, served.grpc_url, 60)
        time.sleep(0.5)
        yield served
        assert isinstance(request.exception(timeout=30), Exception)


def test_two_servers_side_by_side_and_nothing_remains(repository: Path) -> None:
    with (
        EmbeddedTriton([repository], repository / "a") as one,
        EmbeddedTriton([repository], repository / "b") as two,
    ):
        prefixes = [shm_prefix(one.grpc_url), shm_prefix(two.grpc_url)]
        assert len({*prefixes}) == len({one.grpc_url, two.grpc_url}) == 2
        assert all(any("stub" in left for left in remains(prefix)) for prefix in prefixes)
        assert one.running and two.running
    assert not one.running
    assert [remains(prefix) for prefix in prefixes] == [[], []]


def test_one_server_serves_several_repositories(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    add_linear(other / "models")
    finish(other)
    with serving(repository, other) as started:
        sleep_in_model(started.grpc_url, 0)
        with grpc.InferenceServerClient(started.grpc_url) as client:
            assert client.is_model_ready("linear") and client.is_model_ready("sleeper")
        started.process.send_signal(signal.SIGTERM)
        status, output = started.ended()
    assert status == 0, output
    assert "loading 2 models" in output and "[2/2] " in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(served: Served, number: signal.Signals) -> None:
    served.process.send_signal(number)
    status, output = served.ended()
    assert status == 0, output
    assert "[1/1] sleeper" in output and f"gRPC {served.grpc_url}" in output
    assert output.endswith("triton: stopped\n")
    assert not served.addresses.exists()
    assert remains(served.prefix) == []


def test_sigkill_leaves_no_orphan(busy: Served) -> None:
    busy.process.kill()
    wait_until(lambda: not remains(busy.prefix), 10)


def test_death_of_the_guard_takes_tritonserver_along(served: Served) -> None:
    os.kill(guard(served.prefix), signal.SIGKILL)
    status, output = served.ended()
    assert status == 1 and "error: tritonserver ended with status -9" in output
    wait_until(lambda: not remains(served.prefix), 10)


def test_death_of_tritonserver_is_told_and_leaves_no_orphan(busy: Served) -> None:
    os.kill(tritonserver(busy.grpc_url), signal.SIGKILL)
    status, output = busy.ended()
    assert status == 1
    assert "error: tritonserver ended with status 137; its log: " in output
    assert remains(busy.prefix) == []


def start_fails(repository: Path, options: Options | None = None) -> str:
    """The error of a start after `repository` was exported as it is."""
    finish(repository)
    return refused(repository, options)


def refused(repository: Path, options: Options | None = None) -> str:
    with pytest.raises(ServingError) as caught:
        EmbeddedTriton([repository], repository / "logs", options).start()
    assert not processes(str(repository))
    return str(caught.value)


def test_a_broken_graph_is_named_with_its_reason(repository: Path) -> None:
    add_linear(repository / "models")
    (repository / "models" / "linear" / "1" / "model.onnx").write_bytes(b"not a graph")
    said = start_fails(repository)
    assert "linear: " in said and "Protobuf parsing failed" in said and "triton.log" in said


def test_a_config_that_differs_from_its_graph_is_named(repository: Path) -> None:
    add_linear(repository / "models")
    config = repository / "models" / "linear" / "config.pbtxt"
    config.write_text(config.read_text().replace('"x"', '"z"'))
    assert "inputs are ['z'] in config.pbtxt, ['x'] in the ONNX file" in start_fails(repository)


def test_a_python_model_that_raises_is_named(repository: Path) -> None:
    add_python(repository / "models", "raises", RAISES)
    said = start_fails(repository)
    assert "raises: " in said and "KeyError: 'no such vocabulary'" in said and "model.py(4)" in said


def test_a_malformed_config_is_told(repository: Path) -> None:
    (repository / "models" / "sleeper" / "config.pbtxt").write_text("max_batch_sise: 4")
    assert "max_batch_sise" in start_fails(repository)


def test_a_taken_port_is_named(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert start_fails(repository, Options(grpc_port=port)).startswith(
            f"gRPC port {port} on 127.0.0.1 is in use; choose another --grpc-port"
        )


def test_options_out_of_range_are_named(repository: Path) -> None:
    assert "metrics port 70000 is not a port" in refused(repository, Options(metrics_port=70000))
    with pytest.raises(ServingError, match="threads is 0; it is at least 1"):
        Options(threads=0)


def test_a_temporary_folder_with_spaces_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/not here")
    assert "temporary folder '/not here' needs a plain name" in refused(repository)


def test_a_slow_start_is_given_up(repository: Path) -> None:
    add_python(repository / "models", "slow", SLEEPER.replace("import time", "import time; time.sleep(30)"))
    said = start_fails(repository, Options(startup_timeout_seconds=4))
    assert "not ready after 4 s, waiting for slow" in said


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    said = refused(tmp_path / "nowhere")
    assert "nowhere does not exist" in said and "python -m export" in said


def test_a_repository_without_its_manifest_is_refused(repository: Path) -> None:
    (repository / "manifest.json").unlink()
    assert "has no manifest.json" in refused(repository)


def test_a_changed_file_is_refused(repository: Path) -> None:
    (repository / "models" / "sleeper" / "1" / "model.py").write_text("")
    assert "sleeper/1/model.py was changed" in refused(repository)


def test_a_model_that_was_not_exported_is_refused(repository: Path) -> None:
    add_python(repository / "models", "stranger", SLEEPER)
    assert "is not in the manifest: remove it" in refused(repository)


def test_a_missing_wheel_is_one_line(repository: Path) -> None:
    without_packages = [sys.executable, "-S", "-m", "serving", "--repository", str(repository)]
    ended = subprocess.run(without_packages, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: the wheel nvidia-pytriton is not installed for ")
    assert ended.stderr.count("\n") == 1


def test_a_missing_libpython_names_debians_package(tmp_path: Path) -> None:
    with pytest.raises(
        ServingError, match=r"^libpython3\.11\.so\.1\.0 is missing.*apt-get install libpython3\.11$"
    ):
        find_libpython([tmp_path])
