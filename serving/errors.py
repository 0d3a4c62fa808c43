"""What can go wrong while serving, told in one line."""


class ServingError(RuntimeError):
    """Triton cannot start or has stopped. The first line is the fault; further lines quote Triton's log."""
