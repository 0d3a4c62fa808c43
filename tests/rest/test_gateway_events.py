"""A client that accepts events is told what comes of its request: the answer, or a problem as others are."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from gateway_support import Gateway, Liar, eventually, gateway_before, good_reply, is_problem, listening

ACCEPT = {"Accept": "text/event-stream"}


@pytest.fixture
def gateway(liar: Liar, tmp_path: Path) -> Iterator[Gateway]:
    with listening(liar) as url, gateway_before(url, tmp_path / "images", deadline_seconds=5) as gateway:
        yield gateway


def asked(gateway: Gateway, **body: Any) -> httpx2.Response:
    return gateway.http.post("/generate-image", json=body, headers=ACCEPT)


def events_of(answer: httpx2.Response) -> list[tuple[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = [part.split("\n") for part in answer.text.strip().split("\n\n") if not part.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def test_the_last_event_is_the_answer(gateway: Gateway) -> None:
    ((name, answer),) = events_of(asked(gateway, prompt="a mug", seed=3))
    assert name == "done" and answer["seed"] == 3
    assert gateway.http.get(answer["generated_image_url"]).status_code == 200
    plain = gateway.post(prompt="a mug", seed=3).json()
    varying = ("generated_image_url", "generation_time", "generation_seconds")
    assert {k: v for k, v in answer.items() if k not in varying} == {
        k: v for k, v in plain.items() if k not in varying
    }


def test_what_is_wrong_with_a_request_is_told_as_ever(gateway: Gateway) -> None:
    is_problem(asked(gateway, prompt=" "), 422, "blank")


def test_a_fault_while_drawing_is_the_last_event(liar: Liar, gateway: Gateway) -> None:
    liar.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "too late")
    ((name, problem),) = events_of(asked(gateway, prompt="a mug"))
    assert name == "error" and (problem["status"], problem["title"]) == (504, "Deadline exceeded")
    assert gateway.stored == set()


def test_a_fault_of_ours_is_told_without_its_words(
    gateway: Gateway, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise ArithmeticError("secret")

    monkeypatch.setattr("gateway.generation.encode", broken)
    ((name, problem),) = events_of(asked(gateway, prompt="a mug"))
    assert (name, problem["status"]) == ("error", 500) and "secret" not in json.dumps(problem)


def test_a_client_that_leaves_cancels_what_it_asked_for(liar: Liar, gateway: Gateway) -> None:
    ended = threading.Event()

    def slow(request: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(ended.set)
        ended.wait(10)
        return good_reply()

    liar.reply = slow
    with httpx2.Client(trust_env=False, timeout=0.6) as client, pytest.raises(httpx2.ReadTimeout):
        client.post(f"{gateway.url}/generate-image", json={"prompt": "a mug"}, headers=ACCEPT)
    assert ended.wait(3)
    assert eventually(lambda: len(liar.cancelled) == 1)
    assert gateway.stored == set()
