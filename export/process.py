"""What this process takes of the machine."""

import resource


def peak_gb() -> float:
    """The most memory that this process ever had, in decimal GB."""
    kilobytes: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024 / 1e9
