"""Good requests: the answer, the picture behind its URL, and what makes two pictures equal."""

import io
import re
from typing import Any
from urllib.parse import unquote

import pytest
from gateway_support import Gateway, gateway_before, is_problem
from PIL import Image

from families.wording import INDUSTRIES, STYLES, industry_phrase, style_phrase
from serving import EmbeddedTriton


def drawn(gateway: Gateway, **body: Any) -> tuple[dict[str, Any], bytes]:
    answer = gateway.post(**body)
    assert answer.status_code == 200, answer.text
    picture = gateway.http.get(answer.json()["generated_image_url"])
    assert picture.headers["content-type"] == "image/png"
    return answer.json(), picture.content


def test_a_prompt_becomes_a_picture(gateway: Gateway) -> None:
    answer, png = drawn(gateway, prompt="A sleek smartphone on a dark gradient background")
    assert re.fullmatch(r"\d+\.\ds", answer["generation_time"])
    assert answer["generation_seconds"] > 0
    assert answer["prompt"] == "A sleek smartphone on a dark gradient background"
    assert (answer["num_inference_steps"], answer["guidance_scale"]) == (28, 3.5)
    assert (answer["width"], answer["height"]) == (64, 64)
    assert answer["warnings"] == []
    assert (answer["model"], answer["task"]) == ("flux", "text_to_image")
    assert answer["scheduler"] == "FlowMatchEulerDiscreteScheduler" and answer["strength"] is None
    assert Image.open(io.BytesIO(png)).size == (64, 64)


def test_every_field_reaches_the_model(gateway: Gateway) -> None:
    base = {
        "prompt": "a mug",
        "seed": 1,
        "num_inference_steps": 2,
        "guidance_scale": 2,
        "width": 96,
        "height": 32,
    }
    answer, png = drawn(gateway, **base)
    assert {**base, **answer} == answer
    assert Image.open(io.BytesIO(png)).size == (96, 32)
    for change in ({"prompt": "a cup"}, {"seed": 2}, {"num_inference_steps": 3}, {"guidance_scale": 2.5}):
        assert drawn(gateway, **{**base, **change})[1] != png


def test_every_field_of_the_other_model_reaches_it(gateway: Gateway) -> None:
    base = {
        "prompt": "a mug",
        "model": "sdxl",
        "negative_prompt": "a lamp",
        "seed": 1,
        "scheduler": "DDIMScheduler",
    }
    answer, png = drawn(gateway, **base)
    assert {**base, **answer} == answer
    assert (answer["num_inference_steps"], answer["guidance_scale"]) == (30, 5.0)
    for change in ({"negative_prompt": None}, {"scheduler": None}, {"num_inference_steps": 29}):
        assert drawn(gateway, **{**base, **change})[1] != png


def test_style_and_industry_are_said_as_in_the_training_captions(gateway: Gateway) -> None:
    for style, industry in (("luxury", None), (None, "real estate"), ("bold", "food")):
        phrases = ([style_phrase(style)] if style else []) + ([industry_phrase(industry)] if industry else [])
        answer, _ = drawn(gateway, prompt="a {mug}", style=style, industry=industry)
        assert answer["prompt"] == ", ".join(["a {mug}", *phrases])
        assert (answer["style"], answer["industry"]) == (style, industry)


def test_the_choices_are_those_of_the_training_captions(gateway: Gateway) -> None:
    assert [choice["name"] for choice in gateway.http.get("/industries").json()] == list(INDUSTRIES)
    assert [choice["name"] for choice in gateway.http.get("/styles").json()] == list(STYLES)
    assert gateway.http.get("/styles").json()[0]["prompt_template"] == "{prompt}, professional style"
    assert len(INDUSTRIES) == 10 and len(STYLES) == 6


def test_the_same_seed_gives_the_same_bytes(gateway: Gateway) -> None:
    (first, png), (second, again) = (drawn(gateway, prompt="a mug", seed=7) for _ in range(2))
    assert png == again and first["generated_image_url"] != second["generated_image_url"]
    assert drawn(gateway, prompt="a mug", seed=8)[1] != png


def test_a_drawn_seed_is_returned_and_reproduces_the_picture(gateway: Gateway) -> None:
    answer, png = drawn(gateway, prompt="a mug")
    other, _ = drawn(gateway, prompt="a mug")
    assert answer["seed"] != other["seed"] and 0 <= answer["seed"] < 2**53
    assert drawn(gateway, prompt="a mug", seed=answer["seed"])[1] == png


@pytest.mark.parametrize(
    "prompt", ["☕️ mug 👩‍👩‍👧", "كوب أحمر", "赤いマグカップ", "a mug\n\ton a table", "'; DROP TABLE", "{0}"]
)
def test_any_language_is_drawn(gateway: Gateway, prompt: str) -> None:
    assert drawn(gateway, prompt=prompt)[0]["prompt"] == prompt


def test_a_prompt_is_sent_in_composed_form(gateway: Gateway) -> None:
    assert drawn(gateway, prompt="cafe\u0301")[0]["prompt"] == "caf\u00e9"


def test_a_prompt_that_is_too_long_for_an_encoder_warns(gateway: Gateway) -> None:
    answer, _ = drawn(gateway, prompt="!tokens 77 13")
    (warning,) = answer["warnings"]
    assert (warning["code"], warning["field"]) == ("prompt_truncated", "prompt")
    assert warning["encoder"] == "text_encoder"
    assert (warning["kept"], warning["dropped"]) == (77, 13)


def test_the_answer_says_where_the_time_went(gateway: Gateway) -> None:
    timing = gateway.post(prompt="a mug").headers["server-timing"]
    assert re.fullmatch(r"triton;dur=[\d.]+, encode;dur=[\d.]+, store;dur=[\d.]+", timing)


def test_a_picture_is_cached_for_good(gateway: Gateway) -> None:
    url = gateway.post(prompt="a mug").json()["generated_image_url"]
    picture = gateway.http.get(url)
    assert "immutable" in picture.headers["cache-control"]
    again = gateway.http.get(url, headers={"If-None-Match": f'W/"other", {picture.headers["etag"]}'})
    assert again.status_code == 304 and again.content == b""
    assert gateway.http.get(url, headers={"If-None-Match": '"other"'}).status_code == 200
    head = gateway.http.head(url)
    assert head.headers["content-length"] == str(len(picture.content)) and head.content == b""


@pytest.mark.parametrize(
    "name", ["0" * 32, "0", "..%2f..%2fetc%2fpasswd", "%2e%2e", "A" * 32, "0" * 32 + "%00", "x" * 999]
)
def test_only_stored_pictures_are_given_out(gateway: Gateway, name: str) -> None:
    is_problem(gateway.http.get(f"/images/{name}.png"), 404, unquote(name)[:1])


def test_the_public_address_replaces_the_requests_own(
    triton: EmbeddedTriton, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("public")
    with gateway_before(triton.grpc_url, folder, public_url="https://pictures.invalid/post/") as gateway:
        url = gateway.post(prompt="a mug").json()["generated_image_url"]
    assert re.fullmatch(r"https://pictures\.invalid/post/images/[0-9a-f]{32}\.png", url)


def test_readiness_shows_the_limits(gateway: Gateway) -> None:
    served = {
        "tasks": ["text_to_image", "image_to_image"], "checkpoint": "stand-in", "native_size": 64,
        "min_size": 32, "max_size": 128, "size_multiple": 16, "max_sequence_length": 64, "max_rank": 16,
    }  # fmt: skip
    assert gateway.http.get("/readyz").json() == {
        "status": "ready",
        "models": [{"model": "flux", **served}, {"model": "sdxl", **served, "size_multiple": 32}],
    }


def test_the_index_leads_on(gateway: Gateway) -> None:
    links: dict[str, str] = gateway.http.get("/").json()
    for path in set(links.values()) - {links["generate"]}:
        assert gateway.http.get(path).status_code == 200
