"""`python -m gateway.demo`: Triton, gateway, two real requests, the pictures in files, everything stopped."""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from gateway.app import create_app
from gateway.schemas import EXAMPLE_PROMPT
from gateway.server import ServerError, background
from gateway.settings import SettingsError, load
from serving import EmbeddedTriton, ServingError

EXAMPLE_EDIT = "a red backpack on a teal gradient background"
EXAMPLE_SEED = 7  # fixed, so that everybody sees the same picture first
LOG_FOLDER = Path("out/logs")
# Loopback is never reached through a proxy.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DemoError(Exception):
    """The gateway refused the request."""


def show(line: str) -> None:
    print(line, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway.demo", description=__doc__)
    parser.add_argument(
        "--repository", type=Path, nargs="+", required=True, help="as `python -m export` writes them"
    )
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder of the pictures")
    parser.add_argument("--prompt", default=EXAMPLE_PROMPT)
    parser.add_argument("--seed", type=int, default=EXAMPLE_SEED)
    return parser.parse_args()


def fetch(url: str, body: dict[str, Any] | None = None) -> bytes:
    """The answer to a GET, or to a POST of `body` as JSON; DemoError says why the gateway refused."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with OPENER.open(request, timeout=600) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        with error:
            raise DemoError(f"{url} answered {error.code}: {json.load(error)['detail']}") from error


def draw(triton_url: str, prompt: str, seed: int, output: Path) -> None:
    """Asks a gateway in front of `triton_url` for a picture, then for another that starts from it."""
    settings = load(triton_url).model_copy(update={"public_url": None})
    output.mkdir(parents=True, exist_ok=True)
    with background(create_app(settings), settings) as url:
        show(f"gateway: {url}")
        first = ask(url, {"prompt": prompt, "seed": seed}, output / "demo.png")
        base = f"data:image/png;base64,{base64.b64encode(first).decode()}"
        body = {"prompt": EXAMPLE_EDIT, "seed": seed, "strength": 0.7, "base_image_url": base}
        ask(url, body, output / "demo-image-to-image.png")


def ask(url: str, body: dict[str, Any], output: Path) -> bytes:
    """The picture that the gateway at `url` draws for `body`, saved as `output`."""
    said = {name: shortened(value) if isinstance(value, str) else value for name, value in body.items()}
    show(f"POST {url}/generate-image {json.dumps(said, ensure_ascii=False)}")
    answer = json.loads(fetch(f"{url}/generate-image", body))
    content = fetch(answer["generated_image_url"])
    output.write_bytes(content)
    show(json.dumps(answer, indent=2, ensure_ascii=False))
    show(f"picture: {output}")
    return content


def shortened(text: str, length: int = 60) -> str:
    """For people: a picture in a data: URI is long."""
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


def main() -> int:
    arguments = parse()
    try:
        with EmbeddedTriton(arguments.repository, LOG_FOLDER, report=show) as triton:
            draw(triton.grpc_url, arguments.prompt, arguments.seed, arguments.output)
        show("all is stopped again; `make serve` keeps it running for pictures of your own")
    except (DemoError, ServerError, ServingError, SettingsError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
