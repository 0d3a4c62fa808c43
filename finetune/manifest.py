"""A data set on disk: `<industry>/<split>` with pictures and same-stem .txt captions, and manifest.json.

A folder of one split is a data set for ai-toolkit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from families.hashes import sha256_of_file

MANIFEST = "manifest.json"
SPLITS = ("train", "held-out")
SIZE = 512  # pixels, both ways, of every picture


@dataclass(frozen=True)
class Pair:
    """One picture and its caption; `file` is relative to the data set, the caption lies beside it.

    `seed` is the drawn scene's and `level` its caption's detail; both are None for imported pictures, whose
    `source` is the file that was imported.
    """

    file: str
    industry: str
    split: str
    sha256: str  # of the picture's file
    caption_sha256: str
    licence: str
    level: str | None = None
    seed: int | None = None
    source: str | None = None


@dataclass(frozen=True)
class Manifest:
    """All pairs, in the order of their files; `sha256` names the data set."""

    pairs: tuple[Pair, ...]

    @property
    def sha256(self) -> str:
        """Of every pair's facts, so of every picture and caption."""
        facts = json.dumps([asdict(pair) for pair in self.pairs], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()

    def of(self, industry: str, split: str) -> list[Pair]:
        """The pairs of an industry's split; ValueError lists the industries if there are none."""
        found = [pair for pair in self.pairs if (pair.industry, pair.split) == (industry, split)]
        if not found:
            choices = ", ".join(dict.fromkeys(pair.industry for pair in self.pairs))
            raise ValueError(f"no {split} pairs of industry {industry!r}; choices: {choices}")
        return found

    def write(self, folder: Path) -> None:
        facts = {"sha256": self.sha256, "size": SIZE, "pairs": [asdict(pair) for pair in self.pairs]}
        (folder / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n")


def read(folder: Path) -> Manifest:
    """The manifest of data set `folder`; ValueError if there is none or its hash is not that of its pairs."""
    path = folder / MANIFEST
    if not path.exists():
        raise ValueError(f"{folder} has no {MANIFEST}; `python -m finetune dataset` makes or imports one")
    facts = json.loads(path.read_text())
    manifest = Manifest(tuple(Pair(**pair) for pair in facts["pairs"]))
    if manifest.sha256 != facts["sha256"]:
        raise ValueError(f"{path} says sha256 {facts['sha256']}, its pairs have {manifest.sha256}")
    return manifest


def verify(folder: Path, pairs: Iterable[Pair]) -> None:
    """ValueError unless picture and caption of each pair are the ones that the manifest means."""
    for pair in pairs:
        path = folder / pair.file
        for part, expected in ((path, pair.sha256), (path.with_suffix(".txt"), pair.caption_sha256)):
            if not part.exists() or sha256_of_file(part) != expected:
                raise ValueError(f"{part} is not the file of sha256 {expected} that {MANIFEST} names")


def slug(industry: str) -> str:
    """An industry as part of a file's name: "real estate" is "real-estate"."""
    return industry.replace(" ", "-")
