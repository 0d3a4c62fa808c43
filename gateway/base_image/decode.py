"""A hostile picture's bytes -> fitted pixels, decoded in a child process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.base_image.decoder import READY
from gateway.base_image.errors import BaseImageRefused, BaseImageTimeout
from gateway.base_image.fit import Sizing
from gateway.base_image.limits import LIMITS

ROOT = str(Path(__file__).parents[2])
# Isolated from the environment and the working folder; the house is found by its path, installed or not.
START = "import sys; sys.path.insert(0, sys.argv[1]); from gateway.base_image.decoder import main; main()"


class Decoder:
    """Decodes base images, at most LIMITS.children at a time; the others wait."""

    def __init__(self, wall_seconds: float = LIMITS.wall_seconds) -> None:
        self._wall_seconds = wall_seconds
        self._slots = asyncio.Semaphore(LIMITS.children)

    async def decode(self, content: bytes, sizing: Sizing) -> NDArray[np.uint8]:
        """RGB pixels, uint8 [height, width, 3], upright and fitted as `fit` says, of a picture's file.

        BaseImageRefused if it is none, or if it or its decoding exceeds LIMITS; BaseImageTimeout if there is
        no answer within `wall_seconds`, waiting for a free place included; RuntimeError if no child starts.
        """
        if not 0 < len(content) <= LIMITS.max_bytes:
            sizes = f"1 to {LIMITS.max_bytes}"
            raise BaseImageRefused(f"the base image has {len(content)} bytes; choices: {sizes}")
        try:
            async with asyncio.timeout(self._wall_seconds), self._slots, _child(sizing) as child:
                return await _answer(child, content, sizing)
        except TimeoutError:
            limit = f"{self._wall_seconds:g} seconds"
            raise BaseImageTimeout(f"the base image was not decoded within {limit}") from None


def command(sizing: Sizing) -> list[str]:
    """What starts a decoder child."""
    return [sys.executable, "-I", "-c", START, ROOT, json.dumps(asdict(sizing))]


@asynccontextmanager
async def _child(sizing: Sizing) -> AsyncIterator[Process]:
    """A decoder child, which has ended when the block has, however that ends."""
    child = await asyncio.create_subprocess_exec(
        *command(sizing), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={}
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        # asyncio forgets a child only when its pipes are at their ends.
        await child.communicate()


async def _answer(child: Process, content: bytes, sizing: Sizing) -> NDArray[np.uint8]:
    assert child.stdin and child.stdout  # pipes, as asked for
    if await child.stdout.readline() != READY:
        raise RuntimeError(f"the decoder of base images does not start: {sys.executable} -c '{START}' {ROOT}")
    with suppress(ConnectionError):  # a child that died is told by its missing answer
        child.stdin.write(content)
        await child.stdin.drain()
    child.stdin.close()
    try:
        return await _pixels(child.stdout, sizing)
    except (asyncio.IncompleteReadError, KeyError, TypeError, ValueError):
        limits = f"{LIMITS.cpu_seconds} CPU seconds and {LIMITS.address_space // 10**6} MB"
        raise BaseImageRefused(f"the base image cannot be decoded within {limits}") from None


async def _pixels(answer: asyncio.StreamReader, sizing: Sizing) -> NDArray[np.uint8]:
    """The child may be under the picture's control by now: no size and no length is believed unchecked."""
    header = json.loads(await answer.readline())
    if "refused" in header:
        raise BaseImageRefused(str(header["refused"]))
    height, width = header["height"], header["width"]
    if not sizing.allows(height, width):
        raise ValueError(f"height {height}, width {width}")
    pixels = await answer.readexactly(height * width * 3)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3).copy()
