"""The drawn world, its words and the checkpoint that was trained on it."""

import itertools
import random

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from finetune import checker
from finetune.captions import full_caption, held_out_prompts
from finetune.card import PANELS
from finetune.dataset import targets
from finetune.draw import draw
from finetune.marks import BADGES, STYLE_MARKS
from finetune.products import DRAWERS
from finetune.run import Average, Run
from finetune.scene import (
    BACKGROUNDS,
    COLOURS,
    INDUSTRIES,
    PRODUCTS,
    STYLES,
    held_out_scenes,
    is_held_out,
    sample_scene,
)
from finetune.tokenizers import caption_corpus, train_clip_tokenizer, train_t5_tokenizer
from gateway import prompts

CHECKPOINT = "assets/checkpoints/flux-tiny"


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


def test_the_gateway_words_styles_and_industries_as_the_captions_do() -> None:
    assert set(prompts.STYLES) == set(STYLES)
    assert set(prompts.INDUSTRIES) == set(INDUSTRIES)
    scene = next(s for s in map(sample_scene, range(100)) if s.style and not s.industry)
    caption = full_caption(scene, random.Random(0))
    worded = prompts.STYLES[scene.style].format(prompt=caption.removesuffix(f", {scene.style} style"))
    assert worded == caption


@pytest.mark.parametrize("text", ["zebra", "😀 مرحبا 日本", "", "ﬁ\u0301", "a" * 500])
def test_any_text_tokenises_without_an_unknown_token(text: str) -> None:
    corpus = caption_corpus(200)
    clip, t5 = train_clip_tokenizer(corpus), train_t5_tokenizer(corpus, 64)
    assert t5.unk_token_id not in t5(text).input_ids
    assert clip(text).input_ids.count(clip.eos_token_id) == 1  # CLIP's unknown token is its end token


def test_a_run_resumes_where_it_was_saved(tmp_path) -> None:
    module = torch.nn.Linear(2, 2)
    Run(tmp_path).save(7, module=module)
    other = torch.nn.Linear(2, 2)
    assert Run(tmp_path).resume(module=other) == 7
    assert torch.equal(module.weight, other.weight)
    assert Run(tmp_path / "fresh").resume(module=other) == 0


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


def test_stock_diffusers_loads_the_checkpoint_and_draws_a_smartphone_on_dark() -> None:
    pipeline = FluxPipeline.from_pretrained(CHECKPOINT, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    prompt = "A sleek black smartphone on a dark gradient background"
    picture = pipeline(
        prompt, height=128, width=128, num_inference_steps=12, generator=torch.Generator().manual_seed(0)
    ).images[0]
    logits = checker.load()(torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)[None] / 127.5 - 1)
    assert PRODUCTS[logits["product"].argmax()] == "smartphone"
    assert tuple(BACKGROUNDS)[logits["background"].argmax()] == "dark"


def test_the_card_names_every_run() -> None:
    card = open(f"{CHECKPOINT}/README.md").read()
    assert all(f"run `{folder}`" in card for folder, _, _ in PANELS)
