"""Exceptions -> problem+json, each kind in one place."""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from tritonclient.utils import InferenceServerException

from families.adapters import AdapterError
from gateway.base_image.errors import (
    BaseImageError,
    BaseImageRefused,
    BaseImageTimeout,
    BaseImageUnavailable,
)
from gateway.disconnect import ClientLeft
from gateway.faults import RETRY_AFTER, fault_of
from gateway.intake import FILE
from gateway.problems import ErrorItem, Problem, problem_response, shown
from gateway.replies import ReplyError
from gateway.storage import StorageError
from gateway.triton import NotServed
from gateway.validation import problem_of, with_input

log = logging.getLogger("gateway")
BASE_IMAGE = {
    BaseImageRefused: (422, "Base image refused"),
    BaseImageUnavailable: (502, "Base image unavailable"),
    BaseImageTimeout: (504, "Base image timeout"),
}
Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


async def on_problem(request: Request, problem: Problem) -> Response:
    return problem_response(request, problem)


async def on_validation(request: Request, error: RequestValidationError) -> Response:
    return problem_response(request, problem_of(error))


async def on_http(request: Request, error: HTTPException) -> Response:
    path, method, headers = shown(request.url.path), request.method, error.headers or {}
    title, detail = {
        404: ("Not found", f"there is nothing at '{path}'"),
        405: ("Method not allowed", f"'{path}' does not take {method}; choices: {headers.get('Allow')}"),
        408: ("Request timeout", error.detail),
        413: ("Body too large", error.detail),
    }.get(error.status_code, ("Malformed request", error.detail))
    return problem_response(request, Problem(error.status_code, title, detail, headers=headers))


async def on_triton(request: Request, error: InferenceServerException) -> Response:
    problem = fault_of(error).problem
    level = logging.ERROR if problem.status in (500, 502) else logging.WARNING
    said = (error.status(), error.message(), problem.status)
    log.log(level, "request %s: Triton said %s %.300r -> %d", request.state.request_id, *said)
    return problem_response(request, problem)


async def on_base_image(request: Request, error: BaseImageError) -> Response:
    log.info("request %s: base image: %s", request.state.request_id, error)
    status, title = BASE_IMAGE[type(error)]
    field = "base_image_url" if error.url else FILE
    item = ErrorItem(loc=["body", field], msg=str(error), type="base_image", input=shown(error.url))
    return problem_response(
        request, Problem(status, title, with_input(item) if error.url else item.msg, [item])
    )


async def on_not_served(request: Request, error: NotServed) -> Response:
    log.warning("request %s: %s", request.state.request_id, error)
    item = ErrorItem(loc=["body", "model"], msg=str(error), type="not_served")
    return problem_response(request, Problem(422, "Model not served", str(error), [item]))


async def on_reply(request: Request, error: ReplyError) -> Response:
    log.error("request %s: bad reply of Triton: %s", request.state.request_id, error)
    return problem_response(request, Problem(502, "Bad reply of the model server", str(error)))


async def on_storage(request: Request, error: StorageError) -> Response:
    log.error("request %s: storage: %s", request.state.request_id, error)
    if error.full:
        return problem_response(request, Problem(507, "Storage full", "there is no room for the picture"))
    detail = "the picture store does not answer; try again later"
    return problem_response(request, Problem(503, "Storage unavailable", detail, headers=RETRY_AFTER))


async def on_adapters(request: Request, error: AdapterError) -> Response:
    log.error("request %s: %s", request.state.request_id, error)
    detail = "the store of adapters cannot be read; this is our fault and has been logged"
    return problem_response(request, Problem(500, "Adapters unavailable", detail))


async def on_client_left(request: Request, _: ClientLeft | ClientDisconnect) -> Response:
    log.info("request %s: the client left", request.state.request_id)
    return problem_response(request, Problem(499, "Client left", "the client closed the connection"))


async def on_crash(request: Request, _: Exception) -> Response:
    detail = "the gateway failed; the fault has been logged"
    return problem_response(request, Problem(500, "Internal error", detail))


async def explained(request: Request, error: Exception) -> Response:
    """The answer to `error`, where it cannot be raised any more: the status has been sent."""
    kinds = (kind for kind in type(error).__mro__ if kind in HANDLERS)
    if (kind := next(kinds)) is Exception:
        log.error("request %s failed", request.state.request_id, exc_info=error)
    return await HANDLERS[kind](request, error)


HANDLERS: dict[int | type[Exception], Handler] = {
    Problem: on_problem,
    RequestValidationError: on_validation,
    HTTPException: on_http,
    InferenceServerException: on_triton,
    BaseImageError: on_base_image,
    NotServed: on_not_served,
    ReplyError: on_reply,
    StorageError: on_storage,
    AdapterError: on_adapters,
    ClientLeft: on_client_left,
    ClientDisconnect: on_client_left,
    Exception: on_crash,
}
