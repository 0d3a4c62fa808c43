"""What is asked -> what is drawn: model, task, defaults; and what the chosen model does not take."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from families import FAMILIES, FLUX, SDXL, FamilySpec, InvalidRequest, check_strength
from families.loras import Lora
from families.tasks import IMAGE_TO_IMAGE, TEXT_TO_IMAGE
from gateway.adapters import AdapterTable
from gateway.encoding import DEFAULT_FORMAT
from gateway.intake import Asked
from gateway.limits import Limits
from gateway.problems import ErrorItem, shown
from gateway.prompts import compose
from gateway.samples import Order, Sample
from gateway.schemas import SEEDS, GenerateRequest
from gateway.validation import invalid

T = TypeVar("T")
NO_NEGATIVE = (
    "{model} takes no negative prompt: its guidance is distilled into the model, so there is no second "
    "prediction to steer away from; choices: leave it out, or name model 'sdxl'"
)


@dataclass(frozen=True)
class Resolved:
    """A request with its defaults filled in; what the base image decides is still open."""

    order: Order
    fields: GenerateRequest
    prompt: str
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    quality: str
    strength: float | None
    output_format: str

    def sample(
        self, height: int, width: int, loras: tuple[Lora, ...], image: NDArray[np.uint8] | None = None
    ) -> Sample:
        """What Triton is asked for a picture of this size in pixels with these adapters."""
        fields = self.fields
        return Sample(
            order=self.order,
            prompt=self.prompt,
            negative_prompt=fields.negative_prompt or "",
            seed=secrets.randbelow(SEEDS) if fields.seed is None else fields.seed,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            scheduler=self.scheduler,
            quality=self.quality,
            loras=loras,
            height=height,
            width=width,
            strength=self.strength,
            image=image,
            priority=fields.priority,
        )


def resolve(asked: Asked, table: AdapterTable) -> Resolved:
    """`asked` with its model's defaults; a Problem lists everything that this model does not take.

    Industries and styles are those of `table`.
    """
    fields, order = asked.fields, _order(asked)
    family, image = order.family, asked.has_image
    resolved = Resolved(
        order=order,
        fields=fields,
        prompt=compose(fields.prompt, fields.style, fields.industry),
        num_inference_steps=_default(fields.num_inference_steps, int(family.num_inference_steps.default)),
        guidance_scale=_default(fields.guidance_scale, family.guidance_scale.default),
        scheduler=fields.scheduler or family.schedulers[0],
        quality=fields.quality or family.qualities[0],
        strength=_as_sent(_default(fields.strength, family.default_strength)) if image else None,
        output_format=fields.output_format or DEFAULT_FORMAT,
    )
    if wrong := _refusals(resolved, family, table):
        raise invalid(wrong)
    return resolved


def _order(asked: Asked) -> Order:
    """Flux for text, SDXL with a base image, unless the request names the model."""
    task, family = (IMAGE_TO_IMAGE, SDXL) if asked.has_image else (TEXT_TO_IMAGE, FLUX)
    return Order(FAMILIES[asked.fields.model] if asked.fields.model else family, task)


def _default(value: T | None, default: T) -> T:
    return default if value is None else value


def _as_sent(strength: float) -> float:
    """The number that FP32 carries, so that gateway and Triton judge the same one."""
    return float(str(np.float32(strength)))


def _refusals(resolved: Resolved, family: FamilySpec, table: AdapterTable) -> list[ErrorItem]:
    fields = resolved.fields
    checks: dict[str, Callable[[], None]] = {
        "prompt": lambda: _check_length(resolved.prompt, family),
        "industry": lambda: table.check("industry", fields.industry),
        "style": lambda: table.check("style", fields.style),
        "num_inference_steps": lambda: family.num_inference_steps.check(
            f"for {family.name},", resolved.num_inference_steps
        ),
        "guidance_scale": lambda: family.guidance_scale.check(f"for {family.name},", resolved.guidance_scale),
        "scheduler": lambda: family.check_scheduler(resolved.scheduler),
        "quality": lambda: family.check_quality(resolved.quality),
        "negative_prompt": lambda: _check_negative(fields.negative_prompt, family),
        "strength": lambda: _check_strength(resolved),
    }
    items = []
    for name, check in checks.items():
        try:
            check()
        except InvalidRequest as error:
            given, said = shown(getattr(fields, name)), str(error).removeprefix(f"{name} ")
            items.append(ErrorItem(loc=["body", name], msg=said, type="not_taken", input=given))
    return items


def _check_length(prompt: str, family: FamilySpec) -> None:
    if len(prompt) > family.max_prompt_characters:
        limit = f"at most {family.max_prompt_characters}"
        raise InvalidRequest(f"has {len(prompt)} characters with style and industry; {limit}")


def _check_negative(negative_prompt: str | None, family: FamilySpec) -> None:
    taken = any(tensor.name == "negative_prompt" for tensor in family.ensembles[0].inputs)
    if negative_prompt is not None and not taken:
        raise InvalidRequest(NO_NEGATIVE.format(model=family.name))
    if len(negative_prompt or "") > family.max_prompt_characters:  # composing characters may lengthen it
        raise InvalidRequest(f"is longer than {family.max_prompt_characters} characters in NFC form")


def _check_strength(resolved: Resolved) -> None:
    if resolved.strength is not None:
        check_strength(resolved.strength, resolved.num_inference_steps)
    elif resolved.fields.strength is not None:
        raise InvalidRequest("there is no base image that it could apply to; send base_image_url or a file")


def size_of(resolved: Resolved, limits: Limits) -> tuple[int, int]:
    """Height and width without a base image: as asked, else the native size."""
    return resolved.fields.height or limits.native_size, resolved.fields.width or limits.native_size
