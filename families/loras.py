"""The adapters of a request, in the words that are sent, and of its answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import get_type_hints

from families.adapters import LORA_SCALE, NAME, AdapterEntry, AdapterError, is_of
from families.spec import InvalidRequest

MAX_LORAS = 8  # of one request
MAX_LORAS_TEXT = 4_096  # characters that name them


@dataclass(frozen=True)
class Lora:
    """An adapter that a request names, and how strongly to apply it; None: at its own scale."""

    name: str
    scale: float | None = None


def loras_text(loras: Sequence[Lora]) -> str:
    """JSON that `loras_of` reads; blank for none."""
    return json.dumps([asdict(lora) for lora in loras]) if loras else ""


def scale_of(lora: Lora, entry: AdapterEntry) -> float:
    """The request's scale, or the adapter's own."""
    return entry.scale if lora.scale is None else lora.scale


def check_fit(
    loras: Sequence[Lora], entries: Sequence[AdapterEntry], max_rank: int, denoiser_sha256: str
) -> None:
    """InvalidRequest unless an engine of ranks up to `max_rank`, of this very denoiser, takes them together.

    What has a scale of 0 takes no rank.
    """
    pairs = list(zip(loras, entries, strict=True))
    if len(pairs) > MAX_LORAS:
        raise InvalidRequest(f"{len(pairs)} adapters are too many ({_named(pairs)}); at most {MAX_LORAS}")
    for lora, entry in pairs:
        if entry.checkpoint_sha256 not in (None, denoiser_sha256):
            raise InvalidRequest(
                f"adapter {lora.name} was trained on {entry.checkpoint}, which is not what is served"
            )
    active = [(lora, entry) for lora, entry in pairs if scale_of(lora, entry)]
    if active and not max_rank:
        raise InvalidRequest(f"this engine takes no adapters; asked: {_named(active)}")
    if sum(entry.rank for _, entry in active) > max_rank:
        raise InvalidRequest(f"the ranks of these adapters add up to more than {max_rank}: {_named(active)}")


def _named(pairs: Iterable[tuple[Lora, AdapterEntry]]) -> str:
    return ", ".join(f"{lora.name} of rank {entry.rank}" for lora, entry in pairs)


def loras_of(text: str) -> tuple[Lora, ...]:
    """The adapters of a request, of its JSON [{"name": "food", "scale": 0.8}, ...]; blank is none.

    InvalidRequest names what is wrong.
    """
    if len(text) > MAX_LORAS_TEXT:
        raise InvalidRequest(f"loras has {len(text)} characters; at most {MAX_LORAS_TEXT}")
    if not text.strip():
        return ()
    try:
        values = json.loads(text, parse_int=float)  # which has no number too long to print
    except (ValueError, RecursionError):
        raise InvalidRequest(f"loras {text[:80]!r} is not JSON") from None
    if not isinstance(values, list) or len(values) > MAX_LORAS:
        raise InvalidRequest(f"loras {text[:80]!r} is not a list of at most {MAX_LORAS}")
    loras = tuple(_lora(value) for value in values)
    names = [lora.name for lora in loras]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"loras names {twice} twice")
    return loras


def _lora(value: object) -> Lora:
    if not isinstance(value, dict) or not {"name"} <= {*value} <= {"name", "scale"}:
        raise InvalidRequest(f"{str(value)[:80]!r} in loras is not an object of name and, if need be, scale")
    name, scale = value["name"], value.get("scale")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidRequest(f"name {str(name)[:80]!r} in loras is not of the form {NAME.pattern}")
    if scale is None:
        return Lora(name)
    if not is_of(scale, float):
        raise InvalidRequest(f"scale {str(scale)[:80]!r} of {name} in loras is not a number in {LORA_SCALE}")
    LORA_SCALE.check(f"{name}'s scale", scale)
    return Lora(name, scale)


@dataclass(frozen=True)
class Applied:
    """An adapter as it was applied: to `modules_applied` of the `modules` targets that its file changes."""

    name: str
    sha256: str
    scale: float
    modules_applied: int
    modules: int

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Applied).items():
            if not is_of(value := getattr(self, name), int | float if kind is float else kind):
                raise TypeError(f"{name} {value!r} is not of type {kind.__name__}")

    @classmethod
    def of(cls, lora: Lora, entry: AdapterEntry) -> Applied:
        """Of a file whose every module is a target; a scale of 0 leaves it out."""
        scale = scale_of(lora, entry)
        return cls(lora.name, entry.sha256, scale, entry.modules if scale else 0, entry.modules)


def applied_text(adapters: Sequence[Applied]) -> str:
    """JSON that `applied_of` reads."""
    return json.dumps([asdict(adapter) for adapter in adapters])


def refused_text(error: Exception) -> str:
    """JSON in place of `applied_text`, where a request's adapters cannot be applied; see `check_applied`."""
    return json.dumps({"refused": str(error), "invalid": isinstance(error, InvalidRequest)})


def check_applied(text: str) -> None:
    """Raises what `refused_text` was given: InvalidRequest or AdapterError; nothing for `applied_text`."""
    said = json.loads(text)
    if isinstance(said, dict):
        raise (InvalidRequest if said["invalid"] else AdapterError)(said["refused"])


def applied_of(text: str) -> tuple[Applied, ...]:
    """What `applied_text` wrote; ValueError if it is something else."""
    try:
        return tuple(Applied(**facts) for facts in json.loads(text))
    except TypeError as error:
        raise ValueError(f"{text[:80]!r} does not tell of applied adapters: {error}") from None
