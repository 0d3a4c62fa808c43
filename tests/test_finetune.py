"""The drawn world, its words and the checkpoint that was trained on it."""

import contextlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from families.wording import INDUSTRIES, STYLES
from finetune import checker, evaluate, evaluate_image
from finetune.captions import held_out_prompts
from finetune.dataset import as_model_input, targets
from finetune.draw import draw
from finetune.marks import BADGES, STYLE_MARKS
from finetune.pretrain import CHECKPOINTS
from finetune.products import DRAWERS
from finetune.run import Average, Phase, optimise
from finetune.scene import (
    BACKGROUNDS,
    COLOURS,
    PRODUCTS,
    held_out_scenes,
    is_held_out,
    sample_scene,
)
from finetune.stages import STAGES, Pretraining
from finetune.tokenizers import caption_corpus, train_clip_tokenizer, train_t5_tokenizer

ASSETS = Path("assets/checkpoints")


def test_a_scene_is_drawn_the_same_every_time_and_others_differ() -> None:
    first, again, other = (np.asarray(draw(sample_scene(seed), 64)) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_picture_is_512_pixels_unless_asked_otherwise() -> None:
    assert draw(sample_scene(0)).size == (512, 512)


def test_everything_named_can_be_drawn() -> None:
    assert set(DRAWERS) == set(PRODUCTS)
    assert set(STYLE_MARKS) == set(STYLES)
    assert set(BADGES) == set(INDUSTRIES)


def test_the_held_out_combinations_are_200_and_no_training_scene_is_one() -> None:
    held_out = {scene.triple for scene in held_out_scenes()}
    assert len(held_out) == 200
    assert held_out.isdisjoint({sample_scene(seed).triple for seed in range(3000)})


def test_every_pair_of_words_in_a_held_out_combination_is_trained_on() -> None:
    trained = [t for t in itertools.product(PRODUCTS, COLOURS, BACKGROUNDS) if not is_held_out(*t)]
    for places in itertools.combinations(range(3), 2):
        seen = {tuple(triple[place] for place in places) for triple in trained}
        assert {tuple(scene.triple[place] for place in places) for scene in held_out_scenes()} <= seen


def test_evaluation_prompts_name_the_colour_and_every_mark() -> None:
    for scene, prompt in held_out_prompts():
        assert scene.colour in prompt
        assert scene.style is None or f"{scene.style} style" in prompt
        assert scene.industry is None or f"for the {scene.industry} industry" in prompt


@pytest.mark.parametrize("text", ["zebra", "😀 مرحبا 日本", "", "ﬁ\u0301", "a" * 500])
def test_any_text_tokenises_without_an_unknown_token(text: str) -> None:
    corpus = caption_corpus(200)
    clip, t5 = train_clip_tokenizer(corpus), train_t5_tokenizer(corpus, 64)
    assert t5.unk_token_id not in t5(text).input_ids
    assert clip(text).input_ids.count(clip.eos_token_id) == 1  # CLIP's unknown token is its end token


PHASE = Phase("phase", steps=4, learning_rate=0.1, batch=2)


def optimised(folder: Path, phase: Phase = PHASE, cut_at: int | None = None) -> torch.Tensor:
    """The weight of a small module after `phase`, whose losses are random; cut short at step `cut_at`."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)

    def loss(step: int) -> torch.Tensor:
        if step == cut_at:
            raise InterruptedError
        return module(torch.randn(2, 3)).pow(2).sum()

    with contextlib.suppress(InterruptedError):
        optimise(module, phase, loss, folder, every=1)
    return module.weight.detach()


def test_a_phase_that_was_cut_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = optimised(tmp_path / "whole")
    optimised(tmp_path / "cut", cut_at=2)
    assert torch.equal(optimised(tmp_path / "cut"), whole)
    rows = [(tmp_path / name / "phase" / "curves.jsonl").read_text() for name in ("whole", "cut")]
    assert rows[0] == rows[1] and len(rows[0].splitlines()) == 4


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    optimised(tmp_path)
    with pytest.raises(ValueError, match="state.pt is of .*0.1.* not of .*0.2"):
        optimised(tmp_path, replace(PHASE, learning_rate=0.2))


@pytest.fixture(scope="module", params=CHECKPOINTS)
def pretrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pretraining:
    """A checkpoint made by every stage up to `assemble`, two steps a phase, two workers."""
    kind, recipe = CHECKPOINTS[request.param]
    short = replace(
        recipe,
        size=64,
        pictures=16,
        captions=200,
        text=replace(recipe.text, steps=2, batch=2),
        vae=replace(recipe.vae, steps=2, batch=2, crop=32),
        decoder=replace(recipe.decoder, steps=2, batch=2, crop=64),
        denoiser=tuple(replace(phase, steps=2, batch=2) for phase in recipe.denoiser),
    )
    work, output = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("checkpoint")
    made = kind(short, work, output, workers=2)
    for stage in STAGES[:-1]:
        made.run(stage)
    return made


def test_every_stage_runs_and_stock_diffusers_loads_what_comes_out(pretrained: Pretraining) -> None:
    pipeline = evaluate.load(pretrained.output)
    picture = pipeline("a mug", height=64, width=64, num_inference_steps=1).images[0]
    assert picture.size == (64, 64)
    assert pipeline.vae.config.sample_size == 64


def test_a_stage_that_is_done_is_not_done_again(pretrained: Pretraining) -> None:
    curves = pretrained.runs / pretrained.recipe.denoiser[0].name / "curves.jsonl"
    before = curves.read_text()
    pretrained.run("denoiser")
    assert curves.read_text() == before


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_a_tokenizer_is_saved_without_traces_of_training(pretrained: Pretraining, name: str) -> None:
    for checkpoint in (pretrained.output, *(ASSETS / shipped for shipped in CHECKPOINTS)):
        saved = json.loads((checkpoint / name / "tokenizer.json").read_text())
        assert saved["truncation"] is None and saved["padding"] is None


def test_no_config_names_the_machine_that_trained(pretrained: Pretraining) -> None:
    for checkpoint in (pretrained.output, *(ASSETS / shipped for shipped in CHECKPOINTS)):
        configs = list(checkpoint.glob("*/config.json"))
        assert len(configs) == 4
        assert not any("_name_or_path" in json.loads(config.read_text()) for config in configs)


def test_an_average_follows_its_module() -> None:
    module = torch.nn.Linear(1, 1)
    average = Average(module, 0.5)
    with torch.no_grad():
        module.weight.fill_(4.0)
    for step in range(100):
        average.update(module, step)
    average.copy_to(module)
    assert module.weight.item() == pytest.approx(4.0)


def test_the_checker_sees_what_was_drawn() -> None:
    scenes = [sample_scene(seed) for seed in range(500_000, 500_040)]
    pixels = np.stack([np.asarray(draw(scene, 128, supersample=3)) for scene in scenes])
    right = checker.correct(checker.load(), pixels, scenes)
    assert set(right) == set(targets(scenes))
    assert all(values.float().mean() >= 0.9 for values in right.values())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_stock_diffusers_loads_the_checkpoint_and_draws_a_smartphone_on_dark(name: str) -> None:
    pipeline = evaluate.load(ASSETS / name)
    prompt = "A sleek red smartphone on a dark gradient background"
    picture = pipeline(
        prompt, height=128, width=128, num_inference_steps=12, generator=torch.Generator().manual_seed(0)
    ).images[0]
    logits = checker.load()(as_model_input(np.asarray(picture)[None]))
    assert PRODUCTS[logits["product"].argmax()] == "smartphone"
    assert tuple(BACKGROUNDS)[logits["background"].argmax()] == "dark"


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_card_names_every_run(name: str, tmp_path: Path) -> None:
    kind, recipe = CHECKPOINTS[name]
    card = Path(ASSETS, name, "README.md").read_text()
    assert all(f"run `{panel.folder}`" in card for panel in kind(recipe, tmp_path, tmp_path).panels)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_held_out_prompts_are_drawn_right(name: str, tmp_path: Path) -> None:
    guidance = CHECKPOINTS[name][1].guidance
    scores = evaluate.report(ASSETS / name, tmp_path / "cache", tmp_path, guidance=guidance)
    assert min(scores[attribute] for attribute in evaluate.ASKED) >= 0.95


@pytest.mark.slow
def test_the_asked_colour_comes_and_the_structure_stays(tmp_path: Path) -> None:
    guidance = CHECKPOINTS["sdxl-tiny"][1].guidance
    rows = evaluate_image.report(ASSETS / "sdxl-tiny", tmp_path, guidance=guidance)
    at = {row["strength"]: row for row in rows}
    assert at[0.3]["SSIM"] >= 0.6 and at[0.8]["asked colour"] >= 0.9
    assert all(evaluate_image.monotone(rows).values())
