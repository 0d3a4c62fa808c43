"""HTTP clients that put a load on a door: so many at a time, or at a rate, whatever the answers take."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import aiohttp

Body = Mapping[str, Any]
TIMEOUT_SECONDS = 600.0


GIVEN_UP, LOST = 0, -1  # in place of a status: the client left, the connection broke


@dataclass(frozen=True)
class Answer:
    """`status` is 0 if the client left before an answer; times are seconds of time.perf_counter."""

    number: int
    status: int
    began: float
    ended: float
    retry_after: str | None = None
    content: bytes = b""

    @property
    def milliseconds(self) -> float:
        return 1000 * (self.ended - self.began)

    @property
    def good(self) -> bool:
        return self.status == 200


@dataclass(frozen=True)
class Door:
    """Where JSON is posted. `follows`: the answer tells where the picture is, which is fetched too."""

    url: str
    follows: bool = False

    async def ask(self, http: aiohttp.ClientSession, number: int, body: Body) -> Answer:
        began = time.perf_counter()
        async with http.post(self.url, json=body) as answer:
            content = await answer.read()
        if self.follows and answer.status == 200:
            async with http.get(json.loads(content)["generated_image_url"]) as answer:
                content = await answer.read()
        after = answer.headers.get("Retry-After")
        return Answer(number, answer.status, began, time.perf_counter(), after, content)


def session() -> aiohttp.ClientSession:
    """With as many connections as are wanted. It takes half the processor time of httpx2, which the service,
    on the same cores, would lack."""
    timeout, connector = aiohttp.ClientTimeout(TIMEOUT_SECONDS), aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


def closed(
    door: Door, bodies: Sequence[Body], clients: int, places: int | None = None, stagger: float = 0.0
) -> list[Answer]:
    """Each of `clients` asks for the next body as soon as it has its answer; in the bodies' order.

    At most `places` requests are in flight, first come, first served: waiting for one is part of an answer's
    time. Clients start `stagger` seconds after each other.
    """

    async def run() -> list[Answer]:
        left, queue = iter(enumerate(bodies)), asyncio.Semaphore(places or clients)
        answers: list[Answer] = []

        async def work(http: aiohttp.ClientSession, place: int) -> None:
            await asyncio.sleep(place * stagger)
            for number, body in left:
                began = time.perf_counter()
                async with queue:
                    answer = await door.ask(http, number, body)
                answers.append(replace(answer, began=began))

        async with session() as http:
            await asyncio.gather(*(work(http, place) for place in range(clients)))
        return sorted(answers, key=lambda answer: answer.number)

    return asyncio.run(run())


@contextmanager
def kept_open(door: Door) -> Iterator[Callable[[Body], Answer]]:
    """Asks one after another through one connection, so that none is set up within an answer's time."""
    url = urlsplit(door.url)
    connection = HTTPConnection(url.netloc, timeout=TIMEOUT_SECONDS)

    def ask(body: Body) -> Answer:
        content, began = json.dumps(body), time.perf_counter()
        connection.request("POST", url.path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        return Answer(0, answer.status, began, time.perf_counter(), answer.getheader("Retry-After"), said)

    with closing(connection):
        yield ask


def open_loop(door: Door, bodies: Sequence[Body], per_second: float, drain: float) -> list[Answer]:
    """A request every 1 / `per_second` s. Those not answered `drain` s after the last one leave, status 0."""

    async def run() -> list[Answer]:
        async with session() as http:
            start = time.perf_counter()
            tasks = [
                _later(start + number / per_second, number, body, http) for number, body in enumerate(bodies)
            ]
            until = start + len(bodies) / per_second + drain
            return list(
                await asyncio.gather(*(_until(until, number, task) for number, task in enumerate(tasks)))
            )

    async def _later(when: float, number: int, body: Body, http: aiohttp.ClientSession) -> Answer:
        await asyncio.sleep(max(0.0, when - time.perf_counter()))
        return await door.ask(http, number, body)

    return asyncio.run(run())


async def _until(end: float, number: int, asked: Awaitable[Answer]) -> Answer:
    began = time.perf_counter()
    try:
        return await asyncio.wait_for(asked, max(0.0, end - began))
    except aiohttp.ClientError:  # first: some are a TimeoutError too
        return Answer(number, LOST, began, time.perf_counter())
    except TimeoutError:
        return Answer(number, GIVEN_UP, began, time.perf_counter())


def per_second(answers: Sequence[Answer]) -> float:
    """Good answers, over the time from the first request to the last answer."""
    span = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
    return sum(answer.good for answer in answers) / span


def all_good(answers: Sequence[Answer]) -> Sequence[Answer]:
    """RuntimeError tells the first refusal: times of refused requests are no measurement."""
    for answer in answers:
        if not answer.good:
            raise RuntimeError(f"request {answer.number} got {answer.status}: {answer.content[:300]!r}")
    return answers
