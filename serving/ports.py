"""TCP ports on loopback: a given one is checked, 0 becomes a free one."""

from __future__ import annotations

import random
import socket

from serving.errors import ServingError

LOOPBACK = "127.0.0.1"
# Below the range from which systems number outgoing connections: models load for seconds before Triton binds.
CHOICES = range(20000, 32000)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def resolve_port(port: int, purpose: str, taken: int | None = None) -> int:
    """`port` if it is free, a free one if it is 0, never `taken`; ServingError names the option."""
    option = f"--{purpose.lower()}-port"
    if not 0 <= port <= 65535:
        raise ServingError(
            f"{purpose} port {port} is not a port; choose a {option} of 1 to 65535, or 0 for a free one"
        )
    if port == 0:
        candidates = random.sample(CHOICES, len(CHOICES))
        return next(choice for choice in candidates if choice != taken and is_free(choice))
    if port == taken or not is_free(port):
        raise ServingError(
            f"{purpose} port {port} on {LOOPBACK} is in use; choose another {option}, or 0 for a free one"
        )
    return port
