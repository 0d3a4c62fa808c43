"""Users' ratings, 1 to 5, from a CSV or JSON file: the mean of each model and industry."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

COLUMNS = ("model", "industry", "rating")


@dataclass(frozen=True)
class Rating:
    """The mean of `count` ratings; `industry` None is over all of a model's."""

    model: str
    industry: str | None
    mean: float
    count: int


def read(path: Path) -> tuple[Rating, ...]:
    """Means by model and industry, then by model alone. ValueError names the row and what is wrong with it.

    A CSV file has the columns model, industry, rating; a JSON file a list of objects with these keys.
    """
    groups = dict[tuple[str, str | None], list[float]]()
    for number, row in enumerate(_rows(path), start=1):
        model, industry, value = _checked(row, f"{path} row {number}")
        for key in ((model, industry), (model, None)):
            groups.setdefault(key, []).append(value)
    found = [Rating(*key, round(fmean(values), 3), len(values)) for key, values in groups.items()]
    return tuple(sorted(found, key=lambda one: (one.industry is None, one.model, one.industry or "")))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".json":
        yield from json.loads(path.read_text())
    elif path.suffix == ".csv":
        with path.open(newline="") as file:
            yield from csv.DictReader(file)
    else:
        raise ValueError(f"{path} is neither .csv nor .json")


def _checked(row: dict[str, Any], where: str) -> tuple[str, str, float]:
    missing = [name for name in COLUMNS if not row.get(name)]
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing)}; columns: {', '.join(COLUMNS)}")
    try:
        value = float(row["rating"])
    except ValueError:
        value = 0.0
    if not 1 <= value <= 5:
        raise ValueError(f"{where}: rating {row['rating']!r} is not in 1..5")
    return str(row["model"]), str(row["industry"]), value
