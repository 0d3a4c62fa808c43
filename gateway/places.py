"""How many requests may be on their way at once: more are refused before any work is done for them."""

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.faults import BUSY, RETRY_AFTER
from gateway.problems import Problem, problem_response

FULL = Problem(503, "Queue full", BUSY, headers=RETRY_AFTER)


class Places:
    """ASGI middleware: a POST holds one of `limit` places until its answer is sent; without one, it is 503.

    It stands before routing and reading, since under overload most requests end here.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit, self.taken = app, limit, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        if self.taken >= self.limit:
            return await problem_response(Request(scope), FULL)(scope, receive, send)
        self.taken += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.taken -= 1
