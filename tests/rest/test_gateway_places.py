"""Requests beyond the places are refused at once; a place is free again however its request ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from gateway_support import Gateway, Liar, gateway_before, good_reply, is_problem, listening


@pytest.fixture
def gateway(liar: Liar, tmp_path: Path) -> Iterator[Gateway]:
    with listening(liar) as url, gateway_before(url, tmp_path / "images", max_in_flight=2) as gateway:
        yield gateway


def test_a_third_request_is_refused_while_two_are_drawn(liar: Liar, gateway: Gateway) -> None:
    both, go = threading.Barrier(3), threading.Event()

    def slow(request: Any, context: grpc.ServicerContext) -> Any:
        both.wait()
        go.wait()
        return good_reply()

    liar.reply = slow
    with ThreadPoolExecutor(2) as pool:
        drawn = [pool.submit(gateway.post, prompt="a mug") for _ in range(2)]
        both.wait()
        refused = gateway.post(prompt="a mug")
        is_problem(refused, 503, "all places in the queue are taken")
        assert int(refused.headers["retry-after"]) > 0 and liar.calls == 2
        go.set()
        assert [future.result().status_code for future in drawn] == [200, 200]
    liar.reply = lambda request, context: good_reply()
    assert gateway.post(prompt="a mug").status_code == 200


def test_no_way_to_fail_keeps_a_place(liar: Liar, gateway: Gateway) -> None:
    events = {"Accept": "text/event-stream"}
    for _ in range(3):
        assert gateway.post(prompt="").status_code == 422
        liar.fail(grpc.StatusCode.INTERNAL, "boom")
        assert gateway.post(prompt="a mug").status_code == 502
        assert (
            gateway.http.post("/generate-image", json={"prompt": "a mug"}, headers=events).status_code == 200
        )
        liar.reply = lambda request, context: threading.Event().wait(3)
        with httpx2.Client(trust_env=False, timeout=0.3) as client, pytest.raises(httpx2.ReadTimeout):
            client.post(f"{gateway.url}/generate-image", json={"prompt": "a mug"})
    liar.reply = lambda request, context: good_reply()
    assert gateway.post(prompt="a mug").status_code == 200
