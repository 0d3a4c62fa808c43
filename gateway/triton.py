"""The gateway's side of Triton: one gRPC channel, deadlines, one retry, every reply checked."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from gateway.faults import fault_of
from gateway.limits import Limits
from gateway.replies import Expected, ReplyError, arrays

T = TypeVar("T")
log = logging.getLogger("gateway")

MODEL = "flux_text_to_image"
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


@dataclass(frozen=True)
class Sample:
    """One picture to draw; height and width in pixels."""

    prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    height: int
    width: int

    def inputs(self) -> list[InferInput]:
        """The ensemble's inputs, each [1, 1]."""
        values = {
            "prompt": np.array([[self.prompt.encode()]], dtype=object),
            "seed": np.array([[self.seed]], dtype=np.int64),
            "num_inference_steps": np.array([[self.num_inference_steps]], dtype=np.int32),
            "guidance_scale": np.array([[self.guidance_scale]], dtype=np.float32),
            "height": np.array([[self.height]], dtype=np.int32),
            "width": np.array([[self.width]], dtype=np.int32),
        }
        return [_input(name, value) for name, value in values.items()]

    def outputs(self) -> list[Expected]:
        """What must come back for this sample."""
        images = Expected("images", "UINT8", (1, self.height, self.width, 3))
        return [images, Expected("prompt_tokens", "INT32", (1, 2, 2))]


@dataclass(frozen=True)
class Picture:
    """`pixels` uint8 [height, width, 3]; `prompt_tokens` int32 [encoder, (kept, dropped)]."""

    pixels: NDArray[np.uint8]
    prompt_tokens: NDArray[np.int32]


class TritonClient:
    """Draws samples with the ensemble. Methods raise InferenceServerException (see faults) and ReplyError.

    A good reply proves the server works for PROOF_SECONDS; a fault that leaves it in doubt ends the proof.
    """

    def __init__(self, url: str, deadline_seconds: float, probe_seconds: float) -> None:
        self._client = InferenceServerClient(url, channel_args=CHANNEL_ARGS)
        self._deadline_seconds, self._probe_seconds = deadline_seconds, probe_seconds
        self._limits: Limits | None = None
        self._proof_ends = 0.0
        self._probing = asyncio.Lock()
        self._drawing = 0

    async def close(self) -> None:
        await self._client.close()

    async def limits(self) -> Limits:
        """The served checkpoint's limits; asked once, and again after Triton was in doubt."""
        if self._limits is None:
            self._limits = await self._with_retry(self._read_limits, self._probe_seconds)
        return self._limits

    async def draw(self, sample: Sample, request_id: str) -> Picture:
        """The picture of `sample`; cancelling the awaiting task cancels the call.

        On Triton 2.51 the models inside an ensemble do not see that: what is drawn is drawn to the end.
        """

        async def infer(timeout: float) -> Any:
            return await self._client.infer(
                MODEL, sample.inputs(), request_id=request_id, client_timeout=timeout
            )

        self._drawing += 1
        try:
            reply = await self._with_retry(infer, self._deadline_seconds)
        finally:
            self._drawing -= 1
        found = arrays(reply.get_response(), sample.outputs())
        if (found["prompt_tokens"] < 0).any():
            raise ReplyError(f"prompt_tokens has negative counts: {found['prompt_tokens'].tolist()}")
        self._proof_ends = asyncio.get_running_loop().time() + PROOF_SECONDS
        return Picture(found["images"][0], found["prompt_tokens"][0])

    async def prove_ready(self) -> Limits:
        """The limits, if Triton and the ensemble are ready and a picture came out of it lately.

        A crashed Python stub leaves a model "ready": only drawing shows it. Without proof, one step is drawn;
        while requests are being drawn they are the proof to come, and one more would wait behind them.
        """
        async with self._probing:
            await self._check_ready()
            limits = self._limits = await self._read_limits(self._probe_seconds)
            if not self._drawing and asyncio.get_running_loop().time() > self._proof_ends:
                canary = Sample("canary", 0, 1, 1.0, limits.min_size, limits.min_size)
                await asyncio.wait_for(self.draw(canary, "canary"), self._probe_seconds)
        return limits

    async def _check_ready(self) -> None:
        for ready in (
            await self._client.is_server_ready(client_timeout=self._probe_seconds),
            await self._client.is_model_ready(MODEL, client_timeout=self._probe_seconds),
        ):
            if not ready:
                raise InferenceServerException(f"{MODEL} is not ready", "StatusCode.UNAVAILABLE")

    async def _read_limits(self, timeout: float) -> Limits:
        config = (await self._client.get_model_config(MODEL, client_timeout=timeout)).config
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
            self._limits, self._proof_ends = None, 0.0
        return fault.retry


def _input(name: str, value: NDArray[Any]) -> InferInput:
    tensor = InferInput(name, value.shape, np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(value)
    return tensor
