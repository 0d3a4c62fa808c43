"""The industries' data set: 200 drawn pictures each, in its own look, captioned in three levels of detail."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from families.hashes import sha256_of_file
from families.wording import INDUSTRIES
from finetune.captions import LEVELS, levelled_caption
from finetune.draw import draw
from finetune.manifest import SIZE, SPLITS, Manifest, Pair, slug
from finetune.scene import Scene, held_out_scenes, sample_scene

TRAIN, HELD_OUT = SPLITS
LICENCE = "Apache-2.0; drawn by this project"
FIRST_SEED = 2_000_000  # seeds from here on name the scenes of this data set's training pictures


@dataclass(frozen=True)
class Numbers:
    """Pairs of each industry in either split."""

    train: int = 180
    held_out: int = 20


def scenes(industry: str, numbers: Numbers) -> Iterator[tuple[str, str, Scene]]:
    """(split, level, scene) of an industry's pictures; held-out ones show held-out combinations."""
    place = INDUSTRIES.index(industry)
    first = FIRST_SEED + place * numbers.train
    kept = held_out_scenes()[place :: len(INDUSTRIES)][: numbers.held_out]
    shown = [(TRAIN, sample_scene(first + number)) for number in range(numbers.train)]
    for number, (split, scene) in enumerate([*shown, *((HELD_OUT, scene) for scene in kept)]):
        level = LEVELS[number % len(LEVELS)]
        yield split, level, as_captioned(scene, level, industry)


def as_captioned(scene: Scene, level: str, industry: str) -> Scene:
    """`scene` with the marks that a caption of this level names: a mark unasked for would be learned."""
    return replace(
        scene,
        style=scene.style if level == "full" else None,
        industry=None if level == "short" else industry,
    )


def make(output: Path, numbers: Numbers = Numbers()) -> Manifest:
    """Draws every industry's folder into `output`, and the manifest; the same bytes every time."""
    pairs = []
    for industry in tqdm(INDUSTRIES, desc="industries"):
        for split in SPLITS:
            (output / slug(industry) / split).mkdir(parents=True, exist_ok=True)
        for number, (split, level, scene) in enumerate(scenes(industry, numbers)):
            path = output / slug(industry) / split / f"{number:04}.png"
            draw(scene, SIZE, look=industry).save(path)
            words = levelled_caption(scene, level, random.Random(f"{level} {scene.seed}"))
            path.with_suffix(".txt").write_text(words + "\n")
            pairs.append(_pair(output, path, industry, split, level, scene.seed))
    manifest = Manifest(tuple(pairs))
    manifest.write(output)
    return manifest


def _pair(output: Path, path: Path, industry: str, split: str, level: str, seed: int) -> Pair:
    file, caption = path.relative_to(output).as_posix(), sha256_of_file(path.with_suffix(".txt"))
    return Pair(file, industry, split, sha256_of_file(path), caption, LICENCE, level, seed)
