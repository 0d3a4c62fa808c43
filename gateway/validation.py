"""Refused request bodies -> problems that name the thing, its value and the choices."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from fastapi.exceptions import RequestValidationError

from families.adapters import LORA_SCALE
from gateway.intake import FILE, FORM
from gateway.problems import ErrorItem, Problem, shown
from gateway.schemas import SEEDS, GenerateRequest, LoraChoice

DETAILED_ERRORS, LISTED_ERRORS = 3, 20  # a body may have a hundred thousand
LONGEST_NAME = max(map(len, GenerateRequest.model_fields)) + 5  # of what may be meant for a field's
INTEGER, NUMBER, RANGE = "not an integer", "not a number", "not in {range}"
# For types of pydantic's whose own words are of its inside, or tell one end of a range only.
MESSAGES = {
    "missing": "is required",
    "model_type": "not an object such as {example}",
    "list_type": "not a list of objects such as {example}",
    "string_type": "not a string",
    "int_type": INTEGER,
    "int_parsing": INTEGER,
    "int_parsing_size": "an integer of too many digits",
    "float_type": NUMBER,
    "float_parsing": NUMBER,
    "finite_number": "not finite",
    "string_too_long": "at most {max_length} characters",
    "too_long": "at most {max_length}",
    "string_pattern_mismatch": "not a name that adapters have; GET /loras lists them",
    "greater_than": "not a size in pixels; GET /readyz tells which are drawn",
    "greater_than_equal": RANGE,
    "less_than": RANGE,
    "less_than_equal": RANGE,
}
EXAMPLES = {
    model: json.dumps(model.model_json_schema()["example"]) for model in (GenerateRequest, LoraChoice)
}
RANGES = {"seed": f"0..{SEEDS - 1}", "scale": str(LORA_SCALE)}


def problem_of(error: RequestValidationError) -> Problem:
    found = error.errors()
    return invalid([_item(entry) for entry in found[:LISTED_ERRORS]], len(found))


def invalid(items: list[ErrorItem], found: int = 0) -> Problem:
    """The 422 answer for these errors, of `found` if that is more; its detail spells out the first few."""
    said = [_sentence(item) for item in items[:DETAILED_ERRORS]]
    more = max(found, len(items)) - len(said)
    return Problem(422, "Invalid request", "; ".join(said) + (f"; and {more} more" if more else ""), items)


def _item(entry: Mapping[str, Any]) -> ErrorItem:
    kind = entry["type"]
    loc = [part if isinstance(part, int) else str(shown(part)) for part in entry["loc"]]
    # A missing field's input is the whole body: nothing to repeat.
    given = None if kind == "missing" else shown(entry["input"])
    return ErrorItem(loc=loc, msg=_message(entry), type=kind, input=given)


def _message(entry: Mapping[str, Any]) -> str:
    """What is wrong: MESSAGES, or pydantic's own words, but for those that name a class of ours."""
    model = LoraChoice if "loras" in entry["loc"] else GenerateRequest
    if entry["type"] != "extra_forbidden":
        said, facts = MESSAGES.get(entry["type"], "{msg}"), entry.get("ctx", {})
        return said.format(
            msg=entry["msg"], example=EXAMPLES[model], range=RANGES.get(entry["loc"][-1]), **facts
        )
    if entry["loc"] == ("body", FILE):
        return f"a file; send it as {FORM} (curl -F {FILE}=@FILE), or its address as base_image_url"
    return _unknown(str(entry["loc"][-1])[:LONGEST_NAME], list(model.model_fields))


def _unknown(name: str, fields: list[str]) -> str:
    meant = [f"did you mean {near}? " for near in get_close_matches(name.lower(), fields, n=1)]
    return f"unknown field; {''.join(meant)}fields: {', '.join(fields)}"


def _sentence(item: ErrorItem) -> str:
    where = ".".join(str(part) for part in item.loc[1:]) or "body"
    return f"{where}: {item.msg if item.type == 'missing' else with_input(item)}"


def with_input(item: ErrorItem) -> str:
    """What is wrong, and the value that was given."""
    return f"{item.msg} (given: {json.dumps(item.input, ensure_ascii=False)})"
