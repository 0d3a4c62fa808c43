"""Why a picture is not finished; what a request may not ask for is families' InvalidRequest."""


class Cancelled(Exception):
    """Nobody waits for the picture any more."""


class Stopping(Exception):
    """The server ends before the picture is finished."""


class Expired(Exception):
    """The picture's deadline passed before it was finished."""


class QueueFull(Exception):
    """All places to wait in are taken; the message says how many there are."""


class EngineError(Exception):
    """An engine refused a call or failed in it; the message names its model."""


class BadPrediction(Exception):
    """An engine answered with something that is no prediction; it concerns one sample only."""
