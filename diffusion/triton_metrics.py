"""Counts of a stage among Triton's own metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils


class Counters:
    """`postpulse_<name>_total{model="..."}` for each of `meanings`, name -> what it counts."""

    def __init__(self, model: str, meanings: Mapping[str, str]) -> None:
        self._told = dict.fromkeys(meanings, 0)
        kind = pb_utils.MetricFamily.COUNTER
        self._families = {  # a metric ends with its family
            name: pb_utils.MetricFamily(name=f"postpulse_{name}_total", description=meaning, kind=kind)
            for name, meaning in meanings.items()
        }
        self._metrics: dict[str, Any] = {
            name: family.Metric(labels={"model": model}) for name, family in self._families.items()
        }

    def tell(self, counts: Mapping[str, int]) -> None:
        """Raises each metric to its count; one that has not grown costs nothing."""
        for name, told in self._told.items():
            if (grown := counts.get(name, 0) - told) > 0:
                self._metrics[name].increment(grown)
                self._told[name] += grown
