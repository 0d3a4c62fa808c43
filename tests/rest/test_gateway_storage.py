"""The picture store and the PNG that goes into it."""

import asyncio
import io
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gateway_support import Gateway, gateway_before, is_problem
from PIL import Image

from gateway import storage
from gateway.png import encode_png
from gateway.storage import LocalStorage, StorageError
from serving import EmbeddedTriton


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path / "a" / "b")
    ids = {asyncio.run(store.save(b"png")) for _ in range(20)}
    assert len(ids) == 20 and all(storage.IMAGE_ID.fullmatch(image_id) for image_id in ids)
    assert {asyncio.run(store.load(image_id)) for image_id in ids} == {b"png"}
    assert {path.stem for path in store.folder.iterdir()} == ids


@pytest.mark.parametrize(
    "image_id", ["0" * 32, "", ".", "../secret", "/etc/passwd", "A" * 32, "0" * 33, "0" * 31 + "\n"]
)
def test_nothing_else_is_loaded(tmp_path: Path, image_id: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    assert asyncio.run(LocalStorage(tmp_path / "store").load(image_id)) is None


def test_a_picture_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.secrets, "token_hex", lambda _: "0" * 32)
    store = LocalStorage(tmp_path)
    asyncio.run(store.save(b"first"))
    with pytest.raises(StorageError, match="exists already"):
        asyncio.run(store.save(b"second"))
    assert asyncio.run(store.load("0" * 32)) == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["0" * 32 + ".png"]


SAVE_WITHOUT_ROOM = """
import asyncio, resource, sys
from pathlib import Path
from gateway.storage import LocalStorage, StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    asyncio.run(LocalStorage(Path(sys.argv[1])).save(b"x" * 5000))
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


def test_equal_pixels_are_equal_bytes_and_come_back_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)
    png = encode_png(pixels)
    assert png == encode_png(pixels.copy())
    picture = Image.open(io.BytesIO(png))
    assert (picture.mode, picture.info) == ("RGB", {})
    assert np.array_equal(np.asarray(picture), pixels)


def test_many_pictures_at_once(gateway: Gateway) -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = gateway.stored
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: gateway.post(prompt="a mug", seed=seed), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(gateway.stored - before) == 24
