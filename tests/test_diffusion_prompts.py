"""Prompts become the token ids that diffusers' pipelines make, and every dropped token is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionXLPipeline

from diffusion.prompts import PromptTokenizer, check_prompt, check_text
from families import InvalidRequest

PROMPTS = [
    "a red smartphone on a dark gradient background",
    "A Blue  Bottle,\n studio light",
    "émoji 😀 and مرحبا",
    "a red mug " * 60,
]


@pytest.fixture(scope="module")
def tokenize(random_checkpoint: Path) -> PromptTokenizer:
    return PromptTokenizer.load(random_checkpoint)


def ids_of(
    pipeline: FluxPipeline | StableDiffusionXLPipeline, prompts: list[str], **options: int
) -> list[np.ndarray]:
    """The ids that `pipeline` gives text_encoder and text_encoder_2."""
    seen: list[np.ndarray] = []
    encoders = pipeline.text_encoder, pipeline.text_encoder_2
    hooks = [
        encoder.register_forward_pre_hook(lambda _, ids: seen.append(ids[0].numpy())) for encoder in encoders
    ]
    pipeline.encode_prompt(prompts, **options)
    for hook in hooks:
        hook.remove()
    return seen


def test_ids_are_those_of_flux_s_pipeline(tokenize: PromptTokenizer, random_checkpoint: Path) -> None:
    pipeline = FluxPipeline.from_pretrained(random_checkpoint, dtype=torch.float32)
    tokens = tokenize(PROMPTS)
    ids, ids_2 = ids_of(pipeline, PROMPTS, max_sequence_length=64)
    np.testing.assert_array_equal(tokens.input_ids, ids)
    np.testing.assert_array_equal(tokens.input_ids_2, ids_2)
    assert (tokens.input_ids.shape, tokens.input_ids_2.shape) == ((4, 77), (4, 64))
    assert tokens.input_ids.dtype == tokens.input_ids_2.dtype == np.int64


def test_ids_are_those_of_sdxl_s_pipeline(random_sdxl: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(random_sdxl, dtype=torch.float32)
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)  # so that it encodes "" too
    tokenize = PromptTokenizer.load(random_sdxl)
    tokens, negative = tokenize(PROMPTS), tokenize([""] * len(PROMPTS))
    wanted = tokens.input_ids, tokens.input_ids_2, negative.input_ids, negative.input_ids_2
    for ours, theirs in zip(wanted, ids_of(pipeline, PROMPTS), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert tokens.input_ids.shape == tokens.input_ids_2.shape == (4, 77)
    assert (negative.input_ids != negative.input_ids_2).any()  # the second pads with another token
    np.testing.assert_array_equal(negative.prompt_tokens, np.zeros((4, 2, 2), np.int32))
    assert tokens.prompt_tokens[-1, :, 0].tolist() == [75, 75] and (tokens.prompt_tokens[-1, :, 1] > 0).all()


def test_a_short_prompt_loses_nothing(tokenize: PromptTokenizer) -> None:
    ((clip, t5),) = tokenize(["red mug"]).prompt_tokens.tolist()
    assert clip[0] > 0 and t5[0] > 0
    assert clip[1] == t5[1] == 0


def test_dropped_tokens_are_counted_exactly(tokenize: PromptTokenizer) -> None:
    words = 100
    (one,) = tokenize(["mug"]).prompt_tokens
    (many,) = tokenize([" ".join(["mug"] * words)]).prompt_tokens
    assert many.sum(axis=1).tolist() == (words * one[:, 0]).tolist()
    assert many[:, 0].tolist() == [77 - 2, 64 - 1]  # CLIP adds a start and an end, T5 an end


def test_the_last_token_that_fits_is_kept(tokenize: PromptTokenizer) -> None:
    (one,) = tokenize(["mug"]).prompt_tokens
    assert one[0].tolist() == [1, 0], "the test wants a word of one CLIP token"
    counts = tokenize([" ".join(["mug"] * words) for words in (74, 75, 76)]).prompt_tokens[:, 0]
    assert counts.tolist() == [[74, 0], [75, 0], [75, 1]]


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("", "is empty"),
        (" \n\t ", "is empty"),
        ("a\0b", "NUL character at position 1"),
        ("x" * 41, "41 characters"),
    ],
)
def test_a_bad_prompt_is_named(prompt: str, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=f"prompt.*{fault}"):
        check_prompt(prompt, max_characters=40)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a\0b", "negative_prompt has a NUL character at position 1"),
        ("x" * 41, "negative_prompt has 41 char"),
    ],
)
def test_a_bad_negative_prompt_is_named_and_a_blank_one_is_none(text: str, fault: str) -> None:
    check_text("negative_prompt", " ", max_characters=40)
    with pytest.raises(InvalidRequest, match=fault):
        check_text("negative_prompt", text, max_characters=40)
