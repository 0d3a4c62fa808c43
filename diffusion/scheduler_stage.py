"""The stage that denoises: every request in flight in one StepBatcher, answered when its samples are done."""

from __future__ import annotations

import json
import math
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from diffusion.adapters.packs import Pack
from diffusion.denoise import Sample
from diffusion.errors import Stopping
from diffusion.jobs import Job, Priority, stays
from diffusion.latents import BaseImage
from diffusion.preview import Preview
from diffusion.settings import Settings, check_rows
from diffusion.step_batcher import LEDGER, Bounds, StepBatcher
from diffusion.triton_adapter import (
    Deployment,
    ModelEngine,
    Outputs,
    Request,
    Stage,
    base_images,
    log_error,
    packs,
    refusal,
    response,
    sender,
    settings,
)
from diffusion.triton_metrics import Counters
from families import FamilySpec, InvalidRequest
from families.control import CANCEL, PREVIEW, PRIORITIES, PRIORITY_CLASS, PROGRESS, SENDS_CANCEL, WATCH
from families.lora import OPTIONAL_PACKS

TELL_SECONDS = 1.0
# Asking Triton whether a client is gone costs 0.15 ms: so a twentieth of the time, saved up for so many.
ASK_SECONDS, ASK_AT_ONCE = 0.003, 8


class SchedulerStage(Stage):
    """Base of a model.py of one `family`.

    A request with `cancel` or `watch`, the id of another, is answered at once; any other asks for pictures.
    """

    family: FamilySpec

    @abstractmethod
    def start(
        self,
        request: Request,
        rows: Sequence[Settings],
        images: Sequence[BaseImage | None],
        adapters: Sequence[Pack | None],
    ) -> list[Sample]:
        """A sample for each of the request's rows."""

    def setup(self, deployment: Deployment) -> None:
        self.deployment = deployment
        deployment.check(("max_rank", OPTIONAL_PACKS))
        bounds = Bounds(*map(deployment.integer, ("max_rows", "max_running", "max_pending")))
        self.engine = ModelEngine(self.family, self.family.denoiser)
        self.batcher = StepBatcher(self.engine, bounds)
        self.preview = Preview.load(deployment.checkpoint)
        self.metrics = Counters(deployment.model, LEDGER)
        self.asking, self.told = Seldom(), 0.0
        self.stepping = threading.Thread(target=self._step, name="steps", daemon=True)
        self.stepping.start()

    def execute(self, requests: Iterable[Any]) -> list[Any]:
        return [self._taken(Request(raw)) for raw in requests]

    def finalize(self) -> None:
        self.batcher.close()
        self.stepping.join()
        self.batcher.abandon(Stopping("the server is stopping"))

    def _taken(self, request: Request) -> Any:
        """The answer, or None if it comes later."""
        try:
            if request.has(CANCEL.name) or request.has(WATCH.name):
                return response(self.run(request))
            self.batcher.check_room()  # before any work
            job = self._job(request, self._samples(request))
        except Exception as error:
            return refusal(error)
        try:
            self.batcher.submit(job)
        except Exception as error:
            job.ended(error)
        return None

    def run(self, request: Request) -> Outputs:
        """How the request does that this one cancels or watches; `state` is unknown if it is not here."""
        if request.has(CANCEL.name):
            key = _id(request, CANCEL.name)
            return _told(state="cancelled" if self.batcher.cancel(key) else "unknown")  # or not here yet
        key = _id(request, WATCH.name)
        if (job := self.batcher.find(key)) is None:
            return _told(state="unknown")
        return {**_told(**asdict(self.batcher.progress(job))), **self._previewed(job)}

    def _previewed(self, job: Job) -> Outputs:
        """One for the first picture of the job, as soon as a step has been made."""
        latents = job.samples[0].estimate()
        return {} if latents is None else {PREVIEW.name: self.preview(latents)}

    def _samples(self, request: Request) -> list[Sample]:
        rows = settings(request, self.family)
        check_rows(self.family, rows, self.deployment.sizes)
        return self.start(request, rows, base_images(request, len(rows)), packs(request, self.deployment))

    def _job(self, request: Request, samples: list[Sample]) -> Job:
        priority = Priority.named(request.parameter(PRIORITY_CLASS, PRIORITIES[0]))
        seconds, send = request.timeout_seconds, sender(request)

        def ended(error: Exception | None) -> None:
            try:
                send(refusal(error) if error else latents(samples))
            except Exception as fault:  # of this answer: the others must not suffer, nor the thread end
                log_error(fault)

        return Job(
            samples,
            ended,
            key=request.id,
            priority=priority,
            deadline=self.batcher.clock() + seconds if seconds else math.inf,
            left=self._left(request),
        )

    def _left(self, request: Request) -> Callable[[], bool]:
        """Tells whether the client is gone; InvalidRequest if it says wrongly that it will tell itself."""
        if not (said := request.parameter(SENDS_CANCEL, "")):
            return self.asking.of(request.cancelled)
        if said != "1":
            raise InvalidRequest(f"{SENDS_CANCEL} is {said!r}; choices: '1', or left out")
        if not request.id:
            raise InvalidRequest(f"{SENDS_CANCEL} is '1', but the request has no id that could be cancelled")
        return stays

    def _step(self) -> None:
        while self.batcher.wait():
            try:
                self.batcher.step()
                if not self.batcher.running:
                    self.engine.forget()
                self._tell()
            except Exception as error:  # a fault of ours: nobody may wait for ever
                self.batcher.abandon(error)

    def _tell(self) -> None:
        """Counts, when nothing runs any more or for a second has not been told: each costs a message."""
        now = self.batcher.clock()
        if not self.batcher.running or now >= self.told + TELL_SECONDS:
            self.metrics.tell(self.batcher.counts)
            self.told = now


class Seldom:
    """Asks Triton whether clients are gone: in every long step, as often as short ones do not notice."""

    def __init__(self) -> None:
        self._next = 0.0

    def of(self, ask: Callable[[], bool]) -> Callable[[], bool]:
        """`ask`, but False at once while it is too soon after others were asked; False if asking fails."""

        def answer() -> bool:
            now = time.monotonic()
            if now < self._next:
                return False
            self._next = max(self._next, now - ASK_AT_ONCE * ASK_SECONDS) + ASK_SECONDS
            try:
                return ask()
            except Exception as fault:
                log_error(fault)
                return False

        return answer


def latents(samples: Sequence[Sample]) -> Any:
    """The answer of samples that are done, or a refusal if they cannot be joined."""
    try:
        return response({"latents": torch.cat([sample.result() for sample in samples])})
    except Exception as error:
        return refusal(error)


def _id(request: Request, name: str) -> str:
    """The one id that the tensor `name` has; InvalidRequest if there are more, or it is blank."""
    keys = request.texts(name)
    if len(keys) != 1 or not keys[0]:
        raise InvalidRequest(f"{name} is {keys}; it takes the id of one request")
    return keys[0]


def _told(**values: object) -> Outputs:
    return {PROGRESS.name: np.array([[json.dumps(values).encode()]], dtype=np.object_)}
