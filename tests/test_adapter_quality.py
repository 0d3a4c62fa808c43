"""What is said of adapters: likeness to their sector, the quality manifests, the report, users' ratings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, Dinov2Config, Dinov2Model

from families.wording import INDUSTRIES, industry_phrase
from finetune import checker, manifest, ratings, sector_checker
from finetune.adapter_scores import PROMPTS, REPEATED, SEEDS, Judges, diversity, scores, task
from finetune.draw import draw
from finetune.local_models import ClipScore, DinoScore
from finetune.lora import LoraPhase
from finetune.lora_training import Job, train
from finetune.picture_makers import Drawing, StockDiffusers
from finetune.quality import Evaluation, QualityManifest, adapters_in, verdict
from finetune.quality_report import html, text, write
from finetune.ratings import Rating
from finetune.scene import is_held_out
from finetune.tokenizers import train_clip_tokenizer

FAST = LoraPhase(steps=2, resolution=64, rank=4, checkpoint_every=1, learning_rate=0.02)


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges(checker.load(), sector_checker.load())


def drawn(industry: str, look: str | None, count: int = 22) -> np.ndarray:
    scenes = task(industry, count).scenes
    return np.stack([np.asarray(draw(scene, 128, look=look)) for scene in scenes])


def test_the_sector_checker_sees_looks_and_not_badges(judges: Judges) -> None:
    for industry in INDUSTRIES:
        place = sector_checker.SECTORS.index(industry)
        seen = sector_checker.likeness(
            judges.sectors, np.concatenate([drawn(industry, None), drawn(industry, industry)])
        )
        assert (seen.argmax(1) == torch.tensor([0] * 22 + [place] * 22)).double().mean() >= 0.95


@pytest.mark.parametrize("industry", INDUSTRIES)
def test_looks_leave_product_colour_and_background_readable(judges: Judges, industry: str) -> None:
    right = checker.correct(judges.checker, drawn(industry, industry, 40), task(industry, 40).scenes)
    for name in ("product", "colour", "background"):
        assert right[name].double().mean() >= 0.9, name


def test_prompts_are_held_out_name_the_industry_and_are_always_the_same() -> None:
    asked = task("food")
    assert asked == task("food")
    assert (
        len(asked.scenes) == PROMPTS and len(asked.prompts) == len(asked.seeds) == PROMPTS + REPEATED * SEEDS
    )
    assert all(is_held_out(*scene.triple) for scene in asked.scenes)
    assert all(industry_phrase("food") in prompt for prompt in asked.prompts)
    assert len({scene.product for scene in asked.scenes}) == 12


def test_scores_of_drawn_pictures_are_what_was_drawn(judges: Judges) -> None:
    asked = task("food", 8)
    scenes = [*asked.scenes, *[asked.scenes[0]] * SEEDS]
    base = np.stack([np.asarray(draw(scene, 128)) for scene in scenes])
    looked = np.stack([np.asarray(draw(scene, 128, look="food")) for scene in scenes])
    before, after = (scores(judges, pixels, base, asked, "food") for pixels in (base, looked))
    assert before["sector likeness"] < 0.1 < 0.9 < after["sector likeness"]
    assert (before["seen as its sector"], after["seen as its sector"]) == (0, 1)
    assert before["SSIM to base"] == 1 > after["SSIM to base"]
    assert before["product"] == after["product"] == 1
    assert before["diversity"] == pytest.approx(0, abs=1e-6)  # one picture, drawn again and again


def test_different_pictures_are_more_diverse_than_equal_ones(judges: Judges) -> None:
    pixels = drawn("food", None, 4)
    assert diversity(judges.checker, pixels) > diversity(judges.checker, pixels[[0, 0, 0, 1]]) > 0


@pytest.fixture(scope="module")
def adapters(random_checkpoint: Path, small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("adapters")
    train(Job(random_checkpoint, small_dataset, "food", "t0k", output, 0), FAST)
    return output


@pytest.fixture(scope="module")
def evaluated(
    adapters: Path, random_checkpoint: Path, judges: Judges, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[QualityManifest]]:
    output = tmp_path_factory.mktemp("report")
    rated = (Rating("flux", "food", 4.3, 12), Rating("flux", None, 4.3, 12))
    evaluation = Evaluation(StockDiffusers(random_checkpoint), judges, Drawing(1, 3.5), 8, output, rated)
    manifests = evaluation.run(adapters_in([adapters]))
    write(output, manifests, rated)
    return output, manifests


def test_every_training_checkpoint_and_the_adapter_get_a_manifest(
    evaluated: tuple[Path, list[QualityManifest]],
) -> None:
    output, manifests = evaluated
    assert [(m.name, m.origin.step) for m in manifests] == [
        ("food", 2),
        ("food_000000001", 1),
        ("food_000000002", 2),
    ]
    first, second, third = (json.loads((output / f"{m.name}.json").read_text()) for m in manifests)
    assert (first["engine"], first["precision"], first["checkpoint"]) == ("diffusers", "fp32", "flux-random")
    assert first["scores"] == third["scores"] != second["scores"]
    assert first["base"] == second["base"]
    assert first["rating"]["mean"] == 4.3
    assert json.loads((output / "report.json").read_text())["manifests"] == [first, second, third]


def test_the_report_shows_every_grid_and_score(evaluated: tuple[Path, list[QualityManifest]]) -> None:
    output, manifests = evaluated
    page = (output / "report.html").read_text()
    for one in manifests:
        assert (output / f"{one.name}.png").exists() and f'src="{one.name}.png"' in page
        assert f"{one.scores['SSIM to base']:.3f} ({one.base['SSIM to base']:.3f})" in page
        assert f"{one.base['product']:.3f} > {one.scores['product']:.3f}" in text(manifests)
    assert "4.3 of 12" in page


def changed(manifest: QualityManifest, **scores: float) -> QualityManifest:
    return replace(
        manifest,
        scores={**dict.fromkeys(manifest.scores, 1.0), **scores},
        base=dict.fromkeys(manifest.base, 0.5),
    )


def test_the_verdict_counts_who_moves_and_who_stays_faithful(
    evaluated: tuple[Path, list[QualityManifest]],
) -> None:
    one = evaluated[1][0]
    rows = [
        changed(one),
        changed(one, **{"sector likeness": 0.4}),
        changed(one, colour=0.89),
        changed(one, colour=0.9),
    ]
    assert [m.moved for m in rows] == [True, False, True, True]
    assert [m.faithful for m in rows] == [True, True, False, True]
    assert "3 of 4 adapters" in verdict(rows) and "90%: 3 of 4" in verdict(rows)


def test_names_are_escaped_in_the_report(evaluated: tuple[Path, list[QualityManifest]]) -> None:
    assert "<b>" not in html([replace(evaluated[1][0], name="<b>")], (Rating("<b>", "<b>", 4, 1),))


def test_a_folder_without_adapters_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no adapter, and no folder with"):
        adapters_in([tmp_path])


RATINGS = [("flux", "food", 5), ("flux", "food", 4), ("flux", "travel", 3.9), ("sdxl", "food", 4.0)]


def as_csv(path: Path) -> Path:
    rows = "\n".join(",".join(map(str, row)) for row in RATINGS)
    path.with_suffix(".csv").write_text(f"model,industry,rating\n{rows}\n")
    return path.with_suffix(".csv")


def as_json(path: Path) -> Path:
    rows = [dict(zip(ratings.COLUMNS, row, strict=True)) for row in RATINGS]
    path.with_suffix(".json").write_text(json.dumps(rows))
    return path.with_suffix(".json")


@pytest.mark.parametrize("written", [as_csv, as_json])
def test_ratings_are_averaged_by_model_and_industry_and_by_model(
    written: Callable[[Path], Path], tmp_path: Path
) -> None:
    assert ratings.read(written(tmp_path / "ratings")) == (
        Rating("flux", "food", 4.5, 2),
        Rating("flux", "travel", 3.9, 1),
        Rating("sdxl", "food", 4.0, 1),
        Rating("flux", None, 4.3, 3),
        Rating("sdxl", None, 4.0, 1),
    )


@pytest.mark.parametrize(
    "row, message",
    [
        ("flux,food,6", "row 1: rating '6' is not in 1..5"),
        ("flux,food,good", "row 1: rating 'good' is not in 1..5"),
        ("flux,,4", "row 1 has no industry; columns: model, industry, rating"),
    ],
)
def test_a_wrong_rating_is_named(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "ratings.csv").write_text(f"model,industry,rating\n{row}\n")
    with pytest.raises(ValueError, match=message):
        ratings.read(tmp_path / "ratings.csv")


@pytest.fixture
def processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def test_clip_scores_with_a_local_model(tmp_path: Path, processor: CLIPImageProcessor) -> None:
    torch.manual_seed(0)
    tokenizer = train_clip_tokenizer(["a red mug on a blue background"] * 3)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": 77,
    }
    config = CLIPConfig(
        text_config={**sizes, **words},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    for part in (CLIPModel(config), tokenizer, processor):
        part.save_pretrained(tmp_path)
    pixels, prompts = drawn("food", None, 3), task("food", 3).prompts[:3]
    model = CLIPModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        similar = [
            float(
                model(
                    **tokenizer(prompt, return_tensors="pt", truncation=True),
                    **processor(one, return_tensors="pt"),
                ).logits_per_image
                / model.logit_scale.exp()
            )
            for one, prompt in zip(pixels, prompts, strict=True)
        ]
    expected = 100 * float(np.mean(np.maximum(similar, 0)))
    assert ClipScore(tmp_path)(pixels, prompts, "food") == {"CLIP score": pytest.approx(expected, abs=1e-3)}


def test_dino_scores_likeness_to_held_out_pictures(
    tmp_path: Path, small_dataset: Path, processor: CLIPImageProcessor
) -> None:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    for part in (Dinov2Model(Dinov2Config(**sizes)), processor):
        part.save_pretrained(tmp_path)
    (pair,) = manifest.read(small_dataset).of("food", "held-out")
    with Image.open(small_dataset / pair.file) as picture:
        itself = np.asarray(picture)[None]
    score = DinoScore(tmp_path, small_dataset)
    assert score(itself, ["a mug"], "food") == {"DINO": pytest.approx(1, abs=1e-5)}
    assert score(np.zeros_like(itself), ["a mug"], "food")["DINO"] < 0.999
