"""The index of a store of adapters.

A store is a folder: index.json = {family: {name: facts}}, and files/<sha256>.safetensors, which never change.
"""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from families import FAMILIES, family_named
from families.spec import InvalidRequest, Range

STORE = "POSTPULSE_ADAPTERS"  # environment variable: the store's folder
DEFAULT_STORE = Path("assets/adapters")
FILE_NAME, FILES = "index.json", "files"
FORMATS = ("diffusers", "peft", "ai-toolkit", "kohya", "xlabs")  # of files as they are added
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")
LORA_SCALE = Range(-2.0, 1.0, 2.0)
MAX_NAMED = 20  # adapters that a message lists
MAX_WORDS = 64  # characters of an industry, a style, a trigger


def store_folder() -> Path:
    """The store of this environment."""
    return Path(os.environ.get(STORE, DEFAULT_STORE))


class AdapterError(Exception):
    """An adapter's file or a store is not what it must be; one line names file, key, value and choices."""


@dataclass(frozen=True)
class AdapterEntry:
    """What the index says of an adapter; AdapterError if a value cannot be.

    `rank` is the largest of its modules, `modules` the number of targets that it changes. `scale` is what to
    apply it with where nobody says. `checkpoint` names what it was trained on, `checkpoint_sha256` is of its
    denoiser (`hashes.sha256_of_weights`). `format` and `source_sha256` are of the file as it was added,
    `sha256` of the file that is kept.
    """

    sha256: str
    rank: int
    modules: int
    checkpoint: str
    format: str
    source_sha256: str
    scale: float = LORA_SCALE.default
    industry: str | None = None
    style: str | None = None
    trigger: str | None = None
    checkpoint_sha256: str | None = None
    step: int | None = None
    dataset_sha256: str | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not is_of(value, TYPES[name]):
                raise AdapterError(f"{name} {value!r} is not of type {TYPES[name]}")
            if value is not None and name in CHECKS:
                CHECKS[name](name, value)


TYPES: Mapping[str, Any] = {**get_type_hints(AdapterEntry), "scale": int | float}


def is_of(value: object, types: Any) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _check_sha256(name: str, value: str) -> None:
    if not SHA256.fullmatch(value):
        raise AdapterError(f"{name} {value!r} is not 64 hexadecimal digits")


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise AdapterError(f"{name} {value} is less than 1")


def _check_format(name: str, value: str) -> None:
    if value not in FORMATS:
        raise AdapterError(f"{name} {value!r} is unknown; choices: {', '.join(FORMATS)}")


def _check_scale(name: str, value: float) -> None:
    if not (math.isfinite(value) and LORA_SCALE.minimum <= value <= LORA_SCALE.maximum):
        raise AdapterError(f"{name} {value} is not in {LORA_SCALE}")


def check_words(name: str, value: str) -> None:
    """AdapterError unless `value` is text for a prompt: short, normalised, without control characters."""
    if not value.strip() or value != value.strip() or len(value) > MAX_WORDS:
        raise AdapterError(f"{name} {value[:80]!r} is not 1 to {MAX_WORDS} characters without spaces around")
    if not unicodedata.is_normalized("NFC", value):
        raise AdapterError(f"{name} {value!r} is not in Unicode's normal form NFC")
    if strange := next((c for c in value if unicodedata.category(c)[0] == "C"), None):
        raise AdapterError(f"{name} {value!r} has the control character U+{ord(strange):04X}")


def check_name(name: str) -> None:
    """AdapterError unless `name` may name an adapter."""
    if not NAME.fullmatch(name):
        raise AdapterError(f"adapter name {name[:80]!r} is not of the form {NAME.pattern}")


CHECKS: Mapping[str, Any] = {
    "sha256": _check_sha256,
    "source_sha256": _check_sha256,
    "checkpoint_sha256": _check_sha256,
    "dataset_sha256": _check_sha256,
    "rank": _check_positive,
    "modules": _check_positive,
    "format": _check_format,
    "scale": _check_scale,
    "industry": check_words,
    "style": check_words,
    "trigger": check_words,
}

Entries = Mapping[str, AdapterEntry]


@dataclass
class AdapterIndex:
    """The index of the store in `folder`, read again whenever its file was replaced; any thread may ask."""

    folder: Path
    _read: tuple[tuple[int, ...], Mapping[str, Entries]] = field(default=((), {}), init=False, repr=False)

    @property
    def path(self) -> Path:
        return self.folder / FILE_NAME

    def entries(self, family_name: str) -> Entries:
        """Name -> entry of the family's adapters; none where there is no index.

        AdapterError if the index is damaged, ValueError for an unknown family.
        """
        return self.families().get(family_named(family_name).name, {})

    def families(self) -> Mapping[str, Entries]:
        """Family -> name -> entry."""
        try:
            if _identity(os.stat(self.path)) != self._read[0]:
                self._read = self._fresh()  # one assignment: a reader beside sees the old or the new
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise AdapterError(f"adapter index {self.path} cannot be read: {error}") from None
        return self._read[1]

    def _fresh(self) -> tuple[tuple[int, ...], Mapping[str, Entries]]:
        with self.path.open("rb") as file:
            return _identity(os.fstat(file.fileno())), parsed(file.read(), self.path)

    def entry(self, family_name: str, name: str) -> AdapterEntry:
        """InvalidRequest if the family has no adapter `name`, with those that it has."""
        entries = self.entries(family_name)
        if name in entries:
            return entries[name]
        names = sorted(entries)
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        choices = f"{', '.join(names[:MAX_NAMED]) or 'none'}{more}"
        raise InvalidRequest(f"{family_name} has no adapter {name[:80]!r}; choices: {choices}")

    def file(self, entry: AdapterEntry) -> Path:
        return self.folder / FILES / f"{entry.sha256}.safetensors"


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def parsed(text: bytes, path: Path) -> Mapping[str, Entries]:
    """Family -> name -> entry, of an index; AdapterError names `path` and what is wrong in it."""
    try:
        families = json.loads(text)
        if not isinstance(families, dict) or {*families} - {*FAMILIES}:
            raise AdapterError(f"it is no object with the keys {', '.join(FAMILIES)}")
        return {family: _entries(adapters) for family, adapters in families.items()}
    except (ValueError, RecursionError, AdapterError) as error:
        raise AdapterError(f"adapter index {path} is damaged: {error}") from None


def _entries(adapters: object) -> Entries:
    if not isinstance(adapters, dict):
        raise AdapterError(f"a {type(adapters).__name__} is in place of the adapters")
    return MappingProxyType({name: _entry(name, facts) for name, facts in adapters.items()})


def _entry(name: str, facts: object) -> AdapterEntry:
    check_name(name)
    try:
        return AdapterEntry(**facts)  # type: ignore[arg-type]
    except (TypeError, AdapterError) as error:
        raise AdapterError(f"{name}: {error}") from None


def index_text(families: Mapping[str, Entries]) -> str:
    """index.json with these adapters."""
    facts = {
        family: {name: asdict(e) for name, e in adapters.items()} for family, adapters in families.items()
    }
    return json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
