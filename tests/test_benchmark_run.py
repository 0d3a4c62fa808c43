"""A run of the benchmarks: what fails, and what no time is left for, is named, and the rest goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.__main__ import attempted, main
from benchmarks.rows import Maker, Missing, Row
from benchmarks.run import Run


def test_what_fails_in_a_part_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(run: Run) -> Iterator[Row]:
        yield Maker("cache").row("first", "ms", [1.0])
        raise ValueError("no such\nthing")

    monkeypatch.setattr("benchmarks.__main__.PARTS", {"cache": breaks})
    found = list(attempted("cache", timed_run(math.inf)))
    assert isinstance(found[0], Row)
    assert found[1] == Missing("cache", "the rest of it", "ValueError: no such thing", failed=True)


def test_time_that_is_over_ends_a_part_before_it_measures_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(run: Run) -> Iterator[Row]:
        yield Maker("cache").row("first", "ms", [1.0])
        monkeypatch.setattr("benchmarks.run.time.monotonic", lambda: math.inf)
        run.check_time()

    monkeypatch.setattr("benchmarks.__main__.PARTS", {"cache": measure})
    reason = "no time was left; --minutes gives more"
    first, missing = attempted("cache", timed_run(1e12))
    assert isinstance(first, Row) and missing == Missing("cache", "the rest of it", reason)
    assert [*attempted("cache", timed_run(-math.inf))] == [Missing("cache", "everything", reason)]


def timed_run(until: float) -> Run:
    return Run(Path(), Path(), 1, until, ExitStack())


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["latency"])
    assert "unknown part 'latency'; choices: limits, alone," in capsys.readouterr().err
