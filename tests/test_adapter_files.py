"""Hostile, odd and damaged files are refused before a library parses them; nothing in them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from diffusion.adapters import files
from families.adapters import AdapterError

A, B = (f"transformer.proj_out.lora_{half}.weight" for half in "AB")
GOOD = {A: torch.ones(2, 4), B: torch.ones(3, 2)}
MANY = b",".join(b'"%d":1' % n for n in range(90_000))


def with_header(header: bytes, data: bytes = b"\0" * 64) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def described(name: str = "a.lora_A.weight", **changes: Any) -> bytes:
    """A file of one tensor [2, 2] of F32, described so."""
    tensor = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}
    return with_header(json.dumps({name: tensor}).encode(), b"\0" * 16)


def of_tensors(count: int) -> bytes:
    entries = (f'"t{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(count))
    return with_header(f"{{{','.join(entries)}}}".encode(), b"")


FULL = of_tensors(9_000).replace(b'"t8999"', b'"t7"   ')


def twice() -> bytes:
    entry = '"a.lora_A.weight":{"dtype":"F32","shape":[4],"data_offsets":[%d,%d]}'
    return with_header(f"{{{entry % (0, 16)},{entry % (16, 32)}}}".encode(), b"\0" * 32)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no whole safetensors"),
    "a few bytes": (b"\0\0\0", "no whole safetensors"),
    "header of 2^63": (struct.pack("<Q", 2**63) + b"{}", "no whole safetensors"),
    "header longer than the file": (struct.pack("<Q", 1000) + b"{}", "no whole safetensors"),
    "header of spaces": (with_header(b"{}" + b" " * 2**20), "header of 1048578 bytes"),
    "header not UTF-8": (with_header(b'{"\xff": 1}'), "not JSON"),
    "header not JSON": (with_header(b"{"), "not JSON"),
    "header a list": (with_header(b"[]"), "a list, not an object"),
    "header nested deeply": (with_header(b"[" * 10**6), "not JSON"),
    "header a long number": (with_header(b'{"a":' + b"1" * 10**6 + b"}"), "not JSON"),
    "no tensors": (with_header(b'{"__metadata__":{}}', b""), "0 tensors"),
    "too many tensors": (of_tensors(10_001), "10001 tensors"),
    "many keys": (with_header(b"{" + MANY + b"}"), "header with 90000 times"),
    "many objects": (with_header(b'{"a":[' + b"{}," * 340_000 + b"{}]}"), "header with 340002 times"),
    "many strings": (with_header(b'{"a":[' + b'"",' * 340_000 + b'""]}'), "a is not described by"),
    "as many tensors as may be, one of them twice": (FULL, "'t7' is there twice"),
    "a key twice": (twice(), "a.lora_A.weight' is there twice"),
    "a name that climbs": (described("../../etc/passwd"), "'../../etc/passwd'"),
    "a name with NUL": (described("a\0.lora_A.weight"), r"'a\\x00"),
    "a name too long": (described("a" * 257), "is not of the form"),
    "an unknown type": (described(dtype="F128"), "'F128'"),
    "integers": (described(dtype="I32"), "choices: F32, F16, BF16"),
    "a type that is none": (described(dtype=["F32"]), "is of type"),
    "an empty tensor": (described(shape=[0, 2], data_offsets=[0, 0]), "every size must be 1 or more"),
    "a size that is true": (described(shape=[True, 4]), "every size must be 1 or more"),
    "a negative size": (described(shape=[-2, -2]), "every size must be 1 or more"),
    "a shape of another size": (described(shape=[2, 3]), "a.*no whole safetensors"),
    "a shape that overflows": (described(shape=[2**62, 2**62]), "no whole safetensors"),
    "offsets beyond the end": (described(data_offsets=[0, 32]), "no whole safetensors"),
    "offsets backwards": (described(data_offsets=[16, 0]), "no whole safetensors"),
    "a hole": (described(data_offsets=[4, 20]), "no whole safetensors"),
    "bytes too many": (described() + b"\0", "no whole safetensors"),
    "one more fact": (described(pickle="yes"), "is not described by"),
    "no description": (with_header(b'{"a.lora_A.weight":[]}'), "is not described by"),
    "metadata of numbers": (with_header(b'{"__metadata__":{"a":1}}'), "__metadata__"),
    "metadata a list": (with_header(b'{"__metadata__":[]}'), "__metadata__"),
    "cut short": (save(GOOD)[:-1], "no whole safetensors"),
    "NaN": (save({**GOOD, B: torch.full((3, 2), float("nan"))}), B),
    "infinity": (save({**GOOD, A: torch.full((2, 4), -float("inf")).half()}), A),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_says_why(name: str, tmp_path: Path) -> None:
    data, why = HOSTILE[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(AdapterError, match=why) as refusal:
        files.read(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < len(str(path)) + 400


LIBRARY_REFUSES = ("shape of another", "shape that overflows", "offsets", "a hole", "bytes too", "cut short")


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if not any(mark in name for mark in LIBRARY_REFUSES)]
)
def test_the_library_sees_nothing_of_what_only_we_refuse(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but values, which must be read to be judged, and what the library itself checks at once."""
    seen: list[bytes] = []
    load = files.load
    monkeypatch.setattr(files, "load", lambda data: seen.append(data) or load(data))
    path = tmp_path / "a.safetensors"
    path.write_bytes(HOSTILE[name][0])
    with pytest.raises(AdapterError):
        files.read(path)
    assert bool(seen) == (name in ("NaN", "infinity"))


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


def zipped(canary: Canary) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(canary))
    return memory.getvalue()


def torch_saved(canary: Canary, **options: Any) -> bytes:
    memory = io.BytesIO()
    torch.save({"a": canary}, memory, **options)
    return memory.getvalue()


PICKLES: dict[str, Callable[[Canary], bytes]] = {
    **{f"protocol {n}": lambda canary, n=n: pickle.dumps(canary, n) for n in range(6)},
    "zip": zipped,
    "torch.save": torch_saved,
    "torch.save of old": lambda canary: torch_saved(canary, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".bin", ".pkl"])
@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_of_any_name_is_refused_and_not_run(kind: str, suffix: str, tmp_path: Path) -> None:
    canary, path = Canary(tmp_path / "canary"), tmp_path / f"a{suffix}"
    path.write_bytes(PICKLES[kind](canary))
    with pytest.raises(AdapterError, match="pickle" if kind[-1] not in "01" else "no whole safetensors"):
        files.read(path)
    assert not canary.path.exists()
    pickle.loads(pickle.dumps(canary))
    assert canary.path.exists()  # so it would have been


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """0x280 bytes of it begin with b"\\x80\\x02", as pickles of protocol 2 do."""
    bare = save(GOOD, {"x": ""})
    short = 0x280 - int.from_bytes(bare[:8], "little")
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(GOOD, {"x": "y" * short}))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert {*files.read(path).tensors} == {*GOOD}


def test_links_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(save(GOOD))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("link", "symbolic link"),
        ("pipe", "regular file"),
        (".", "."),
        ("none", "No such file"),
    ):
        with pytest.raises(AdapterError, match=why):
            files.read(tmp_path / name)


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)  # sparse
    with pytest.raises(AdapterError, match=f"{files.MAX_BYTES + 1} bytes"):
        files.read(path)


def test_a_file_of_another_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(GOOD))
    sha256 = files.read(path).sha256
    assert files.read(path, sha256).sha256 == sha256
    path.write_bytes(save({**GOOD, A: torch.zeros(2, 4)}))
    with pytest.raises(AdapterError, match=f"was changed.*{sha256}"):
        files.read(path, sha256)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, len(save(GOOD)) - 1), byte=st.integers(0, 255))
def test_no_changed_byte_makes_anything_but_a_file_or_a_refusal(
    place: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(save(GOOD))
    data[place] = byte
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(data)
    try:
        assert all(torch.isfinite(tensor).all() for tensor in files.read(path).tensors.values())
    except AdapterError as error:
        assert "\n" not in str(error)
