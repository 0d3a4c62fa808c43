"""`python -m gateway`: serves REST in front of a running Triton, or of one that it starts itself."""

import argparse
import json
import logging
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from gateway.app import create_app
from gateway.demo import LOG_FOLDER, show
from gateway.schemas import EXAMPLE_PROMPT
from gateway.server import LOOPBACK, ServerError, listen, url_of, uvicorn_server
from gateway.settings import Settings, SettingsError, described, load, misspelt
from gateway.triton import CHANNEL_ARGS
from serving import EmbeddedTriton, ServingError
from serving.launch import Options

NOT_YET = f"{LOOPBACK}:0"  # a Triton whose address is known once it runs


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gateway",
        description=__doc__,
        epilog=f"settings, as environment variables:\n{described()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--triton", metavar="HOST:PORT", help="gRPC of a running Triton (or POSTPULSE_TRITON_URL)"
    )
    where.add_argument(
        "--embedded", metavar="REPOSITORY", type=Path, nargs="+", help="start Triton on these repositories"
    )
    parser.add_argument(
        "--grpc-port",
        type=int,
        default=8001,
        help="Triton's gRPC of --embedded; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=8002,
        help="Triton's metrics of --embedded; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument("--host", default=LOOPBACK, help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one (default: %(default)s)")
    return parser.parse_args()


def serve(arguments: argparse.Namespace) -> None:
    """Serves until Ctrl-C. Settings and the address are tried first: Triton takes a while to load."""
    settings = load(NOT_YET if arguments.embedded else arguments.triton)
    for line in misspelt():
        show(f"warning: {line}")
    if not settings.adapters.is_dir():
        show(f"warning: there is no store of adapters at {settings.adapters}; industries are words only")
    with listen(arguments.host, arguments.port) as listener:
        if not arguments.embedded:
            warn_if_away(settings)
            return run(listener, settings)
        ports = Options(arguments.grpc_port, arguments.metrics_port)
        with EmbeddedTriton(arguments.embedded, LOG_FOLDER, ports, show) as triton:
            show(f"metrics: {triton.metrics_url}")
            run(listener, settings.model_copy(update={"triton_url": triton.grpc_url}))


def warn_if_away(settings: Settings) -> None:
    """A gateway may start before its Triton does, but its address may be wrong too."""
    with (
        InferenceServerClient(settings.triton_url, channel_args=CHANNEL_ARGS) as client,
        suppress(InferenceServerException),
    ):
        if client.is_server_live(client_timeout=settings.probe_seconds):
            return
    show(f"warning: no live Triton at {settings.triton_url}; GET /readyz tells when there is one")


def run(listener: socket.socket, settings: Settings) -> None:
    app, url, body = create_app(settings), url_of(listener), json.dumps({"prompt": EXAMPLE_PROMPT})
    show(f"gateway: {url}  (documentation: {url}/docs, Triton: {settings.triton_url})")
    show(f"try: curl -s {url}/generate-image -H 'Content-Type: application/json' -d '{body}'")
    uvicorn_server(app, settings).run(sockets=[listener])


def main() -> int:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:  %(name)s: %(message)s")
    # As Ctrl-C does, so that Triton is stopped too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(arguments)
    except KeyboardInterrupt:
        return 0
    except (ServerError, ServingError, SettingsError, OSError) as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
