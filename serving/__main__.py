"""`python -m serving --repository build/flux-tiny-cpu`: Triton in the foreground until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from serving.embedded import EmbeddedTriton
from serving.errors import ServingError
from serving.launch import Options


class Stop(Exception):
    """SIGINT or SIGTERM arrived."""


def parse(argv: list[str]) -> argparse.Namespace:
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve a repository on loopback.")
    parser.add_argument("--repository", type=Path, nargs="+", required=True, help="assembled repositories")
    parser.add_argument(
        "--grpc-port", type=int, default=8001, metavar="N", help="0: a free one; default 8001"
    )
    parser.add_argument(
        "--metrics-port", type=int, default=8002, metavar="N", help="0: a free one; default 8002"
    )
    parser.add_argument("--log-dir", type=Path, default=Path("build/logs"), help="default build/logs")
    parser.add_argument(
        "--addresses", type=Path, metavar="FILE", help="write the addresses as JSON while serving"
    )
    parser.add_argument(
        "--threads", type=int, default=defaults.threads, metavar="N", help="per model; default all"
    )
    parser.add_argument(
        "--adapters", type=Path, default=defaults.adapters, metavar="FOLDER", help="the store of adapters"
    )
    parser.add_argument(
        "--startup-timeout", type=float, default=defaults.startup_timeout_seconds, metavar="SECONDS"
    )
    parser.add_argument("--exit-timeout", type=int, default=defaults.exit_timeout_seconds, metavar="SECONDS")
    return parser.parse_args(argv)


def stop(*_: int | FrameType | None) -> None:
    raise Stop


def show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def published(file: Path | None, triton: EmbeddedTriton) -> Iterator[None]:
    """The addresses in `file` while serving; it appears whole, for a process that waits for it."""
    if file is None:
        yield
        return
    addresses = {"grpc_url": triton.grpc_url, "metrics_url": triton.metrics_url, "pid": os.getpid()}
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(addresses) + "\n")
    try:
        unfinished.replace(file)
        yield
    finally:
        file.unlink(missing_ok=True)


def serve(arguments: argparse.Namespace) -> None:
    options = Options(
        grpc_port=arguments.grpc_port,
        metrics_port=arguments.metrics_port,
        threads=arguments.threads,
        startup_timeout_seconds=arguments.startup_timeout,
        exit_timeout_seconds=arguments.exit_timeout,
        adapters=arguments.adapters,
    )
    with EmbeddedTriton(arguments.repository, arguments.log_dir, options, report=show) as triton:
        print(f"gRPC {triton.grpc_url}  metrics {triton.metrics_url}  log {triton.log}", flush=True)
        with published(arguments.addresses, triton):
            triton.wait()


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        with suppress(Stop):
            serve(parse(argv))
    except ServingError as error:
        show(f"error: {error}")
        return 1
    show("triton: stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
