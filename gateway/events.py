"""Progress of a request as server-sent events (HTML standard, section 9.2), its answer being the last one."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from gateway.control import Progress
from gateway.disconnect import unless_client_leaves
from gateway.encoding import encode_png
from gateway.handlers import explained
from gateway.schemas import GenerateResponse, ProgressEvent

MEDIA_TYPE = "text/event-stream"
FIRST_SECONDS, PROGRESS_SECONDS = 0.05, 0.25  # a look costs Triton about a millisecond
COMMENT_EVERY = 60  # looks: proxies end connections on which nothing comes
EVENTS: dict[int | str, dict[str, Any]] = {  # how OpenAPI describes them
    200: {"content": {MEDIA_TYPE: {"schema": ProgressEvent.model_json_schema()}}}
}
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
Look = Callable[[], Coroutine[Any, Any, Progress | None]]
log = logging.getLogger("gateway")


def wants_events(request: Request) -> bool:
    """Whether the client accepts events, by name."""
    return MEDIA_TYPE in request.headers.get("accept", "")


def events(request: Request, work: Coroutine[Any, Any, GenerateResponse], look: Look) -> StreamingResponse:
    """Streams `progress` events while `work` goes on, then `done` with its result or `error` with a problem.

    If the client leaves, `work` is cancelled.
    """
    return StreamingResponse(_stream(request, work, look), media_type=MEDIA_TYPE, headers=HEADERS)


async def _stream(
    request: Request, work: Coroutine[Any, Any, GenerateResponse], look: Look
) -> AsyncIterator[str]:
    working = asyncio.create_task(unless_client_leaves(request, work))
    try:
        async for progress in _progress(working, look):
            yield progress
        yield _event("done", working.result())
    except Exception as error:
        problem = bytes((await explained(request, error)).body)
        yield f"event: error\ndata: {problem.decode()}\n\n"
    finally:
        if not working.done():
            log.info("request %s: the client left", request.state.request_id)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _progress(working: asyncio.Task[GenerateResponse], look: Look) -> AsyncIterator[str]:
    """An event for every step that is seen, a comment when none was for long; until `working` ends."""
    last, unchanged, seconds = ("", -1), 0, FIRST_SECONDS
    while not (await asyncio.wait({working}, timeout=seconds))[0]:
        seconds = PROGRESS_SECONDS
        progress = await _either(working, look())
        seen = (progress.state, progress.step) if progress else last
        unchanged = 0 if seen != last else unchanged + 1
        if progress and not unchanged:
            yield _event("progress", _shown(progress))
        elif unchanged % COMMENT_EVERY == COMMENT_EVERY - 1:
            yield ": still working\n\n"
        last = seen


async def _either(working: asyncio.Task[Any], look: Coroutine[Any, Any, Progress | None]) -> Progress | None:
    """What `look` sees; None if `working` ends first, or if it fails: the drawing goes on."""
    looking = asyncio.create_task(look)
    try:
        await asyncio.wait({working, looking}, return_when=asyncio.FIRST_COMPLETED)
        return looking.result() if looking.done() else None
    except Exception:
        log.exception("no progress")
        return None
    finally:
        looking.cancel()


def _shown(progress: Progress) -> ProgressEvent:
    preview = None if progress.preview is None else _data_uri(encode_png(progress.preview))
    return ProgressEvent(**{**vars(progress), "preview": preview})


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _event(name: str, body: BaseModel) -> str:
    return f"event: {name}\ndata: {json.dumps(body.model_dump())}\n\n"
