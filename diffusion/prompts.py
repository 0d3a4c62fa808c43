"""Prompts -> token ids of both text encoders, as diffusers' pipelines make them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import transformers
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from families import InvalidRequest

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """input_ids [B, 77], input_ids_2 [B, T] (SDXL: 77 too); prompt_tokens [B, 2, 2]: encoder; kept, dropped.

    Counts are of the prompt's own tokens: start, end and padding are not among them.
    """

    input_ids: Int64
    input_ids_2: Int64
    prompt_tokens: NDArray[np.int32]


@dataclass(frozen=True)
class PromptTokenizer:
    """The pair of tokenizers of a checkpoint; each pads and truncates to its own `model_max_length`."""

    tokenizer: PreTrainedTokenizerBase
    tokenizer_2: PreTrainedTokenizerBase

    @classmethod
    def load(cls, checkpoint: Path) -> PromptTokenizer:
        """The tokenizers of a folder in diffusers' layout, of the classes that its model_index.json names."""
        index = json.loads((checkpoint / "model_index.json").read_text())
        return cls(*(_load(checkpoint / name, index[name][1]) for name in ("tokenizer", "tokenizer_2")))

    def __call__(self, prompts: list[str]) -> Tokens:
        """Tokenizes a batch of prompts that `check_prompt` lets pass."""
        counts = [[_counts(t, prompt) for t in (self.tokenizer, self.tokenizer_2)] for prompt in prompts]
        ids, ids_2 = _ids(self.tokenizer, prompts), _ids(self.tokenizer_2, prompts)
        return Tokens(ids, ids_2, np.array(counts, dtype=np.int32))


def _load(folder: Path, class_name: str) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = getattr(transformers, class_name).from_pretrained(
        folder, local_files_only=True
    )
    return tokenizer


def check_prompt(prompt: str, max_characters: int) -> None:
    """InvalidRequest if `prompt` is blank, longer than `max_characters`, or has a NUL."""
    check_text("prompt", prompt, max_characters)
    if not prompt.strip():
        raise InvalidRequest(f"prompt {prompt[:20]!r} is empty; it must say what to draw")


def check_text(name: str, text: str, max_characters: int) -> None:
    """InvalidRequest if `text`, called `name`, is longer than `max_characters` or has a NUL."""
    if len(text) > max_characters:
        raise InvalidRequest(f"{name} has {len(text)} characters; at most {max_characters} are read")
    if "\0" in text:
        raise InvalidRequest(f"{name} has a NUL character at position {text.index(chr(0))}; remove it")


def _ids(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> Int64:
    ids: Int64 = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="np",
    ).input_ids
    return ids


def _counts(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, int]:
    """(kept, dropped) tokens of `prompt`."""
    total = len(tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids)
    kept = min(total, tokenizer.model_max_length - tokenizer.num_special_tokens_to_add())
    return kept, total - kept
