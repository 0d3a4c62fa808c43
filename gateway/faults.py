"""Triton's errors -> answers. UNAVAILABLE means five things, so the message decides, not the code alone."""

import re
from dataclasses import dataclass

from tritonclient.utils import InferenceServerException

from gateway.problems import Problem

RETRY_AFTER = {"Retry-After": "2"}
CONNECTION_LOST = (
    r"failed to connect|connection (reset|refused|aborted|timed out)|socket closed|broken pipe|goaway"
    r"|stream removed|recvmsg|endpoint|end of tcp stream|channel is closed|name resolution|transport"
)


@dataclass(frozen=True)
class Fault:
    """A row: gRPC `code`, a pattern in its message, and the answer. `doubt`: Triton may not work any more.

    `unanswered`: the client gave up, or lost the connection, so Triton may still be drawing.
    `absent`: Triton has not loaded such a model; most likely its repositories have none.
    """

    code: str
    message: str
    status: int
    title: str
    detail: str
    retry: bool = False
    doubt: bool = False
    unanswered: bool = False
    absent: bool = False

    @property
    def problem(self) -> Problem:
        headers = RETRY_AFTER if self.status == 503 else None
        return Problem(self.status, self.title, self.detail, headers=headers)


BUSY = "all places in the queue are taken; try again later"
LATER = "the model server cannot draw at present; try again later"
LATE = "the picture was not ready in time; try again, or ask for fewer steps or a smaller picture"
OURS = "the gateway and the model server disagree; this is our fault and has been logged"
FAILED = "the model server answered with an error; it has been logged"
# The first row that fits counts; an empty code or message fits everything.
FAULTS = (
    Fault("UNAVAILABLE", "exceeds maximum queue size", 503, "Queue full", BUSY),
    Fault("RESOURCE_EXHAUSTED", "", 503, "Queue full", BUSY),
    Fault("UNAVAILABLE", "request timeout expired", 503, "Queue timeout", BUSY),
    Fault("UNAVAILABLE", "places in the queue are taken", 503, "Queue full", BUSY),
    Fault("UNAVAILABLE", "the deadline passed", 504, "Deadline exceeded", LATE),
    Fault("UNAVAILABLE", "server is stopping", 503, "Model server stopping", LATER, retry=True, doubt=True),
    Fault("UNAVAILABLE", "restricted", 500, "Model server misconfigured", OURS),
    Fault("UNAVAILABLE", CONNECTION_LOST, 503, "Model server unreachable", LATER, True, True, True),
    Fault("UNAVAILABLE", "", 503, "Model server unavailable", LATER, doubt=True),
    Fault("CANCELLED", "", 503, "Cancelled", "the request was cancelled in the model server; try again"),
    Fault("DEADLINE_EXCEEDED", "", 504, "Deadline exceeded", LATE, unanswered=True),
    Fault("INTERNAL", "stub process .* is not healthy", 503, "Model crashed", LATER, doubt=True),
    Fault("INVALID_ARGUMENT", "", 500, "Model refused the request", OURS, doubt=True),
    Fault("NOT_FOUND", "is not found", 503, "Model not loaded", LATER, absent=True),
    Fault("NOT_FOUND", "", 503, "Model not loaded", LATER, doubt=True),
    Fault("", "", 502, "Model failed", FAILED),
)


def fault_of(error: InferenceServerException) -> Fault:
    """The row for `error`."""
    code, message = str(error.status()).removeprefix("StatusCode."), error.message() or ""
    return next(
        fault
        for fault in FAULTS
        if fault.code in ("", code) and re.search(fault.message, message, re.IGNORECASE | re.DOTALL)
    )
