"""Helpers of the fetcher's tests: a recorder below every socket, a loopback server, a certificate for it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from gateway.base_image.fetch import Fetcher, FetchLimits
from gateway.base_image.network import LookUp

HOST = "pictures.test"  # what tests call the loopback server
PUBLIC = "93.184.216.34"
PRIVATE = "10.11.12.13"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 300
GENEROUS = FetchLimits(body_bytes=100_000, connect_seconds=20, total_seconds=20)
Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Dials:
    """What sockets were asked to connect to. Only loopback is, or `instead` of all; no name leaves."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.instead: tuple[str, int] | None = None
        self._connect, self._getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def connect(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        self.made.append(address[:2])
        reached = self.instead or address
        if not ip_address(reached[0]).is_loopback:
            raise ConnectionRefusedError(f"a test dialled {reached}")
        self._connect(sock, reached)

    def getaddrinfo(self, *args: Any, **options: Any) -> Any:
        """The real one, for numbers in every notation; a name would need a name server."""
        return self._getaddrinfo(*args, **{**options, "flags": socket.AI_NUMERICHOST})

    def take(self) -> list[tuple[str, int]]:
        """What was dialled since the last time; a test that takes it answers for it."""
        taken, self.made = self.made, []
        return taken


@contextmanager
def recorded_dials(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dials]:
    """The recorder, in place until the end; an address outside loopback that was not taken fails the test."""
    dials = Dials()
    monkeypatch.setattr(socket.socket, "connect", lambda sock, address: dials.connect(sock, address))
    monkeypatch.setattr(socket, "getaddrinfo", dials.getaddrinfo)
    yield dials
    strays = [address for address in dials.made if not ip_address(address[0]).is_loopback]
    assert not strays, f"dialled outside loopback: {strays}"


class Names:
    """A name server in a table: each look-up of a name gives its next answer, the last one for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers, self.asked = answers, list[str]()

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answers = self.answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def named(**answers: list[str]) -> Names:
    """`Names` whose every name has one constant answer; "_" stands for ".", and HOST is loopback."""
    table = {name.replace("_", "."): [addresses] for name, addresses in answers.items()}
    return Names(**{HOST: [["127.0.0.1"]], **table})


class Site:
    """A running server: its port, and the head of each request it got."""

    def __init__(self, answer: Answer) -> None:
        self.heads: list[str] = []
        self.port = 0
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            await self._answer(head.split()[1], writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the fetcher leaves whenever it has seen enough
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    """A server on a free loopback port whose `answer` gets the request's path and writes what it likes."""
    site = Site(answer)
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0, ssl=context)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()


def reply(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    """An answer of HTTP/1.1; a Content-Length in `headers` replaces the honest one."""
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        headers = (*headers, f"Content-Length: {len(body)}")
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1") + body


def always(content: bytes) -> Answer:
    """An answer that is `content` for every path."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(content)

    return answer


def paths(**answers: bytes) -> Answer:
    """An answer by path: `a=...` answers /a."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[path.strip("/")])

    return answer


def moved(location: str, status: str = "302 Found") -> bytes:
    return reply(b"", f"Location: {location}", status=status)


async def ask(
    site: Site, path: str = "/", limits: FetchLimits = GENEROUS, look_up: LookUp | None = None
) -> bytes:
    """`path` of `site`, whose host and port are allowed."""
    fetcher = Fetcher((f"{HOST}:{site.port}",), limits, look_up or named(other=[PRIVATE], public=[PUBLIC]))
    try:
        return await fetcher.fetch(f"http://{HOST}:{site.port}{path}")
    finally:
        await fetcher.close()


def fetched(
    answer: Answer, path: str = "/", limits: FetchLimits = GENEROUS, look_up: LookUp | None = None
) -> tuple[bytes, list[str]]:
    """What the fetcher makes of a server that gives `answer`, and the heads of its requests."""

    async def run() -> tuple[bytes, list[str]]:
        async with serving(answer) as site:
            return await ask(site, path, limits, look_up), site.heads

    return asyncio.run(run())


def server_context(folder: Path) -> ssl.SSLContext:
    """The server's side of TLS, for HOST, by a certificate that nobody vouches for."""
    chain = folder / "chain.pem"
    chain.write_text(KEY + CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


# Made for these tests: its only use is HOST on loopback.
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgRye0KTW2Jj1zUkev
sORzBVielFlzo37C5lw7grRs/F6hRANCAAScciKMTYqt2xBTyo2PlznYGlVWeReu
iTnHgnxlJZeskr3mrqe+81f0Zi7CAq4HZPs8Wd6xKyGY1po9DtlHM/mr
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBgDCCASagAwIBAgIUHgP4BNyMbKM8RRLRi+d0EIHfzzkwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNcGljdHVyZXMudGVzdDAgFw0yMDAxMDEwMDAwMDBaGA8yMTIw
MDEwMTAwMDAwMFowGDEWMBQGA1UEAwwNcGljdHVyZXMudGVzdDBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABJxyIoxNiq3bEFPKjY+XOdgaVVZ5F66JOceCfGUll6yS
veaup77zV/RmLsICrgdk+zxZ3rErIZjWmj0O2Ucz+aujTDBKMBgGA1UdEQQRMA+C
DXBpY3R1cmVzLnRlc3QwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUZxL2F7lS
dASf4gnTweGAhJVaD5YwCgYIKoZIzj0EAwIDSAAwRQIhAJlgG5R6J6Ypx8aq60RH
loDY431GLszq1u1hY3np4VfjAiBTI48O4KZ2P1maDrXvEoQKgBnvhOs7+EXjx0La
ma+jog==
-----END CERTIFICATE-----
"""
