"""A shared library that exports names and holds no code: enough to import what links against the real one.

TensorRT's Python bindings are on the package registry, its libraries are not. With stubs in their place the
bindings import and show every class and method; calling one that reaches into a library crashes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

# Fields and numbers are those of elf(5).
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
SYMBOL = struct.Struct("<IBBHQQ")
DYNAMIC = struct.Struct("<qQ")
PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551
DT_NULL, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT = 0, 4, 5, 6, 10, 11
READ_WRITE = 6
GLOBAL_FUNCTION = 0x12
SEGMENTS, ENTRIES = 3, 6
START = HEADER.size + SEGMENTS * SEGMENT.size


def stub_library(symbols: Sequence[str]) -> bytes:
    """An ELF file for x86-64 that exports `symbols` as functions, all at its beginning."""
    names = "\0".join(["", *symbols, ""]).encode()
    table, hashes = _symbol_table(symbols), _hash_table(len(symbols) + 1)
    strings_at = START + ENTRIES * DYNAMIC.size
    symbols_at = strings_at + len(names) + -len(names) % 8
    hashes_at = symbols_at + len(table)
    entries = {
        DT_HASH: hashes_at,
        DT_SYMTAB: symbols_at,
        DT_STRTAB: strings_at,
        DT_STRSZ: len(names),
        DT_SYMENT: SYMBOL.size,
        DT_NULL: 0,
    }
    dynamic = b"".join(DYNAMIC.pack(*entry) for entry in entries.items())
    body = dynamic + names.ljust(symbols_at - strings_at, b"\0") + table + hashes
    return _header() + _segments(START + len(body), len(dynamic)) + body


def _symbol_table(symbols: Sequence[str]) -> bytes:
    entries, name_at = [SYMBOL.pack(0, 0, 0, 0, 0, 0)], 1
    for symbol in symbols:
        entries.append(SYMBOL.pack(name_at, GLOBAL_FUNCTION, 0, 1, START, 0))
        name_at += len(symbol) + 1
    return b"".join(entries)


def _hash_table(count: int) -> bytes:
    """One bucket with a chain through all symbols, so that no hash is needed."""
    chain = [0, *range(2, count), 0]
    return struct.pack(f"<{3 + count}I", 1, count, 1, *chain)


def _header() -> bytes:
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    shared_object, x86_64, version = 3, 62, 1
    sizes = (HEADER.size, SEGMENT.size, SEGMENTS, 0, 0, 0)
    return HEADER.pack(identity, shared_object, x86_64, version, 0, HEADER.size, 0, 0, *sizes)


def _segments(size: int, dynamic_size: int) -> bytes:
    return b"".join(
        SEGMENT.pack(kind, READ_WRITE, offset, offset, offset, length, length, alignment)
        for kind, offset, length, alignment in (
            (PT_LOAD, 0, size, 0x1000),
            (PT_DYNAMIC, START, dynamic_size, 8),
            (PT_GNU_STACK, 0, 0, 16),  # without it the loader wants an executable stack
        )
    )
