"""Scores by models of the user: CLIP (does it fit its prompt?), DINO (is it like its sector's pictures?)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel

from finetune import manifest
from finetune.dataset import Pixels

BATCH = 16


class ClipScore:
    """100 x the cosine of picture and prompt, at least 0, averaged: arXiv 2104.08718 without its weight.

    `folder` holds a transformers CLIPModel, its tokenizer and its image processor.
    """

    def __init__(self, folder: Path) -> None:
        self._model = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def __call__(self, pixels: Pixels, prompts: list[str], industry: str) -> dict[str, float]:
        values = []
        for start in range(0, len(prompts), BATCH):
            batch = slice(start, start + BATCH)
            words = self._tokenizer(prompts[batch], padding=True, truncation=True, return_tensors="pt")
            seen = self._processor(list(pixels[batch]), return_tensors="pt")
            answer = self._model(**words, **seen)
            values.append((answer.image_embeds * answer.text_embeds).sum(1))
        return {"CLIP score": float(100 * torch.cat(values).clamp(min=0).mean())}


class DinoScore:
    """Mean cosine of each picture's class token with those of its industry's held-out pictures.

    `folder` holds a transformers vision model (DINOv2) and its image processor, `dataset` the pictures.
    """

    def __init__(self, folder: Path, dataset: Path) -> None:
        self._model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        self._dataset, self._known = dataset, manifest.read(dataset)

    def __call__(self, pixels: Pixels, prompts: list[str], industry: str) -> dict[str, float]:
        kept = [self._dataset / pair.file for pair in self._known.of(industry, "held-out")]
        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in kept]
        return {"DINO": float((self._features(list(pixels)) @ self._features(pictures).T).mean())}

    @torch.no_grad()
    def _features(self, pictures: list[Pixels]) -> Tensor:
        """[N, width], each of length 1."""
        rows = []
        for start in range(0, len(pictures), BATCH):
            seen = self._processor(pictures[start : start + BATCH], return_tensors="pt")
            rows.append(self._model(**seen).last_hidden_state[:, 0])
        return nn.functional.normalize(torch.cat(rows), dim=1)
