"""A real Triton with the stand-in model, and a gateway in front of it, shared by all tests of the gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_support import Gateway, Liar, gateway_before, write_repository

from gateway import calls
from serving import EmbeddedTriton


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("stand-in"))


@pytest.fixture(scope="session")
def triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    with EmbeddedTriton([repository], tmp_path_factory.mktemp("log")) as triton:
        yield triton


@pytest.fixture(scope="session")
def gateway(triton: EmbeddedTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_before(triton.grpc_url, tmp_path_factory.mktemp("images")) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in has none that could be told to end a request, so its calls are cancelled, and soon."""
    monkeypatch.setattr(calls, "LET_END_SECONDS", 0.3)


@pytest.fixture
def liar() -> Liar:
    """One of its own for each test, in place of Triton."""
    return Liar()
