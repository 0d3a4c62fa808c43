"""A request's body -> what is asked: JSON, or a form with the base image as a file."""

import email.message
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from gateway.problems import Problem, shown
from gateway.schemas import MAX_DATA_URI, GenerateRequest

FILE = "base_image"
JSON, FORM = "application/json", "multipart/form-data"
MAX_FIELD_BYTES = MAX_DATA_URI  # the longest text


def _schema(**more: dict[str, str]) -> dict[str, Any]:
    schema = GenerateRequest.model_json_schema()
    return {**schema, "properties": {**schema["properties"], **more}}


# FastAPI documents one kind of body by itself, and there are two.
DOCUMENTED = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": _schema()},
            FORM: {"schema": _schema(**{FILE: {"type": "string", "format": "binary"}})},
        },
    }
}


@dataclass(frozen=True)
class Asked:
    """The checked fields, and the bytes of an uploaded base image."""

    fields: GenerateRequest
    upload: bytes | None = None

    @property
    def has_image(self) -> bool:
        return self.upload is not None or self.fields.base_image_url is not None


async def read(request: Request) -> Asked:
    """What `request` asks; RequestValidationError or a Problem names what is wrong with it."""
    kind = content_type(request)
    if kind == FORM:
        return await _form(request)
    if kind != JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        given = request.headers.get("content-type", "")
        said = f"is '{shown(given)}'" if given else "is missing"
        raise Problem(415, "Unsupported media type", f"Content-Type {said}; send {JSON} or {FORM}")
    return Asked(_checked(_parsed(await request.body())))


def content_type(request: Request) -> str:
    message = email.message.Message()
    message["content-type"] = request.headers.get("content-type", "")
    return message.get_content_type() if message["content-type"] else ""


def _parsed(body: bytes) -> Any:
    if not body:
        raise Problem(422, "Invalid request", "body: is required")
    try:
        return json.loads(body, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        detail = f"the body is not JSON: {error.msg} at character {error.pos}"
        raise Problem(400, "Malformed JSON", detail) from None
    except (RecursionError, ValueError) as error:  # nested too deep, not UTF-8, a number of 5,000 digits
        detail = f"the body cannot be read as JSON: {type(error).__name__}"
        raise Problem(400, "Malformed JSON", detail) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON readers take the last of two values in silence."""
    values = dict(pairs)
    if len(values) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise Problem(422, "Invalid request", f"body: '{shown(name)}' is given twice")
    return values


def _checked(values: Any) -> GenerateRequest:
    try:
        return GenerateRequest.model_validate(values)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> RequestValidationError:
    return RequestValidationError([{**entry, "loc": ("body", *entry["loc"])} for entry in error.errors()])


async def _form(request: Request) -> Asked:
    async with request.form(max_files=1, max_fields=50, max_part_size=MAX_FIELD_BYTES) as form:
        upload = form.get(FILE)
        texts = {name: value for name, value in form.items() if name != FILE and isinstance(value, str)}
        _check_form(form, texts)
        try:
            fields = GenerateRequest.model_validate_strings(texts)
        except ValidationError as error:
            raise _refusal(error) from None
        return Asked(fields, await upload.read() if isinstance(upload, UploadFile) else None)


def _check_form(form: FormData, texts: dict[str, str]) -> None:
    """A Problem if a field is given twice, is a file but not FILE, or FILE is text."""
    names = [name for name, _ in form.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise _bad_form(f"'{shown(name)}' is given twice")
        if name not in texts and name != FILE:
            raise _bad_form(f"'{shown(name)}' is a file; the one file is called '{FILE}'")
    if isinstance(form.get(FILE), str):
        raise _bad_form(f"'{FILE}' is text; send it as a file, or name its address in 'base_image_url'")
    if FILE in names and "base_image_url" in names:
        raise _bad_form(f"both '{FILE}' and 'base_image_url' are given; send one")


def _bad_form(fault: str) -> Problem:
    return Problem(422, "Invalid request", f"the form is wrong: {fault}")
