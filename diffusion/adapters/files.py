"""A safetensors file of an adapter, checked before the library that parses it sees a byte."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from families.adapters import AdapterError

# The library takes 99 MB of spaces as a header, a million empty tensors, names with ../ in them.
MAX_BYTES, MAX_HEADER_BYTES, MAX_TENSORS = 2**31, 2**20, 10_000
TENSOR_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
DTYPES = ("F32", "F16", "BF16")
ALPHA_DTYPES = (*DTYPES, "I64")  # as diffusers' convert_state_dict_to_kohya writes alpha
LENGTH = 8  # bytes of the header's length, which comes first
# What takes long to parse: objects and keys, also of JSON that is quoted in metadata.
MARKS = {b"{": 2 * MAX_TENSORS, b'":': 5 * MAX_TENSORS}
MAGIC = {b"PK\x03\x04": "a zip, as torch.save writes, with a pickle in it", b"\x80": "a pickle"}


@dataclass(frozen=True)
class Contents:
    """A file that was found good: finite tensors of the types in DTYPES, and its metadata."""

    path: Path
    data: bytes
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def read(path: Path, sha256: str | None = None) -> Contents:
    """The file at `path`, of that hash if one is given. AdapterError names what is wrong; nothing is run."""
    try:
        with open(path, "rb", opener=_opened) as file:
            data, metadata = _checked(file, path)
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from None
    contents = Contents(path, data, metadata, _loaded(data, path))
    if sha256 not in (None, contents.sha256):
        raise AdapterError(f"{path} was changed: its sha256 is {contents.sha256}, the index says {sha256}")
    return contents


def _opened(path: str, flags: int) -> int:
    """A file descriptor: never of a link's target, and a pipe is not waited for."""
    if Path(path).is_symlink():
        raise AdapterError(f"{path} is a symbolic link: name the file itself")
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _checked(file: BinaryIO, path: Path) -> tuple[bytes, Mapping[str, str]]:
    """All bytes and the metadata; the header is judged before the rest is read."""
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode):
        raise AdapterError(f"{path} is not a regular file")
    if about.st_size > MAX_BYTES:
        raise AdapterError(f"{path} has {about.st_size} bytes; at most {MAX_BYTES} are read")
    start = file.read(LENGTH)
    text = file.read(_header_bytes(start, about.st_size, path))
    metadata = _check_header(text, path)
    return start + text + file.read(), metadata


def _header_bytes(start: bytes, size: int, path: Path) -> int:
    length = int.from_bytes(start, "little")
    if len(start) == LENGTH and length <= min(MAX_HEADER_BYTES, size - LENGTH):
        return length
    for magic, name in MAGIC.items():
        if start.startswith(magic):
            raise AdapterError(f"{path} is {name}, which can run code; only safetensors are read")
    if len(start) == LENGTH and length <= size - LENGTH:
        raise AdapterError(f"{path} has a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
    raise AdapterError(f"{path} is no whole safetensors file")


def _check_header(text: bytes, path: Path) -> Mapping[str, str]:
    """The metadata; AdapterError at the first entry that is not in order."""
    for mark, most in MARKS.items():
        if (count := text.count(mark)) > most:
            raise AdapterError(
                f"{path} has a header with {count} times {mark.decode()}; at most {most} are read"
            )
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} has a header that is not JSON: {str(error)[:200]}") from None
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from None
    if not isinstance(header, dict):
        raise AdapterError(f"{path} has a header that is a {type(header).__name__}, not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise AdapterError(f"{path}: __metadata__ is not an object of text")
    if not 1 <= len(header) <= MAX_TENSORS:
        raise AdapterError(f"{path} has {len(header)} tensors; 1 to {MAX_TENSORS} are read")
    for name, about in header.items():
        _check_tensor(name, about, path)
    return metadata


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise AdapterError(f"key {twice[:256]!r} is there twice")
    return values


def _check_tensor(name: str, about: object, path: Path) -> None:
    """What the library does not refuse; it does check offsets against shapes, and both against the file."""
    if not TENSOR_NAME.fullmatch(name):
        raise AdapterError(f"{path}: tensor name {name[:256]!r} is not of the form {TENSOR_NAME.pattern}")
    if not isinstance(about, dict) or {*about} != {"dtype", "shape", "data_offsets"}:
        raise AdapterError(f"{path}: {name} is not described by dtype, shape and data_offsets")
    if about["dtype"] not in (choices := ALPHA_DTYPES if name.endswith(".alpha") else DTYPES):
        raise AdapterError(f"{path}: {name} is of type {about['dtype']!r}; choices: {', '.join(choices)}")
    shape = about["shape"]
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise AdapterError(f"{path}: {name} has shape {str(shape)[:80]}; every size must be 1 or more")


def _loaded(data: bytes, path: Path) -> Mapping[str, Tensor]:
    try:
        tensors = dict[str, Tensor](sorted(load(data).items()))  # the library's order changes from run to run
    except SafetensorError as error:
        raise AdapterError(f"{path} is no whole safetensors file: {error}") from None
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{path}: {name} has values that are not finite")
    return tensors
