"""Fetches a base image from a URL that a client gave, without becoming the client's way into our network."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpcore2
import httpx2

from gateway.base_image.errors import BaseImageRefused, BaseImageTimeout, BaseImageUnavailable
from gateway.base_image.limits import LIMITS
from gateway.base_image.network import CheckedNetwork, LookUp, look_up
from gateway.base_image.urls import AllowList, Target, check, redirected

REDIRECTS = (301, 302, 303, 307, 308)
HEADERS: dict[str | bytes, str | bytes] = {
    "Accept": "image/png, image/jpeg, image/webp",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "postpulse-image-generation",
}


@dataclass(frozen=True)
class FetchLimits:
    """What one fetch may take: bytes of the picture, seconds for one connection and in all, redirects."""

    body_bytes: int = LIMITS.max_bytes
    connect_seconds: float = 3.0
    total_seconds: float = 10.0
    redirects: int = 3


class Fetcher:
    """Gets http(s) URLs from public hosts and from `allowed_hosts`, whose form AllowList tells."""

    def __init__(
        self,
        allowed_hosts: Collection[str] = (),
        limits: FetchLimits = FetchLimits(),
        look_up: LookUp = look_up,
    ) -> None:
        self._allowed, self._limits = AllowList(allowed_hosts), limits
        self._network = CheckedNetwork(self._allowed, look_up)
        self._ssl_context = httpx2.create_ssl_context(trust_env=False)

    async def close(self) -> None:
        self._network.close()

    async def fetch(self, url: str) -> bytes:
        """What `url` answers with status 200.

        BaseImageRefused if the URL, where it leads or what it answers is not allowed; BaseImageUnavailable
        if the server fails; BaseImageTimeout if it is too slow.
        """
        try:
            async with asyncio.timeout(self._limits.total_seconds):
                return await self._follow(check(url, self._allowed))
        except (TimeoutError, httpcore2.TimeoutException) as error:
            raise BaseImageTimeout("the server of base_image_url is too slow") from error
        except httpcore2.NetworkError as error:
            raise BaseImageUnavailable("the server of base_image_url cannot be reached") from error
        except httpcore2.ProtocolError as error:
            raise BaseImageUnavailable("the server of base_image_url does not speak proper HTTP") from error

    async def _follow(self, target: Target) -> bytes:
        for _ in range(self._limits.redirects + 1):
            async with self._ask(target) as response:
                if response.status not in REDIRECTS:
                    return await self._body(response)
                target = redirected(target, _location(response), self._allowed)
        raise BaseImageRefused(f"base_image_url is redirected more than {self._limits.redirects} times")

    @asynccontextmanager
    async def _ask(self, target: Target) -> AsyncIterator[httpcore2.Response]:
        """The answer of `target` over a connection of its own, so that each is checked."""
        url = httpcore2.URL(
            scheme=target.url.raw_scheme, host=target.host, port=target.port, target=target.url.raw_path
        )
        headers = {"Host": target.url.netloc, **HEADERS}
        connection = httpcore2.AsyncHTTPConnection(
            url.origin, ssl_context=self._ssl_context, network_backend=self._network
        )
        timeout = {"timeout": {"connect": self._limits.connect_seconds}}
        async with connection, connection.stream("GET", url, headers=headers, extensions=timeout) as response:
            yield response

    async def _body(self, response: httpcore2.Response) -> bytes:
        _check_status(response.status)
        _check_encoding(response)
        # The HTTP client has refused a Content-Length that is not one number.
        if any(int(length) > self._limits.body_bytes for length in _values(response, b"content-length")):
            raise self._too_large()
        body = bytearray()
        async for part in response.aiter_stream():
            body += part
            if len(body) > self._limits.body_bytes:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> BaseImageRefused:
        return BaseImageRefused(f"what base_image_url answers is larger than {self._limits.body_bytes} bytes")


def _check_status(status: int) -> None:
    if 400 <= status < 500:
        raise BaseImageRefused(f"base_image_url answers with status {status} instead of 200")
    if status != 200:
        raise BaseImageUnavailable(f"base_image_url answers with status {status} instead of 200")


def _check_encoding(response: httpcore2.Response) -> None:
    """Nothing is ever decompressed: a few bytes could become gigabytes."""
    for value in _values(response, b"content-encoding"):
        if value.strip().lower() not in (b"", b"identity"):
            raise BaseImageRefused(
                f"base_image_url answers with Content-Encoding {value.decode('latin-1')[:40]!r}; "
                "only identity is accepted"
            )


def _location(response: httpcore2.Response) -> str:
    locations = _values(response, b"location")
    if len(locations) != 1:
        raise BaseImageUnavailable(
            f"base_image_url is redirected with {len(locations)} Location headers instead of one"
        )
    return locations[0].decode("latin-1")


def _values(response: httpcore2.Response, name: bytes) -> list[bytes]:
    return [value for key, value in response.headers if key.lower() == name]
