"""The configuration that trains the same adapter with ai-toolkit, against its documented example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from finetune import ai_toolkit
from finetune.lora import LoraPhase

FLUX_TINY = Path("assets/checkpoints/flux-tiny")
# ai-toolkit 0.12.26, config/examples/train_lora_flux_24gb.yaml
DOCUMENTED = """
job: extension
config:
  name: my_first_flux_lora_v1
  process:
  - type: sd_trainer
    training_folder: output
    device: cuda:0
    network: {type: lora, linear: 16, linear_alpha: 16}
    save: {dtype: float16, save_every: 250, max_step_saves_to_keep: 4, push_to_hub: false}
    datasets:
    - {folder_path: FOLDER, caption_ext: txt, caption_dropout_rate: 0.05, shuffle_tokens: false,
       cache_latents_to_disk: true, resolution: [512, 768, 1024]}
    train: {batch_size: 1, steps: 2000, gradient_accumulation_steps: 1, train_unet: true,
       train_text_encoder: false, gradient_checkpointing: true, noise_scheduler: flowmatch,
       optimizer: adamw8bit, lr: 0.0001, ema_config: {use_ema: true, ema_decay: 0.99}, dtype: bf16}
    model: {name_or_path: black-forest-labs/FLUX.1-dev, is_flux: true, quantize: true}
    sample: {sampler: flowmatch, sample_every: 250, sample_start_step: 0, width: 1024, height: 1024,
       prompts: [a mug], neg: "", seed: 42, walk_seed: true, guidance_scale: 4, sample_steps: 20}
meta: {name: "[name]", version: '1.0'}
"""
OURS = {
    ".config.process.0.save.max_step_saves_to_keep": 8,
    ".config.process.0.datasets.0.resolution": [512],
    ".config.process.0.sample.width": 512,
    ".config.process.0.sample.height": 512,
}


def leaves(value: object, path: str = "") -> dict[str, object]:
    """Path -> value; a list of tables counts as one with its places as keys."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{path}.{key}").items()}
    return {path: value}


def test_the_configuration_for_ai_toolkit_is_its_documented_one_but_for_what_we_change(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.yaml"
    values = ai_toolkit.config("my_first_flux_lora_v1", "FOLDER", None, LoraPhase(), ["a mug"])
    ai_toolkit.write(path, values)
    written = leaves(yaml.safe_load(path.read_text()))
    documented = leaves(yaml.safe_load(DOCUMENTED))
    assert list(written) == list(documented)
    assert written == {**documented, **OURS}


def test_the_command_writes_it_for_a_data_sets_training_half(small_dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    options = ("--emit-ai-toolkit", str(path), "--trigger", "t0k", "--learning-rate", "5e-5")
    named = ("--checkpoint", str(FLUX_TINY), "--dataset", str(small_dataset), "--output", str(tmp_path))
    lora = [sys.executable, "-m", "finetune", "lora", *named, "--industry", "real estate", *options]
    subprocess.run(lora, check=True)
    (process,) = yaml.safe_load(path.read_text())["config"]["process"]
    assert process["trigger_word"] == "t0k"
    assert process["train"]["lr"] == 5e-5
    (dataset,) = process["datasets"]
    assert dataset["folder_path"] == str(small_dataset / "real-estate" / "train")
    assert not (tmp_path / "real-estate.run").exists()
