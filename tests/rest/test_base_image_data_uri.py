"""Base images inside the request: which data URIs are read, and how the others are refused."""

import base64
import random

import pytest

from gateway.base_image.data_uri import data_uri
from gateway.base_image.errors import BaseImageRefused

CONTENT = bytes(range(256)) + b"\xff\xfe"
TEXT = base64.b64encode(CONTENT).decode()
LIMIT = 10 * 2**20


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "PNG"])
def test_the_three_kinds_are_read(kind: str) -> None:
    assert data_uri(f"data:image/{kind};base64,{TEXT}") == CONTENT
    assert data_uri(f"DATA:image/{kind};BASE64,{TEXT}") == CONTENT


@pytest.mark.parametrize("size", range(1, 10))
def test_every_padding_is_read(size: int) -> None:
    assert data_uri("data:image/png;base64," + base64.b64encode(CONTENT[-size:]).decode()) == CONTENT[-size:]


@pytest.mark.parametrize(
    "begin",
    [
        "",
        "data:",
        "data:,",
        "data:;base64,",
        "data:image/png,",
        "data:image/png;base64",
        "data:image/png;base64;",
        "data:image/png;charset=utf-8;base64,",
        "data: image/png;base64,",
        " data:image/png;base64,",
        "data:image/png ;base64,",
        "data:image/gif;base64,",
        "data:image/svg+xml;base64,",
        "data:image/jpg;base64,",
        "data:text/html;base64,",
        "data:image/png;base32,",
        "data:image/png;base64;x=",
        "data://image/png;base64,",
        "http://example.com/",
        "data\n:image/png;base64,",
        "data:image%2Fpng;base64,",
    ],
)
def test_other_beginnings_are_refused(begin: str) -> None:
    with pytest.raises(BaseImageRefused, match="choices: data:image/png;base64,..., data:image/jpeg"):
        data_uri(begin + TEXT)


@pytest.mark.parametrize(
    "payload",
    [
        TEXT[:-1],
        TEXT + "=",
        TEXT + "====",
        "=" + TEXT,
        TEXT[:8] + "\n" + TEXT[8:],
        TEXT[:8] + " " + TEXT[8:],
        TEXT[:4] + "%2B" + TEXT[4:],
        TEXT.replace("+", "-").replace("/", "_"),
        "A",
        "AA",
        "AA=",
        "A===",
        "AB==",
        "AA==AAAA",
        "AAAA\0",
        "AAAé",
        "AAA\ud800",
        "ＡＡＡＡ",
        "AAAA,AAAA",
        "AAAA#fragment",
    ],
)
def test_what_is_no_strict_base64_is_refused(payload: str) -> None:
    with pytest.raises(BaseImageRefused, match="no padded base64"):
        data_uri("data:image/png;base64," + payload)


def test_nothing_is_refused_by_the_decoder_not_here() -> None:
    assert data_uri("data:image/png;base64,") == b""


@pytest.mark.parametrize("excess", [1, 2, 3, LIMIT])
def test_more_than_the_limit_is_refused(excess: int) -> None:
    text = "data:image/png;base64," + base64.b64encode(bytes(LIMIT + excess)).decode()
    with pytest.raises(BaseImageRefused, match="more than 10485760 bytes"):
        data_uri(text)


def test_the_limit_itself_is_read() -> None:
    assert len(data_uri("data:image/png;base64," + base64.b64encode(bytes(LIMIT)).decode())) == LIMIT


@pytest.mark.parametrize("begin", ["", "data:image/png;base64,"])
def test_a_message_repeats_little_of_the_input(begin: str) -> None:
    letters = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1000)) + "!"
    with pytest.raises(BaseImageRefused) as refusal:
        data_uri(begin + letters)
    assert letters[:20] in str(refusal.value) and letters[:41] not in str(refusal.value)
    assert len(str(refusal.value)) < 250
