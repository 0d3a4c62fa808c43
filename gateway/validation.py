"""Refused request bodies -> problems that name the thing, its value and the choices."""

import email.message
import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from gateway.problems import ErrorItem, Problem, shown
from gateway.schemas import GenerateRequest

DETAILED_ERRORS = 3


def problem_of(request: Request, error: RequestValidationError) -> Problem:
    content_type = request.headers.get("content-type", "")
    if not _is_json(content_type):
        given = f"is '{shown(content_type)}'" if content_type else "is missing"
        return Problem(415, "Unsupported media type", f"Content-Type {given}; send application/json")
    found = error.errors()
    if found[0]["type"] == "json_invalid":
        place, reason = found[0]["loc"][-1], found[0]["ctx"]["error"]
        return Problem(400, "Malformed JSON", f"the body is not JSON: {reason} at character {place}")
    return invalid([_item(entry) for entry in found])


def invalid(items: list[ErrorItem]) -> Problem:
    """The 422 answer for these errors; its detail spells out the first few."""
    said = [_sentence(item) for item in items[:DETAILED_ERRORS]]
    more = len(items) - len(said)
    return Problem(422, "Invalid request", "; ".join(said) + (f"; and {more} more" if more else ""), items)


def _is_json(content_type: str) -> bool:
    message = email.message.Message()
    message["content-type"] = content_type
    main, sub = message.get_content_maintype(), message.get_content_subtype()
    return main == "application" and (sub == "json" or sub.endswith("+json"))


def _item(entry: Mapping[str, Any]) -> ErrorItem:
    kind, message = entry["type"], entry["msg"]
    if kind == "extra_forbidden":
        message = f"unknown field; fields: {', '.join(GenerateRequest.model_fields)}"
    loc = [part if isinstance(part, int) else str(shown(part)) for part in entry["loc"]]
    # A missing field's input is the whole body: nothing to repeat.
    given = None if kind == "missing" else shown(entry["input"])
    return ErrorItem(loc=loc, msg=message, type=kind, input=given)


def _sentence(item: ErrorItem) -> str:
    where = ".".join(str(part) for part in item.loc[1:]) or "body"
    given = "" if item.type == "missing" else f" (given: {json.dumps(item.input, ensure_ascii=False)})"
    return f"{where}: {item.msg}{given}"
