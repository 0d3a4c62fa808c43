"""The table that gives a request its adapters: by industry, by style and by name, without a restart."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_support import DENOISER, Gateway, Liar, gateway_before, is_problem, listening

from families.adapters import FILE_NAME, AdapterEntry, index_text
from families.wording import INDUSTRIES
from serving import EmbeddedTriton


def entry(**facts: Any) -> AdapterEntry:
    known = {"sha256": "a" * 64, "source_sha256": "b" * 64, "format": "diffusers", "checkpoint": "stand-in"}
    return AdapterEntry(**{"rank": 4, "modules": 2, "checkpoint_sha256": DENOISER, **known, **facts})


STORE = {
    "flux": {
        "food": entry(industry="food", scale=0.8),
        "gold": entry(style="luxury"),
        "grain": entry(),
        "wide": entry(rank=16),
        "elsewhere": entry(industry="travel", checkpoint="flux-big", checkpoint_sha256="e" * 64),
    },
    "sdxl": {"food-of-sdxl": entry(industry="food")},
}


def write(folder: Path, store: dict[str, dict[str, AdapterEntry]]) -> None:
    """As the command does: whole, or not at all."""
    folder.mkdir(exist_ok=True)
    beside = folder / "index.new"
    beside.write_text(index_text(store))
    os.replace(beside, folder / FILE_NAME)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path / "adapters", STORE)
    return tmp_path / "adapters"


@pytest.fixture
def shop(triton: EmbeddedTriton, store: Path, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with `store`."""
    with gateway_before(triton.grpc_url, tmp_path / "images", adapters=store) as gateway:
        yield gateway


def applied(gateway: Gateway, **body: Any) -> dict[str, float]:
    """Name -> scale of what was applied, in its order."""
    answer = gateway.post(prompt="a mug", num_inference_steps=1, **body)
    assert answer.status_code == 200, answer.text
    return {lora["name"]: lora["scale"] for lora in answer.json()["loras"]}


SELECTIONS: list[tuple[dict[str, Any], dict[str, float]]] = [
    ({}, {}),
    ({"industry": "travel"}, {}),
    ({"industry": "food"}, {"food": 0.8}),
    ({"style": "luxury"}, {"gold": 1.0}),
    ({"style": "luxury", "industry": "food"}, {"food": 0.8, "gold": 1.0}),
    ({"industry": "food", "model": "sdxl"}, {"food-of-sdxl": 1.0}),
    ({"loras": []}, {}),
    ({"loras": [{"name": "grain"}]}, {"grain": 1.0}),
    ({"loras": [{"name": "food"}]}, {"food": 0.8}),
    ({"industry": "food", "loras": [{"name": "grain", "scale": -0.5}]}, {"food": 0.8, "grain": -0.5}),
    ({"industry": "food", "loras": [{"name": "food", "scale": 0}]}, {"food": 0.0}),
    (
        {"industry": "travel", "loras": [{"name": "wide", "scale": 0}, {"name": "grain"}]},
        {"wide": 0.0, "grain": 1.0},
    ),
]


@pytest.mark.parametrize(("body", "wanted"), SELECTIONS, ids=[json.dumps(body) for body, _ in SELECTIONS])
def test_a_request_gets_its_adapters(shop: Gateway, body: dict[str, Any], wanted: dict[str, float]) -> None:
    assert applied(shop, **body) == wanted


def test_the_answer_tells_what_was_applied(shop: Gateway) -> None:
    (lora,) = shop.post(prompt="a mug", industry="food").json()["loras"]
    assert lora == {"name": "food", "sha256": "0" * 64, "scale": 0.8, "modules_applied": 2, "modules": 2}


@pytest.mark.parametrize(
    ("body", "warned"),
    [
        ({"industry": "food", "style": "luxury"}, []),
        ({"industry": "travel", "style": "luxury"}, [("industry", "travel")]),  # for another checkpoint
        ({"industry": "food", "style": "luxury", "model": "sdxl"}, [("style", "luxury")]),
        ({"industry": "fashion", "style": "vintage"}, []),  # words wherever they are asked
    ],
)
def test_an_industry_that_is_words_here_only_is_told(
    shop: Gateway, body: dict[str, str], warned: list[tuple[str, str]]
) -> None:
    warnings = shop.post(prompt="a mug", **body).json()["warnings"]
    assert [(warning["field"], warning["name"]) for warning in warnings] == warned
    assert all(
        warning["code"] == "no_adapter" and warning["name"] in warning["message"] for warning in warnings
    )


def test_a_form_writes_adapters_as_json(shop: Gateway) -> None:
    fields = {"prompt": "a mug", "loras": '[{"name": "grain", "scale": 0.5}]'}
    answer = shop.http.post("/generate-image", files={name: (None, text) for name, text in fields.items()})
    assert answer.status_code == 200, answer.text
    assert [(lora["name"], lora["scale"]) for lora in answer.json()["loras"]] == [("grain", 0.5)]
    for text in ("grain", "[" * 60_000):
        bad = shop.http.post("/generate-image", files={"prompt": (None, "a mug"), "loras": (None, text)})
        is_problem(bad, 422, "loras", "not JSON")


def test_industry_style_and_names_together_have_a_limit(shop: Gateway, store: Path) -> None:
    many = {f"a{place}": entry(rank=1) for place in range(8)}
    write(store, {"flux": {**STORE["flux"], **many}})
    asked = {"prompt": "a mug", "loras": [{"name": name} for name in many]}
    assert shop.post(**asked).status_code == 200
    is_problem(shop.post(industry="food", **asked), 422, "loras", "9 adapters are too many", "at most 8")


def test_an_engine_without_adapters_draws_industries_by_their_words(
    triton: EmbeddedTriton, store: Path, tmp_path: Path
) -> None:
    liar = Liar()
    liar.parameters["max_rank"] = "0"
    with (
        listening(liar) as url,
        gateway_before(url, tmp_path / "images", adapters=store) as gateway,
    ):
        answer = gateway.post(prompt="a mug", industry="food").json()
        assert answer["loras"] == [] and answer["prompt"] == "a mug, for the food industry"
        refused = gateway.post(prompt="a mug", loras=[{"name": "food"}])
        is_problem(refused, 422, "loras", "this engine takes no adapters", "food")


def test_every_adapter_is_listed(shop: Gateway) -> None:
    listed = {(lora["model"], lora["name"]): lora for lora in shop.http.get("/loras").json()}
    assert {*listed} == {(model, name) for model, adapters in STORE.items() for name in adapters}
    assert listed["flux", "food"] == {
        "model": "flux",
        "name": "food",
        "scale": 0.8,
        "industry": "food",
        "style": None,
        "trigger": None,
        "checkpoint": "stand-in",
        "sha256": "a" * 64,
    }


REFUSED: dict[str, tuple[Any, list[str]]] = {
    "unknown": (
        [{"name": "mining"}],
        ["loras", "flux has no adapter 'mining'", "elsewhere, food, gold"],
    ),
    "of another checkpoint": ([{"name": "elsewhere"}], ["adapter elsewhere was trained on flux-big"]),
    "too much rank": (
        [{"name": "wide"}, {"name": "grain"}],
        ["more than 16", "wide of rank 16", "grain of rank 4"],
    ),
    "of the other model": ([{"name": "food-of-sdxl"}], ["flux has no adapter 'food-of-sdxl'"]),
    "a path": ([{"name": "../grain"}], ["loras.0.name: not a name that adapters have; GET /loras"]),
    "a line more": ([{"name": "grain\n"}], ["loras.0.name: not a name"]),
    "twice": ([{"name": "grain"}, {"name": "grain"}], ["loras", "'grain' is named twice"]),
    "strong": ([{"name": "grain", "scale": 2.1}], ["loras.0.scale: not in -2..2", "2.1"]),
    "infinite": ([{"name": "grain", "scale": 1e999}], ["loras.0.scale", "finite"]),
    "true": ([{"name": "grain", "scale": True}], ["loras.0.scale: not a number"]),
    "a path of its own": (
        [{"name": "grain", "path": "x"}],
        ["loras.0.path", "fields: name, scale"],
    ),
    "nine": ([{"name": f"grain-{n}"} for n in range(9)], ["loras", "at most 8"]),
    "text": ("grain", ["loras"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_applied_is_refused(shop: Gateway, name: str) -> None:
    loras, words = REFUSED[name]
    is_problem(shop.post(prompt="a mug", loras=loras), 422, *words)
    assert shop.stored == set()


def test_a_new_industry_is_there_without_a_restart(shop: Gateway, store: Path) -> None:
    is_problem(shop.post(prompt="a mug", industry="gaming"), 422, "industry", "'gaming' is unknown", "food")
    write(store, {**STORE, "flux": {**STORE["flux"], "gaming": entry(industry="gaming")}})
    industries = {choice["name"]: choice for choice in shop.http.get("/industries").json()}
    assert list(industries) == [*INDUSTRIES, "gaming"]
    assert industries["gaming"] == {
        "name": "gaming",
        "prompt_template": "{prompt}, for the gaming industry",
        "adapters": [{"model": "flux", "name": "gaming", "scale": 1.0}],
    }
    assert [adapter["model"] for adapter in industries["food"]["adapters"]] == ["flux", "sdxl"]
    assert applied(shop, industry="gaming") == {"gaming": 1.0}
    write(store, STORE)
    is_problem(shop.post(prompt="a mug", industry="gaming"), 422, "industry")


def test_a_damaged_index_is_our_fault_and_heals(shop: Gateway, store: Path) -> None:
    (store / FILE_NAME).write_text("{")
    problem = is_problem(shop.post(prompt="a mug", industry="food"), 500, "store of adapters", "our fault")
    assert str(store) not in json.dumps(problem)
    write(store, STORE)
    assert applied(shop, industry="food") == {"food": 0.8}
