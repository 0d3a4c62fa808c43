"""Every bad request: its answer, nothing stored, and a gateway that still draws."""

import contextlib
import socket

import pytest
from gateway_support import Gateway, is_problem

from families import FLUX
from families.wording import INDUSTRIES, STYLES
from gateway.middleware import MAX_BODY_BYTES
from gateway.schemas import GenerateRequest, LoraChoice
from gateway.validation import RANGES

LONGEST = FLUX.max_prompt_characters
REFUSED = {
    "no prompt": ({}, ["prompt: is required"]),
    "prompt null": ({"prompt": None}, ["prompt", "not a string", "given: null"]),
    "prompt a number": ({"prompt": 12}, ["prompt", "not a string", "12"]),
    "prompt empty": ({"prompt": ""}, ["prompt", "empty or blank"]),
    "prompt blank": ({"prompt": " \n\t　"}, ["prompt", "empty or blank"]),
    "prompt NUL": ({"prompt": "a\0b"}, ["prompt", "U+0000", "position 1", "newline and tab"]),
    "prompt escape": ({"prompt": "red \x1b[31m mug"}, ["U+001B"]),
    "prompt C1": ({"prompt": "a\x85b"}, ["U+0085"]),
    "prompt surrogate": ({"prompt": "mug \ud800"}, ["prompt", "unicode"]),
    "prompt long": (
        {"prompt": "a" * (LONGEST + 1)},
        ["prompt", str(LONGEST), f"{LONGEST + 1} characters"],
    ),
    "prompt long with its style": (
        {"prompt": "a" * (LONGEST - 3), "style": "vintage"},
        ["prompt", f"{LONGEST + 12} characters with style", str(LONGEST)],
    ),
    "unknown field": ({"prompt": "mug", "steps": 4}, ["steps", "unknown field", "num_inference_steps"]),
    "misspelt field": ({"promt": "mug", "prompt": "mug"}, ["promt: unknown field; did you mean prompt?"]),
    "long scheduler": ({"prompt": "mug", "scheduler": "x" * 9_000}, ["scheduler", "9000 characters"]),
    "loras no list": (
        {"prompt": "mug", "loras": {"name": "food"}},
        ['loras: not a list of objects such as {"name": "food", "scale": 1.0}'],
    ),
    "unknown industry": ({"prompt": "mug", "industry": "mining"}, ["industry", "'mining'", *INDUSTRIES]),
    "unknown style": ({"prompt": "mug", "style": "Bold"}, ["style", "'Bold'", *STYLES]),
    "long style": ({"prompt": "mug", "style": "x" * 9_000}, ["style", "9000 characters", *STYLES]),
    "seed text": ({"prompt": "mug", "seed": "12"}, ["seed: not an integer", "12"]),
    "seed true": ({"prompt": "mug", "seed": True}, ["seed: not an integer", "given: true"]),
    "seed negative": ({"prompt": "mug", "seed": -1}, ["seed: not in 0..9007199254740991", "-1"]),
    "seed too large": ({"prompt": "mug", "seed": 2**53}, ["seed: not in 0..9007199254740991", str(2**53)]),
    "seed huge": ({"prompt": "mug", "seed": 10**4_000}, ["seed"]),
    "steps 0": (
        {"prompt": "mug", "num_inference_steps": 0},
        ["num_inference_steps: for flux, 0 is not in 1..50"],
    ),
    "steps 51": ({"prompt": "mug", "num_inference_steps": 51}, ["num_inference_steps", "51", "1..50"]),
    "steps 101 of sdxl": (
        {"prompt": "mug", "model": "sdxl", "num_inference_steps": 101},
        ["num_inference_steps: for sdxl, 101 is not in 1..100"],
    ),
    "steps a float": (
        {"prompt": "mug", "num_inference_steps": 4.0},
        ["num_inference_steps: not an integer"],
    ),
    "guidance text": ({"prompt": "mug", "guidance_scale": "3"}, ["guidance_scale: not a number"]),
    "guidance negative": ({"prompt": "mug", "guidance_scale": -0.1}, ["guidance_scale", "0..20", "-0.1"]),
    "guidance 20.1": ({"prompt": "mug", "guidance_scale": 20.1}, ["guidance_scale", "0..20", "20.1"]),
    "guidance huge": ({"prompt": "mug", "guidance_scale": 10**400}, ["guidance_scale"]),
    "width 100": ({"prompt": "mug", "width": 100}, ["width", "multiples of 16", "100"]),
    "width 0": ({"prompt": "mug", "width": 0}, ["width: not a size in pixels", "GET /readyz"]),
    "width 16": ({"prompt": "mug", "width": 16}, ["width", "multiples of 16 from 32 to 128", "16"]),
    "height 144": ({"prompt": "mug", "height": 144}, ["height", "multiples of 16 from 32 to 128", "144"]),
    "unknown model": ({"prompt": "mug", "model": "sd3"}, ["model", "'sd3'", "flux, sdxl"]),
    "unknown scheduler": (
        {"prompt": "mug", "scheduler": "PNDMScheduler"},
        ["scheduler: 'PNDMScheduler' is not one of flux's; choices: FlowMatchEulerDiscreteScheduler"],
    ),
    "scheduler of the other model": (
        {"prompt": "mug", "scheduler": "DDIMScheduler"},
        ["scheduler: 'DDIMScheduler' is not one of flux's; choices: FlowMatchEulerDiscreteScheduler"],
    ),
    "negative prompt for flux": (
        {"prompt": "mug", "negative_prompt": "blur"},
        ["negative_prompt", "distilled", "model 'sdxl'", "blur"],
    ),
    "negative prompt NUL": (
        {"prompt": "mug", "model": "sdxl", "negative_prompt": "a\0"},
        ["negative_prompt", "U+0000"],
    ),
    "a file in JSON": (
        {"prompt": "mug", "base_image": "mug.png"},
        ["base_image: a file", "multipart/form-data", "base_image_url", 'given: "mug.png"'],
    ),
    "a name in loras": (
        {"prompt": "mug", "loras": ["food"]},
        ["loras.0: not an object", '{"name": "food", "scale": 1.0}', 'given: "food"'],
    ),
    "nine adapters, with odd values": (
        {"prompt": "mug", "loras": [{"name": "food", "scale": None}] * 9},
        ["loras: at most 8 (given: \"[{'name': 'food', 'scale': null}, "],
    ),
    "strength without an image": ({"prompt": "mug", "strength": 0.5}, ["strength", "no base image", "0.5"]),
    "unknown format": (
        {"prompt": "mug", "output_format": "gif"},
        ["output_format", "'gif'", "png, jpeg, webp"],
    ),
    "format in capitals": ({"prompt": "mug", "output_format": "PNG"}, ["'PNG'", "png, jpeg, webp"]),
    "format a number": ({"prompt": "mug", "output_format": 1}, ["output_format", "not a string"]),
    "url a number": ({"prompt": "mug", "base_image_url": 1}, ["base_image_url", "not a string"]),
    "four faults": (
        {"prompt": "", "seed": -1, "width": 0, "height": "1"},
        ["prompt", "seed", "width", "and 1 more"],
    ),
}
JSON_TYPE = "application/json"
JSON = {"Content-Type": JSON_TYPE}
MALFORMED = {
    "nothing": (b"", JSON, 422, ["body: is required"]),
    "a field twice": (b'{"prompt": "mug", "seed": 1, "seed": 2}', JSON, 422, ["body: 'seed' is given twice"]),
    "half": (b'{"prompt": "mug"', JSON, 400, ["not JSON", "character 16"]),
    "not UTF-8": (b'{"prompt": "\xff"}', JSON, 400, ["body"]),
    "too deep": (b"[" * 60_000, JSON, 400, ["body"]),
    "5,000 digits": (b'{"prompt": "mug", "seed": ' + b"1" * 5_000 + b"}", JSON, 400, ["body"]),
    "a list": (b'["mug"]', JSON, 422, ["body", 'not an object such as {"prompt": "']),
    "NaN": (b'{"prompt": "mug", "guidance_scale": NaN}', JSON, 422, ["guidance_scale", "finite"]),
    "a form": (b"prompt=mug", {"Content-Type": "application/x-www-form-urlencoded"}, 415, ["x-www-form"]),
    "text": (b'{"prompt": "mug"}', {"Content-Type": "text/plain"}, 415, ["text/plain", "application/json"]),
    "a form without a boundary": (b"x", {"Content-Type": "multipart/form-data"}, 400, ["boundary"]),
    "untyped": (b'{"prompt": "mug"}', {}, 415, ["missing", "application/json"]),
    "15 MB": (b'{"prompt": "' + b"a" * 15_000_000 + b'"}', JSON, 413, ["15000014", str(MAX_BODY_BYTES)]),
}


def test_messages_of_ranges_fit_every_field_that_has_one() -> None:
    told: dict[str, set[str]] = {"minimum": set(), "exclusiveMinimum": set(), "pattern": set()}
    for model in (GenerateRequest, LoraChoice):
        for name, field in model.model_json_schema()["properties"].items():
            for kind in field.get("anyOf", [field]):
                for word in told.keys() & kind.keys():
                    told[word].add(name)
    fields = {"minimum": set(RANGES), "exclusiveMinimum": {"width", "height"}, "pattern": {"name"}}
    assert told == fields


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_field_is_named_with_its_value_and_the_choices(gateway: Gateway, name: str) -> None:
    body, words = REFUSED[name]
    before = gateway.stored
    problem = is_problem(gateway.post(**body), 422, *words)
    assert problem["errors"] and all({"loc", "msg", "type"} <= set(error) for error in problem["errors"])
    assert len(str(problem)) < 2_000
    assert gateway.stored == before
    assert gateway.post(prompt="a mug", num_inference_steps=1).status_code == 200


def test_of_very_many_faults_a_few_are_told_and_all_are_counted(gateway: Gateway) -> None:
    unknown = {f"field-{number}": number for number in range(50_000)} | {"x" * 1_000_000: 1}
    problem = is_problem(gateway.post(prompt="a mug", **unknown), 422, "field-0: unknown", "and 49998 more")
    assert len(problem["errors"]) == 20 and len(str(problem)) < 20_000


@pytest.mark.parametrize("name", MALFORMED)
def test_a_bad_body_is_refused(gateway: Gateway, name: str) -> None:
    content, headers, status, words = MALFORMED[name]
    before = gateway.stored
    is_problem(gateway.http.post("/generate-image", content=content, headers=headers), status, *words)
    assert gateway.stored == before
    assert gateway.http.get("/healthz").json() == {"status": "ok"}


def test_an_endless_body_is_refused_before_its_end(gateway: Gateway) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    headers = ("Host: x", "Content-Type: application/json", "Transfer-Encoding: chunked", "", "")
    head = "\r\n".join(("POST /generate-image HTTP/1.1", *headers))
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(head.encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(230):
                client.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_of_the_limit_is_read(gateway: Gateway) -> None:
    body = b'{"prompt": "mug", "num_inference_steps": 1}'
    filled = body + b" " * (MAX_BODY_BYTES - len(body))
    assert gateway.http.post("/generate-image", content=filled, headers=JSON).status_code == 200
    is_problem(
        gateway.http.post("/generate-image", content=filled + b" ", headers=JSON),
        413,
        str(MAX_BODY_BYTES + 1),
        str(MAX_BODY_BYTES),
    )


def test_unknown_paths_and_methods_are_problems_too(gateway: Gateway) -> None:
    is_problem(gateway.http.get("/nowhere"), 404, "/nowhere")
    is_problem(gateway.http.post("/generate-image/", json={"prompt": "mug"}), 404, "/generate-image/")
    answer = gateway.http.get("/generate-image")
    is_problem(answer, 405, "GET", "POST")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("given", ["build-7.a_B", "x" * 64])
def test_a_request_id_of_the_client_is_kept(gateway: Gateway, given: str) -> None:
    assert gateway.http.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "<b>", "a;b"])
def test_an_odd_request_id_is_replaced(gateway: Gateway, given: str) -> None:
    answer = gateway.http.get("/healthz", headers={"X-Request-ID": given})
    assert len(answer.headers["x-request-id"]) == 32


def test_the_openapi_document_lists_the_choices(gateway: Gateway) -> None:
    document = gateway.http.get("/openapi.json").json()
    route = document["paths"]["/generate-image"]["post"]
    content = route["requestBody"]["content"]
    fields, form = (content[kind]["schema"]["properties"] for kind in (JSON_TYPE, "multipart/form-data"))
    assert "GET /industries" in fields["industry"]["description"]
    assert ["flux", "sdxl"] in [option.get("enum") for option in fields["model"]["anyOf"]]
    assert ["png", "jpeg", "webp"] in [option.get("enum") for option in fields["output_format"]["anyOf"]]
    assert form["base_image"] == {"type": "string", "format": "binary"} and "base_image" not in fields
    assert "application/problem+json" in route["responses"]["422"]["content"]
    assert gateway.http.get("/docs").status_code == 200
