"""How many requests may be on their way at once: more are refused before any work is done for them."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.faults import BUSY, RETRY_AFTER
from gateway.problems import Problem


class Places:
    """`limit` places, of one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """One place while the block runs; a Problem at once, 503, if none is free."""
        if self.taken >= self.limit:
            raise Problem(503, "Queue full", BUSY, headers=RETRY_AFTER)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
