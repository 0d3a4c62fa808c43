"""The JSON of requests and answers, and what is checked before Triton is asked."""

import json
import unicodedata
from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from families import FAMILIES
from families.adapters import LORA_SCALE, NAME
from families.control import PRIORITIES
from families.loras import MAX_LORAS
from gateway.base_image.limits import LIMITS
from gateway.encoding import OUTPUT_FORMATS
from gateway.problems import shown

Kind = Literal["industry", "style"]  # what brings adapters
EXAMPLE_PROMPT = "a yellow backpack on a teal gradient background"
SEEDS = 2**53  # the integers that every JSON reader keeps exact
MAX_CHARACTERS = max(family.max_prompt_characters for family in FAMILIES.values())
MAX_DATA_URI = LIMITS.max_bytes * 4 // 3 + 100  # characters; how long a URL may be is the fetcher's matter
QUALITIES = list(dict.fromkeys(name for family in FAMILIES.values() for name in family.qualities))
SCHEDULERS = list(dict.fromkeys(name for family in FAMILIES.values() for name in family.schedulers))


def _not_blank(prompt: str) -> str:
    if not prompt.strip():
        raise PydanticCustomError("prompt_blank", "the prompt is empty or blank; say what the picture shows")
    return prompt


def _clean(prompt: str) -> str:
    """NFC form of `prompt`; refuses control characters other than newline and tab."""
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


Text = Annotated[str, Field(max_length=MAX_CHARACTERS), AfterValidator(_clean)]
Prompt = Annotated[Text, AfterValidator(_not_blank)]
Model = Annotated[str, _one_of(FAMILIES), Field(json_schema_extra={"enum": list(FAMILIES)})]
Scheduler = Annotated[str, Field(max_length=100, json_schema_extra={"enum": SCHEDULERS})]
OutputFormat = Annotated[
    str, _one_of(OUTPUT_FORMATS), Field(json_schema_extra={"enum": list(OUTPUT_FORMATS)})
]
Pixels = Annotated[int, Field(gt=0)]
Quality = Annotated[str, Field(max_length=100, json_schema_extra={"enum": QUALITIES})]
Priority = Annotated[str, _one_of(PRIORITIES), Field(json_schema_extra={"enum": list(PRIORITIES)})]


class LoraChoice(BaseModel):
    """An adapter to apply, and how strongly."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"example": {"name": "food", "scale": 1.0}},
    )

    name: str = Field(pattern=f"^{NAME.pattern}$")
    scale: float | None = Field(
        None,
        ge=LORA_SCALE.minimum,
        le=LORA_SCALE.maximum,
        allow_inf_nan=False,
        description="default: the adapter's own; 0 switches it off",
    )


def _listed(loras: object) -> object:
    """In a form, a list is written as JSON."""
    if not isinstance(loras, str):
        return loras
    try:
        return json.loads(loras)
    except (ValueError, RecursionError):
        raise PydanticCustomError("not_json", 'not JSON; a list such as [{"name": "food"}]') from None


def _once(loras: list[LoraChoice]) -> list[LoraChoice]:
    names = [lora.name for lora in loras]
    if twice := [name for name in names if names.count(name) > 1]:
        raise PydanticCustomError("named_twice", "'{name}' is named twice", {"name": twice[0]})
    return loras


Loras = Annotated[
    list[LoraChoice], Field(max_length=MAX_LORAS), AfterValidator(_once), BeforeValidator(_listed)
]


class GenerateRequest(BaseModel):
    """What to draw. What `model` decides (ranges, sizes, defaults) is checked against it afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"example": {"prompt": EXAMPLE_PROMPT}},
    )

    prompt: Prompt
    base_image_url: str | None = Field(
        None, max_length=MAX_DATA_URI, description="picture to start from: http, https or a data: URI"
    )
    model: Model | None = Field(None, description="default: flux for text, sdxl with a base image")
    industry: str | None = Field(None, description="one of GET /industries; brings its adapters")
    style: str | None = Field(None, description="one of GET /styles; brings its adapters")
    loras: Loras | None = Field(
        None, description="adapters beside those of industry and style, or other scales for these"
    )
    negative_prompt: Text | None = Field(None, description="sdxl only: what to keep away from")
    seed: int | None = Field(None, ge=0, lt=SEEDS, description="default: drawn at random and returned")
    num_inference_steps: int | None = Field(None, description="default and range: the model's")
    guidance_scale: float | None = Field(
        None, allow_inf_nan=False, description="default and range: the model's"
    )
    scheduler: Scheduler | None = Field(None, description="diffusers' class; default: the model's first")
    strength: float | None = Field(
        None,
        allow_inf_nan=False,
        description="with a base image, above 0 to 1: how far to leave it; flux wants more than sdxl",
    )
    quality: Quality | None = Field(
        None, description="flux only: below high, some steps are forecast, not computed; default: high"
    )
    priority: Priority = Field(
        PRIORITIES[0], description="batch: work that may wait while others draw pictures to look at"
    )
    width: Pixels | None = Field(
        None, description="pixels; default: the native size, or one of the base image's aspect"
    )
    height: Pixels | None = Field(None, description="as width")
    output_format: OutputFormat | None = Field(
        None, description="default: png, which is lossless; jpeg keeps colours sharp; webp is the smallest"
    )


class PromptTruncated(BaseModel):
    """`field` had more tokens than `encoder` reads; it saw the first `kept`."""

    code: Literal["prompt_truncated"] = "prompt_truncated"
    field: Literal["prompt", "negative_prompt"]
    encoder: str
    kept: int
    dropped: int
    message: str


class NoAdapter(BaseModel):
    """`name`, an industry or a style (`field`), brings adapters, but none to what drew: it was words only."""

    code: Literal["no_adapter"] = "no_adapter"
    field: Kind
    name: str
    message: str


class AppliedLora(BaseModel):
    """An adapter that was applied: the hash of its file, and how many of its modules took effect."""

    name: str
    sha256: str
    scale: float
    modules_applied: int
    modules: int


class GenerateResponse(BaseModel):
    """The picture's address and everything that reproduces it."""

    generated_image_url: str
    generation_time: str = Field(examples=["3.2s"])
    generation_seconds: float
    seed: int
    prompt: str = Field(description="as sent to the model: with the style's and the industry's words")
    negative_prompt: str | None
    industry: str | None
    style: str | None
    loras: list[AppliedLora]
    model: str
    task: str
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    quality: str
    strength: float | None
    width: int
    height: int
    output_format: str
    warnings: list[PromptTruncated | NoAdapter]


class ProgressEvent(BaseModel):
    """How far a request is. `step` of `steps` is made; the picture to come, small, is a data: URI."""

    state: Literal["pending", "running"]
    step: int
    steps: int
    seconds: float = Field(description="since the model server took it up")
    eta_seconds: float | None = Field(description="until it is drawn, once a step has been made")
    preview: str | None


class ListedLora(BaseModel):
    """An adapter that a request may name, what brings it, and the word that its prompts want, if any."""

    model: str
    name: str
    scale: float
    industry: str | None
    style: str | None
    trigger: str | None
    checkpoint: str | None
    sha256: str


class ChoiceAdapter(BaseModel):
    """An adapter that a name brings when `model` draws."""

    model: str
    name: str
    scale: float


class Choice(BaseModel):
    """A name that a request may use, what it makes of the prompt, and the adapters that it brings."""

    name: str
    prompt_template: str
    adapters: list[ChoiceAdapter]


class Served(BaseModel):
    """A model that draws, its tasks, and the picture sizes, in pixels, that it accepts."""

    model: str
    tasks: list[str]
    checkpoint: str
    native_size: int
    min_size: int
    max_size: int
    size_multiple: int
    max_sequence_length: int
    max_rank: int


class Readiness(BaseModel):
    """What is served."""

    status: Literal["ready"] = "ready"
    models: list[Served]
