"""What Triton can do wrong, each row of the fault table: the answer, the number of tries, nothing stored."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest
from gateway_support import (
    Gateway,
    Liar,
    add_output,
    eventually,
    gateway_before,
    good_reply,
    is_problem,
    listening,
)
from tritonclient.grpc import service_pb2

from gateway import calls
from gateway.faults import FAULTS

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
ROWS = {
    "queue full": (UNAVAILABLE, "Exceeds maximum queue size", 503, 1),
    "exhausted": (grpc.StatusCode.RESOURCE_EXHAUSTED, "no memory", 503, 1),
    "queue timeout": (UNAVAILABLE, "Request timeout expired", 503, 1),
    "places": (UNAVAILABLE, "in ensemble 'x', all 64 places in the queue are taken", 503, 1),
    "expired": (UNAVAILABLE, "in ensemble 'x', the deadline passed at step 3 of 28", 504, 1),
    "cancelled": (grpc.StatusCode.CANCELLED, "in ensemble 'x', the request was cancelled", 503, 1),
    "stopping": (UNAVAILABLE, "Server is stopping, scheduler for model has stopped", 503, 2),
    "restricted": (UNAVAILABLE, "This protocol is restricted, expecting header", 500, 1),
    "reset": (UNAVAILABLE, "recvmsg:Connection reset by peer", 503, 2),
    "closed": (UNAVAILABLE, "Socket closed", 503, 2),
    "unknown unavailable": (UNAVAILABLE, "model is being unloaded", 503, 1),
    "deadline": (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", 504, 1),
    "stub": (grpc.StatusCode.INTERNAL, "in ensemble 'x', Stub process 'y_0_0' is not healthy.", 503, 1),
    "model error": (grpc.StatusCode.INTERNAL, "in ensemble 'x', boom", 502, 1),
    "our bug": (grpc.StatusCode.INVALID_ARGUMENT, "height 8 is not a multiple of 16", 500, 1),
    "no version": (
        grpc.StatusCode.NOT_FOUND,
        "Request for unknown model: 'x' has no available versions",
        503,
        1,
    ),
    "no model": (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x' is not found", 503, 1),
    "unknown": (grpc.StatusCode.UNKNOWN, "?", 502, 1),
}


@pytest.fixture
def lied_to(liar: Liar, tmp_path: Path) -> Iterator[Gateway]:
    with listening(liar) as url, gateway_before(url, tmp_path / "images", deadline_seconds=5) as gateway:
        yield gateway


@pytest.mark.parametrize("name", ROWS)
def test_each_fault_has_its_answer_and_its_number_of_tries(liar: Liar, lied_to: Gateway, name: str) -> None:
    code, message, status, tries = ROWS[name]
    liar.fail(code, message)
    answer = lied_to.post(prompt="a mug")
    is_problem(answer, status)
    assert message not in answer.text
    assert liar.calls == tries
    lost = {"deadline": 1, "reset": 2, "closed": 2}.get(name, 0)  # others Triton has ended itself
    assert eventually(lambda: len(set(liar.cancelled)) == len(liar.cancelled) == lost)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert lied_to.stored == set()
    liar.reply = lambda request, context: good_reply()
    assert lied_to.post(prompt="a mug").status_code == 200


def test_who_asks_for_what_is_not_served_makes_no_work_for_others(liar: Liar, lied_to: Gateway) -> None:
    for _ in range(2):
        assert lied_to.post(prompt="a mug").status_code == 200
        is_problem(lied_to.post(prompt="a mug", model="sdxl"), 422, "choices: text_to_image by model 'flux'")
    assert (liar.calls, liar.configs) == (2, 1)


def test_a_model_that_has_gone_is_told_from_the_next_request_on(liar: Liar, lied_to: Gateway) -> None:
    assert lied_to.post(prompt="a mug").status_code == 200
    liar.served = {"sdxl_text_to_image"}
    is_problem(lied_to.post(prompt="a mug"), 503, "try again later")
    is_problem(lied_to.post(prompt="a mug"), 422, "choices: text_to_image by model 'sdxl'")


def test_a_call_that_nobody_waits_for_ends_by_itself(
    liar: Liar, lied_to: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LET_END_SECONDS", 20)
    ended, active = threading.Event(), list[bool]()

    def slow(request: Any, context: grpc.ServicerContext) -> Any:
        ended.wait(10)
        active.append(context.is_active())
        return good_reply()

    liar.reply = slow
    with httpx2.Client(trust_env=False, timeout=0.5) as client, pytest.raises(httpx2.ReadTimeout):
        client.post(f"{lied_to.url}/generate-image", json={"prompt": "a mug"})
    assert eventually(lambda: len(liar.cancelled) == 1)
    time.sleep(0.5)  # a call that is cancelled would have been by now
    ended.set()
    assert eventually(lambda: active == [True])
    assert lied_to.stored == set()


def test_the_table_is_tested_whole() -> None:
    assert len(ROWS) == len(FAULTS) + 2  # two messages of a lost connection, two codes for the last row


def test_the_retry_sends_the_same_request_with_the_time_that_is_left(liar: Liar, lied_to: Gateway) -> None:
    seen: list[bytes] = []
    left: list[int] = []

    def fails_once(request: Any, context: grpc.ServicerContext) -> Any:
        left.append(request.parameters.pop("timeout").int64_param)
        request.id = request.id.removesuffix(".again")
        seen.append(request.SerializeToString(deterministic=True))
        if len(seen) == 1:
            context.abort(UNAVAILABLE, "Socket closed")
        return good_reply()

    liar.reply = fails_once
    assert lied_to.post(prompt="a mug").status_code == 200
    assert len(seen) == 2 and seen[0] == seen[1]
    assert 5e6 >= left[0] > left[1] > 4e6


def changed(**changes: Any) -> service_pb2.ModelInferResponse:
    """A good reply whose first output has these fields instead."""
    reply = good_reply()
    for name, value in changes.items():
        if name == "shape":
            reply.outputs[0].ClearField("shape")
            reply.outputs[0].shape.extend(value)
        else:
            setattr(reply.outputs[0], name, value)
    return reply


def with_content(*contents: bytes) -> service_pb2.ModelInferResponse:
    reply = good_reply()
    del reply.raw_output_contents[:]
    reply.raw_output_contents.extend(contents)
    return reply


def with_extra_output() -> service_pb2.ModelInferResponse:
    reply = good_reply()
    add_output(reply, "latents", np.zeros((1, 2), np.float32))
    return reply


PIXELS, TOKENS, APPLIED = good_reply().raw_output_contents
NAMELESS = b'[{"name": 1, "sha256": "", "scale": 1.0, "modules_applied": 1, "modules": 1}]'
LIES = {
    "no bytes": (with_content(b"", TOKENS, APPLIED), ["images", "byte length 0", "12288"]),
    "a byte short": (with_content(PIXELS[:-1], TOKENS, APPLIED), ["images", "byte length 12287", "12288"]),
    "a byte too long": (with_content(PIXELS + b"\0", TOKENS, APPLIED), ["images", "byte length 12289"]),
    "one content": (with_content(PIXELS), ["1 raw contents for 3 outputs"]),
    "wrong size": (
        good_reply(np.zeros((1, 32, 64, 3), np.uint8)),
        ["images", "shape (1, 32, 64, 3)", "64, 64"],
    ),
    "no batch axis": (good_reply(np.zeros((64, 64, 3), np.uint8)), ["images", "shape (64, 64, 3)"]),
    "swapped axes": (changed(shape=(1, 3, 64, 64)), ["images", "shape (1, 3, 64, 64)"]),
    "negative axes": (changed(shape=(1, -64, -64, 3)), ["images", "shape (1, -64, -64, 3)"]),
    "NaN": (good_reply(np.full((1, 64, 64, 3), np.nan, np.float32)), ["images", "dtype FP32", "UINT8"]),
    "infinity": (good_reply(tokens=np.full((1, 2, 2), np.inf, np.float32)), ["prompt_tokens", "dtype FP32"]),
    "wrong dtype": (changed(datatype="INT8"), ["images", "dtype INT8", "UINT8"]),
    "wrong name": (changed(name="image"), ["image", "expected"]),
    "too many": (with_extra_output(), ["latents", "expected"]),
    "none": (service_pb2.ModelInferResponse(), ["outputs are []"]),
    "texts cut short": (with_content(PIXELS, TOKENS, APPLIED[:3]), ["applied_loras", "cut short"]),
    "a short text": (with_content(PIXELS, TOKENS, APPLIED[:-1]), ["applied_loras", "cut short"]),
    "no text": (with_content(PIXELS, TOKENS, b""), ["applied_loras", "number of texts 0", "1"]),
    "applied: no JSON": (good_reply(applied=b"technology"), ["applied_loras"]),
    "applied: no facts": (good_reply(applied=b'[{"name": "food"}]'), ["applied_loras", "food"]),
    "applied: no text": (good_reply(applied=NAMELESS), ["name 1"]),
    "applied: no UTF-8": (good_reply(applied=b"\xff"), ["applied_loras"]),
    "negative counts": (good_reply(tokens=np.full((1, 2, 2), -1, np.int32)), ["prompt_tokens", "negative"]),
}


@pytest.mark.parametrize("name", LIES)
def test_a_reply_that_is_not_what_was_asked_is_never_stored(liar: Liar, lied_to: Gateway, name: str) -> None:
    lie, words = LIES[name]
    liar.reply = lambda request, context: lie
    is_problem(lied_to.post(prompt="a mug"), 502, *words)
    assert liar.calls == 1 and lied_to.stored == set()


@pytest.mark.parametrize("change", [{"native_size": "big"}, {"max_size": None}])
def test_a_config_without_limits_is_a_bad_reply(liar: Liar, lied_to: Gateway, change: dict[str, Any]) -> None:
    liar.parameters = {
        key: value for key, value in {**liar.parameters, **change}.items() if value is not None
    }
    is_problem(lied_to.post(prompt="a mug"), 502, "config", str(next(iter(change.values())) or "max_size"))
    is_problem(lied_to.http.get("/readyz"), 503, "does not draw")
    assert liar.calls == 0


def test_the_limits_are_read_again_after_a_fault(liar: Liar, lied_to: Gateway) -> None:
    assert lied_to.post(prompt="a mug").json()["width"] == 64
    liar.parameters["max_size"] = "48"
    liar.parameters["native_size"] = "48"
    liar.fail(UNAVAILABLE, "Socket closed")
    lied_to.post(prompt="a mug")
    is_problem(lied_to.post(prompt="a mug", width=64), 422, "from 32 to 48")
