"""Every answer that is not a success, as RFC 9457 application/problem+json."""

import json
import logging
import math
import reprlib
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from pydantic import BaseModel

log = logging.getLogger("gateway")
SHOWN_CHARACTERS = 100


class ErrorItem(BaseModel):
    """One thing that is wrong with a request."""

    loc: list[str | int]
    msg: str
    type: str
    input: Any = None


class ProblemBody(BaseModel):
    """The body of an error answer; `errors` is there when a field of the request is at fault."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[ErrorItem] | None = None


class Problem(Exception):
    """Ends a request with `status`; `title` names the kind, `detail` the thing, its value and the choices."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        errors: Sequence[ErrorItem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail
        self.errors, self.headers = list(errors), dict(headers or {})

    @property
    def type(self) -> str:
        return f"urn:postpulse:problem:{self.title.lower().replace(' ', '-')}"


class JsonLike(reprlib.Repr):
    """Lists and objects cut short, with JSON's null, true and false."""

    def repr1(self, value: object, level: int) -> str:
        if value is None or isinstance(value, bool):
            return json.dumps(value)
        return super().repr1(value, level)


def shown(value: object) -> object:
    """`value` as an error may repeat it: JSON-safe, long text cut to 100 characters."""
    if isinstance(value, str):
        cut = f"{value[:SHOWN_CHARACTERS]}… ({len(value)} characters)"
        return value if len(value) <= SHOWN_CHARACTERS else cut
    if isinstance(value, float) and math.isfinite(value):
        return value
    if value is None or (isinstance(value, int) and abs(value) < 2**63):
        return value
    return JsonLike().repr(value)


def problem_response(request: Request, problem: Problem) -> Response:
    body = ProblemBody(
        type=problem.type,
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        instance=quote(request.url.path[:SHOWN_CHARACTERS]),
        request_id=request.state.request_id,
        errors=problem.errors or None,
    )
    # Escaped to ASCII: an error may repeat a lone surrogate, which has no UTF-8 form.
    text = json.dumps(body.model_dump(exclude_none=True))
    headers = {**problem.headers, "X-Request-ID": request.state.request_id, "Cache-Control": "no-store"}
    return Response(text, problem.status, headers, "application/problem+json")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of a route's error answers."""
    content = {"application/problem+json": {"schema": ProblemBody.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
