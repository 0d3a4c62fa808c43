"""The picture store."""

import asyncio
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_support import Gateway, gateway_before, is_problem

from gateway import storage
from gateway.storage import LocalStorage, StorageError
from serving import EmbeddedTriton


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path / "a" / "b")
    names = {asyncio.run(store.save(b"picture", "png")) for _ in range(20)}
    assert len(names) == 20 and all(storage.NAME.fullmatch(name) for name in names)
    assert {asyncio.run(store.load(name)) for name in names} == {b"picture"}
    assert {path.name for path in store.folder.iterdir()} == names


NO_NAMES = [
    "0" * 32, "0" * 32 + ".png", "", ".", "../secret.png", "/etc/passwd", "A" * 32 + ".png",
    "0" * 33 + ".png", "0" * 32 + ".png\n", "0" * 32 + ".png/../../secret.png", "." + "0" * 32 + ".png.part",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_nothing_else_is_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    store = LocalStorage(tmp_path / "store")
    (store.folder / ("." + "0" * 32 + ".png.part")).write_bytes(b"half")
    assert asyncio.run(store.load(name)) is None


def test_a_picture_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.secrets, "token_hex", lambda _: "0" * 32)
    store = LocalStorage(tmp_path)
    asyncio.run(store.save(b"first", "png"))
    with pytest.raises(StorageError, match="exists already"):
        asyncio.run(store.save(b"second", "png"))
    assert asyncio.run(store.load("0" * 32 + ".png")) == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["0" * 32 + ".png"]


SAVE_WITHOUT_ROOM = """
import asyncio, resource, sys
from pathlib import Path
from gateway.storage import LocalStorage, StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    asyncio.run(LocalStorage(Path(sys.argv[1])).save(b"x" * 5000, "png"))
except StorageError as error:
    print(error.full)
"""


def test_a_picture_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAVE_WITHOUT_ROOM, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
    assert list(tmp_path.iterdir()) == []


def test_a_full_store_is_507(triton: EmbeddedTriton, tmp_path: Path) -> None:
    with gateway_before(triton.grpc_url, tmp_path) as gateway:
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
        try:
            is_problem(gateway.post(prompt="a mug"), 507, "no room")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert gateway.stored == set()
        assert gateway.post(prompt="a mug").status_code == 200


def test_a_store_that_is_gone_is_503(triton: EmbeddedTriton, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    with gateway_before(triton.grpc_url, folder) as gateway:
        folder.rmdir()
        folder.write_text("not a folder")
        is_problem(gateway.post(prompt="a mug"), 503, "store")
        is_problem(gateway.http.get(f"/images/{'0' * 32}.png"), 503, "store")
        folder.unlink()
        folder.mkdir()
        assert gateway.post(prompt="a mug").status_code == 200


def test_many_pictures_at_once(gateway: Gateway) -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = gateway.stored
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: gateway.post(prompt="a mug", seed=seed), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(gateway.stored - before) == 24
