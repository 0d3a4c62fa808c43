"""One quality manifest per adapter (engine x precision x adapter), and the report of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from families.hashes import sha256_of_file
from finetune import adapter_file
from finetune.adapter_file import Origin
from finetune.adapter_scores import Judges, Task, scores, sector_of, task
from finetune.dataset import Pixels
from finetune.lora_training import save_grid
from finetune.picture_makers import Drawing, PictureMaker
from finetune.ratings import Rating

LEAST = 0.9  # of the prompts: product, colour and background each must stay as asked
SHOWN = 8  # pictures of a row of a grid


@dataclass(frozen=True)
class QualityManifest:
    """What was seen of one adapter: `scores` with it, `base` without, same prompts and seeds."""

    name: str  # the file's, without its ending
    sha256: str  # of the file
    origin: Origin
    engine: str
    precision: str
    checkpoint: str
    drawing: Drawing
    prompts: int
    base: dict[str, float]
    scores: dict[str, float]
    rating: Rating | None = None

    @property
    def moved(self) -> bool:
        """Are pictures more like the sector's than without the adapter?"""
        return self.scores["sector likeness"] > self.base["sector likeness"]

    @property
    def faithful(self) -> bool:
        """Do product, colour and background each stay as asked, in at least `LEAST` of the pictures?"""
        return all(self.scores[name] >= LEAST for name in ("product", "colour", "background"))


@dataclass(frozen=True)
class Evaluation:
    """Judges adapters that `maker` draws with on `count` held-out prompts; writes into `output`."""

    maker: PictureMaker
    judges: Judges
    drawing: Drawing
    count: int
    output: Path
    ratings: tuple[Rating, ...] = ()

    def run(self, adapters: list[Path]) -> list[QualityManifest]:
        """A manifest for each file, grouped by industry so that its base pictures are drawn once."""
        by_industry = dict[str, list[Path]]()
        for path in adapters:
            by_industry.setdefault(sector_of(adapter_file.read_origin(path).industry), []).append(path)
        self.output.mkdir(parents=True, exist_ok=True)
        bar = tqdm(total=len(adapters), desc="adapters")
        found = list[QualityManifest]()
        for industry, paths in by_industry.items():
            for manifest in self._of_industry(industry, paths):
                found.append(manifest)
                bar.update()
        return found

    def _of_industry(self, industry: str, paths: list[Path]) -> Iterator[QualityManifest]:
        asked = task(industry, self.count)
        base = self._drawn(asked, None)
        without = scores(self.judges, base, base, asked, industry)
        for path in paths:
            pixels = self._drawn(asked, path)
            seen = scores(self.judges, pixels, base, asked, industry)
            save_grid(self.output / f"{path.stem}.png", base[:SHOWN], pixels[:SHOWN])
            yield self._written(path, without, seen)

    def _drawn(self, asked: Task, adapter: Path | None) -> Pixels:
        return self.maker.draw(asked.prompts, asked.seeds, adapter, self.drawing)

    def _written(self, path: Path, base: dict[str, float], seen: dict[str, float]) -> QualityManifest:
        origin = adapter_file.read_origin(path)
        manifest = QualityManifest(
            name=path.stem,
            sha256=sha256_of_file(path),
            origin=origin,
            engine=self.maker.engine,
            precision=self.maker.precision,
            checkpoint=self.maker.checkpoint,
            drawing=self.drawing,
            prompts=self.count,
            base=_rounded(base),
            scores=_rounded(seen),
            rating=self._rating(origin.industry),
        )
        text = json.dumps(asdict(manifest), indent=1) + "\n"
        (self.output / f"{path.stem}.json").write_text(text)
        return manifest

    def _rating(self, industry: str) -> Rating | None:
        wanted = self.maker.family.name, industry
        return next((rating for rating in self.ratings if (rating.model, rating.industry) == wanted), None)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def adapters_in(paths: Iterable[Path]) -> list[Path]:
    """The adapter files named, and those in the folders named; ValueError where there is none."""
    found = list[Path]()
    for path in paths:
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise ValueError(f"{path} is no adapter, and no folder with *.safetensors")
        found += files
    return found


def verdict(manifests: list[QualityManifest]) -> str:
    """One line: how many adapters move pictures towards their sector, how many keep the prompt."""
    moved, kept = (sum(flags) for flags in zip(*((m.moved, m.faithful) for m in manifests), strict=True))
    total = len(manifests)
    return (
        f"towards their sector: {moved} of {total} adapters; product, colour and background each at least "
        f"{LEAST:.0%}: {kept} of {total}"
    )
