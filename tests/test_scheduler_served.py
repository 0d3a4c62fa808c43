"""The scheduler in a real Triton: who cancels frees the place, progress is told, nothing is counted twice."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from scheduler_client import Client, ended, run
from tiny_service import exported
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from families.control import CANCEL, PRIORITY_CLASS, SENDS_CANCEL, WATCH
from gateway.app import create_app
from gateway.server import background
from gateway.settings import Settings
from serving import EmbeddedTriton

LONG = 50  # steps


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    with EmbeddedTriton([exported("flux-tiny")], tmp_path_factory.mktemp("logs")) as server:
        yield server


def test_pictures_of_staggered_clients_are_those_of_one_at_a_time(server: EmbeddedTriton) -> None:
    async def test(client: Client) -> None:
        mixed = [(number, (4, 9, 15)[number % 3]) for number in range(8)]
        alone = [await client.draw(*each) for each in mixed]

        async def later(place: int) -> bytes:
            await asyncio.sleep(place * 0.02)
            return await client.draw(*mixed[place])

        assert list(await asyncio.gather(*map(later, range(8)))) == alone

    run(server, test)


def test_progress_and_a_preview_that_comes_to_look_like_the_picture(server: EmbeddedTriton) -> None:
    async def test(client: Client) -> None:
        drawing = asyncio.create_task(client.draw(1, LONG, request_id="watched"))
        await client.until("watched", LONG - 20)
        told = await client.told(WATCH, "watched")
        assert told["state"] == "running" and told["steps"] == LONG and told["eta_seconds"] > 0
        picture = np.frombuffer(await drawing, np.uint8).reshape(16, 8, 16, 8, 3).mean((1, 3))
        assert told["preview"].shape == (1, 16, 16, 3) and told["preview"].dtype == np.uint8
        error = np.square(told["preview"][0] - picture).mean()
        assert 10 * np.log10(255**2 / error) > 15
        assert (await client.told(WATCH, "watched"))["state"] == "unknown"

    run(server, test)


def test_a_cancelled_request_ends_before_its_next_step(server: EmbeddedTriton) -> None:
    async def test(client: Client) -> None:
        before = client.counts()
        drawing = asyncio.create_task(client.draw(1, LONG, request_id="unwanted"))
        await client.until("unwanted", 3)
        assert (await client.told(CANCEL, "unwanted"))["state"] == "cancelled"
        assert await ended(drawing) == "StatusCode.CANCELLED"
        assert (await client.told(CANCEL, "early"))["state"] == "unknown"
        assert await ended(asyncio.create_task(client.draw(1, request_id="early"))) == "StatusCode.CANCELLED"
        assert await client.has_grown(before, started=2, cancelled=2)

    run(server, test)


def test_a_deadline_frees_the_place(server: EmbeddedTriton) -> None:
    async def test(client: Client) -> None:
        before = client.counts()
        with pytest.raises(InferenceServerException, match=f"the deadline passed at step \\d+ of {LONG}"):
            await client.draw(1, LONG, timeout=50_000)
        assert await client.has_grown(before, started=1, expired=1)

    run(server, test)


@pytest.mark.parametrize(("options", "fault"), [({}, "no id that"), ({"request_id": "a"}, "choices: '1'")])
def test_who_cannot_cancel_must_not_say_so(
    server: EmbeddedTriton, options: dict[str, str], fault: str
) -> None:
    async def test(client: Client) -> None:
        with pytest.raises(InferenceServerException, match=fault):
            await client.draw(1, parameters={SENDS_CANCEL: "yes" if options else "1"}, **options)

    run(server, test)


def test_an_unknown_priority_is_refused(server: EmbeddedTriton) -> None:
    async def test(client: Client) -> None:
        with pytest.raises(InferenceServerException, match="'urgent' is unknown; choices: interact"):
            await client.draw(1, parameters={PRIORITY_CLASS: "urgent"})
        assert await client.draw(1, parameters={PRIORITY_CLASS: "batch"}) == await client.draw(1)

    run(server, test)


def scheduler_inputs(steps: int) -> list[InferInput]:
    """A direct request to the scheduler; embeddings of zeros."""
    shapes = {"prompt_embeds": (1, 64, 96), "pooled_prompt_embeds": (1, 64), "lora_a": (1, 4, 10368)}
    shapes["lora_b"] = (1, 13376, 4)
    values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for name, value, dtype in (
        ("seed", 1, np.int64), ("num_inference_steps", steps, np.int32), ("guidance_scale", 3.5, np.float32),
        ("height", 128, np.int32), ("width", 128, np.int32), ("applied_loras", b"[]", np.object_),
    ):  # fmt: skip
        values[name] = np.array([[value]], dtype)
    inputs = []
    for name, array in values.items():
        kind = {"O": "BYTES", "f": "FP32", "i": f"INT{8 * array.itemsize}"}[array.dtype.kind]
        inputs.append(InferInput(name, array.shape, kind).set_data_from_numpy(array))
    return inputs


@pytest.mark.parametrize("told", ["", "1"], ids=["noticed", "told"])
def test_a_direct_call_that_is_cancelled_frees_the_place(server: EmbeddedTriton, told: str) -> None:
    async def test(client: Client) -> None:
        before, options = client.counts(), {"request_id": "d" + told, "parameters": {SENDS_CANCEL: told}}
        drawing = asyncio.create_task(client.grpc.infer("flux_scheduler", scheduler_inputs(LONG), **options))
        await client.until("d" + told, 3)
        drawing.cancel()
        assert await ended(drawing) == "left"
        if told:  # who says that it sends `cancel` runs until it does
            await client.until("d1", 9)
            await client.told(CANCEL, "d1")
        assert await client.has_grown(before, started=1, cancelled=1)

    run(server, test)


def test_every_request_of_200_cancelled_at_random_has_one_end(server: EmbeddedTriton) -> None:
    chance = random.Random(6)

    async def test(client: Client) -> None:
        before = client.counts()

        async def one(number: int) -> str:
            key = f"random-{number}"
            drawing = asyncio.create_task(client.draw(number, chance.randint(1, 12), request_id=key))
            await asyncio.sleep(chance.expovariate(1 / 0.2))
            await client.told(CANCEL, key)
            return await ended(drawing)

        ends = Counter[str]()
        for start in range(0, 200, 20):
            ends += Counter(await asyncio.gather(*map(one, range(start, start + 20))))
        finished, cancelled = ends["finished"], ends["StatusCode.CANCELLED"]
        assert finished + cancelled == 200 and min(finished, cancelled) > 10, ends
        assert await client.has_grown(before, started=200, finished=finished, cancelled=cancelled)

    run(server, test)


def test_a_quality_below_high_saves_calls_beside_adapters_and_a_cancelled_request(
    server: EmbeddedTriton,
) -> None:
    adapters = ["food", "technology", "travel", ""]

    def loras(place: int) -> str:
        return json.dumps([{"name": adapters[place]}] if adapters[place] else [])

    async def test(client: Client) -> None:
        async def draw(quality: str, place: int, key: str = "") -> bytes:
            fields = {"quality": quality, "loras": loras(place)}
            return await client.draw(place, 28, fields, request_id=key)

        async def rows_of(quality: str) -> tuple[list[bytes], int]:
            before = client.counts("postpulse_engine_")["rows"]
            unwanted = asyncio.create_task(draw(quality, 1, "unwanted"))
            drawing = asyncio.gather(*(draw(quality, place) for place in range(4)))
            await client.until("unwanted", 1)
            await client.told(CANCEL, "unwanted")
            assert await ended(unwanted) == "StatusCode.CANCELLED"
            pictures = await drawing
            await asyncio.sleep(0.2)  # until it is told
            return pictures, client.counts("postpulse_engine_")["rows"] - before

        wanted, every = await rows_of("high")
        found, some = await rows_of("medium")
        assert every >= 4 * 28 and every / some >= 1.5
        for one, other in zip(wanted, found, strict=True):
            error = np.square(np.subtract(*(np.frombuffer(p, np.uint8).astype(float) for p in (one, other))))
            assert 10 * np.log10(255**2 / error.mean()) >= 25
        assert found == [await draw("medium", place) for place in range(4)]
        with pytest.raises(InferenceServerException, match="'best' is not one of flux's; choices: high"):
            await draw("best", 0)

    run(server, test)


def test_what_is_cancelled_by_leaving_the_gateway_is_not_stored(
    server: EmbeddedTriton, tmp_path: Path
) -> None:
    """Each is given up after a random time: what is cancelled is not stored, what is answered is."""
    chance = random.Random(7)
    chosen = Settings(triton_url=server.grpc_url, storage_folder=tmp_path / "pictures", public_url=None)

    async def test(client: Client) -> None:
        before = client.counts()

        async def one(http: httpx2.AsyncClient, number: int) -> bool:
            body = {"prompt": f"a red mug {number % 5}", "num_inference_steps": chance.randint(1, 12)}
            asking = http.post("/generate-image", json=body)
            try:
                return (await asyncio.wait_for(asking, chance.uniform(0.05, 1))).status_code == 200
            except TimeoutError:
                return False

        with background(create_app(chosen), chosen) as url:
            async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
                rounds = [await asyncio.gather(*(one(http, n) for n in range(16))) for _ in range(5)]
        answered = sum(map(sum, rounds))
        await asyncio.sleep(2)  # until the ledger is told
        grown, stored = client.counts() - before, len(list(chosen.storage_folder.iterdir()))
        assert set(grown) == {"started", "finished", "cancelled"}
        assert grown["started"] == grown["finished"] + grown["cancelled"]
        assert 5 < answered <= stored <= grown["finished"] and grown["cancelled"] > 5

    run(server, test)


def test_events_tell_each_step_that_is_seen_with_a_preview_and_last_the_answer(
    server: EmbeddedTriton, tmp_path: Path
) -> None:
    chosen = Settings(triton_url=server.grpc_url, storage_folder=tmp_path / "pictures", public_url=None)
    body = {"prompt": "a red mug", "num_inference_steps": LONG, "width": 512, "height": 512}
    with background(create_app(chosen), chosen) as url:
        accept = {"Accept": "text/event-stream"}
        asked = httpx2.post(f"{url}/generate-image", json=body, headers=accept, trust_env=False, timeout=120)
    parts = [part.split("\n", 1) for part in asked.text.strip().split("\n\n") if not part.startswith(":")]
    told = [(name, json.loads(data.removeprefix("data: "))) for name, data in parts]
    assert {name for name, _ in told[:-1]} == {"event: progress"} and told[-1][0] == "event: done"
    steps = [(event["state"], event["step"]) for _, event in told[:-1]]
    assert len(set(steps)) == len(steps) > 1 and steps == sorted(steps, key=lambda seen: seen[1])
    previews = [event["preview"] for _, event in told[:-1] if event["step"]]
    assert previews and all(preview.startswith("data:image/png;base64,iVBOR") for preview in previews)
