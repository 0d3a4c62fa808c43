"""The benchmark suite: what it computes from times, what it reads of other programs, what it writes."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from benchmarks import perf_inputs, plots, report
from benchmarks.__main__ import PARTS, durations, main
from benchmarks.adapters.turns import Spread
from benchmarks.client import Door, all_good, closed, kept_open, open_loop, per_second
from benchmarks.parts import http_tool, overhead, perf_analyzer
from benchmarks.rows import Maker, Missing, Row, at_least, at_most
from benchmarks.run import checkpoint, request_flops
from benchmarks.service import Spent, change
from benchmarks.tools import perf_analyzer as tool
from benchmarks.tools.errors import ToolError
from families.costs import flops

SERVE_SECONDS = 0.05


class Handler(BaseHTTPRequestHandler):
    """Serves one request at a time, two may wait; the others are refused."""

    protocol_version = "HTTP/1.1"  # connections stay open
    one_at_a_time, waiting = threading.Lock(), threading.Semaphore(3)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.waiting.acquire(blocking=False):
            return self._answer(503, b"", {"Retry-After": "2"})
        with self.one_at_a_time:
            time.sleep(SERVE_SECONDS)
        self.waiting.release()
        url, port = f"http://{self.headers['Host']}/{body['seed']}", self.client_address[1]
        self._answer(200, json.dumps({"generated_image_url": url, "port": port}).encode(), {})

    def do_GET(self) -> None:
        self._answer(200, f"picture {self.path}".encode(), {})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_closed_loop_asks_for_all_and_fetches_pictures(url: str) -> None:
    answers = all_good(closed(Door(url, follows=True), [{"seed": seed} for seed in range(7)], clients=3))
    assert [answer.content for answer in answers] == [f"picture /{seed}".encode() for seed in range(7)]
    assert per_second(answers) <= 1 / SERVE_SECONDS


def test_waiting_for_a_place_counts_as_latency(url: str) -> None:
    answers = closed(Door(url), [{"seed": seed} for seed in range(3)], clients=3, places=1)
    least = sorted(answer.milliseconds for answer in all_good(answers))
    assert all(took >= 1000 * SERVE_SECONDS * place for place, took in enumerate(least, start=1))


def test_a_connection_is_kept_open(url: str) -> None:
    with kept_open(Door(url)) as ask:
        answers = all_good([ask({"seed": seed}) for seed in range(2)])
    said = [json.loads(answer.content) for answer in answers]
    assert [each["generated_image_url"] for each in said] == [f"{url}/0", f"{url}/1"]
    assert said[0]["port"] == said[1]["port"]
    assert all(answer.milliseconds >= 1000 * SERVE_SECONDS for answer in answers)


def test_an_open_loop_does_not_wait_for_answers(url: str) -> None:
    answers = open_loop(Door(url), [{"seed": seed} for seed in range(20)], per_second=1000, drain=5.0)
    statuses = [answer.status for answer in answers]
    assert {*statuses} == {200, 503} and statuses.count(200) >= 3
    assert {answer.retry_after for answer in answers if answer.status == 503} == {"2"}
    with pytest.raises(RuntimeError, match="got 503"):
        all_good(answers)


def test_clients_leave_when_the_time_is_over(url: str) -> None:
    (answer,) = open_loop(Door(url), [{"seed": 0}], per_second=1000, drain=0.0)
    assert (answer.status, answer.good) == (0, False)


def test_a_row_has_all_that_a_machine_needs() -> None:
    maker = Maker("peers", {"px": 128})
    row = maker.also(clients=8).ratio(
        "throughput", "service / LitServe", [2.0, 3.0, 4.0], at_least("E4", 2.5)
    )
    assert json.loads(row.line()) == {
        "part": "peers",
        "name": "throughput",
        "unit": "ratio",
        "median": 3.0,
        "quartiles": [2.5, 3.5],
        "n": 3,
        "of": "service / LitServe",
        "floor": None,
        "goal": "E4: >= 2.5",
        "verdict": "met",
        "conditions": {"px": 128, "clients": 8},
        "command": "python -m benchmarks peers",
    }
    assert maker.row("PNG", "ms", [6.0], at_most("E2", 5)).verdict == "missed"


def test_a_percentile_is_of_all_values_between_quartiles_of_the_rounds() -> None:
    row = Maker("load").percentile("latency p50", 50, [[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
    assert (row.value, row.n) == (Spread(3.0, 4.0, 5.0), 6)


EXPORTED = {
    "experiments": [
        {
            "experiment": {"mode": "concurrency", "value": 2},
            "requests": [
                {"timestamp": 1_000_000 * start, "response_timestamps": [1_000_000 * (start + 4)]}
                for start in range(0, 20, 2)
            ],
        }
    ]
}


def test_perf_analyzers_export_becomes_latency_and_throughput() -> None:
    latency, throughput = perf_analyzer.rows(EXPORTED, "flux-tiny", "flux_lora")
    assert isinstance(latency, Row) and isinstance(throughput, Row)
    assert (latency.value, latency.n) == (Spread(4.0, 4.0, 4.0), 10)
    assert latency.conditions["concurrency"] == 2
    assert throughput.value.median == pytest.approx(500) and throughput.n == 5


def test_locusts_notes_become_latency_and_throughput() -> None:
    notes = [{"end": 0.1 * number, "milliseconds": 100.0, "error": ""} for number in range(40)]
    median, p95, throughput = http_tool.rows(notes, 1)
    assert [median.value.median, p95.value.median] == [100, 100]
    assert throughput.value.median == pytest.approx(10)
    with pytest.raises(RuntimeError, match="1 of locust's 41 requests failed: 503"):
        list(http_tool.rows([*notes, {"end": 5.0, "milliseconds": 1.0, "error": "503"}], 1))


def test_stages_add_up_to_the_request() -> None:
    stages = (*overhead.ENGINES, overhead.TOKENIZER, overhead.LORA)
    before = {name: Spent(0.0, 1.0, 1) for name in (*stages, overhead.ENSEMBLE)}
    after = {name: Spent(0.1, 1.01, 2) for name in stages}
    after["flux_vae_encoder"] = before["flux_vae_encoder"]  # not asked
    after[overhead.ENSEMBLE] = Spent(0.0, 1.0, 2, success=0.4)
    found = overhead.breakdown(change(before, after), total=0.5)
    assert sum(found.values()) == pytest.approx(0.5)
    assert found[overhead.LOOP] == pytest.approx(0.4 - 6 * 0.01) and found[overhead.OUTSIDE] == pytest.approx(
        0.1
    )
    assert "flux_vae_encoder" not in found


@pytest.mark.parametrize("name", ["flux-tiny", "sdxl-tiny"])
def test_a_steps_floor_is_a_call_of_the_denoiser(name: str) -> None:
    found = checkpoint(name)
    rows = found.family.denoiser.rows_per_picture
    axes = found.family.axes(batch=rows, height=128, width=128, text_length=found.max_sequence_length)
    step = flops(found.family, found.family.denoiser, found.configs, axes)
    assert request_flops(found, 128, 5) - request_flops(found, 128, 4) == step


class Balanced(HTMLParser):
    """Notes what is open; void elements never are."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.seen = list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def some_rows() -> list[Row]:
    load = Maker("load", {"workload": "flux-tiny", "loop": "closed"})
    stages = Maker("overhead", {"px": 128})
    return [
        *(load.also(clients=n).row(name, "ms", [n, n + 1.0]) for n in (1, 8) for name in plots.PERCENTILES),
        *(stages.also(stage=name).row("stage", "ms", [1.0]) for name in ("flux_transformer", "gateway")),
        Maker("peers", {"way": "service", "workload": "equal steps"}).row(
            "throughput, service", "pictures/s", [3.0]
        ),
        Maker("peers", {"way": "a | <b>"}).ratio("throughput", "service / peer", [3.0], at_least("E4", 2.5)),
    ]


def test_the_report_is_whole_and_needs_no_other_file(tmp_path: Path) -> None:
    missing = Missing("perf_analyzer", "everything", "needs libb64.so.0d")
    report.write([*some_rows(), missing], {"processor": "some", **durations({"load": 90.0})}, tmp_path)
    html = (tmp_path / "report.html").read_text()
    parser = Balanced()
    parser.feed(html)
    assert parser.open == [] and parser.seen.count("svg") == 3
    assert "src=" not in html and "libb64.so.0d" in html and "a | &lt;b&gt;" in html
    assert "<td class='met'>met</td>" in html and "1.5 minutes: load 90 s" in html
    markdown = (tmp_path / "report.md").read_text()
    shown = [line.split("(")[1].rstrip(")") for line in markdown.splitlines() if line.startswith("![")]
    assert len(shown) == 3 and all((tmp_path / file).exists() for file in shown)
    assert "a \\| <b>" in markdown
    cut_short = [row for row in some_rows() if row.conditions.get("clients") != 8]
    assert plots.latency_under_load(cut_short) is None


def test_a_file_that_was_not_pinned_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "libb64.so.0d"
    file.write_bytes(b"another")
    with pytest.raises(ToolError, match=r"libb64.so.0d has sha256 .*, expected 9d910643"):
        tool.checked(file, tool.LIBB64_SHA256)


def test_a_part_runs_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines of flux-tiny at one size, and the report of them."""
    from tiny_service import exported

    from benchmarks.parts import limits

    exported("flux-tiny")
    monkeypatch.setattr(limits, "CHECKPOINTS", ("flux-tiny",))
    monkeypatch.setattr(limits, "LARGE", ())
    assert main(["limits", "--rounds", "1", "--output", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    engines = {row["conditions"].get("component") for row in rows}
    assert {"text_encoder", "text_encoder_2", "transformer", "vae_decoder", "vae_encoder"} <= engines
    assert all(row["floor"] > 0 for row in rows if "component" in row["conditions"])
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_inputs_of_perf_analyzer_are_bytes_or_texts() -> None:
    arrays = {"loras": np.array([[b"food"]], dtype=object), "mean": np.arange(6, dtype=np.float32)[None]}
    entry = perf_inputs.entry_of(arrays)
    assert entry["loras"] == {"content": ["food"], "shape": [1]}
    assert entry["mean"]["shape"] == [6]
    assert np.frombuffer(base64.b64decode(entry["mean"]["content"]["b64"]), np.float32).tolist() == [
        *range(6)
    ]


def test_text_encoders_get_inputs_that_no_cache_knows() -> None:
    component = checkpoint("flux-tiny").family.component("text_encoder")
    entries = list(perf_inputs.engine_entries("flux-tiny", component, 5))
    assert len({json.dumps(entry) for entry in entries}) == 5


def test_a_run_without_time_names_every_part(tmp_path: Path) -> None:
    assert main(["--minutes", "0", "--output", str(tmp_path)]) == 0
    named = [json.loads(line)["part"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert named == [*PARTS]
    assert all(name in (tmp_path / "report.html").read_text() for name in PARTS)
