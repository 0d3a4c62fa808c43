"""The index of a store, and the adapters of a request: what is read, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from families.adapters import (
    AdapterEntry,
    AdapterError,
    AdapterIndex,
    check_words,
    index_text,
)  # fmt: skip
from families.loras import Applied, Lora, applied_of, applied_text, loras_of
from families.spec import InvalidRequest
from families.wording import INDUSTRIES, STYLES

HASH = "0123456789abcdef" * 4
ENTRY = AdapterEntry(
    HASH, 4, 53, "flux-tiny", "kohya", HASH, industry="real estate", step=2000, trigger="ppfood"
)


def replaced(index: AdapterIndex, families: dict[str, dict[str, AdapterEntry]]) -> None:
    """As a writer replaces it."""
    beside = index.path.with_name("beside")
    beside.write_text(index_text(families))
    os.replace(beside, index.path)


def test_an_index_is_read_again_only_when_it_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, reads = AdapterIndex(tmp_path), []
    fresh = AdapterIndex._fresh
    monkeypatch.setattr(AdapterIndex, "_fresh", lambda self: reads.append(1) or fresh(self))
    assert index.entries("flux") == {}
    replaced(index, {"flux": {"food": ENTRY}})
    assert index.entries("flux") == {"food": ENTRY} and index.entries("sdxl") == {}
    assert len(reads) == 1
    replaced(index, {"flux": {"toys": ENTRY}, "sdxl": {"food": ENTRY}})
    assert [*index.entries("flux")] == ["toys"] and [*index.entries("sdxl")] == ["food"]
    assert len(reads) == 2
    index.path.unlink()
    assert index.entries("flux") == {}
    with pytest.raises(ValueError, match="unknown family 'sd3'; choices: flux, sdxl"):
        index.entries("sd3")


DAMAGED: dict[str, tuple[Any, str]] = {
    "a list": ([], "flux, sdxl"),
    "an unknown family": ({"sd3": {}}, "flux, sdxl"),
    "a list of adapters": ({"flux": []}, "a list"),
    "a bad name": ({"flux": {"../a": {}}}, "'../a'"),
    "no facts": ({"flux": {"food": {}}}, "food: .*sha256"),
    "a list of facts": ({"flux": {"food": []}}, "food: "),
    "an unknown fact": ({"flux": {"food": {**dataclasses.asdict(ENTRY), "x": 1}}}, "food: .*'x'"),
    **{
        f"{fact} {value!r}": (
            {"flux": {"food": {**dataclasses.asdict(ENTRY), fact: value}}},
            f"food: {fact} ",
        )
        for fact, value in (
            ("sha256", "../../x"), ("sha256", HASH.upper()), ("rank", 0), ("rank", True), ("rank", "4"),
            ("modules", -1), ("scale", 3), ("scale", math.nan), ("format", "lokr"), ("industry", ""),
            ("industry", "a\nb"),
            ("step", 1.5), ("checkpoint", None), ("dataset_sha256", "x"),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_index_is_named_with_its_fault(name: str, tmp_path: Path) -> None:
    content, why = DAMAGED[name]
    index = AdapterIndex(tmp_path)
    index.path.write_text(json.dumps(content))
    with pytest.raises(AdapterError, match=f"{index.path} is damaged: .*{why}"):
        index.entries("flux")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_an_index_that_is_not_json_is_damaged(content: bytes, tmp_path: Path) -> None:
    index = AdapterIndex(tmp_path)
    index.path.write_bytes(content)
    with pytest.raises(AdapterError, match=f"{index.path} is damaged"):
        index.entries("flux")


def test_the_industries_and_styles_have_names_and_are_good_words() -> None:
    for words in (*INDUSTRIES, *STYLES):
        check_words("industry", words)


@pytest.mark.parametrize(
    "words", ["", " ", " a", "a" * 65, "a\tb", "a\0", unicodedata.normalize("NFD", "é"), "a\u202eb", "\ud800"]
)  # fmt: skip
def test_words_that_could_hide_something_are_refused(words: str) -> None:
    with pytest.raises(AdapterError, match="industry"):
        check_words("industry", words)


def test_the_adapters_of_a_request() -> None:
    text = '[{"name": "food", "scale": 0.5}, {"name": "real-estate"}, {"name": "a_1", "scale": -2}]'
    assert loras_of(text) == (Lora("food", 0.5), Lora("real-estate"), Lora("a_1", -2.0))
    assert loras_of("") == loras_of(" \n") == loras_of("[]") == ()


BAD_LORAS = {
    "food": "'food' is not JSON",
    "[" * 4_000: "is not JSON",
    "[" * 5_000: "loras has 5000 characters; at most 4096",
    '{"name": "food"}': "is not a list of at most 8",
    json.dumps([{"name": f"a{n}"} for n in range(9)]): "is not a list of at most 8",
    '["food"]': "'food' in loras is not an object of name",
    '[{"scale": 1}]': "is not an object of name",
    '[{"name": "food", "path": "x"}]': "is not an object of name",
    '[{"name": 1}]': "name '1.0' in loras is not of the form",
    '[{"name": null}]': "name 'None' in loras is not of the form",
    '[{"name": "food", "scale": true}]': "scale 'True' of food in loras is not a number in -2..2",
    '[{"name": "food", "scale": "1"}]': "scale '1' of food",
    '[{"name": "food", "scale": NaN}]': "food's scale nan is not in -2..2",
    '[{"name": "food", "scale": -Infinity}]': "food's scale -inf is not in -2..2",
    '[{"name": "food", "scale": 2.01}]': "food's scale 2.01 is not in -2..2",
    f'[{{"name": "food", "scale": {"9" * 4000}}}]': "food's scale inf is not in -2..2",
    '[{"name": "food"}, {"name": "food", "scale": 2}]': "names food twice",
}


@pytest.mark.parametrize("text", BAD_LORAS, ids=range(len(BAD_LORAS)))
def test_a_request_for_other_than_adapters_is_told_why(text: str) -> None:
    with pytest.raises(InvalidRequest, match=BAD_LORAS[text]) as refusal:
        loras_of(text)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "name", ["..", "a/b", "%2e%2e", "a\0", "Food", "FOOD", "-a", "_a", "", "a" * 65, "a" * 256, "a\n", "è"]
)  # fmt: skip
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not of the form"):
        loras_of(json.dumps([{"name": name}]))


KEYS = st.sampled_from(["name", "scale", "x"])
LEAVES = st.none() | st.booleans() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner))


@given(JSON)
def test_any_json_is_adapters_or_an_invalid_request(value: Any) -> None:
    try:
        assert all(lora.scale is None or -2 <= lora.scale <= 2 for lora in loras_of(json.dumps(value)))
    except InvalidRequest:
        pass


def test_what_was_applied_survives_its_text() -> None:
    applied = (Applied("food", HASH, 0.1 + 0.2, 53, 53), Applied("bold", HASH[::-1], -2.0, 2, 2))
    assert applied_of(applied_text(applied)) == applied
    assert applied_of(applied_text([])) == ()
    for text in ("x", '[{"name": "food"}]', "[1]"):
        with pytest.raises(ValueError):
            applied_of(text)
