"""A repository of TensorRT plans starts only where the plans can run; every refusal is one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_plans import VERSION, add_plan, finish_plans, pretend_gpus, pretend_tensorrt
from tiny_repository import add_linear, finish

from serving import EmbeddedTriton, ServingError
from serving.launch import Launch, Options
from serving.machine import find_wheel
from serving.repository import open_repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add_plan(tmp_path / "models", "tiny", "FP32")
    finish_plans(tmp_path)
    return tmp_path


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has an A100 and the TensorRT of the plans; a test takes one of them away."""
    folder = tmp_path_factory.mktemp("machine")
    pretend_gpus(monkeypatch, folder / "bin", "8.0", "8.0")
    pretend_tensorrt(monkeypatch, folder / "python", f"__version__ = {VERSION!r}")
    return folder


def refused(repository: Path) -> str:
    logs = repository / "logs"
    with pytest.raises(ServingError) as caught:
        EmbeddedTriton([repository], logs).start()
    assert not logs.exists()
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


def test_plans_open_on_the_machine_that_they_are_for(repository: Path, machine: Path) -> None:
    assert open_repository(repository, print).builder_version == VERSION


def test_a_changed_plan_is_refused(repository: Path, machine: Path) -> None:
    (repository / "models" / "tiny" / "1" / "model.plan").write_bytes(b"not a plao")
    assert "tiny/1/model.plan was changed" in refused(repository)


def test_a_machine_without_gpu_is_told(
    repository: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, machine / "no gpu")
    said = refused(repository)
    assert said.startswith(f"{repository}: plans were built for compute capability 8.0, ")
    assert "this machine has no GPU" in said


def test_a_machine_without_driver_is_told(
    repository: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(machine))
    assert "this machine has no GPU" in refused(repository)


def test_every_gpu_counts(repository: Path, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, machine / "mixed", "8.0", "7.5")
    assert "compute capability 8.0, this GPU has 7.5: export again" in refused(repository)


def test_a_missing_tensorrt_is_told(repository: Path, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_tensorrt(monkeypatch, machine / "none", "raise ImportError('libnvinfer.so.11: no such file')")
    said = refused(repository)
    assert "cannot be imported (ImportError: libnvinfer.so.11: no such file)" in said
    assert said.endswith(f"pip install tensorrt=={VERSION}")


def test_another_tensorrt_is_refused(
    repository: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_tensorrt(monkeypatch, machine / "older", "__version__ = '11.3.0.99'")
    said = refused(repository)
    assert f"built by TensorRT {VERSION}, this is TensorRT 11.3.0.99" in said
    assert "export again in the image that serves" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"builder": "tensorrt_rtx"}, "a tensorrt_rtx plan is a compiler check, not a served engine"),
        ({"compute_capability": None}, "built for compute capability None"),
    ],
)
def test_plans_that_serve_nowhere_are_refused(
    repository: Path, machine: Path, changes: dict[str, Any], said: str
) -> None:
    finish_plans(repository, **changes)
    assert said in refused(repository)


def test_a_repository_for_the_cpu_asks_for_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_linear(tmp_path / "models")
    finish(tmp_path)
    pretend_gpus(monkeypatch, tmp_path / "bin")
    pretend_tensorrt(monkeypatch, tmp_path / "python", "raise ImportError")
    assert open_repository(tmp_path, print).engine != "tensorrt"


def options(plans: bool, tmp_path: Path) -> set[str]:
    chosen = Options(startup_timeout_seconds=900)
    return {*Launch(find_wheel(), tmp_path, [], tmp_path, chosen, plans).command()}


def test_plans_get_pinned_memory_and_time_to_load(tmp_path: Path) -> None:
    assert {
        "--pinned-memory-pool-byte-size=268435456",
        "--backend-config=python,stub-timeout-seconds=900",
        "--allow-gpu-metrics=true",
    } <= options(True, tmp_path)
    assert {
        "--pinned-memory-pool-byte-size=0",
        "--backend-config=python,stub-timeout-seconds=120",
        "--allow-gpu-metrics=false",
    } <= options(False, tmp_path)
