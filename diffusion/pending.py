"""Requests that wait for a place to run in: bounded, two priorities, neither starves the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from diffusion.errors import QueueFull
from diffusion.jobs import Job, Priority

# While both wait, this many interactive requests go before one of batch work does: it is slowed, not starved.
INTERACTIVE_TURNS = 3


class Pending:
    """At most `limit` jobs. Those of one priority go in the order they came; not for several threads."""

    def __init__(self, limit: int) -> None:
        self.limit, self._passed = limit, 0
        self._queues: dict[Priority, deque[Job]] = {priority: deque() for priority in Priority}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Job]:
        """In no particular order."""
        for queue in self._queues.values():
            yield from queue

    def check_room(self) -> None:
        """QueueFull if `limit` jobs wait already."""
        if len(self) >= self.limit:
            raise QueueFull(f"all {self.limit} places in the queue are taken")

    def put(self, job: Job) -> None:
        """QueueFull, at once, if there is no room."""
        self.check_room()
        self._queues[job.priority].append(job)

    def remove(self, job: Job) -> None:
        """Harmless if it does not wait."""
        if job in self._queues[job.priority]:
            self._queues[job.priority].remove(job)

    def take(self, free: int, batch_share: int) -> Job | None:
        """The next job, if its samples fit into the `free` places; batch work has so many, free or not.

        Nobody goes before a job whose turn it is, however small: else a large one might never fit.
        """
        interactive, batch = (self._queues[priority] for priority in Priority)
        allowed = bool(batch) and len(batch[0].samples) <= batch_share
        turn = allowed and (not interactive or self._passed >= INTERACTIVE_TURNS)
        queue = batch if turn else interactive
        if not queue or len(queue[0].samples) > free:
            return None
        self._passed = 0 if turn else self._passed + bool(batch)
        return queue.popleft()
