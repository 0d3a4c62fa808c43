"""A base image inside the request itself: RFC 2397 data URIs."""

import binascii

from gateway.base_image.errors import BaseImageRefused
from gateway.base_image.limits import LIMITS

PREFIXES = tuple(f"data:image/{kind};base64" for kind in ("png", "jpeg", "webp"))
SHOWN_CHARACTERS = 40


def data_uri(text: str) -> bytes:
    """The content of a data URI; the named type is not believed, since decoding goes by the content.

    BaseImageRefused unless it is one of PREFIXES, a comma and padded base64 (RFC 4648, section 4), without
    percent-encoding or line breaks, of at most LIMITS.max_bytes.
    """
    prefix, comma, payload = text.partition(",")
    if not comma or prefix.lower() not in PREFIXES:
        choices = ", ".join(f"{prefix},..." for prefix in PREFIXES)
        raise BaseImageRefused(f"the base image's data URI begins with {_shown(text)}; choices: {choices}")
    if len(payload) // 4 * 3 - payload.count("=", -2) > LIMITS.max_bytes:
        raise BaseImageRefused(f"the base image's data URI holds more than {LIMITS.max_bytes} bytes")
    try:
        return _decoded(payload)
    except ValueError:
        begins = f"it begins with {_shown(payload)}"
        raise BaseImageRefused(f"the base image's data URI is no padded base64: {begins}") from None


def _decoded(payload: str) -> bytes:
    """ValueError if `payload` is not exactly what encoding gives: strict_mode lets surplus padding pass."""
    content = binascii.a2b_base64(payload, strict_mode=True)
    if binascii.b2a_base64(content, newline=False).decode() != payload:
        raise ValueError("surplus padding or bits")
    return content


def _shown(text: str) -> str:
    return ascii(text[:SHOWN_CHARACTERS])
