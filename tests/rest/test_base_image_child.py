"""The decoder's child: what it may not do, and what happens when it dies, lies, hangs or is given up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from decoder_child import PATIENT, SUPPORTED, Pixels, asking, children, decoded
from hostile_images import SECRET, photo, saved

from gateway.base_image import decode
from gateway.base_image.decode import Decoder
from gateway.base_image.errors import BaseImageRefused, BaseImageTimeout


def answering(code: str) -> str:
    """A child that reads the picture and then does something else than decode it."""
    return f"import os, sys, json, time\nprint('ready', flush=True)\nsys.stdin.buffer.read()\n{code}"


@pytest.mark.parametrize(
    "code",
    [
        "",
        "os.abort()",
        "os.kill(os.getpid(), 9)",
        "print('x' * 100_000)",
        "print('no JSON')",
        "print('[]')",
        "print('1')",
        "print('{}')",
        "print(json.dumps({'height': 64, 'width': '64'}))",
        "print(json.dumps({'height': 1, 'width': 1}), '123')",
        "print(json.dumps({'height': 64.0, 'width': 64.0}), 'x' * 12288, sep='\\n')",
        "print(json.dumps({'height': 64_000, 'width': 64_000}), 'x' * 10**6, sep='\\n')",
        "print(json.dumps({'height': 64, 'width': 64}), 'x' * 100, sep='\\n')",
        "print(json.dumps({'height': 32, 'width': 32}), 'x' * 3072, sep='\\n')",
    ],
)
def test_a_child_that_dies_or_lies_is_a_refusal(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(decode, "START", answering(code))
    before = children()
    with pytest.raises(BaseImageRefused, match="cannot be decoded within 2 CPU seconds and 300 MB"):
        decoded(saved(photo(), "PNG"))
    assert children() == before


def test_a_child_that_does_not_start_is_our_own_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "START", "import no_such_module")
    with pytest.raises(RuntimeError, match="does not start"):
        decoded(saved(photo(), "PNG"))


def test_the_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    monkeypatch.setattr(decode, "START", answering("print(json.dumps({'refused': str(os.environ)}))"))
    with pytest.raises(BaseImageRefused, match="environ") as refusal:
        decoded(saved(photo(), "PNG"))
    assert SECRET not in str(refusal.value)


def test_a_slow_child_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "START", answering("time.sleep(60)"))
    before = children()
    with pytest.raises(BaseImageTimeout, match="not decoded within 0.5 seconds"):
        asyncio.run(Decoder(wall_seconds=0.5).decode(saved(photo(), "PNG"), SUPPORTED))
    assert children() == before


def test_a_child_that_never_stops_answering_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = (
        "print(json.dumps({'height': 64, 'width': 64}), flush=True)\nwhile True: os.write(1, bytes(65536))"
    )
    monkeypatch.setattr(decode, "START", answering(endless))
    before = children()
    decoded(saved(photo(), "PNG"))
    assert children() == before


async def cancelled(decoder: Decoder, before: set[int]) -> None:
    task = asyncio.create_task(decoder.decode(saved(photo(), "PNG"), SUPPORTED))
    while not children() - before:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() == before


def test_a_cancelled_request_kills_its_child_and_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(decoder: Decoder) -> Pixels:
        with monkeypatch.context() as patched:
            patched.setattr(decode, "START", answering("time.sleep(60)"))
            for _ in range(3):
                await cancelled(decoder, children())
        return await decoder.decode(saved(photo(), "PNG"), asking(96, 160))

    assert asyncio.run(run(Decoder(PATIENT))).shape == (96, 160, 3)


def test_two_children_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> int:
        before, decoder, most = children(), Decoder(PATIENT), 0
        work = asyncio.gather(*(decoder.decode(saved(photo(), "PNG"), SUPPORTED) for _ in range(6)))
        while not work.done():
            most = max(most, len(children() - before))
            await asyncio.sleep(0.01)
        await work
        return most

    assert asyncio.run(run()) == 2


def test_no_file_descriptor_is_left() -> None:
    async def run() -> None:
        decoder = Decoder(PATIENT)
        await decoder.decode(saved(photo(), "PNG"), SUPPORTED)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for content in (saved(photo(), "JPEG"), b"no picture"):
            await asyncio.gather(decoder.decode(content, SUPPORTED), return_exceptions=True)
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    asyncio.run(run())


def in_child(code: str) -> subprocess.CompletedProcess[bytes]:
    start = f"import sys; sys.path.insert(0, {decode.ROOT!r}); from gateway.base_image import decoder\n"
    return subprocess.run([sys.executable, "-I", "-c", start + code], capture_output=True, check=False)


@pytest.mark.parametrize(
    "attempt",
    ["open(__import__('os').devnull)", "__import__('os').pipe()", "bytearray(300 * 10**6)"],
)
def test_the_limits_forbid_files_and_memory(attempt: str) -> None:
    code = f"decoder.limit_myself()\ntry: {attempt}\nexcept (OSError, MemoryError): print('refused')"
    assert in_child(code).stdout == b"refused\n"


def test_the_child_stays_lean() -> None:
    heavy = {"numpy", "fastapi", "asyncio", "pydantic", "torch", "PIL.GifImagePlugin", "PIL.ImageCms"}
    assert in_child(f"print({heavy!r} & set(sys.modules))").stdout == b"set()\n"
