"""The same training on a real GPU: a configuration of ai-toolkit (ostris/ai-toolkit), as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from finetune.lora import LoraPhase

FLUX_1_DEV = "black-forest-labs/FLUX.1-dev"


def config(
    name: str,
    dataset: str,
    trigger: str | None,
    phase: LoraPhase,
    prompts: list[str],
    model: str = FLUX_1_DEV,
) -> dict[str, Any]:
    """The keys of its config/examples/train_lora_flux_24gb.yaml, the values of `phase`.

    Other than there: one resolution, samples of the size that is trained, and every checkpoint is kept.
    ai-toolkit ignores `linear_alpha` for Flux: its files have no alpha, so their scale is 1.
    """
    process = {
        "type": "sd_trainer",
        "training_folder": "output",
        "device": "cuda:0",
        **({"trigger_word": trigger} if trigger else {}),
        "network": {"type": "lora", "linear": phase.rank, "linear_alpha": phase.alpha},
        "save": {
            "dtype": "float16",
            "save_every": phase.checkpoint_every,
            "max_step_saves_to_keep": -(-phase.steps // phase.checkpoint_every),
            "push_to_hub": False,
        },
        "datasets": [_dataset(dataset, phase)],
        "train": _train(phase),
        "model": {"name_or_path": model, "is_flux": True, "quantize": True},
        "sample": _sample(phase, prompts),
    }
    job = {"name": name, "process": [process]}
    return {"job": "extension", "config": job, "meta": {"name": "[name]", "version": "1.0"}}


def _dataset(folder: str, phase: LoraPhase) -> dict[str, Any]:
    return {
        "folder_path": folder,
        "caption_ext": "txt",
        "caption_dropout_rate": phase.caption_dropout,
        "shuffle_tokens": False,
        "cache_latents_to_disk": True,
        "resolution": [phase.resolution],
    }


def _train(phase: LoraPhase) -> dict[str, Any]:
    return {
        "batch_size": phase.batch,
        "steps": phase.steps,
        "gradient_accumulation_steps": 1,
        "train_unet": True,
        "train_text_encoder": False,
        "gradient_checkpointing": True,
        "noise_scheduler": "flowmatch",
        "optimizer": "adamw8bit",
        "lr": phase.learning_rate,
        "ema_config": {"use_ema": True, "ema_decay": 0.99},
        "dtype": "bf16",
    }


def _sample(phase: LoraPhase, prompts: list[str]) -> dict[str, Any]:
    return {
        "sampler": "flowmatch",
        "sample_every": phase.checkpoint_every,
        "sample_start_step": 0,
        "width": phase.resolution,
        "height": phase.resolution,
        "prompts": prompts,
        "neg": "",
        "seed": 42,
        "walk_seed": True,
        "guidance_scale": 4,
        "sample_steps": 20,
    }


def write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
