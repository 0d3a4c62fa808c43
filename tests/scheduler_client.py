"""A client of the tiny Flux service that watches, cancels and counts."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from benchmarks.inputs import requests
from families import FLUX
from families.control import PREVIEW, PROGRESS, WATCH
from gateway.samples import input_tensor
from serving import EmbeddedTriton

INPUTS = requests(Path("benchmarks/inputs/flux_text_to_image.json"))


class Client:
    def __init__(self, server: EmbeddedTriton) -> None:
        self.server, self.grpc = server, triton.InferenceServerClient(server.grpc_url)

    async def draw(
        self, number: int, steps: int = 8, fields: Mapping[str, Any] = {}, **options: Any
    ) -> bytes:
        """The bytes of a picture: entry `number`, with other values for `fields`."""
        changed = {"num_inference_steps": steps, **fields}
        specs = {tensor.name: tensor for tensor in FLUX.ensembles[0].inputs}
        inputs = [
            input_tensor(specs[tensor.name()], changed[tensor.name()]) if tensor.name() in changed else tensor
            for tensor in INPUTS[number % len(INPUTS)]
        ]
        reply = await self.grpc.infer("flux_text_to_image", inputs, **options)
        return bytes(reply.as_numpy("images").tobytes())

    async def told(self, what: Any, key: str) -> Any:
        reply = await self.grpc.infer("flux_scheduler", [input_tensor(what, key)])
        return {**json.loads(reply.as_numpy(PROGRESS.name).item()), "preview": reply.as_numpy(PREVIEW.name)}

    async def until(self, key: str, step: int) -> None:
        async with asyncio.timeout(60):
            while (await self.told(WATCH, key)).get("step", 0) < step:
                await asyncio.sleep(0.005)

    async def has_grown(self, before: Counter[str], **wanted: int) -> bool:
        """Whether the ledger comes to be so many requests more than `before`: it is told now and then."""
        for _ in range(100):
            if (grown := self.counts() - before) == Counter(wanted):
                return True
            await asyncio.sleep(0.05)
        raise AssertionError(f"the ledger has grown by {dict(grown)}, expected {wanted}")

    def counts(self, prefix: str = "postpulse_requests_") -> Counter[str]:
        lines = urllib.request.urlopen(self.server.metrics_url).read().decode().splitlines()
        model = '_total{model="flux_scheduler"} '
        found = [line.removeprefix(prefix).split(model) for line in lines if line.startswith(prefix)]
        return Counter({name: int(float(value)) for name, value in found})


def run(server: EmbeddedTriton, test: Any) -> None:
    async def main() -> None:
        client = Client(server)
        try:
            await test(client)
        finally:
            await client.grpc.close()

    asyncio.run(main())


async def ended(drawing: asyncio.Task[bytes]) -> str:
    """`finished`, or the status that it ended with."""
    try:
        await drawing
    except (asyncio.CancelledError, InferenceServerException) as error:
        return getattr(error, "status", lambda: "left")()
    return "finished"
