"""Starts and stops Triton: tritonserver from the nvidia-pytriton wheel, with the backends that it lacks."""

from serving.embedded import EmbeddedTriton
from serving.errors import ServingError

__all__ = ["EmbeddedTriton", "ServingError"]
