"""Hostile URLs and names never reach a socket; accepted ones reach the host that every parser reads."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
import urllib3
import yarl
from fetch_support import PRIVATE, PUBLIC, Dials, Names, named, recorded_dials
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gateway.base_image import fetch
from gateway.base_image.errors import BaseImageRefused, BaseImageUnavailable
from gateway.base_image.network import look_up
from gateway.base_image.urls import AllowList, check

# Numbers go through the system's own getaddrinfo, which reads every notation; names through the table.
NAMES = {"localhost": "127.0.0.1", "ip6-localhost": "::1", "metadata.google.internal": "169.254.169.254"}
HOSTS = """
127.0.0.1 127.1 127.0.1 127.255.255.254 0 0.0.0.0 2130706433 0x7f000001 0x7f.0x0.0x0.0x1 0x7f.1 017700000001
0177.1 0177.0.0.1 0300.0250.1 3232235521 0xa9fea9fe 2852039166 0251.0376.0251.0376 10.0.0.1 10.1 172.16.0.1
192.168.1.1 169.254.169.254 169.254.170.2 168.63.129.16 100.64.0.1 100.100.100.200 192.0.0.192 198.18.0.1
192.88.99.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 localhost LOCALHOST ip6-localhost
metadata.google.internal [::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::FFFF:7F00:1] [::127.0.0.1]
[::ffff:169.254.169.254] [64:ff9b::7f00:1] [64:ff9b::a9fe:a9fe] [64:ff9b:1::a00:1] [2002:7f00:1::]
[2001:0:7f00:1::] [fe80::1] [fec0::1] [fc00::1] [fd00:ec2::254] [ff02::1] [3fff::1] [5f00::1] [2001:db8::1]
[2606:4700::5efe:7f00:1] nothing.invalid
""".split()
URLS = [
    "http://user@93.184.216.34/",
    "http://user:password@93.184.216.34/",
    "http://@93.184.216.34/",
    "http://:@93.184.216.34/",
    "http://93.184.216.34@127.0.0.1/",
    "http://93.184.216.34:80@127.0.0.1/",
    "http://127.0.0.1\\@93.184.216.34/",
    "http://93.184.216.34\\.example/",
    "http://93.184.216.34/a\\b",
    "http://127.0.0.1%2f@93.184.216.34/",
    "http://93.184.216.34%2e/",
    "http://%31%32%37.0.0.1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://１２７.0.0.1/",
    "http://127。0。0。1/",
    "http://ⓔⓧⓐⓜⓟⓛⓔ.com/",
    "http://exämple.test/",
    "http://93.184.216.34./",
    "http://example.test./",
    "http://example..test/",
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[::1]x/",
    "http://[::1",
    "http://[93.184.216.34]/",
    "http://256.1.1.1/",
    "http://93.184.216.34 /",
    " http://93.184.216.34/",
    "http://93.184.216.34/\t",
    "http://93.184.216.34/\r\nX: y",
    "http://93.184.216.34/\n",
    "http://93.184.216.34/\x00",
    "http://93.184.216.34/\u2028",
    "http://93.184.216.34/pic\u0443re",
    "http://93.184.216.34:22/",
    "http://93.184.216.34:8080/",
    "http://93.184.216.34:0/",
    "http://93.184.216.34:65536/",
    "http://93.184.216.34:+80/",
    "http://93.184.216.34:8_0/",
    "http://93.184.216.34:80:443/",
    "http://93.184.216.34:/",
    "http://93.184.216.34:http/",
    "http:///path",
    "http://",
    "http:/93.184.216.34/",
    "http:93.184.216.34/",
    "//93.184.216.34/",
    "93.184.216.34",
    "",
    "/etc/passwd",
    "file:///etc/passwd",
    "file://93.184.216.34/a",
    "gopher://93.184.216.34:80/_x",
    "ftp://93.184.216.34/",
    "data:image/png;base64,AAAA",
    "jar:http://93.184.216.34!/",
    "javascript:alert(1)",
    "ws://93.184.216.34/",
    "httpx://93.184.216.34/",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "http://" + "a" * 64 + ".test/",
    "http://93.184.216.34/" + "a" * 2028,
]


@pytest.fixture(autouse=True)
def dials(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dials]:
    with recorded_dials(monkeypatch) as dials:
        yield dials


def resolve(host: str, port: int) -> list[str]:
    return [NAMES[host]] if host in NAMES else look_up(host, port)


def fetch_once(url: str, names: fetch.LookUp = resolve, allowed: tuple[str, ...] = ()) -> bytes:
    async def run() -> bytes:
        fetcher = fetch.Fetcher(allowed, look_up=names)
        try:
            return await fetcher.fetch(url)
        finally:
            await fetcher.close()

    return asyncio.run(run())


def test_the_corpus_is_large() -> None:
    assert len(set(HOSTS)) + len(set(URLS)) >= 120


@pytest.mark.parametrize("url", [f"http://{host}/a.png" for host in HOSTS] + URLS)
def test_hostile_urls_are_refused_before_any_connection(dials: Dials, url: str) -> None:
    with pytest.raises(BaseImageRefused) as refused:
        fetch_once(url)
    assert dials.made == [] and "127.0.0.1" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://93.184.216.34/", ("93.184.216.34", 80)),
        ("https://93.184.216.34/a?b=http://127.0.0.1/#c@d", ("93.184.216.34", 443)),
        ("HTTP://93.184.216.34:443/", ("93.184.216.34", 443)),
        ("http://1572395042/", ("93.184.216.34", 80)),
        ("http://[2606:4700:4700::1111]:80/", ("2606:4700:4700::1111", 80)),
        ("http://93.184.216.34/" + "a" * 2027, ("93.184.216.34", 80)),
    ],
)
def test_public_addresses_are_dialled(dials: Dials, url: str, address: tuple[str, int]) -> None:
    with pytest.raises(BaseImageUnavailable):  # the recorder connects none
        fetch_once(url)
    assert dials.take() == [address]


def test_a_name_is_looked_up_once_and_what_was_checked_is_dialled(dials: Dials) -> None:
    names = Names(rebind=[[PUBLIC], ["127.0.0.1"], [PRIVATE]])
    with pytest.raises(BaseImageUnavailable):
        fetch_once("http://rebind/", names)
    assert (names.asked, dials.take()) == (["rebind"], [(PUBLIC, 80)])


@pytest.mark.parametrize(
    "addresses",
    [[PUBLIC, PRIVATE], [PRIVATE, PUBLIC], [PUBLIC, "::1"], ["2606:4700::1", "fe80::1%2"], [PRIVATE]],
)
def test_a_name_with_any_private_address_is_refused_whole(dials: Dials, addresses: list[str]) -> None:
    with pytest.raises(BaseImageRefused) as refused:
        fetch_once("http://mixed/", named(mixed=addresses))
    with pytest.raises(BaseImageRefused) as unknown:
        fetch_once("http://unknown/", named())
    assert str(refused.value) == str(unknown.value), "the answers tell which internal names exist"
    assert dials.made == [] and not any(address in str(refused.value) for address in addresses)


def test_every_address_of_a_name_is_tried(dials: Dials) -> None:
    with pytest.raises(BaseImageUnavailable):
        fetch_once("http://two/", named(two=[PUBLIC, "8.8.8.8"]))
    assert dials.take() == [(PUBLIC, 80), ("8.8.8.8", 80)]


def test_a_name_server_in_trouble_is_not_the_clients_fault() -> None:
    def in_trouble(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with pytest.raises(BaseImageUnavailable, match="cannot be looked up"):
        fetch_once("http://slow/", in_trouble)


@pytest.mark.parametrize(
    ("entry", "url", "reached"),
    [
        ("assets", "http://assets/", True),
        ("assets", "https://ASSETS/", True),
        ("assets", "http://assets:8080/", False),
        ("assets:8080", "http://assets:8080/", True),
        ("assets:8080", "http://assets/", False),
        ("assets:443", "https://assets/", True),
        ("assets", "http://assets.evil/", False),
        ("[fd00::1]:8080", "http://[fd00::1]:8080/", True),
        ("10.11.12.13", "http://10.11.12.13/", True),
        ("10.11.12.13", "http://10.11.12.14/", False),
    ],
)
def test_allowed_hosts(dials: Dials, entry: str, url: str, reached: bool) -> None:
    names = {"assets": [[PRIVATE]], "assets.evil": [[PRIVATE]]}
    numbers = {text: [[text]] for text in ("fd00::1", PRIVATE, "10.11.12.14")}
    with pytest.raises(BaseImageUnavailable if reached else BaseImageRefused) as error:
        fetch_once(url, Names(**names, **numbers), (entry,))
    assert bool(dials.take()) is reached and PRIVATE not in str(error.value)


@pytest.mark.parametrize(
    "entry",
    ["", "Assets", "http://assets", "assets/", "assets:", "assets:0", "assets:65536", "assets:x", "*.test",
     "user@assets", "assets.", "::1", "[::1", "as sets", "ässets"],
)  # fmt: skip
def test_malformed_allowed_hosts_are_named(entry: str) -> None:
    with pytest.raises(ValueError, match="'host' or 'host:port'") as error:
        fetch.Fetcher([entry])
    assert repr(entry) in str(error.value)


HOST_TEXTS = st.one_of(
    st.sampled_from(
        ["a.test", "A.Test", "xn--n3h.test", "93.184.216.34", "1572395042", "0x5db8d822", "[2606:4700::1]"]
    ),
    st.from_regex(r"[a-zA-Z0-9._\-]{1,12}", fullmatch=True),
    st.text(alphabet="aZ0.:@%/\\#?[]_-①。\t", min_size=1, max_size=10),
)
URL_TEXTS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["http", "https", "HTTP", "ftp"]),
        st.sampled_from(["://", "://", "://", ":/", ":", ":///", ":\\\\"]),
        st.sampled_from(["", "", "", "b@", "b:c@", "b.test\\@", "@", "b.test#@", "b.test/@"]),
        HOST_TEXTS,
        st.sampled_from(["", "", ":80", ":443", ":0443", ":", ":22"]),
        st.sampled_from(
            ["", "/", "/a@b", "?@b.test", "#@b.test", "/..//b.test", "\\b.test", "@b.test", ";b.test"]
        ),
    ),
)


def hosts_by_other_parsers(url: str) -> set[str]:
    read = (urlsplit(url).hostname, urllib3.util.parse_url(url).host, yarl.URL(url).raw_host)
    return {plain(host or "") for host in read}


def plain(host: str) -> str:
    """`host` without brackets, an address in one notation."""
    bare = host.lower().strip("[]")
    try:
        return str(ip_address(bare))
    except ValueError:
        return bare


class Agreement:
    """A fetcher whose every name has the address PUBLIC; made once, since it reads all certificates."""

    def __init__(self, dials: Dials) -> None:
        self.dials, self.names = dials, Names()
        self.fetcher = fetch.Fetcher(look_up=self.names)

    def check(self, url: str) -> None:
        """If `url` is accepted, every parser reads the host that was looked up, and PUBLIC was dialled."""
        try:
            check(url, AllowList(()))
        except BaseImageRefused:
            assume(False)
        hosts = hosts_by_other_parsers(url)
        self.names.asked, self.names.answers = [], {host: [[PUBLIC]] for host in hosts}
        with pytest.raises(BaseImageUnavailable):  # the recorder connects none
            asyncio.run(self.fetcher.fetch(url))
        assert {plain(host) for host in self.names.asked} == hosts and len(self.names.asked) == 1
        port = urlsplit(url).port or (443 if url.lower().startswith("https") else 80)
        assert self.dials.take() == [(PUBLIC, port)]


@pytest.fixture
def agreement(dials: Dials) -> Iterator[Agreement]:
    agreement = Agreement(dials)
    yield agreement
    asyncio.run(agreement.fetcher.close())


FIXTURE_IS_SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow]


@settings(max_examples=500, deadline=None, suppress_health_check=FIXTURE_IS_SHARED)
@given(url=URL_TEXTS)
def test_parsers_agree_on_accepted_urls(url: str, agreement: Agreement) -> None:
    agreement.check(url)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None, suppress_health_check=FIXTURE_IS_SHARED)
@given(url=URL_TEXTS)
def test_parsers_agree_on_many_more(url: str, agreement: Agreement) -> None:
    agreement.check(url)
