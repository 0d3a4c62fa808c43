"""The network under the HTTP client: one look-up, every address checked, connected to what was checked."""

import asyncio
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import httpcore2

from gateway.base_image.addresses import is_public
from gateway.base_image.errors import BaseImageRefused, BaseImageUnavailable
from gateway.base_image.urls import AllowList

LOOKUPS = 8  # at once
LookUp = Callable[[str, int], list[str]]


def look_up(host: str, port: int) -> list[str]:
    """The addresses of `host`, in the order to try them; socket.gaierror if there are none. Blocks."""
    # As bytes, or Python would turn the name into IDNA once more.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses, and to any address of an allowed host."""

    def __init__(self, allowed: AllowList, look_up: LookUp) -> None:
        self._allowed, self._look_up = allowed, look_up
        # Threads of its own: slow name servers must not take those that the picture store writes with.
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="look_up")
        self._sockets = httpcore2.AnyIOBackend()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A stream to the first address that answers, all within `timeout` seconds after the look-up."""
        addresses = await self._checked_addresses(host, port)
        async with asyncio.timeout(timeout):
            for address in addresses:
                try:
                    return await self._connect(address, port)
                except httpcore2.ConnectError:
                    continue
        raise httpcore2.ConnectError("no address answers")

    async def _checked_addresses(self, host: str, port: int) -> list[str]:
        addresses = await self._addresses(host, port)
        # A name with one private address is refused whole. So is one that does not exist, in the same words:
        # else the answers would tell which internal names exist.
        public = bool(addresses) and all(is_public(address) for address in addresses)
        if not public and not self._allowed.covers(host, port):
            raise BaseImageRefused(
                "the host of base_image_url, or of a redirect, is not found or has no public address; "
                "upload the picture instead"
            )
        return addresses

    async def _addresses(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._look_up, host, port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise BaseImageUnavailable("the host of base_image_url cannot be looked up now") from error
            return []

    async def _connect(self, address: str, port: int) -> httpcore2.AsyncNetworkStream:
        """A stream to `address`, which is numeric, so that nothing below looks it up again."""
        stream = await self._sockets.connect_tcp(address, port)
        peer = stream.get_extra_info("server_addr")
        if peer and peer[:2] == (address, port):
            return stream
        await stream.aclose()
        if peer is None:
            raise httpcore2.ConnectError("the connection was reset at once")
        raise BaseImageRefused("base_image_url was answered by another address than the one checked")
