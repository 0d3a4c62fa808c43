"""Data sets of adapters: the drawn one of the industries, and imported ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from families.wording import INDUSTRIES, industry_phrase
from finetune import importer, looks, manifest, sectors
from finetune.captions import LEVELS
from finetune.draw import draw
from finetune.importer import Refused, Terms, with_trigger
from finetune.scene import is_held_out, sample_scene

FEW = sectors.Numbers(train=3, held_out=1)  # those of `small_dataset`
TERMS = Terms("bakery", "bkry", "CC0")


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
    return picture


@pytest.fixture
def made(small_dataset: Path) -> Path:
    return small_dataset


def test_the_full_data_set_is_200_pairs_of_each_industry_and_no_scene_comes_twice() -> None:
    shown = {industry: list(sectors.scenes(industry, sectors.Numbers())) for industry in INDUSTRIES}
    assert {len(of) for of in shown.values()} == {200}
    assert {sum(split == "train" for split, _, _ in of) for of in shown.values()} == {180}
    assert len({scene.seed for of in shown.values() for _, _, scene in of}) == 2000


def test_only_held_out_pictures_show_held_out_combinations() -> None:
    for split, _, scene in sectors.scenes("food", sectors.Numbers()):
        assert is_held_out(*scene.triple) == (split == "held-out")


def test_each_industry_is_drawn_in_every_level_of_caption(made: Path) -> None:
    pairs = manifest.read(made).pairs
    assert {(pair.industry, pair.level) for pair in pairs} == {
        (i, level) for i in INDUSTRIES for level in LEVELS
    }
    for pair in pairs:
        words = (made / pair.file).with_suffix(".txt").read_text()
        assert (industry_phrase(pair.industry) in words) == (pair.level != "short")
        assert ("background" in words or "backdrop" in words) == (pair.level != "short")


def test_pictures_are_512_pixels_and_what_the_manifest_says(made: Path) -> None:
    known = manifest.read(made)
    manifest.verify(made, known.pairs)
    assert {opened(made / pair.file).size for pair in known.pairs} == {(512, 512)}
    assert {pair.licence for pair in known.pairs} == {sectors.LICENCE}


def test_the_same_data_set_is_drawn_every_time(made: Path, tmp_path: Path) -> None:
    assert sectors.make(tmp_path, FEW).sha256 == manifest.read(made).sha256


@pytest.mark.parametrize("part", [".png", ".txt"])
def test_a_changed_picture_or_caption_is_noticed(tmp_path: Path, part: str) -> None:
    pair = sectors.make(tmp_path, FEW).pairs[0]
    (tmp_path / pair.file).with_suffix(part).write_bytes(b"other")
    with pytest.raises(ValueError, match=f"0000{part} is not the file of sha256 "):
        manifest.verify(tmp_path, manifest.read(tmp_path).pairs)


def test_a_changed_manifest_is_noticed(tmp_path: Path) -> None:
    sectors.make(tmp_path, FEW)
    path = tmp_path / manifest.MANIFEST
    path.write_text(path.read_text().replace('"train"', '"held-out"', 1))
    with pytest.raises(ValueError, match="manifest.json says sha256"):
        manifest.read(tmp_path)


def test_an_unknown_industry_lists_the_choices(made: Path) -> None:
    with pytest.raises(ValueError, match="no train pairs of industry 'shipping'; choices: technology, "):
        manifest.read(made).of("shipping", "train")


def test_every_look_is_its_own_and_leaves_the_product_alone() -> None:
    scene = replace(sample_scene(1), product="smartphone")
    plain = np.asarray(draw(scene, 128))
    drawn = [np.asarray(draw(scene, 128, look=industry)) for industry in INDUSTRIES]
    assert set(looks.LOOKS) == set(INDUSTRIES)
    for number, picture in enumerate(drawn):
        changed = (picture != plain).any(-1)
        assert changed.mean() > 0.05
        assert not changed[72:88, 60:68].any()  # the middle of the product
        assert all((picture != other).any() for other in drawn[:number])


def picture(size: tuple[int, int] = (640, 520), colour: str = "red") -> Image.Image:
    return Image.new("RGB", size, colour)


def saved(
    folder: Path, name: str, image: Image.Image, caption: str | None = "bread", **options: object
) -> Path:
    image.save(folder / name, **options)
    if caption is not None:
        (folder / name).with_suffix(".txt").write_text(caption)
    return folder / name


def imported(source: Path, tmp_path: Path) -> importer.Import:
    return importer.run(source, tmp_path / "imported", TERMS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    saved(folder, "good.png", picture())
    return folder


@pytest.mark.parametrize(
    "words, expected",
    [
        ("a [trigger] loaf", "a bkry loaf"),
        ("a loaf", "bkry a loaf"),
        ("a loaf of bkry", "a loaf of bkry"),
    ],
)
def test_the_trigger_replaces_its_mark_or_comes_first(words: str, expected: str) -> None:
    assert with_trigger(words, "bkry") == expected


def test_without_a_trigger_captions_stay_and_marks_are_refused() -> None:
    assert with_trigger("a loaf", None) == "a loaf"
    with pytest.raises(Refused, match=r"its caption has \[trigger\], and no trigger was given"):
        with_trigger("a [trigger] loaf", None)


def test_a_picture_is_turned_upright_cut_in_the_middle_and_loses_its_metadata(
    source: Path, tmp_path: Path
) -> None:
    wide = picture((1200, 600), "blue")
    wide.paste("white", (0, 0, 290, 600))  # lies in the 300 pixels that are cut away at either end
    turned, exif = wide.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "secret"  # orientation: turn by 90 degrees; description
    saved(source, "turned.png", turned, exif=exif)
    pair = imported(source, tmp_path).pairs[1]
    result = opened(tmp_path / "imported" / pair.file)
    assert (result.size, result.mode, pair.source) == ((512, 512), "RGB", "turned.png")
    assert not result.getexif() and b"secret" not in (tmp_path / "imported" / pair.file).read_bytes()
    assert np.array_equal(np.unique(np.asarray(result).reshape(-1, 3), axis=0), [[0, 0, 255]])


def test_transparency_is_laid_on_white(source: Path, tmp_path: Path) -> None:
    saved(source, "clear.png", Image.new("RGBA", (600, 600), (9, 9, 9, 0)))
    pair = imported(source, tmp_path).pairs[0]
    assert np.asarray(opened(tmp_path / "imported" / pair.file)).min() == 255


def broken(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8)
    path = saved(folder, "bad.jpg", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:5000])


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no caption": (lambda f: saved(f, "bad.png", picture(), None), "has no caption bad.txt"),
    "empty caption": (lambda f: saved(f, "bad.png", picture(), " \n"), "its caption bad.txt is empty"),
    "not a picture": (lambda f: (f / "bad.pdf").write_text("x"), "is not a picture; choices: .jpg, "),
    "a folder": (lambda f: (f / "bad").mkdir(), "is not a picture; choices: .jpg, "),
    "only a caption": (lambda f: (f / "bad.txt").write_text("x"), "there is no picture of that name"),
    "too small": (lambda f: saved(f, "bad.png", picture((900, 511))), "is too small: 900 x 511 pixels"),
    "truncated": (broken, "cannot be read to its end"),
    "duplicate": (lambda f: saved(f, "hard.png", picture()), "is a duplicate of good.png"),
    "another format": (
        lambda f: saved(f, "bad.png", picture(), format="GIF"),
        "is not a picture; choices: PNG",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_trained_on_is_refused_with_its_reason(
    source: Path, tmp_path: Path, case: str
) -> None:
    make, reason = REFUSALS[case]
    make(source)
    result = imported(source, tmp_path)
    assert [pair.source for pair in result.pairs] == ["good.png"]
    (refusal,) = result.refusals
    assert reason in refusal.reason
    assert f"refused {refusal.file}: {refusal.reason}\n1 pairs imported, 1 files refused" == result.report()
    assert json.loads((tmp_path / "imported" / importer.REPORT).read_text())[0]["file"] == refusal.file


def test_a_caption_that_is_not_text_is_refused(source: Path, tmp_path: Path) -> None:
    saved(source, "bad.png", picture(colour="green"), None)
    (source / "bad.txt").write_bytes(b"\xff\xfe\xff")
    assert [refusal.reason for refusal in imported(source, tmp_path).refusals] == [
        "its caption bad.txt is not UTF-8"
    ]


def test_an_animation_is_refused(source: Path, tmp_path: Path) -> None:
    frames = [picture(colour=colour) for colour in ("green", "blue")]
    saved(source, "bad.webp", frames[0], save_all=True, append_images=frames[1:])
    assert [refusal.reason for refusal in imported(source, tmp_path).refusals] == ["has 2 frames"]


def test_one_pair_in_ten_is_held_out(source: Path, tmp_path: Path) -> None:
    for number in range(10):
        saved(source, f"{number}.png", Image.new("RGB", (512, 512), (number, 0, 0)))
    splits = [pair.split for pair in imported(source, tmp_path).pairs]
    assert splits == ["train"] * 9 + ["held-out", "train"]


def test_an_import_of_nothing_or_over_something_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source is not empty"):
        importer.run(source, source, TERMS)
    (source / "good.txt").unlink()
    with pytest.raises(ValueError, match="no pair that can be taken\nrefused good.png: has no caption"):
        imported(source, tmp_path)
