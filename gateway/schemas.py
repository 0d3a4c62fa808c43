"""The JSON of requests and answers, and what is checked before Triton is asked."""

import unicodedata
from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from families import FLUX
from gateway.problems import shown
from gateway.prompts import INDUSTRIES, STYLES

SEEDS = 2**53  # the integers that every JSON reader keeps exact
STEPS, GUIDANCE = FLUX.num_inference_steps, FLUX.guidance_scale


def _clean(prompt: str) -> str:
    """NFC form of `prompt`; refuses blank text and control characters other than newline and tab."""
    if not prompt.strip():
        raise PydanticCustomError("prompt_blank", "the prompt is empty or blank; say what the picture shows")
    for place, character in enumerate(prompt):
        if unicodedata.category(character) == "Cc" and character not in "\n\r\t":
            message = "control character {code} at position {place}; only newline and tab are allowed"
            context = {"code": f"U+{ord(character):04X}", "place": place}
            raise PydanticCustomError("prompt_control_character", message, context)
    return unicodedata.normalize("NFC", prompt)


def _one_of(choices: Collection[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in choices:
            context = {"name": shown(name), "choices": ", ".join(choices)}
            raise PydanticCustomError("unknown_name", "'{name}' is unknown; choices: {choices}", context)
        return name

    return AfterValidator(check)


Prompt = Annotated[str, Field(max_length=FLUX.max_prompt_characters), AfterValidator(_clean)]
Industry = Annotated[str, _one_of(INDUSTRIES), Field(json_schema_extra={"enum": list(INDUSTRIES)})]
Style = Annotated[str, _one_of(STYLES), Field(json_schema_extra={"enum": list(STYLES)})]
Pixels = Annotated[int, Field(gt=0, multiple_of=FLUX.size_multiple)]


class GenerateRequest(BaseModel):
    """What to draw. Sizes also obey the served checkpoint's limits, which /readyz shows."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"example": {"prompt": "A sleek smartphone on a dark gradient background"}},
    )

    prompt: Prompt
    base_image_url: str | None = Field(None, max_length=2_048, description="not available yet: answers 501")
    industry: Industry | None = None
    style: Style | None = None
    seed: int | None = Field(None, ge=0, lt=SEEDS, description="default: drawn at random and returned")
    num_inference_steps: int = Field(int(STEPS.default), ge=int(STEPS.minimum), le=int(STEPS.maximum))
    guidance_scale: float = Field(
        GUIDANCE.default, ge=GUIDANCE.minimum, le=GUIDANCE.maximum, allow_inf_nan=False
    )
    width: Pixels | None = Field(None, description="pixels; default: the checkpoint's native size")
    height: Pixels | None = Field(None, description="pixels; default: the checkpoint's native size")


class PromptTruncated(BaseModel):
    """The prompt had more tokens than `encoder` reads; it saw the first `kept`."""

    code: Literal["prompt_truncated"] = "prompt_truncated"
    encoder: str
    kept: int
    dropped: int
    message: str


class GenerateResponse(BaseModel):
    """The picture's address and everything that reproduces it."""

    generated_image_url: str
    generation_time: str = Field(examples=["3.2s"])
    generation_seconds: float
    seed: int
    prompt: str = Field(description="as sent to the model: with the style's and the industry's words")
    industry: str | None
    style: str | None
    num_inference_steps: int
    guidance_scale: float
    width: int
    height: int
    model: str
    warnings: list[PromptTruncated]


class Choice(BaseModel):
    """A name that a request may use, and what it makes of the prompt."""

    name: str
    prompt_template: str


class Readiness(BaseModel):
    """What is served and the picture sizes, in pixels, that it accepts."""

    status: Literal["ready"] = "ready"
    model: str
    checkpoint: str
    native_size: int
    min_size: int
    max_size: int
    size_multiple: int
    max_sequence_length: int
