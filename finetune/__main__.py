"""Command line: `python -m finetune pretrain flux-tiny`, `python -m finetune evaluate CHECKPOINT` ..."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from finetune import adapters, checker, evaluate, evaluate_image, options, pretrain
from finetune.stages import STAGES

CACHE = Path("build/pictures")
ASSETS = Path("assets/checkpoints")


def _pretrain(options: argparse.Namespace) -> None:
    work = options.work or Path("build/pretrain") / options.checkpoint
    output = options.output or ASSETS / options.checkpoint
    pretrain.pretraining(options.checkpoint, work, output, options.workers).run(options.only)


def _checker(options: argparse.Namespace) -> None:
    trained = checker.train(options.cache)
    checker.save(trained)
    print(checker.accuracy(trained, options.cache))


def _evaluate(options: argparse.Namespace) -> None:
    evaluate.report(
        options.checkpoint, options.cache, options.output, options.num_inference_steps, options.guidance_scale
    )


def _evaluate_image(options: argparse.Namespace) -> None:
    evaluate_image.report(
        options.checkpoint,
        options.output,
        options.pairs,
        options.strength,
        options.num_inference_steps,
        options.guidance_scale,
    )


def _add_pretrain(commands: Any) -> None:
    train = commands.add_parser("pretrain", help="train a tiny checkpoint; resumes where it stopped")
    train.add_argument("checkpoint", choices=pretrain.CHECKPOINTS)
    train.add_argument("--work", type=Path, help="intermediate results (default build/pretrain/CHECKPOINT)")
    train.add_argument("--output", type=Path, help="default assets/checkpoints/CHECKPOINT")
    train.add_argument("--workers", type=int, default=2, help="processes for the denoiser")
    train.add_argument("--only", choices=STAGES, help="one stage")
    train.set_defaults(run=_pretrain)


def _add_checker(commands: Any) -> None:
    judge = commands.add_parser("checker", help="train the classifier that judges generated pictures")
    judge.add_argument("--cache", type=Path, default=CACHE, help="where drawn pictures are kept")
    judge.set_defaults(run=_checker)


def _add_evaluate(commands: Any) -> None:
    score = commands.add_parser("evaluate", help="prompt fidelity on 200 held-out prompts")
    score.add_argument("checkpoint", type=Path)
    score.add_argument("--cache", type=Path, default=CACHE, help="where drawn pictures are kept")
    score.add_argument("--output", type=Path, default=Path("out/evaluate"))
    score.add_argument("--num-inference-steps", type=int, help="default: the family's")
    score.add_argument("--guidance-scale", type=float, help="default: the family's")
    score.set_defaults(run=_evaluate)


def _add_evaluate_image(commands: Any) -> None:
    score = commands.add_parser("evaluate-image", help="image to image: another colour, over the strengths")
    score.add_argument("checkpoint", type=Path)
    score.add_argument("--output", type=Path, default=Path("out/evaluate"))
    score.add_argument("--pairs", type=int, default=evaluate_image.PAIRS)
    score.add_argument("--strength", type=float, nargs="+", default=evaluate_image.STRENGTHS)
    score.add_argument("--num-inference-steps", type=int, help="default: the family's")
    score.add_argument("--guidance-scale", type=float, help="default: the family's")
    score.set_defaults(run=_evaluate_image)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m finetune", description=__doc__)
    commands = parser.add_subparsers(required=True)
    own = (_add_pretrain, _add_checker, _add_evaluate, _add_evaluate_image)
    for add in (*own, *options.ADD, adapters.add_commands):
        add(commands)
    chosen = parser.parse_args()
    try:
        chosen.run(chosen)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
