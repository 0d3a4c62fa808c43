"""Calls of Triton that are left to end by themselves, when nobody waits for them any more.

Triton 2.51 may crash if a call is cancelled, or its gRPC deadline passes, just as it ends (its server's issue
7368). So the scheduler is told to end the request, and the call then ends as others do.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tritonclient.utils import InferenceServerException

LET_END_SECONDS = 10.0  # a step of the largest batch, and what may come before it


class Calls:
    """Calls under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def reply(self, call: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """What `call` returns or raises; InferenceServerException if it takes longer than `seconds`.

        Then, or if the awaiting task is cancelled, it goes on for LET_END_SECONDS at most.
        """
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            await asyncio.wait([task], timeout=seconds)
        finally:
            if not task.done():
                asyncio.get_running_loop().call_later(LET_END_SECONDS, task.cancel)
        if not task.done():
            raise InferenceServerException("no reply in time", "StatusCode.DEADLINE_EXCEEDED")
        return task.result()

    async def settled(self) -> None:
        """Returns when every call has ended; none may be begun meanwhile."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, or asyncio would say that nobody did
