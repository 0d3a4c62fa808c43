"""Command line of adapters: their data set, training and evaluation; `__main__` has the other commands."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from families.wording import industry_phrase
from finetune import (
    ai_toolkit,
    checker,
    importer,
    manifest,
    quality,
    quality_report,
    ratings,
    sector_checker,
    sectors,
)  # fmt: skip
from finetune.adapter_scores import PROMPTS, Extra, Judges
from finetune.local_models import ClipScore, DinoScore
from finetune.lora import RECIPES, TARGETS, LoraPhase
from finetune.lora_training import Job, sample_prompts, train
from finetune.picture_makers import Drawing, StockDiffusers

DATASET, ASSETS = Path("build/dataset"), Path("assets/checkpoints")
CHOICES = {"targets": list(TARGETS)}


def _dataset(options: argparse.Namespace) -> None:
    if options.source is None:
        made = sectors.make(options.output or DATASET)
        print(f"{len(made.pairs)} pairs, sha256 {made.sha256}")
        return
    if options.output is None or options.industry is None:
        raise ValueError("--import needs --output and --industry")
    terms = importer.Terms(options.industry, options.trigger, options.licence)
    print(importer.run(options.source, options.output, terms).report())


def add_dataset(commands: Any) -> None:
    make = commands.add_parser("dataset", help="draw the industries' pictures, or import a folder")
    make.add_argument("--output", type=Path, help=f"default {DATASET}, which an import may not be")
    make.add_argument("--import", dest="source", type=Path, help="pictures with same-stem .txt captions")
    make.add_argument("--industry", help="of the imported pictures; any name")
    make.add_argument("--trigger", help="replaces [trigger] in imported captions, or is put before them")
    make.add_argument("--licence", default="not stated", help="of the imported pictures")
    make.set_defaults(run=_dataset)


def _phase(options: argparse.Namespace) -> LoraPhase:
    given = {field.name: getattr(options, field.name, None) for field in fields(LoraPhase)}
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(RECIPES[options.recipe], **changed)


def _lora(options: argparse.Namespace) -> None:
    trigger = options.trigger or industry_phrase(options.industry)
    job = Job(options.checkpoint, options.dataset, options.industry, trigger, options.output, options.samples)
    if options.emit_ai_toolkit is None:
        print(f"adapter: {train(job, _phase(options))}")
        return
    folder = options.dataset / manifest.slug(options.industry) / manifest.SPLITS[0]
    name, prompts = f"{manifest.slug(options.industry)}_flux_lora", sample_prompts(job)
    values = ai_toolkit.config(name, str(folder), options.trigger, _phase(options), prompts)
    ai_toolkit.write(options.emit_ai_toolkit, values)


def add_lora(commands: Any) -> None:
    command = commands.add_parser("lora", help="train an industry's adapter; resumes where it stopped")
    command.add_argument("--checkpoint", type=Path, required=True, help="in diffusers' layout")
    command.add_argument("--dataset", type=Path, default=DATASET, help="as `dataset` made or imported it")
    command.add_argument("--industry", required=True, help="one of the data set's")
    command.add_argument("--trigger", help="default: the industry as prompts word it")
    command.add_argument("--output", type=Path, default=Path("build/adapters"))
    command.add_argument("--samples", type=int, default=4, help="pictures drawn at each checkpoint")
    command.add_argument("--emit-ai-toolkit", type=Path, metavar="FILE", help="write its YAML, do not train")
    command.add_argument("--recipe", choices=RECIPES, default="default")
    for field in fields(LoraPhase):
        if field.name != "name":
            _add_field(command, field.name)
    command.set_defaults(run=_lora)


def _add_field(command: argparse.ArgumentParser, name: str) -> None:
    """An option for a field of the recipe, which has the default."""
    shown = ", ".join(f"{recipe} {getattr(phase, name)}" for recipe, phase in RECIPES.items())
    kind = type(getattr(RECIPES["default"], name))
    command.add_argument(
        f"--{name.replace('_', '-')}", type=kind, choices=CHOICES.get(name), help=f"recipes: {shown}"
    )


def _sector_checker(options: argparse.Namespace) -> None:
    trained = sector_checker.train(ASSETS)
    sector_checker.save(trained)
    print(sector_checker.accuracy(trained, ASSETS))


def add_sector_checker(commands: Any) -> None:
    judge = commands.add_parser("sector-checker", help="train the classifier of the industries' looks")
    judge.set_defaults(run=_sector_checker)


def _extras(options: argparse.Namespace) -> tuple[Extra, ...]:
    clip = (ClipScore(options.clip),) if options.clip else ()
    dino = (DinoScore(options.dino, options.dataset),) if options.dino else ()
    return (*clip, *dino)


def _evaluate_adapters(options: argparse.Namespace) -> None:
    rated = ratings.read(options.ratings) if options.ratings else ()
    files, maker = quality.adapters_in(options.adapters), StockDiffusers(options.checkpoint)
    family = maker.family
    guidance = family.guidance_scale.default if options.guidance_scale is None else options.guidance_scale
    drawing = Drawing(options.num_inference_steps or int(family.num_inference_steps.default), guidance)
    judges = Judges(checker.load(), sector_checker.load(), _extras(options))
    evaluation = quality.Evaluation(maker, judges, drawing, options.prompts, options.output, rated)
    manifests = evaluation.run(files)
    quality_report.write(options.output, manifests, rated)
    print(quality_report.text(manifests))


def add_evaluate_adapters(commands: Any) -> None:
    score = commands.add_parser("evaluate-adapters", help="adapters against their base, on held-out prompts")
    score.add_argument("checkpoint", type=Path)
    score.add_argument("adapters", type=Path, nargs="+", help="files, or folders of them, of any step")
    score.add_argument("--output", type=Path, default=Path("out/adapters"))
    score.add_argument("--prompts", type=int, default=PROMPTS)
    score.add_argument("--num-inference-steps", type=int, help="default: the family's")
    score.add_argument("--guidance-scale", type=float, help="default: the family's")
    score.add_argument("--clip", type=Path, help="folder of a transformers CLIP: adds its score")
    score.add_argument("--dino", type=Path, help="folder of a transformers DINOv2: adds its score")
    score.add_argument("--dataset", type=Path, default=DATASET, help="whose held-out pictures DINO sees")
    score.add_argument("--ratings", type=Path, help="users' ratings, CSV or JSON: model, industry, rating")
    score.set_defaults(run=_evaluate_adapters)


ADD = (add_dataset, add_lora, add_sector_checker, add_evaluate_adapters)
