"""The gateway's side of Triton: one gRPC channel, deadlines, one retry, every reply checked."""

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from families.control import PRIORITY_CLASS, SENDS_CANCEL
from gateway.calls import Calls
from gateway.control import Control, Progress
from gateway.faults import fault_of
from gateway.limits import Limits
from gateway.replies import ReplyError, arrays
from gateway.samples import ORDERS, Order, Picture, Sample, picture_of

T = TypeVar("T")
log = logging.getLogger("gateway")

PROOF_SECONDS = 30.0
NOT_DRAWING = (InferenceServerException, ReplyError, TimeoutError)  # what prove_ready raises
CHANNEL_ARGS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Triton ends a connection that is pinged oftener than every 300 s while it computes.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


class NotServed(Exception):
    """Triton has no ensemble for an order, but has others."""

    def __init__(self, order: Order, served: Sequence[Order]) -> None:
        drawn_so = [other for other in served if other.task == order.task]
        choices = ", ".join(map(str, drawn_so or served))
        super().__init__(f"{order} is not served here; choices: {choices}")


class TritonClient:
    """Draws samples with the ensembles. Methods raise InferenceServerException (see faults) and ReplyError.

    A good reply proves that a family works for PROOF_SECONDS; a fault that leaves it in doubt ends the proof.
    """

    def __init__(self, url: str, deadline_seconds: float, probe_seconds: float) -> None:
        self._client = InferenceServerClient(url, channel_args=CHANNEL_ARGS)
        self._deadline_seconds, self._probe_seconds = deadline_seconds, probe_seconds
        self._limits: dict[Order, Limits] = {}
        self._proof_ends: dict[str, float] = {}
        self._probing = asyncio.Lock()
        self._drawing: Counter[str] = Counter()
        self._control, self._calls = Control(self._client, probe_seconds), Calls()

    async def close(self) -> None:
        await self._control.settled()
        await self._calls.settled()
        await self._client.close()

    async def limits(self, order: Order) -> Limits:
        """The served checkpoint's limits; asked once, and again after Triton was in doubt.

        NotServed if Triton draws other things.
        """
        if order not in self._limits:

            async def read(timeout: float) -> Limits:
                return await self._read_limits(order, timeout)

            try:
                self._limits[order] = await self._with_retry(read, self._probe_seconds)
            except InferenceServerException as error:
                if fault_of(error).absent and (served := await self._served()):
                    raise NotServed(order, served) from None
                raise
        return self._limits[order]

    async def draw(self, sample: Sample, key: str) -> Picture:
        """The picture of `sample`. `key` names the request in Triton, and must be its own.

        When the awaiting task is cancelled or the deadline passes, the scheduler is told to end the request:
        the models inside an ensemble do not see a call cancelled (Triton 2.51), and see `calls`.
        """
        family, unanswered = sample.order.family.name, list[str]()
        self._drawing[family] += 1
        try:
            inference = self._inference(sample, key, unanswered)
            reply = await self._with_retry(inference, self._deadline_seconds)
        finally:
            self._drawing[family] -= 1
            for each in unanswered:
                self._control.cancel(family, each)
        picture = picture_of(arrays(reply.get_response(), sample.outputs()), sample.loras)
        self._proof_ends[family] = asyncio.get_running_loop().time() + PROOF_SECONDS
        return picture

    def _inference(
        self, sample: Sample, key: str, unanswered: list[str]
    ) -> Callable[[float], Awaitable[Any]]:
        """One try to draw, called `key`, and the next, called a little otherwise: the first may still run.

        Those that Triton has not answered are in `unanswered`.
        """
        name, inputs, keys = sample.order.ensemble, sample.inputs(), iter((key, f"{key}.again"))
        parameters = {PRIORITY_CLASS: sample.priority, SENDS_CANCEL: "1"}

        async def infer(timeout: float) -> Any:
            unanswered.append(tried := next(keys))
            call = self._client.infer(
                name, inputs, request_id=tried, parameters=parameters, timeout=int(timeout * 1e6)
            )
            try:
                reply = await self._calls.reply(call, timeout)
            except InferenceServerException as error:
                fault = fault_of(error)
                if fault.absent:
                    self._limits.pop(sample.order, None)  # it was there: who asks next is told what is
                if not fault.unanswered:
                    unanswered.remove(tried)
                raise
            unanswered.remove(tried)
            return reply

        return infer

    async def progress(self, order: Order, key: str) -> Progress | None:
        """How far the request called `key` is; None if Triton cannot tell."""
        return await self._control.progress(order.family.name, key)

    async def prove_ready(self) -> dict[Order, Limits]:
        """The limits of every ensemble that is served, if each family drew a picture lately, from whatever.

        A crashed Python stub leaves a model "ready": only drawing shows it. Without proof, one step is drawn;
        while requests are being drawn they are the proof to come, and one more would wait behind them.
        """
        async with self._probing:
            if not await self._client.is_server_ready(client_timeout=self._probe_seconds):
                raise InferenceServerException("Triton is not ready", "StatusCode.UNAVAILABLE")
            if not (served := await self._served()):
                raise InferenceServerException("no ensemble is served", "StatusCode.NOT_FOUND")
            limits = {order: await self._read_limits(order, self._probe_seconds) for order in served}
            self._limits = dict(limits)  # requests may add to it meanwhile
            for order in served:
                await self._prove(order, limits[order].min_size)
            return limits

    async def _served(self) -> list[Order]:
        ready = await asyncio.gather(*map(self._is_served, ORDERS))
        return [order for order, is_ready in zip(ORDERS, ready, strict=True) if is_ready]

    async def _is_served(self, order: Order) -> bool:
        ready: bool = await self._client.is_model_ready(order.ensemble, client_timeout=self._probe_seconds)
        return ready

    async def _prove(self, order: Order, side: int) -> None:
        family, now = order.family.name, asyncio.get_running_loop().time()
        if order.spec.takes_image or self._drawing[family] or now < self._proof_ends.get(family, 0.0):
            return
        canary = Sample(order, "canary", "", 0, 1, 1.0, order.family.schedulers[0], side, side)
        key = f"canary.{secrets.token_hex(8)}"
        await asyncio.wait_for(self.draw(canary, key), self._probe_seconds)

    async def _read_limits(self, order: Order, timeout: float) -> Limits:
        config = (await self._client.get_model_config(order.ensemble, client_timeout=timeout)).config
        return Limits.from_parameters({name: value.string_value for name, value in config.parameters.items()})

    async def _with_retry(self, call: Callable[[float], Awaitable[T]], seconds: float) -> T:
        """`call(time left)`, once more if the fault's row says so; all within `seconds`."""
        clock = asyncio.get_running_loop().time
        ends = clock() + seconds
        try:
            return await call(seconds)
        except InferenceServerException as error:
            if not self._note(error):
                raise
            log.warning("trying once more after %s %.300r", error.status(), error.message())
        await asyncio.sleep(random.uniform(0.1, 0.4))
        try:
            return await call(ends - clock())
        except InferenceServerException as error:
            self._note(error)
            raise

    def _note(self, error: InferenceServerException) -> bool:
        """Forgets what `error` puts in doubt, and tells whether to try again."""
        fault = fault_of(error)
        if fault.doubt:
            self._limits, self._proof_ends = {}, {}
        return fault.retry
