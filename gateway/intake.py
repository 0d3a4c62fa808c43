"""A request's body -> what is asked: JSON, or a form with the base image as a file."""

import email.message
import json
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from gateway.problems import Problem, shown
from gateway.schemas import GenerateRequest

FILE = "base_image"
JSON, FORM = "application/json", "multipart/form-data"
MAX_FIELD_BYTES = 16_384  # the longest text is a prompt of 2,000 characters


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
        raise Problem(422, "Invalid request", "body: Field required")
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        detail = f"the body is not JSON: {error.msg} at character {error.pos}"
        raise Problem(400, "Malformed JSON", detail) from None
    except (RecursionError, ValueError) as error:  # nested too deep, not UTF-8, a number of 5,000 digits
        detail = f"the body cannot be read as JSON: {type(error).__name__}"
        raise Problem(400, "Malformed JSON", detail) from None


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
    if len(form.multi_items()) > len(form):
        raise Problem(422, "Invalid request", "a field of the form is given twice")
    files = [name for name in form if name not in texts]
    if files not in ([], [FILE]) or isinstance(form.get(FILE), str):
        raise Problem(422, "Invalid request", f"the one file of the form is called '{FILE}'; given: {files}")
    if files and "base_image_url" in texts:
        raise Problem(422, "Invalid request", f"both '{FILE}' and 'base_image_url' are given; send one")
