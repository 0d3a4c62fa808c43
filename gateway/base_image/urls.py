"""URLs of base images: their form, read by the HTTP client's own parser, and where they may point."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urljoin

import httpx2

from gateway.base_image.errors import BaseImageRefused

MAX_LENGTH = 2048  # characters
PORTS = {"http": 80, "https": 443}
UNFIT = re.compile(r"[^!-\[\]-~]")  # all but printable ASCII, which here is without space and backslash
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
HOST = rf"(?:{LABEL}(?:\.{LABEL})*|\[[0-9a-f:.]+\])"
# Parsers agree on URLs of this form. All else (user names, zones, trailing dots) is where they differ.
FORM = re.compile(rf"https?://{HOST}(?::[0-9]{{1,5}})?(?:[/?#].*)?", re.IGNORECASE)
ENTRY = re.compile(rf"{HOST}(?::[1-9][0-9]{{0,4}})?")
URL, REDIRECT = "base_image_url", "a redirect of base_image_url"


class AllowList:
    """Hosts that may have any address: "host" on ports 80 and 443, "host:port" on that port.

    ValueError if an entry is neither. Entries are compared exactly, so IPv6 is written as in the URLs.
    """

    def __init__(self, entries: Collection[str]) -> None:
        for entry in entries:
            port = entry.rpartition(":")[2]
            if not ENTRY.fullmatch(entry) or (port.isdigit() and int(port) > 65535):
                raise ValueError(
                    f"allowed host {entry!r} must be 'host' or 'host:port': "
                    "lower-case, no scheme, no path, IPv6 in brackets"
                )
        self._entries = frozenset(entries)

    def covers(self, host: str, port: int) -> bool:
        name = f"[{host}]" if ":" in host else host
        return f"{name}:{port}" in self._entries or (name in self._entries and port in PORTS.values())


@dataclass(frozen=True)
class Target:
    """A URL of the right form. `host` is what will be looked up: lower-case, IPv6 without brackets."""

    url: httpx2.URL
    host: str
    port: int


def check(text: str, allowed: AllowList, subject: str = URL) -> Target:
    """The target of `text`; BaseImageRefused, speaking of `subject`, if its form or port is not allowed."""
    _check_characters(text, subject)
    url = _parse(text, subject)
    if url.scheme not in PORTS:
        raise BaseImageRefused(
            f"{subject}: scheme {url.scheme!r} is not one of {', '.join(PORTS)}, data; "
            "or upload the picture as base_image"
        )
    if not FORM.fullmatch(text):
        raise _misshapen(subject)
    host = url.raw_host.decode("ascii").lower()
    port = PORTS[url.scheme] if url.port is None else url.port
    if port not in PORTS.values() and not allowed.covers(host, port):
        raise BaseImageRefused(
            f"{subject}: port {port} is not one of 80, 443; or upload the picture as base_image"
        )
    return Target(url, host, port)


def redirected(source: Target, location: str, allowed: AllowList) -> Target:
    """Where `source` sends us by its Location header; BaseImageRefused if that is not allowed."""
    _check_characters(location, REDIRECT)
    try:
        text = urljoin(str(source.url), location)
    except ValueError:
        raise _misshapen(REDIRECT) from None
    target = check(text, allowed, REDIRECT)
    if (source.url.scheme, target.url.scheme) == ("https", "http"):
        raise BaseImageRefused(f"{REDIRECT} leads from https to http")
    return target


def _check_characters(text: str, subject: str) -> None:
    if len(text) > MAX_LENGTH:
        raise BaseImageRefused(f"{subject} has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    if unfit := UNFIT.search(text):
        raise BaseImageRefused(
            f"{subject} has {unfit[0]!r} at position {unfit.start()}; allowed is printable ASCII without "
            "space and backslash, the rest percent-encoded"
        )


def _parse(text: str, subject: str) -> httpx2.URL:
    try:
        return httpx2.URL(text)
    except httpx2.InvalidURL:
        raise _misshapen(subject) from None


def _misshapen(subject: str) -> BaseImageRefused:
    return BaseImageRefused(
        f"{subject} must have the form http(s)://host[:port]/path, "
        "without user name, zone, trailing dot or odd characters in the host"
    )
