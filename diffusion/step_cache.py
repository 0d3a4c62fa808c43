"""The step cache: predictions forecast from earlier ones, so that the engine need not make every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

QUALITIES: Mapping[str, float | None] = {"high": None, "medium": 0.005, "low": 0.03}
"""What a request may ask for -> the tolerance of its StepCache; None: the engine makes every step.

Chosen to keep the LIMITS of `python -m benchmarks.step_cache --pictures 60`, which measures them on flux-tiny
over 60 prompts of 28 steps, beside the pictures of every step, without adapters and with: medium 2.1 times,
57.8 and 54.1 dB, 58.3 and 55.7; low 3.0 times, 49.5 and 44.1, 50.2 and 46.1."""
MAX_SKIPS = 8  # in a row, whatever the estimate says
Points = Sequence[tuple[float, Tensor]]
"""Sigmas and the engine's predictions there, newest first."""


class StepCache:
    """Forecasts predictions of one sample from that sample's own, so who shares its calls decides nothing.

    For samples that step by Euler's rule, `latents += (sigmas[step + 1] - sigmas[step]) * prediction`, as
    FlowMatchEulerDiscreteScheduler does. `sigmas` are those of the steps and of the end, [steps + 1].

    A prediction is forecast by the line through the engine's last two: the steps stay, their predictions are
    those of Adams-Bashforth's method of order 2. How far a line is off, Newton's remainder tells, with the
    divided difference D of the last three: D * (sigma - sigma_0) * (sigma - sigma_1). Such errors, summed as
    they enter the latents, may reach `tolerance`, as root mean squares and as a share of the prediction's;
    before they exceed it the engine is called, as at the first three steps, at the last and after MAX_SKIPS.
    The call brings another D, with which its step makes good what was forecast, as correctors do.

    The engine may be any: nothing inside it is looked at. Nearest kin: EasyCache (arXiv 2507.02860) decides
    by inputs and predictions too, but reuses predictions; TaylorSeer (arXiv 2503.06923) extrapolates, but
    features, at fixed intervals.
    """

    def __init__(self, tolerance: float, sigmas: Sequence[float]) -> None:
        self._tolerance, self._sigmas = tolerance, sigmas
        self._made: Points = ()
        self._bend = 0.0  # root mean square of D, as a share of the prediction's
        self._skips, self._moment = 0, 0.0  # since the last call; D times the moment is the latents' error

    def forecast(self, step: int) -> Tensor | None:
        """The prediction of `step` (from 0), to advance with; None: call the engine, and `observe` it."""
        if len(self._made) < 3 or self._skips == MAX_SKIPS or step == len(self._sigmas) - 2:
            return None
        (last, prediction), (previous, _), _ = self._made
        sigma = self._sigmas[step]
        moment = self._moment + (sigma - last) * (sigma - previous) * self._stride(step)
        if abs(moment) * self._bend > self._tolerance:
            return None
        self._skips, self._moment = self._skips + 1, moment
        return prediction + (sigma - last) * divided_difference(self._made[:2])

    def observe(self, step: int, prediction: Tensor) -> Tensor:
        """What to advance with at `step`, of which the engine made `prediction`: that and what makes good."""
        self._made = ((self._sigmas[step], prediction.clone()), *self._made[:2])  # engines may reuse memory
        moment = self._moment
        self._skips, self._moment = 0, 0.0
        if len(self._made) < 3:
            return prediction
        difference = divided_difference(self._made)
        self._bend = _root_mean_square(difference) / max(_root_mean_square(prediction), 1e-9)
        return prediction + difference * (moment / self._stride(step)) if moment else prediction

    def _stride(self, step: int) -> float:
        return self._sigmas[step + 1] - self._sigmas[step]


def divided_difference(points: Points) -> Tensor:
    """Newton's, of order len(points) - 1; of predictions [...] at sigmas that all differ."""
    if len(points) == 1:
        return points[0][1]
    change = divided_difference(points[:-1]) - divided_difference(points[1:])
    return change / (points[0][0] - points[-1][0])


def _root_mean_square(tensor: Tensor) -> float:
    return float(tensor.square().mean().sqrt())
