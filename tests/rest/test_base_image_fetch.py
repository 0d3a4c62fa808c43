"""Fetching from a real loopback server: good answers, redirects, statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from fetch_support import (
    GENEROUS,
    HOST,
    PICTURE,
    PUBLIC,
    Dials,
    always,
    fetched,
    moved,
    named,
    paths,
    recorded_dials,
    reply,
)

from gateway.base_image.errors import BaseImageRefused, BaseImageUnavailable
from gateway.base_image.urls import AllowList, check, redirected


@pytest.fixture(autouse=True)
def dials(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dials]:
    with recorded_dials(monkeypatch) as dials:
        yield dials


@pytest.mark.parametrize(
    "answer",
    [
        reply(PICTURE),
        reply(PICTURE, "Content-Encoding: identity"),
        reply(b"c\r\n" + PICTURE[:12] + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE,
        b"HTTP/1.1 100 Continue\r\n\r\n" + reply(PICTURE),
        reply(b"x" * GENEROUS.body_bytes),
    ],
    ids=["plain", "identity", "chunked", "until closed", "continue", "largest"],
)
def test_good_bytes_pass(answer: bytes) -> None:
    content, _ = fetched(always(answer))
    assert content and answer.replace(b"c\r\n", b"").find(content) > 0


def test_the_request_says_who_asks_and_nothing_more(monkeypatch: pytest.MonkeyPatch, dials: Dials) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    _, [head] = fetched(always(reply(PICTURE)), "/a%20b?c=d#e")
    port = dials.made[0][1]
    line, *headers = head.strip().split("\r\n")
    assert line == "GET /a%20b?c=d HTTP/1.1" and f"Host: {HOST}:{port}" in headers
    assert "Accept-Encoding: identity" in headers
    assert {header.split(":")[0] for header in headers} == {
        "Host", "Accept", "Accept-Encoding", "Connection", "User-Agent",
    }  # fmt: skip
    assert dials.made == [("127.0.0.1", port)]


@pytest.mark.parametrize(
    "location",
    [
        "http://10.11.12.13/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/",
        "http://other/",
        "//other/",
        "http://pictures.test:22/",
        "http://93.184.216.34:8080/",
        "ftp://93.184.216.34/",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "http://user@93.184.216.34/",
        "http://127.0.0.1\\@93.184.216.34/",
        "\\\\93.184.216.34/",
        "/\\93.184.216.34/",
        "/a b",
        "http://[::1",
        "http://93.184.216.34/" + "a" * 2100,
        "/b\u00fcro",
    ],
)
def test_redirects_are_checked_like_the_first_url(dials: Dials, location: str) -> None:
    with pytest.raises(BaseImageRefused, match="redirect") as refused:
        fetched(always(moved(location)))
    assert len(dials.made) == 1 and not {"10.11.12.13", "other"} & set(str(refused.value).split("'"))


def test_a_redirect_to_a_public_host_is_followed(dials: Dials) -> None:
    with pytest.raises(BaseImageUnavailable):  # the recorder connects none
        fetched(always(moved("https://public/a")))
    assert dials.take()[1:] == [(PUBLIC, 443)]


@pytest.mark.parametrize("status", ["301 a", "302 b", "303 c", "307 d", "308 e"])
@pytest.mark.parametrize("location", ["b?c", "./b?c", "/b?c", "../b?c", "?c"])
def test_relative_redirects_are_followed(status: str, location: str) -> None:
    answers = {
        "a/": moved(location, status),
        "a/?c": reply(PICTURE),
        "a/b?c": reply(PICTURE),
        "b?c": reply(PICTURE),
    }

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[path.removeprefix("/")])

    assert fetched(answer, "/a/")[0] == PICTURE


def test_three_redirects_are_followed_and_no_fourth() -> None:
    hops = paths(a=moved("b"), b=moved("c"), c=moved("d"), d=moved("e"), e=reply(PICTURE))
    content, heads = fetched(hops, "/b")
    assert (content, len(heads)) == (PICTURE, 4)
    with pytest.raises(BaseImageRefused, match="more than 3 times"):
        fetched(hops, "/a")


def test_a_redirect_loop_ends(dials: Dials) -> None:
    with pytest.raises(BaseImageRefused, match="more than 3 times"):
        fetched(always(moved("/loop")))
    assert len(dials.made) == 4


def test_every_hop_is_looked_up_again() -> None:
    names = named()
    names.answers[HOST] = [["127.0.0.1"], ["127.0.0.1"]]
    fetched(paths(a=moved("b"), b=reply(PICTURE)), "/a", look_up=names)
    assert names.asked == [HOST, HOST]


@pytest.mark.parametrize("headers", [(), ("Location: /a", "Location: /b")])
def test_a_redirect_must_say_where(headers: tuple[str, ...]) -> None:
    with pytest.raises(BaseImageUnavailable, match=f"{len(headers)} Location headers"):
        fetched(always(reply(b"", *headers, status="302 Found")))


def test_https_never_becomes_http() -> None:
    none = AllowList(())
    source = check("https://public/", none)
    assert redirected(source, "https://other.test/", none).host == "other.test"
    with pytest.raises(BaseImageRefused, match="https to http"):
        redirected(source, "http://public/", none)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("404 Not Found", BaseImageRefused),
        ("403 Forbidden", BaseImageRefused),
        ("500 Internal Server Error", BaseImageUnavailable),
        ("503 Service Unavailable", BaseImageUnavailable),
        ("204 No Content", BaseImageUnavailable),
        ("206 Partial Content", BaseImageUnavailable),
        ("304 Not Modified", BaseImageUnavailable),
        ("101 Switching Protocols", BaseImageUnavailable),
    ],
)
def test_only_status_200_has_a_picture(status: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"status {status[:3]}|proper HTTP"):
        fetched(always(reply(status=status)))
