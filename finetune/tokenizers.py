"""Trains the tiny checkpoints' tokenizers on captions; unknown words fall back to bytes."""

from __future__ import annotations

import json
import math
import random
import string
from collections import Counter

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from finetune.captions import caption
from finetune.scene import sample_scene

CLIP_LENGTH = 77
CLIP_VOCABULARY, T5_WORDS = 900, 700
LETTER_SCORE, BYTE_SCORE = -12.0, -20.0
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def caption_corpus(count: int) -> list[str]:
    return [caption(sample_scene(seed), random.Random(f"corpus {seed}")) for seed in range(count)]


def train_clip_tokenizer(corpus: list[str], pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's byte-level BPE with a small vocabulary; 77 tokens with both ends."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    blank = CLIPTokenizer()
    bpe.normalizer, bpe.pre_tokenizer = (
        blank.backend_tokenizer.normalizer,
        blank.backend_tokenizer.pre_tokenizer,
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=CLIP_VOCABULARY, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(corpus, trainer)
    return _clip_from(
        [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]], letters, pad_token
    )


def _clip_from(merges: list[tuple[str, str]], letters: list[str], pad_token: str) -> CLIPTokenizer:
    """OpenAI's order: letters, letters ending a word, merges, special tokens (EOS is the largest id)."""
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    names = list(dict.fromkeys([*words, "<|startoftext|>", "<|endoftext|>"]))
    vocabulary = {name: place for place, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH, pad_token=pad_token)


def train_t5_tokenizer(corpus: list[str], length: int) -> PreTrainedTokenizerFast:
    """T5's Unigram model over the corpus's words, then letters, then bytes.

    Byte fallback is why the class is the generic one: transformers' T5Tokenizer cannot express it.
    """
    words = Counter("▁" + word.strip(",.") for text in corpus for word in text.lower().split())
    pieces = [(word, math.log(count / words.total())) for word, count in words.most_common(T5_WORDS)]
    letters = [(letter, LETTER_SCORE) for letter in string.printable.lower().split()[0] + "▁"]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((byte, BYTE_SCORE) for byte in BYTES)]
    vocabulary = dict([*special, *letters, *pieces])
    backend = Tokenizer(models.Unigram(list(vocabulary.items()), unk_id=2, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement="▁")])
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=length,
    )
