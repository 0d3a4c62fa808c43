"""A base image by URL, data: URI or upload: where it may come from, what reaches the model."""

import base64
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from gateway_support import Gateway, gateway_before, is_problem
from PIL import Image

from serving import EmbeddedTriton


def png(height: int, width: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


class Assets(BaseHTTPRequestHandler):
    """A company's asset host: /mug.png is a picture, /page is none, all else is missing."""

    def do_GET(self) -> None:
        found = {"/mug.png": png(64, 64), "/page": b"<html>"}.get(self.path)
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        self.wfile.write(found or b"")

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def assets() -> Iterator[str]:
    """host:port of a running asset server on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Assets) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def allowing(
    triton: EmbeddedTriton, assets: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose company has its own asset host."""
    folder = tmp_path_factory.mktemp("allowing")
    with gateway_before(triton.grpc_url, folder, base_image_hosts=(assets,)) as gateway:
        yield gateway


def upload(gateway: Gateway, content: bytes, **fields: Any) -> httpx2.Response:
    texts = {name: str(value) for name, value in fields.items()}
    return gateway.http.post("/generate-image", data=texts, files={"base_image": ("b.png", content)})


def drawn(gateway: Gateway, answer: httpx2.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return pixels(gateway.http.get(answer.json()["generated_image_url"]).content)


def test_a_url_of_an_allowed_host_is_fetched_and_reaches_the_model(allowing: Gateway, assets: str) -> None:
    answer = allowing.post(prompt="!echo", base_image_url=f"http://{assets}/mug.png")
    assert np.array_equal(drawn(allowing, answer), pixels(png(64, 64)))
    told = answer.json()
    assert (told["model"], told["task"], told["strength"]) == ("sdxl", "image_to_image", 0.6)
    assert "base_image;dur=" in answer.headers["server-timing"]


def test_the_same_url_is_refused_where_no_host_is_allowed(gateway: Gateway, assets: str) -> None:
    before = gateway.stored
    is_problem(gateway.post(prompt="!echo", base_image_url=f"http://{assets}/mug.png"), 422, "base_image_url")
    assert gateway.stored == before


@pytest.mark.parametrize(("path", "status"), [("/nothing.png", 422), ("/page", 422)])
def test_what_the_host_answers_may_be_no_picture(
    allowing: Gateway, assets: str, path: str, status: int
) -> None:
    url = f"http://{assets}{path}"
    problem = is_problem(allowing.post(prompt="a mug", base_image_url=url), status, f'(given: "{url}")')
    (error,) = problem["errors"]
    assert error["loc"] == ["body", "base_image_url"] and error["input"] == url
    assert error["msg"] in problem["detail"]


def test_an_upload_that_is_no_picture_is_named(gateway: Gateway) -> None:
    files = {"base_image": ("mug.png", b"no picture"), "prompt": (None, "a mug")}
    problem = is_problem(gateway.http.post("/generate-image", files=files), 422)
    assert problem["errors"][0]["loc"] == ["body", "base_image"] and "given" not in problem["detail"]


def test_a_host_that_is_down_is_a_bad_gateway(triton: EmbeddedTriton, tmp_path: Path) -> None:
    with gateway_before(triton.grpc_url, tmp_path, base_image_hosts=("127.0.0.1:9",)) as gateway:
        answer = gateway.post(prompt="a mug", base_image_url="http://127.0.0.1:9/mug.png")
        is_problem(answer, 502, "cannot be reached", '(given: "http://127.0.0.1:9/mug.png")')


def test_a_data_uri_and_an_upload_give_the_same_picture(gateway: Gateway) -> None:
    fields = {"prompt": "!echo", "strength": 0.5}
    by_uri = gateway.post(**fields, base_image_url=uri(png(64, 64)))
    by_upload = upload(gateway, png(64, 64), **fields)
    assert np.array_equal(drawn(gateway, by_uri), drawn(gateway, by_upload))
    assert by_upload.json()["strength"] == 0.5


def test_every_field_of_a_form_is_read_as_its_kind(gateway: Gateway) -> None:
    fields = {
        "prompt": "a mug", "model": "flux", "seed": 7, "num_inference_steps": 9, "guidance_scale": 1.5,
        "strength": 0.25, "style": "bold", "width": 48, "height": 80,
        "output_format": "webp",
    }  # fmt: skip
    answer = upload(gateway, png(40, 40), **fields)
    told = answer.json()
    assert {**told, **fields, "prompt": told["prompt"]} == told
    assert drawn(gateway, answer).shape == (80, 48, 3)


def test_a_form_without_a_file_draws_from_text(gateway: Gateway) -> None:
    answer = gateway.http.post("/generate-image", files={"prompt": (None, "a mug"), "seed": (None, "3")})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["task"], answer.json()["seed"]) == ("text_to_image", 3)


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 64), (64, 64)), ((200, 100), (96, 32)), ((30, 90), (32, 96))]
)
def test_the_result_has_a_supported_size_of_the_picture_s_aspect(
    gateway: Gateway, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    answer = gateway.post(prompt="a mug", base_image_url=uri(png(*size)))
    assert drawn(gateway, answer).shape[:2] == expected
    assert (answer.json()["height"], answer.json()["width"]) == expected


def test_the_strength_reaches_the_model(gateway: Gateway) -> None:
    body = {"prompt": "a mug", "seed": 1, "base_image_url": uri(png(64, 64))}
    weak, strong = (drawn(gateway, gateway.post(**body, strength=value)) for value in (0.3, 0.8))
    assert not np.array_equal(weak, strong)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"strength": 0}, ["strength: 0.0 is not above 0 and at most 1"]),
        ({"strength": -0.5}, ["strength", "-0.5"]),
        ({"strength": 1.01}, ["strength", "1.01"]),
        ({"strength": 0.05, "num_inference_steps": 10}, ["strength", "less than one step", "0.1"]),
        ({"base_image_url": "ftp://example.org/mug.png"}, ["http"]),
        ({"base_image_url": "mug.png"}, ["base_image_url"]),
        ({"base_image_url": "data:text/html;base64,AAAA"}, ["data:image/png;base64"]),
        ({"base_image_url": uri(b"GIF89a" + b"\0" * 99)}, ["PNG"]),
        ({"model": "flux", "negative_prompt": "blur"}, ["negative_prompt", "distilled"]),
        ({"width": 40}, ["width", "multiples of 32 from 32 to 128"]),
    ],
)
def test_what_does_not_go_with_a_base_image_is_named(
    gateway: Gateway, fields: dict[str, Any], words: list[str]
) -> None:
    before = gateway.stored
    body = {"prompt": "a mug", "base_image_url": uri(png(64, 64)), **fields}
    is_problem(gateway.post(**body), 422, *words)
    assert gateway.stored == before


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            [("base_image", ("b.png", png(64, 64))), ("prompt", (None, "a")), ("prompt", (None, "b"))],
            ["'prompt' is given twice"],
        ),
        (
            [("prompt", (None, "a")), ("picture", ("b.png", png(64, 64)))],
            ["'picture' is a file", "'base_image'"],
        ),
        ([("prompt", (None, "a")), ("base_image", (None, "text"))], ["'base_image' is text"]),
        (
            [
                ("prompt", (None, "a")),
                ("base_image", ("b.png", png(64, 64))),
                ("base_image_url", (None, "http://example.org/a.png")),
            ],
            ["both"],
        ),
        ([("prompt", (None, "a")), ("seed", (None, "three"))], ["seed", "three"]),
        ([("prompt", (None, "a")), ("base_image", ("b.png", b""))], ["0 bytes"]),
    ],
)
def test_a_bad_form_is_refused(gateway: Gateway, files: Any, words: list[str]) -> None:
    before = gateway.stored
    is_problem(gateway.http.post("/generate-image", files=files), 422, *words)
    assert gateway.stored == before


def test_a_wrong_entry_of_the_allow_list_is_named(triton: EmbeddedTriton, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="http://assets"):
        with gateway_before(triton.grpc_url, tmp_path, base_image_hosts="http://assets"):
            pass
