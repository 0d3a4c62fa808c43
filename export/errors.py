"""What export refuses, in one line."""


class ExportError(Exception):
    """The export cannot be done; the message names the thing, the value and what would do."""
