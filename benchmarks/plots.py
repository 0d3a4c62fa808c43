"""The report's pictures: latency under load, where time goes, how cost grows, us against peers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.rows import RATIO, Condition, Row

WIDE = (9.0, 3.6)
PERCENTILES = ("latency p50", "latency p95")


def having(rows: Iterable[Row], part: str, **conditions: Condition) -> list[Row]:
    """Rows of a part with these conditions."""
    return [
        row
        for row in rows
        if row.part == part and all(row.conditions.get(key) == value for key, value in conditions.items())
    ]


def errors(rows: Sequence[Row]) -> list[list[float]]:
    """From medians down and up to the quartiles."""
    return [
        [max(0.0, row.value.median - row.value.low) for row in rows],
        [max(0.0, row.value.high - row.value.median) for row in rows],
    ]


def line(axes: Axes, rows: Sequence[Row], by: str, label: str) -> None:
    values = [row.value.median for row in rows]
    axes.errorbar(
        [row.conditions[by] for row in rows], values, errors(rows), marker="o", capsize=3, label=label
    )


def latency_under_load(rows: Sequence[Row]) -> Figure | None:
    measured = [row for row in having(rows, "load", workload="flux-tiny") if "way" not in row.conditions]
    closed, opened = (
        [row for row in having(measured, "load", loop=loop) if row.unit != RATIO]
        for loop in ("closed", "open")
    )
    if len({row.conditions["clients"] for row in closed}) < 2:  # the time was too short for the part
        return None
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=WIDE, layout="constrained")
    for name in PERCENTILES:
        line(left, [row for row in closed if row.name == name], "clients", name.split()[-1])
        line(middle, [row for row in opened if row.name == name], "share of capacity", name.split()[-1])
    line(right, [row for row in closed if row.name == "throughput"], "clients", "closed loop")
    _say(left, "closed loop", "clients", "latency, ms")
    _say(middle, "open loop", "arrivals, share of capacity", "latency, ms")
    _say(right, "throughput", "clients", "pictures/s")
    return figure


def where_time_goes(rows: Sequence[Row]) -> Figure | None:
    """A bar for each size, of shares of the request."""
    found = [row for row in having(rows, "overhead") if "stage" in row.conditions]
    if not found:
        return None
    sizes = sorted({int(row.conditions["px"]) for row in found})
    totals = {size: sum(row.value.median for row in having(found, "overhead", px=size)) for size in sizes}
    figure, axes = pyplot.subplots(figsize=WIDE)
    left = [0.0] * len(sizes)
    for stage in dict.fromkeys(str(row.conditions["stage"]) for row in found):
        shares = [100 * _stage(found, stage, size) / totals[size] for size in sizes]
        axes.barh(
            [f"{size} px\n{totals[size]:.0f} ms" for size in sizes],
            shares,
            left=left,
            label=stage.removeprefix("flux_"),
        )
        left = [before + share for before, share in zip(left, shares, strict=True)]
    _say(axes, "where a request's time goes", "share of the request, %", "")
    axes.legend(fontsize=7, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def _stage(rows: Sequence[Row], stage: str, size: int) -> float:
    return sum(row.value.median for row in having(rows, "overhead", stage=stage, px=size))


def growth(rows: Sequence[Row]) -> Figure | None:
    """Cost by steps, by pixels, by batch: measured, and the floor below it."""
    found = having(rows, "scaling")
    if not found:
        return None
    figure, panels = pyplot.subplots(1, 3, figsize=WIDE, layout="constrained")
    for axes, (by, key) in zip(
        panels, (("steps", "steps"), ("pixels", "px"), ("batch", "batch")), strict=True
    ):
        for name in dict.fromkeys(str(row.conditions["checkpoint"]) for row in found):
            points = having(found, "scaling", by=by, checkpoint=name)
            line(axes, points, key, name)
            floors = [row.floor for row in points]
            axes.plot([row.conditions[key] for row in points], floors, ":", color=axes.lines[-1].get_color())
        _say(axes, f"by {by}", "pixels, each way" if by == "pixels" else by, "ms (dotted: floor)")
    return figure


def us_against_peers(rows: Sequence[Row]) -> Figure | None:
    """Of `alone` and `compiled` the times of a picture, of `peers` throughput and p95 under 8 clients."""
    one = [
        row for part in ("compiled", "alone") for row in having(rows, part, checkpoint="flux-tiny", px=128)
    ]
    times = {str(row.conditions["way"]): row for row in one if row.unit == "ms"}  # of both, ours in `alone`
    peers = having(rows, "peers", workload="equal steps")
    throughput = {str(row.conditions["way"]): row for row in peers if row.unit == "pictures/s"}
    late = {str(row.conditions["way"]): row for row in peers if row.name.startswith("latency p95,")}
    panels = [
        ("a picture alone, ms", times),
        ("8 clients, pictures/s", throughput),
        ("8 clients, p95, ms", late),
    ]
    shown = [(title, found) for title, found in panels if found]
    if not shown:
        return None
    figure, places = pyplot.subplots(1, len(shown), figsize=(11.0, 3.2), squeeze=False, layout="constrained")
    for axes, (title, found) in zip(places[0], shown, strict=True):
        bars(axes, found)
        _say(axes, title, "", "")
    return figure


def bars(axes: Axes, rows: Mapping[str, Row]) -> None:
    values = [row.value.median for row in rows.values()]
    colours = ["C2" if name == "service" else "C7" for name in rows]
    names = [name.replace(" + ", " +\n") for name in rows]
    axes.barh(names, values, xerr=errors(list(rows.values())), color=colours, capsize=3)
    axes.tick_params(axis="y", labelsize=7)


def _say(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


Plot = Callable[[Sequence[Row]], Figure | None]
PLOTS: Mapping[str, Plot] = {
    "us against peers": us_against_peers,
    "latency vs load": latency_under_load,
    "where time goes": where_time_goes,
    "cost by steps, pixels and batch": growth,
}


def drawn(rows: Sequence[Row]) -> dict[str, str]:
    """Title -> SVG, of those that there are rows for."""
    figures: dict[str, Any] = {title: plot(rows) for title, plot in PLOTS.items()}
    return {title: svg(figure) for title, figure in figures.items() if figure}


def svg(figure: Figure) -> str:
    """Without XML's declaration, as HTML takes it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    text = file.getvalue()
    return text[text.index("<svg") :]
