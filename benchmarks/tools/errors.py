"""What goes wrong with programs of others."""


class ToolError(Exception):
    """A program cannot be had here, or failed; the message is one line that says which and why."""
