"""Why a base image cannot be used. Messages reach clients: none tells an address that a name resolved to."""


class BaseImageError(Exception):
    """The base image cannot be used."""

    url: str | None = None  # where the client said it is; None of an upload


class BaseImageRefused(BaseImageError):
    """What the client gave is not allowed, or is no good picture."""


class BaseImageUnavailable(BaseImageError):
    """The server that has the picture failed."""


class BaseImageTimeout(BaseImageError):
    """Fetching or decoding took too long."""
