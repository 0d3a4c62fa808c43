"""A request becomes a stored picture: resolve, draw, encode, store, answer."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from families import FLUX
from families.flux import TEXT_ENCODER, TEXT_ENCODER_2
from gateway.limits import Limits
from gateway.png import encode_png
from gateway.problems import ErrorItem, Problem, shown
from gateway.prompts import compose
from gateway.schemas import SEEDS, GenerateRequest, GenerateResponse, PromptTruncated
from gateway.storage import Storage
from gateway.triton import MODEL, Picture, Sample, TritonClient
from gateway.validation import invalid

NOT_YET = "base_image_url is not served yet: this server draws from text alone; leave the field out"


@dataclass
class Stopwatch:
    """Seconds spent in named stages, and since the start."""

    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - start

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def server_timing(self) -> str:
        return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in self.stages.items())


def refuse_base_image(asked: GenerateRequest) -> None:
    if asked.base_image_url is not None:
        raise Problem(501, "Image to image not available", NOT_YET)


def _composed(asked: GenerateRequest) -> str:
    """The prompt that is sent; a Problem if style and industry make it longer than the family takes."""
    prompt = compose(asked.prompt, asked.style, asked.industry)
    if len(prompt) > FLUX.max_prompt_characters:
        message = (
            f"has {len(prompt)} characters with style and industry; at most {FLUX.max_prompt_characters}"
        )
        item = ErrorItem(
            loc=["body", "prompt"], msg=message, type="string_too_long", input=shown(asked.prompt)
        )
        raise invalid([item])
    return prompt


def resolve(asked: GenerateRequest, limits: Limits) -> Sample:
    """What to draw for `asked`; a Problem for sizes outside `limits`."""
    height, width = limits.height_and_width(asked.height, asked.width)
    return Sample(
        prompt=_composed(asked),
        seed=secrets.randbelow(SEEDS) if asked.seed is None else asked.seed,
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        height=height,
        width=width,
    )


async def draw(
    asked: GenerateRequest, triton: TritonClient, request_id: str, watch: Stopwatch
) -> tuple[Sample, Picture]:
    with watch.stage("triton"):
        sample = resolve(asked, await triton.limits())
        return sample, await triton.draw(sample, request_id)


async def keep(picture: Picture, storage: Storage, watch: Stopwatch) -> str:
    """Encodes off the event loop, stores, and returns the picture's id."""
    with watch.stage("encode"):
        png = await asyncio.to_thread(encode_png, picture.pixels)
    with watch.stage("store"):
        return await storage.save(png)


def answer(
    asked: GenerateRequest, sample: Sample, picture: Picture, url: str, seconds: float
) -> GenerateResponse:
    return GenerateResponse(
        generated_image_url=url,
        generation_time=f"{seconds:.1f}s",
        generation_seconds=round(seconds, 3),
        industry=asked.industry,
        style=asked.style,
        model=MODEL,
        warnings=warnings_of(picture),
        **asdict(sample),
    )


def warnings_of(picture: Picture) -> list[PromptTruncated]:
    """One entry for each text encoder that did not see the whole prompt."""
    counts = zip((TEXT_ENCODER, TEXT_ENCODER_2), picture.prompt_tokens.tolist(), strict=True)
    return [_truncated(encoder.name, kept, dropped) for encoder, (kept, dropped) in counts if dropped]


def _truncated(encoder: str, kept: int, dropped: int) -> PromptTruncated:
    message = f"{encoder} read {kept} of the prompt's {kept + dropped} tokens; {dropped} were dropped"
    return PromptTruncated(encoder=encoder, kept=kept, dropped=dropped, message=message)
