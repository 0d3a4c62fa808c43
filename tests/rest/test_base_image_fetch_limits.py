"""Servers that never end, lie, stall or compress; peers that are not who was checked; TLS."""

from __future__ import annotations

import asyncio
import errno
import gzip
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from fetch_support import (
    CERTIFICATE,
    GENEROUS,
    HOST,
    PICTURE,
    PUBLIC,
    Answer,
    Dials,
    always,
    fetched,
    named,
    recorded_dials,
    reply,
    server_context,
    serving,
)

from gateway.base_image.errors import BaseImageRefused, BaseImageTimeout, BaseImageUnavailable
from gateway.base_image.fetch import Fetcher, FetchLimits

BOMB = gzip.compress(bytes(20_000_000))
HASTY = replace(GENEROUS, total_seconds=0.5)
MUCH_LATER = 5.0  # seconds; when the limit under test does not end the fetch, the server does


@pytest.fixture(autouse=True)
def dials(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dials]:
    with recorded_dials(monkeypatch) as dials:
        yield dials


def drip(start: bytes, part: bytes) -> Answer:
    """`start`, then `part` every 20 ms, for MUCH_LATER seconds."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        for _ in range(int(MUCH_LATER / 0.02)):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)

    return answer


def test_the_limits_are_those_promised() -> None:
    assert FetchLimits() == FetchLimits(10 * 1024 * 1024, 3.0, 10.0, 3)


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
def test_an_endless_body_is_cut_at_the_limit(start: bytes) -> None:
    sent = 0

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        part = b"x" * 50_000
        writer.write(start)
        while sent < 10**9:
            writer.write(b"c350\r\n" + part + b"\r\n" if b"chunked" in start else part)
            await writer.drain()
            sent += len(part)

    with pytest.raises(BaseImageRefused, match="larger than 100000 bytes"):
        fetched(answer)
    assert sent < 10**8, "the server could send far more than the sockets' buffers hold"


def test_one_byte_too_many_is_refused() -> None:
    with pytest.raises(BaseImageRefused, match="larger"):
        fetched(always(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (GENEROUS.body_bytes + 1)))


def test_a_large_content_length_is_refused_before_the_body() -> None:
    with pytest.raises(BaseImageRefused, match="larger than 100000 bytes"):
        fetched(drip(reply(b"", "Content-Length: 100001"), b""))


@pytest.mark.parametrize(
    "answer",
    [
        drip(reply(b"", "Content-Length: 90000"), b"x"),
        drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        drip(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        drip(b"", b""),
    ],
    ids=["body", "body without length", "stalled header", "endless continue", "silence"],
)
def test_a_server_that_drips_is_left(answer: Answer) -> None:
    with pytest.raises(BaseImageTimeout):
        fetched(answer, limits=HASTY)


def test_a_chain_of_redirects_shares_one_time_limit() -> None:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(reply(b"", "Location: /", status="302 Found"))

    with pytest.raises(BaseImageTimeout):
        fetched(answer, limits=HASTY)


def test_a_slow_name_server_is_not_waited_for() -> None:
    waiting = threading.Event()

    def slow(host: str, port: int) -> list[str]:
        waiting.wait(MUCH_LATER)
        return ["127.0.0.1"]

    try:
        with pytest.raises(BaseImageTimeout):
            fetched(always(reply(PICTURE)), limits=HASTY, look_up=slow)
    finally:
        waiting.set()


def test_slow_name_servers_leave_the_threads_of_others_alone() -> None:
    asked, waiting = threading.Event(), threading.Event()

    def slow(host: str, port: int) -> list[str]:
        asked.set()
        waiting.wait(60)
        return ["127.0.0.1"]

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        fetcher = Fetcher((HOST,), GENEROUS, slow)
        fetching = asyncio.create_task(fetcher.fetch(f"http://{HOST}/"))
        try:
            while not asked.is_set():
                await asyncio.sleep(0.01)
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "stored"), MUCH_LATER) == "stored"
        finally:
            waiting.set()
            fetching.cancel()
            await fetcher.close()

    asyncio.run(run())


def test_a_host_that_does_not_accept_is_left_after_the_connect_limit() -> None:
    limits = replace(GENEROUS, connect_seconds=0.3)

    async def run(port: int) -> None:
        fetcher = Fetcher((f"{HOST}:{port}",), limits, named())
        await fetcher.fetch(f"http://{HOST}:{port}/")

    with ExitStack() as opened:
        full = opened.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # the kernel drops what comes after its short queue is full
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        with pytest.raises(BaseImageTimeout):
            asyncio.run(asyncio.wait_for(run(full.getsockname()[1]), 15))


def test_a_server_that_is_down_is_unavailable() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        fetcher = Fetcher((f"{HOST}:{port}",), GENEROUS, named())
        with pytest.raises(BaseImageUnavailable) as error:
            asyncio.run(fetcher.fetch(f"http://{HOST}:{port}/"))
    assert "127.0.0.1" not in str(error.value)


@pytest.mark.parametrize(
    "answer",
    [
        reply(PICTURE, "Content-Length: 90000"),
        reply(b"ffff\r\nabc", "Transfer-Encoding: chunked"),
        reply(b"zz\r\n", "Transfer-Encoding: chunked"),
        reply(PICTURE, "Content-Length: 5", "Content-Length: 6"),
        reply(PICTURE, "Content-Length: -5"),
        reply(PICTURE, "Content-Length: 0x10"),
        reply(PICTURE, "Content-Length: " + "9" * 5000),
        reply(gzip.compress(PICTURE), "Transfer-Encoding: gzip, chunked"),
        reply(PICTURE, "X: " + "x" * 2_000_000),
        reply(PICTURE, *(f"X-{number}: {'x' * 100}" for number in range(20_000))),
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        PICTURE,
        b"",
    ],
    ids=["long length", "cut chunk", "bad chunk", "two lengths", "negative length", "hex length",
         "huge length", "coded transfer", "huge header", "many headers", "no header", "ssh", "no head",
         "nothing"],
)  # fmt: skip
def test_broken_http_is_the_servers_fault(answer: bytes) -> None:
    with pytest.raises(BaseImageUnavailable):
        fetched(always(answer))


def test_a_short_content_length_ends_the_body() -> None:
    assert fetched(always(reply(PICTURE, "Content-Length: 100")))[0] == PICTURE[:100]


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Encoding: gzip"],
        ["content-encoding: GZIP"],
        ["Content-Encoding: br"],
        ["Content-Encoding: identity, gzip"],
        ["Content-Encoding: identity", "Content-Encoding: deflate"],
    ],
)
def test_nothing_is_decompressed(headers: list[str]) -> None:
    with pytest.raises(BaseImageRefused, match="only identity"):
        fetched(always(reply(BOMB, *headers)))


def test_another_peer_than_the_checked_one_is_not_spoken_to(dials: Dials) -> None:
    """As if a proxy or a route took the connection: the public address was checked, loopback answers."""

    async def run() -> list[str]:
        async with serving(always(reply(PICTURE))) as site:
            dials.instead = ("127.0.0.1", site.port)
            fetcher = Fetcher((), GENEROUS, named(public=[PUBLIC]))
            with pytest.raises(BaseImageRefused, match="another address"):
                await fetcher.fetch("http://public/")
            await fetcher.close()
            return site.heads

    assert asyncio.run(run()) == []
    assert dials.take() == [(PUBLIC, 80)]


def test_a_connection_that_is_reset_at_once_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(sock: socket.socket) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(socket.socket, "getpeername", reset)
    with pytest.raises(BaseImageUnavailable):
        fetched(always(reply(PICTURE)))


async def over_tls(folder: Path, trusted: bool, host: str = HOST) -> tuple[bytes, list[str | None]]:
    """The picture from a server whose certificate is for HOST, and the names that the client sent it."""
    context, names = server_context(folder), list[str | None]()
    context.sni_callback = lambda sock, name, context: names.append(name)
    async with serving(always(reply(PICTURE)), context) as site:
        fetcher = Fetcher((f"{host}:{site.port}",), GENEROUS, named(other=["127.0.0.1"]))
        if trusted:
            fetcher._ssl_context.load_verify_locations(cadata=CERTIFICATE)
        try:
            return await fetcher.fetch(f"https://{host}:{site.port}/"), names
        finally:
            await fetcher.close()


def test_tls_asks_for_the_host_of_the_url(tmp_path: Path) -> None:
    assert asyncio.run(over_tls(tmp_path, trusted=True)) == (PICTURE, [HOST])


@pytest.mark.parametrize(("trusted", "host"), [(False, HOST), (True, "other")])
def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, host: str) -> None:
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))  # the environment has no say
    with pytest.raises(BaseImageUnavailable):
        asyncio.run(over_tls(tmp_path, trusted, host))


def test_the_verification_is_the_usual_one() -> None:
    context = Fetcher()._ssl_context
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
