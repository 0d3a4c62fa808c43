"""Pure ASGI middleware: a request id on every answer, a cap on request bodies."""

import asyncio
import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.base_image.limits import LIMITS

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
BODY_SECONDS = 30.0
MAX_BODY_BYTES = LIMITS.max_bytes * 4 // 3 + 64 * 1024  # a base image in base64, and the words around it


class RequestId:
    """Takes the client's X-Request-ID if it is 1 to 64 of [A-Za-z0-9._-], else makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)


class BodyLimit:
    """413 as soon as a body is declared or found longer than MAX_BODY_BYTES; the rest is not read.

    408 if it has not come after BODY_SECONDS: it would keep a place from others.
    """

    # FastAPI's max_body_size would do, but it answers in plain text.
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared, size, whole = Headers(scope=scope).get("content-length", "0"), 0, False
        clock = asyncio.get_running_loop().time
        ends = clock() + BODY_SECONDS

        async def limited_receive() -> Message:
            nonlocal size, whole
            if int(declared) > MAX_BODY_BYTES:
                raise too_large(declared)
            message = await (receive() if whole else in_time(receive, ends - clock()))
            size, whole = size + len(message.get("body", b"")), not message.get("more_body", False)
            if size > MAX_BODY_BYTES:
                raise too_large("more")
            return message

        await self.app(scope, limited_receive, send)


async def in_time(receive: Receive, seconds: float) -> Message:
    try:
        return await asyncio.wait_for(receive(), seconds)
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {BODY_SECONDS:g} seconds") from None


def too_large(size: str) -> HTTPException:
    return HTTPException(413, f"the body has {size} bytes; the limit is {MAX_BODY_BYTES}")
