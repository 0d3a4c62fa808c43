"""A request becomes a stored picture: resolve, fetch and fit the base image, draw, encode, store, answer."""

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.adapters import AdapterTable
from gateway.base_image.data_uri import data_uri
from gateway.base_image.decode import Decoder
from gateway.base_image.errors import BaseImageError
from gateway.base_image.fetch import Fetcher
from gateway.base_image.fit import Sizing
from gateway.control import Progress
from gateway.encoding import encode
from gateway.intake import Asked
from gateway.limits import Limits
from gateway.resolution import Resolved, resolve, size_of
from gateway.samples import Picture, Sample
from gateway.schemas import AppliedLora, GenerateResponse, NoAdapter, PromptTruncated
from gateway.storage import Storage
from gateway.triton import TritonClient
from gateway.validation import invalid

ENCODERS = ("text_encoder", "text_encoder_2")


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


@dataclass(frozen=True)
class BaseImages:
    """Where base images come from, and what decodes them."""

    fetcher: Fetcher
    decoder: Decoder

    async def content(self, asked: Asked) -> bytes:
        """The picture's file: uploaded, in a data: URI, or fetched."""
        if asked.upload is not None:
            return asked.upload
        url = asked.fields.base_image_url or ""
        return data_uri(url) if url[:5].lower() == "data:" else await self.fetcher.fetch(url)

    async def fitted(self, asked: Asked, sizing: Sizing) -> NDArray[np.uint8]:
        """uint8 [height, width, 3] of a size that is drawn; BaseImageError says why there is none."""
        try:
            return await self.decoder.decode(await self.content(asked), sizing)
        except BaseImageError as error:
            error.url = asked.fields.base_image_url
            raise


@dataclass(frozen=True)
class Ordered:
    """A request that can be drawn; `key` names it in Triton. `lacking` are adapters that it does without."""

    resolved: Resolved
    sample: Sample
    key: str
    lacking: Sequence[NoAdapter]


@dataclass(frozen=True)
class Drawing:
    """What drawing needs."""

    triton: TritonClient
    base_images: BaseImages
    adapters: AdapterTable

    async def order(self, asked: Asked, request_id: str, watch: Stopwatch) -> Ordered:
        """What to ask of Triton for `asked`; a Problem for what cannot be drawn."""
        resolved = resolve(asked, self.adapters)
        limits = await self.triton.limits(resolved.order)
        sample = await self._sample(asked, resolved, limits, watch)
        lacking = self.adapters.lacking(resolved.order.family, asked.fields, limits)
        # Clients choose request ids, so two may be alike; who cancels one must not end the other.
        return Ordered(resolved, sample, f"{request_id}.{secrets.token_hex(8)}", lacking)

    async def draw(self, ordered: Ordered, watch: Stopwatch) -> Picture:
        with watch.stage("triton"):
            return await self.triton.draw(ordered.sample, ordered.key)

    async def progress(self, ordered: Ordered) -> Progress | None:
        return await self.triton.progress(ordered.sample.order, ordered.key)

    async def _sample(self, asked: Asked, resolved: Resolved, limits: Limits, watch: Stopwatch) -> Sample:
        fields = asked.fields
        if wrong := limits.refusals(fields.height, fields.width):
            raise invalid(wrong)
        loras = self.adapters.selected(resolved.order.family, fields, limits)
        if not asked.has_image:
            return resolved.sample(*size_of(resolved, limits), loras)
        with watch.stage("base_image"):
            image = await self.base_images.fitted(asked, limits.sizing(fields.height, fields.width))
        height, width, _ = image.shape
        return resolved.sample(height, width, loras, image)


async def keep(picture: Picture, output_format: str, storage: Storage, watch: Stopwatch) -> str:
    """Encodes off the event loop, stores, and returns the name of the picture's file."""
    with watch.stage("encode"):
        content = await asyncio.to_thread(encode, picture.pixels, output_format)
    with watch.stage("store"):
        return await storage.save(content, output_format)


def answer(ordered: Ordered, picture: Picture, url: str, seconds: float) -> GenerateResponse:
    fields, sample, order = ordered.resolved.fields, ordered.sample, ordered.sample.order
    return GenerateResponse(
        generated_image_url=url,
        generation_time=f"{seconds:.1f}s",
        generation_seconds=round(seconds, 3),
        seed=sample.seed,
        prompt=sample.prompt,
        negative_prompt=fields.negative_prompt,
        industry=fields.industry,
        style=fields.style,
        loras=[AppliedLora(**asdict(lora)) for lora in picture.loras],
        model=order.family.name,
        task=order.task,
        num_inference_steps=sample.num_inference_steps,
        guidance_scale=sample.guidance_scale,
        scheduler=sample.scheduler,
        quality=sample.quality,
        strength=sample.strength,
        width=sample.width,
        height=sample.height,
        output_format=ordered.resolved.output_format,
        warnings=[*warnings_of(picture), *ordered.lacking],
    )


def warnings_of(picture: Picture) -> list[PromptTruncated]:
    """One entry for each text encoder that did not see the whole of a prompt."""
    return [
        _truncated(name, encoder, kept, dropped)
        for name, counts in picture.tokens.items()
        for encoder, (kept, dropped) in zip(ENCODERS, counts.tolist(), strict=True)
        if dropped
    ]


def _truncated(name: Any, encoder: str, kept: int, dropped: int) -> PromptTruncated:
    message = f"{encoder} read {kept} of the {name}'s {kept + dropped} tokens; {dropped} were dropped"
    return PromptTruncated(field=name, encoder=encoder, kept=kept, dropped=dropped, message=message)
