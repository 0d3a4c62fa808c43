"""Watching and cancelling what Triton draws, by small requests to the scheduler beside the big one.

A request that also streamed its progress would have to go through one more model, with the picture.
"""

import asyncio
import json
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from families.control import CANCEL, PREVIEW, PROGRESS, WATCH
from families.spec import TensorSpec
from gateway.samples import input_tensor

log = logging.getLogger("gateway")


@dataclass(frozen=True)
class Progress:
    """`state` is pending or running; `preview` is small, uint8 [height, width, 3], None before a step."""

    state: str
    step: int
    steps: int
    seconds: float
    eta_seconds: float | None
    preview: NDArray[np.uint8] | None


class Control:
    """Requests to `<family>_scheduler` about others, which it knows by the ids that Triton was given."""

    def __init__(self, client: InferenceServerClient, seconds: float) -> None:
        self._client, self._seconds = client, seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def cancel(self, family: str, key: str) -> None:
        """Has the request end before its next step; its own task may be cancelled meanwhile."""
        task = asyncio.create_task(self._unless_it_fails(self._ask(family, CANCEL, key)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Returns when Triton has taken every cancellation, or cannot."""
        await asyncio.gather(*self._tasks)

    async def progress(self, family: str, key: str) -> Progress | None:
        """None if no such request is pending or running, or Triton does not say."""
        try:
            reply = await self._ask(family, WATCH, key)
            told = json.loads(reply.as_numpy(PROGRESS.name).item())
        except (InferenceServerException, ValueError, AttributeError) as error:
            log.warning("no progress of %s: %r", key, error)
            return None
        if told["state"] == "unknown":
            return None
        preview = reply.as_numpy(PREVIEW.name)
        return Progress(**told, preview=None if preview is None else preview[0])

    async def _ask(self, family: str, tensor: TensorSpec, key: str) -> Any:
        inputs, model = [input_tensor(tensor, key)], f"{family}_scheduler"
        return await self._client.infer(model, inputs, client_timeout=self._seconds)

    @staticmethod
    async def _unless_it_fails(asking: Coroutine[Any, Any, Any]) -> None:
        try:
            await asking
        except InferenceServerException as error:
            log.warning("a request could not be cancelled: %s", error)
