"""Adapters through gateway and Triton: stock diffusers' pictures, and no trace of one in another's."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import adapter_files
import numpy as np
import pytest
import tritonclient.grpc as grpc
from PIL import Image
from stock import STEPS, Stock, difference, load_adapter
from tiny_service import ASSETS, Service

from benchmarks.triton_inputs import column
from families import FAMILIES
from families.adapters import AdapterError, AdapterIndex
from families.hashes import sha256_of_file
from families.tasks import TEXT_TO_IMAGE
from finetune.dataset import Pixels
from finetune.draw import draw
from finetune.scene import sample_scene
from finetune.store import Said, Store, open_base
from gateway.demo import DemoError, fetch

PROMPTS = (
    "a red mug on a blue gradient background",
    "product photo of a pair of white headphones, green background, luxury style",
    "a black laptop on a beige studio background, for the technology industry",
    "something it was never taught: 日本 😀",
)
RANKS = {"rank-1": 1, "rank-2": 2, "rank-4": 4, "rank-7": 7, "rank-8": 8, "rank-16": 16}
Loras = list[tuple[str, float]]
# What stock diffusers is asked for, too. The last two are merged, of different scales and ranks.
CHOICES: list[Loras] = [
    *([(name, 1.0)] for name in RANKS),
    [("rank-4", 0.7), ("rank-16", -0.4)],
    [("rank-8", 0.5), ("rank-1", 1.5), ("rank-7", 0.25)],
]


@pytest.fixture(scope="module")
def stock(service: Service) -> dict[str, Stock]:
    """Stock diffusers, and the service, with one adapter of each of `RANKS`."""
    stock = {name: Stock(name) for name in ("flux", "sdxl")}
    for family, pipelines in stock.items():
        for seed, (name, rank) in enumerate(RANKS.items()):
            file = adapter_files.add(service.store, f"{family}-tiny", name, rank, seed)
            load_adapter(pipelines.text, file, name)
    return stock


def picture(service: Service, prompt: str, loras: Loras, **fields: Any) -> Pixels:
    asked = [{"name": name, "scale": scale} for name, scale in loras]
    return service.picture(prompt, loras=asked, num_inference_steps=STEPS, **fields)


@pytest.mark.parametrize("model", ["flux", "sdxl"])
@pytest.mark.parametrize("loras", CHOICES, ids=str)
def test_a_picture_is_stock_diffusers_own(
    service: Service, stock: dict[str, Stock], model: str, loras: Loras
) -> None:
    names, scales = zip(*loras, strict=True)
    stock[model].text.set_adapters(list(names), list(scales))
    guidance = 3.5 if model == "flux" else 5.0
    for seed, prompt in enumerate(PROMPTS):
        ours = picture(service, prompt, loras, model=model, seed=seed)
        theirs = stock[model](prompt, seed, guidance_scale=guidance, height=128, width=128)
        assert difference(ours, theirs) <= 1
        assert difference(ours, picture(service, prompt, [], model=model, seed=seed)) > 8


@pytest.mark.parametrize("model", ["flux", "sdxl"])
def test_a_picture_from_a_picture_is_stock_diffusers_own(
    service: Service, stock: dict[str, Stock], model: str
) -> None:
    loras, guidance = CHOICES[-1], 3.5 if model == "flux" else 5.0
    start = np.asarray(draw(sample_scene(3), 128))
    names, scales = zip(*loras, strict=True)
    stock[model].text.set_adapters(list(names), list(scales))
    asked = [{"name": name, "scale": scale} for name, scale in loras]
    fields = {"seed": 3, "strength": 0.7}
    ours = service.picture(PROMPTS[0], start, model=model, loras=asked, num_inference_steps=STEPS, **fields)
    size = {"height": 128, "width": 128} if model == "flux" else {}
    theirs = stock[model](PROMPTS[0], image=Image.fromarray(start), guidance_scale=guidance, **size, **fields)
    assert difference(ours, theirs) <= 1


def test_no_adapter_leaves_a_trace(service: Service, stock: dict[str, Stock]) -> None:
    """A, B, A, none, and refused ones between: equal bytes for equal requests."""
    a, b = [("rank-4", 1.0)], [("rank-16", 1.0)]
    first, base = (picture(service, PROMPTS[0], loras, seed=1) for loras in (a, []))
    for model in ("flux", "sdxl"):
        picture(service, PROMPTS[0], b, model=model)
    with pytest.raises(DemoError, match="no adapter 'rank-3'"):
        picture(service, PROMPTS[0], [("rank-3", 1.0)])
    assert np.array_equal(picture(service, PROMPTS[0], a, seed=1), first)
    assert np.array_equal(picture(service, PROMPTS[0], [], seed=1), base)


def rows(service: Service, model: str, loras: list[Loras]) -> tuple[Pixels, list[list[dict[str, Any]]]]:
    """A request to Triton with a row for each of `loras`: pictures, and what was applied to each."""
    values = {
        "prompt": PROMPTS,
        "seed": range(len(loras)),
        "num_inference_steps": [STEPS] * len(loras),
        "guidance_scale": [3.5 if model == "flux" else 5.0] * len(loras),
        "height": [128] * len(loras),
        "width": [128] * len(loras),
        "loras": [json.dumps([{"name": name, "scale": scale} for name, scale in row]) for row in loras],
        "quality": ["high"] * len(loras),
        "negative_prompt": [""] * len(loras),
        "scheduler": ["EulerDiscreteScheduler"] * len(loras),
    }
    ensemble = FAMILIES[model].ensemble(TEXT_TO_IMAGE)
    with grpc.InferenceServerClient(service.triton_url) as client:
        answer = client.infer(
            f"{model}_text_to_image", [column(tensor, values[tensor.name]) for tensor in ensemble.inputs]
        )
    return answer.as_numpy("images"), [json.loads(text) for (text,) in answer.as_numpy("applied_loras")]


MIXED: list[Loras] = [[("rank-4", 1.0)], [("rank-16", 1.0)], [], [("rank-2", 1.0), ("rank-7", -0.5)]]


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("model", ["flux", "sdxl"])
def test_each_row_of_a_batch_has_its_own_adapters(service: Service, model: str) -> None:
    """Every picture of one engine call for four is the picture that is drawn alone, byte for byte."""
    pictures, applied = rows(service, model, MIXED)
    for row, loras in enumerate(MIXED):
        alone = picture(service, PROMPTS[row], loras, model=model, seed=row)
        assert np.array_equal(pictures[row], alone)
        assert [(lora["name"], lora["scale"]) for lora in applied[row]] == loras


@pytest.mark.usefixtures("stock")
def test_the_answer_proves_what_was_applied(service: Service) -> None:
    entries = AdapterIndex(service.store).entries("flux")
    asked = [{"name": "rank-7", "scale": 0.5}, {"name": "rank-2"}]
    answer = service.ask(PROMPTS[0], loras=asked, num_inference_steps=1)
    assert answer["loras"] == [
        {"name": name, "sha256": entries[name].sha256, "scale": scale, "modules_applied": 53, "modules": 53}
        for name, scale in (("rank-7", 0.5), ("rank-2", 1.0))
    ]
    file = service.store / "files" / f"{entries['rank-7'].sha256}.safetensors"
    assert sha256_of_file(file) == entries["rank-7"].sha256


@pytest.mark.usefixtures("stock")
def test_ranks_beyond_the_engine_are_refused_with_their_names(service: Service) -> None:
    """Straight to Triton: the gateway leaves ranks to the engine that takes them."""
    adapter_files.add(service.store, "flux-tiny", "rank-60", 60, seed=60)
    with pytest.raises(
        grpc.InferenceServerException, match="more than 64: rank-60 of rank 60, rank-8 of rank 8"
    ):
        rows(service, "flux", [[("rank-60", 1.0), ("rank-8", 1.0)]] * 4)
    with pytest.raises(grpc.InferenceServerException, match="'rank-3'"):
        rows(service, "flux", [[("rank-3", 1.0)]] * 4)


def test_a_new_industry_works_while_eight_clients_draw(service: Service, tmp_path: Path) -> None:
    """Nothing is restarted, nobody is disturbed, and refused files change nothing."""
    (seed, *_), stop = [27], threading.Event()
    base = picture(service, PROMPTS[0], [], seed=seed)

    def client(number: int) -> int:
        drawn = 0
        while not stop.is_set():
            assert np.array_equal(picture(service, PROMPTS[0], [], seed=seed), base)
            drawn += 1
        return drawn

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        try:
            bad = tmp_path / "bad.safetensors"
            bad.write_bytes(b"no tensors")
            with pytest.raises(AdapterError, match="bad.safetensors"):
                Store(service.store).add(bad, "bad", open_base(ASSETS / "flux-tiny"), Said())
            adapter_files.add(service.store, "flux-tiny", "gaming", 4, seed=99, industry="gaming")
            names = [choice["name"] for choice in json.loads(fetch(f"{service.url}/industries"))]
            answer = service.ask(PROMPTS[0], industry="gaming", seed=seed, num_inference_steps=STEPS)
        finally:
            stop.set()
        assert all(client.result() > 0 for client in clients)
    assert "gaming" in names
    assert [lora["name"] for lora in answer["loras"]] == ["gaming"]
    assert fetch(answer["generated_image_url"]) != service.png(
        PROMPTS[0] + ", for the gaming industry", seed=seed, num_inference_steps=STEPS
    )
