"""Step-level continuous batching: requests join and leave between steps, and share calls of the engine."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import torch

from diffusion.denoise import Engine, Group, Sample
from diffusion.errors import Cancelled, EngineError, Expired, QueueFull, Stopping
from diffusion.jobs import Job, Priority, Progress
from diffusion.pending import INTERACTIVE_TURNS, Pending

# Of the places to run in, batch work takes at most this share, so that an interactive request finds one soon.
BATCH_SHARE = 0.5
# Cancelled keys that are remembered for jobs still on their way here, in text encoders or queues.
REMEMBERED, REMEMBER_SECONDS = 1024, 120.0
LEDGER: Mapping[str, str] = {  # what `counts` counts; of the started, each is also one of the four below
    "requests_started": "requests that were let wait or run",
    "requests_finished": "requests whose pictures were denoised to the end",
    "requests_cancelled": "requests whose client left or asked to cancel",
    "requests_expired": "requests whose deadline passed",
    "requests_failed": "requests that an error ended",
    "requests_refused": "requests that found the queue full",
    "engine_calls": "calls of the denoiser",
    "engine_rows": "rows in calls of the denoiser",
}
OUTCOMES = {type(None): "requests_finished", Cancelled: "requests_cancelled", Expired: "requests_expired"}
# Groups whose joined inputs are kept. More than a few would seldom be used, and packs may be large.
KEPT_GROUPS = 2


@dataclass(frozen=True)
class Bounds:
    """Rows of one call (the engine's profile), samples that run at once, requests that wait."""

    max_rows: int
    max_running: int = 8
    max_pending: int = 64


@dataclass(eq=False)
class Slot:
    """A running sample: `number` is its place in the order of admission, `stepped` its last call."""

    sample: Sample
    job: Job
    number: int
    stepped: int

    @property
    def turn(self) -> tuple[int, int]:
        """The lowest goes next: who was stepped longest ago; batch work some calls later."""
        return self.stepped + INTERACTIVE_TURNS * self.job.priority, self.number


class StepBatcher:
    """Steps the samples of many jobs, one call of `engine` at a time.

    A call goes to the sample that has waited longest (batch work counts as later), together with as many
    others of its group key as `max_rows` has room for. So every running sample is stepped again after a
    bounded number of calls, and who joins or leaves never changes another's picture.

    `submit`, `check_room`, `cancel`, `find` and `close` may be called from any thread, `step` and `wait` from
    one only.
    `counts` has what LEDGER names.
    """

    def __init__(self, engine: Engine, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine, self.bounds, self.clock = engine, bounds, clock
        self._changed, self._closed = threading.Condition(), False
        self._pending, self._running = Pending(bounds.max_pending), list[Slot]()
        self._groups: OrderedDict[tuple[Slot, ...], Group] = OrderedDict()
        self._numbers, self._calls = count(), 0
        self._unwanted: OrderedDict[str, float] = OrderedDict()  # key -> until when
        self.counts = Counter[str]()

    @property
    def pending(self) -> int:
        """Jobs that wait."""
        return len(self._pending)

    @property
    def running(self) -> int:
        """Samples that are stepped."""
        return len(self._running)

    def submit(self, job: Job) -> None:
        """Lets `job` wait for its turn; raises as `check_room` does, and ValueError if it can never run."""
        if (rows := max(sample.rows for sample in job.samples)) > self.bounds.max_rows:
            raise ValueError(f"a sample has {rows} rows; a call takes {self.bounds.max_rows}")
        if len(job.samples) > self.bounds.max_running:
            raise ValueError(f"a job has {len(job.samples)} samples; {self.bounds.max_running} run at once")
        with self._changed:
            self.check_room()
            job.submitted = self.clock()
            job.cancelled = job.submitted < self._unwanted.pop(job.key, -math.inf)
            self._pending.put(job)
            self.counts["requests_started"] += 1
            self._changed.notify_all()

    def check_room(self) -> None:
        """QueueFull, and counted as refused, if too many jobs wait; Stopping after `close`."""
        if self._closed:
            raise Stopping("the server is stopping")
        try:
            self._pending.check_room()
        except QueueFull:
            self.counts["requests_refused"] += 1
            raise

    def cancel(self, key: str) -> bool:
        """Ends the jobs called `key` before the next call; False if none is here: it ends when it comes."""
        with self._changed:
            found = [job for job in self._jobs() if job.key == key]
            for job in found:
                job.cancelled = True
            if not found:
                self._unwanted[key] = self.clock() + REMEMBER_SECONDS
            if len(self._unwanted) > REMEMBERED:
                self._unwanted.popitem(last=False)
            return bool(found)

    def find(self, key: str) -> Job | None:
        """The job called `key`, if it is pending or running."""
        return next((job for job in self._jobs() if job.key == key), None)

    def progress(self, job: Job) -> Progress:
        return job.progress(self.clock())

    def wait(self) -> bool:
        """Returns when there is work; False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._running or self._pending)
        return not self._closed

    def close(self) -> None:
        """No more steps: `wait` tells so."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self, error: Exception) -> None:
        """Ends every job with `error`."""
        for job in self._jobs():
            self._end(job, error)

    def step(self) -> None:
        """Ends who must go, lets in who waits, makes one call of the engine, answers what is done."""
        self._leave()
        self._admit()
        if members := self._members():
            self._calls += 1
            with torch.inference_mode():
                self._call(members)
        for job in dict.fromkeys(slot.job for slot in self._running):
            if job.error or job.done:
                self._end(job, job.error)

    def _jobs(self) -> list[Job]:
        with self._changed:
            return [*dict.fromkeys(slot.job for slot in self._running), *self._pending]

    def _leave(self) -> None:
        jobs, now = self._jobs(), self.clock()
        first = self._calls % len(jobs) if jobs else 0  # `left` may ask a few at a time: each in its turn
        for job in jobs[first:] + jobs[:first]:
            if job.cancelled or (job.admitted is not None and job.left()):
                self._end(job, Cancelled("the request was cancelled"))
            elif now >= job.deadline:
                made = job.progress(now)
                self._end(job, Expired(f"the deadline passed at step {made.step} of {made.steps}"))

    def _end(self, job: Job, error: Exception | None) -> None:
        with self._changed:
            self._running = [slot for slot in self._running if slot.job is not job]
            self._pending.remove(job)
        for members in [members for members in self._groups if any(slot.job is job for slot in members)]:
            del self._groups[members]  # what nobody needs must not keep memory
        self.counts[OUTCOMES.get(type(error), "requests_failed")] += 1
        job.ended(error)

    def _admit(self) -> None:
        with self._changed:
            while job := self._pending.take(*self._free()):
                job.admitted = self.clock()
                self._running += [Slot(s, job, next(self._numbers), self._calls) for s in job.samples]

    def _free(self) -> tuple[int, int]:
        """Places to run in that are free, and those that more batch work may take; all, if none runs."""
        of_batch = sum(slot.job.priority is Priority.BATCH for slot in self._running)
        share = self.bounds.max_running if not of_batch else int(self.bounds.max_running * BATCH_SHARE)
        return self.bounds.max_running - len(self._running), share - of_batch

    def _members(self) -> tuple[Slot, ...]:
        """Who shares the next call, in the order of admission."""
        waiting = sorted((slot for slot in self._running if slot.sample.running), key=lambda slot: slot.turn)
        members, room = list[Slot](), self.bounds.max_rows
        for slot in waiting:
            if slot.sample.group_key == waiting[0].sample.group_key and slot.sample.rows <= room:
                members.append(slot)
                room -= slot.sample.rows
        return tuple(sorted(members, key=lambda slot: slot.number))

    def _call(self, members: tuple[Slot, ...]) -> None:
        """One step of every member. A call that fails is made again for each alone: only the guilty fail."""
        for slot in members:
            slot.stepped = self._calls
        try:
            self._group(members).step(self.engine)
            self.counts["engine_calls"] += 1
            self.counts["engine_rows"] += sum(slot.sample.rows for slot in members)
        except Exception as error:
            if len(members) == 1:
                members[0].sample.error = error
                return
            for slot in members:
                if slot.sample.running:
                    self._call((slot,))

    def _group(self, members: tuple[Slot, ...]) -> Group:
        """Its inputs that stay the same are joined once, as long as it comes again soon."""
        found = self._groups.pop(members, None) or Group.of(tuple(slot.sample for slot in members))
        self._groups[members] = found
        if len(self._groups) > KEPT_GROUPS:
            self._groups.popitem(last=False)
        return found


def denoise(samples: Sequence[Sample], engine: Engine, max_rows: int) -> None:
    """Steps `samples` in place until each is done or has an error; EngineError if the engine fails."""
    batcher = StepBatcher(engine, Bounds(max_rows, len(samples), len(samples)))
    for sample in samples:
        batcher.submit(Job([sample], ended=lambda _: None))
    while batcher.running or batcher.pending:
        batcher.step()
    for sample in samples:
        if isinstance(sample.error, EngineError):
            raise sample.error
