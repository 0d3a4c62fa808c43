"""Where a request's time goes: engines, Triton's Python stages, gateway; by Triton's own statistics."""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import InferenceServerClient

from families import FLUX
from gateway.app import create_app
from gateway.demo import EXAMPLE_PROMPT, fetch
from gateway.server import background
from gateway.settings import Settings
from serving import EmbeddedTriton

ENGINES = tuple(FLUX.model_name(component) for component in FLUX.components)
TAKES = itertools.count()
SCHEDULER, TOKENIZER = "flux_scheduler", "flux_tokenizer"


@dataclass(frozen=True)
class Spent:
    """Seconds that Triton counted: waiting in queues, and computing (input, inference and output)."""

    queue: float
    compute: float

    def __sub__(self, earlier: Spent) -> Spent:
        return Spent(self.queue - earlier.queue, self.compute - earlier.compute)


def statistics_by_model(client: InferenceServerClient) -> dict[str, Spent]:
    rows = {}
    for model in client.get_inference_statistics().model_stats:
        stats = model.inference_stats
        parts = (stats.compute_input, stats.compute_infer, stats.compute_output, stats.cache_hit)
        rows[model.name] = Spent(stats.queue.ns / 1e9, sum(part.ns for part in parts) / 1e9)
    return rows


def breakdown(spent: dict[str, Spent], total: float) -> dict[str, float]:
    """Seconds by stage. The scheduler's own time is its span less the transformer calls it waits for."""
    engines = {name: spent[name].compute for name in ENGINES}
    inner = spent["flux_transformer"]
    stages = {
        **engines,
        TOKENIZER: spent[TOKENIZER].compute,
        f"{SCHEDULER} (loop and BLS)": spent[SCHEDULER].compute - inner.compute,
    }
    return {**stages, "gateway, gRPC, PNG, ensemble": total - sum(stages.values())}


def measure(
    url: str, client: InferenceServerClient, requests: int, body: dict[str, object]
) -> dict[str, float]:
    """Seconds by stage of the median request; each has a prompt of its own, so no cache helps."""
    runs = []
    for number in itertools.islice(TAKES, requests):
        before, start = statistics_by_model(client), time.perf_counter()
        fetch(f"{url}/generate-image", {**body, "prompt": f"{EXAMPLE_PROMPT}, take {number}", "seed": number})
        total, after = time.perf_counter() - start, statistics_by_model(client)
        runs.append(
            {"total": total, **breakdown({name: after[name] - before[name] for name in after}, total)}
        )
    return sorted(runs, key=lambda run: run["total"])[len(runs) // 2]


def table(row: dict[str, float]) -> str:
    """The Python-based backend's compute counts its copies too: what is outside engines is at least this."""
    total = row["total"]
    rows = {**row, "outside engines (at least)": total - sum(row[name] for name in ENGINES)}
    return "\n".join(f"{name:34} {took * 1000:9.2f} ms {took / total:7.1%}" for name, took in rows.items())


def report(url: str, client: InferenceServerClient, size: int, steps: int, requests: int) -> None:
    """Prints the table of the median request, then its JSON line."""
    body = {"width": size, "height": size, "num_inference_steps": steps}
    measure(url, client, 2, body)  # warm-up
    row = measure(url, client, requests, body)
    print(f"\n{size} x {size} pixels, {steps} steps, the median of {requests} requests\n{table(row)}")
    print(json.dumps({"size": size, "steps": steps, "requests": requests, **row}), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("build/flux-tiny-cpu"))
    parser.add_argument("--requests", type=int, default=9)
    parser.add_argument("--size", type=int, nargs="+", default=[128, 256, 512], help="pixels, square")
    parser.add_argument("--num-inference-steps", type=int, default=28)
    return parser.parse_args()


def main() -> None:
    options = parse()
    with (
        EmbeddedTriton([options.repository], Path("out/logs")) as triton,
        InferenceServerClient(triton.grpc_url) as client,
        tempfile.TemporaryDirectory() as pictures,
    ):
        settings = Settings(triton_url=triton.grpc_url, public_url=None, storage_folder=Path(pictures))
        with background(create_app(settings), settings) as url:
            for size in options.size:
                report(url, client, size, options.num_inference_steps, options.requests)


if __name__ == "__main__":
    main()
