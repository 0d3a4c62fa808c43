"""Training an adapter: the recipe, the file, and that a killed run ends as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from export.checkpoint import open_checkpoint
from families import FAMILIES
from families.layers import lora_targets
from finetune import evaluate
from finetune.adapter_file import Origin, read_origin
from finetune.lora import LoraPhase, optimizer_for, target_modules
from finetune.lora_training import Job, train
from finetune.objectives import FluxObjective, SdxlObjective, objective_of

SHORT = LoraPhase(steps=4, resolution=64, rank=4, alpha=8, checkpoint_every=2, state_every=1)
FLUX_TINY = Path("assets/checkpoints/flux-tiny")


def job(checkpoint: Path, dataset: Path, output: Path, samples: int = 0) -> Job:
    return Job(checkpoint, dataset, "real estate", "for the real estate industry", output, samples)


def test_the_seeds_table_is_the_default() -> None:
    phase = LoraPhase()
    assert (phase.resolution, phase.batch, phase.learning_rate) == (512, 1, 1e-4)
    assert (phase.rank, phase.alpha, phase.steps, phase.checkpoint_every) == (16, 16, 2_000, 250)


@pytest.fixture(scope="module", params=FAMILIES)
def trained(
    request: pytest.FixtureRequest, small_dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Job:
    """An adapter of the family, after `SHORT` with a larger rank."""
    name = "random_checkpoint" if request.param == "flux" else "random_sdxl"
    made = job(request.getfixturevalue(name), small_dataset, tmp_path_factory.mktemp("adapters"), samples=1)
    train(made, replace(SHORT, rank=12, learning_rate=0.01))
    return made


def final(of: Job) -> Path:
    return of.output / "real-estate.safetensors"


def test_a_file_has_a_and_b_of_exactly_the_targets_and_less_than_1_mb(trained: Job) -> None:
    checkpoint = open_checkpoint(trained.checkpoint)
    denoiser = checkpoint.family.denoiser
    names = [target.name for target in lora_targets(checkpoint.family, denoiser, checkpoint.configs)]
    parts = [f"{denoiser.folder}.{name}.lora_{part}.weight" for name in names for part in "AB"]
    weights = load_file(final(trained))
    assert set(weights) == set(parts)
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert final(trained).stat().st_size <= 1_000_000


def test_a_file_says_where_it_comes_from(trained: Job) -> None:
    known = json.loads((trained.dataset / "manifest.json").read_text())
    assert read_origin(final(trained)) == Origin(
        industry="real estate",
        trigger="for the real estate industry",
        checkpoint=trained.checkpoint.name,
        checkpoint_sha256=open_checkpoint(trained.checkpoint).denoiser_sha256,
        dataset_sha256=known["sha256"],
        step=4,
    )


def test_every_checkpoint_is_kept_with_its_samples(trained: Job) -> None:
    assert sorted(path.name for path in trained.output.glob("*.safetensors")) == [
        "real-estate.safetensors",
        "real-estate_000000002.safetensors",
        "real-estate_000000004.safetensors",
    ]
    assert [read_origin(trained.output / f"real-estate_00000000{n}.safetensors").step for n in (2, 4)] == [
        2,
        4,
    ]
    assert len(list((trained.output / "samples").glob("*.png"))) == 2


def test_stock_diffusers_draws_with_the_file_as_peft_would(trained: Job) -> None:
    """alpha 8 of rank 12: a loader that overlooks the metadata draws with half as much change again."""
    pipeline = evaluate.load(trained.checkpoint)

    def picture() -> np.ndarray:
        return evaluate.generate(pipeline, ["a red mug"], 2, 3.0, size=64)[0].astype(int)

    base = picture()
    pipeline.load_lora_weights(trained.output, weight_name=final(trained).name, local_files_only=True)
    loaded = picture()
    pipeline.unload_lora_weights()
    denoiser, weights = getattr(pipeline, open_checkpoint(trained.checkpoint).family.denoiser.folder), {}
    weights = {key.split(".", 1)[1]: value.float() for key, value in load_file(final(trained)).items()}
    for name in {key.rsplit(".lora_", 1)[0] for key in weights}:
        a, b = (weights[f"{name}.lora_{part}.weight"] for part in "AB")
        denoiser.get_submodule(name).weight.data += 8 / 12 * b @ a
    assert np.abs(loaded - base).max() > 2
    assert np.abs(loaded - picture()).max() <= 1


def losses(folder: Path) -> list[float]:
    lines = (folder / "real-estate.run" / "lora" / "curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [json.loads(line)["loss"] for line in lines]


def command(checkpoint: Path, dataset: Path, output: Path, *options: str) -> list[str]:
    named = {
        "--checkpoint": checkpoint,
        "--dataset": dataset,
        "--output": output,
        "--industry": "real estate",
    }
    given = [text for name, value in named.items() for text in (name, str(value))]
    return [sys.executable, "-m", "finetune", "lora", *given, *options]


def kill_after(steps: int, of: list[str], output: Path) -> None:
    """Starts a training and kills it (-9) as soon as that many losses are written."""
    process = subprocess.Popen(of, env=os.environ | {"OMP_NUM_THREADS": "1"})
    curves = output / "real-estate.run" / "lora" / "curves.jsonl"
    while process.poll() is None and (not curves.exists() or curves.read_text().count("\n") < steps):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def check_that_a_killed_run_ends_alike(
    checkpoint: Path, dataset: Path, folder: Path, steps: int, *options: str
) -> None:
    run, env = command(checkpoint, dataset, folder / "cut", *options), os.environ | {"OMP_NUM_THREADS": "1"}
    kill_after(steps, run, folder / "cut")
    assert not (folder / "cut" / "real-estate.safetensors").exists()
    subprocess.run(run, check=True, env=env)
    subprocess.run(command(checkpoint, dataset, folder / "whole", *options), check=True, env=env)
    assert losses(folder / "cut") == losses(folder / "whole")
    files = [(folder / name / "real-estate.safetensors").read_bytes() for name in ("cut", "whole")]
    assert files[0] == files[1]


def test_a_killed_run_ends_as_one_that_was_not(
    random_checkpoint: Path, small_dataset: Path, tmp_path: Path
) -> None:
    options = "--resolution 64 --rank 4 --steps 40 --state-every 7 --samples 0".split()
    check_that_a_killed_run_ends_alike(random_checkpoint, small_dataset, tmp_path, 10, *options)


@pytest.mark.slow
def test_twenty_steps_with_the_defaults_survive_a_kill(small_dataset: Path, tmp_path: Path) -> None:
    check_that_a_killed_run_ends_alike(FLUX_TINY, small_dataset, tmp_path, 12, "--steps", "20")
    assert len(losses(tmp_path / "cut")) == 20
    assert list((tmp_path / "cut" / "samples").glob("*.png"))


def test_a_run_that_lost_its_last_checkpoint_makes_it_again(
    random_checkpoint: Path, small_dataset: Path, tmp_path: Path
) -> None:
    """Killed between the state of the last step and the file."""
    made = job(random_checkpoint, small_dataset, tmp_path)
    train(made, SHORT)
    expected = final(made).read_bytes()
    final(made).unlink()
    assert train(made, SHORT).read_bytes() == expected


def test_losses_fall(random_checkpoint: Path, small_dataset: Path, tmp_path: Path) -> None:
    made = job(random_checkpoint, small_dataset, tmp_path)
    train(made, replace(SHORT, steps=30, batch=4, learning_rate=5e-3))
    values = losses(tmp_path)
    assert np.mean(values[-8:]) < 0.9 * np.mean(values[:8])


def test_other_settings_than_the_states_are_refused(
    random_checkpoint: Path, small_dataset: Path, tmp_path: Path
) -> None:
    made = job(random_checkpoint, small_dataset, tmp_path)
    train(made, replace(SHORT, steps=1))
    with pytest.raises(ValueError, match="state.pt is of .*'rank': 4.*: remove it to start anew"):
        train(made, replace(SHORT, steps=1, rank=8))


def test_attention_alone_can_be_trained(random_checkpoint: Path) -> None:
    objective = objective_of(evaluate.load(random_checkpoint))
    every, attention = (target_modules(objective, choice) for choice in ("all", "attention"))
    assert set(attention) == {name for name in every if ".attn.to_" in name or ".attn.add_" in name}
    assert 0 < len(attention) < len(every)


def test_the_loss_of_flux_is_that_of_the_velocity(random_checkpoint: Path) -> None:
    """A denoiser that answers 0 leaves the mean square of noise - latents."""
    objective = FluxObjective(evaluate.load(random_checkpoint))
    objective.denoiser.proj_out.weight.zero_()
    objective.denoiser.proj_out.bias.zero_()
    clean = 3 * torch.randn(2, 16, 8, 8)
    torch.manual_seed(5)
    loss = objective.loss(clean, repeated(objective), 3.5)
    torch.manual_seed(5)
    noise = torch.randn(2, 16, 64)
    expected = clean.view(2, 16, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 16, 64)
    assert torch.allclose(loss, (noise - expected).pow(2).mean())


@pytest.mark.parametrize("kind, weight", [("epsilon", 0.0), ("v_prediction", 1.0)])
def test_the_loss_of_sdxl_is_of_what_its_scheduler_says(random_sdxl: Path, kind: str, weight: float) -> None:
    """A denoiser that answers 0 leaves the mean square of the target: noise, or velocity."""
    pipeline = evaluate.load(random_sdxl)
    pipeline.scheduler.register_to_config(prediction_type=kind)
    objective = SdxlObjective(pipeline)
    objective.denoiser.conv_out.weight.zero_()
    objective.denoiser.conv_out.bias.zero_()
    size = torch.tensor(100.0)
    small, large = (
        float(objective.loss(share * torch.ones(2, 4, 8, 8), repeated(objective), 1.0))
        for share in (0 * size, size)
        if torch.manual_seed(5)
    )
    assert (large > 2 * small) == bool(weight)


def test_a_scheduler_that_predicts_something_else_is_refused(random_sdxl: Path) -> None:
    pipeline = evaluate.load(random_sdxl)
    pipeline.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(
        ValueError, match="prediction_type 'sample' cannot be trained; choices: epsilon, v_pred"
    ):
        SdxlObjective(pipeline)


def repeated(objective: FluxObjective | SdxlObjective) -> tuple[torch.Tensor, torch.Tensor]:
    embeds, pooled = objective.condition("a red mug")
    return embeds.expand(2, -1, -1), pooled.expand(2, -1)


def test_the_optimizer_says_that_it_is_not_in_8_bits(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = optimizer_for([torch.nn.Parameter(torch.ones(1))], 1e-4)
    if not torch.cuda.is_available():
        assert isinstance(optimizer, torch.optim.AdamW)
        assert capsys.readouterr().out == "optimizer: AdamW in 32 bits, because there is no CUDA GPU\n"


def test_a_file_without_our_metadata_is_named(trained: Job, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(load_file(final(trained)), tmp_path / "bare.safetensors")
    with safe_open(tmp_path / "bare.safetensors", "pt") as file:
        assert not file.metadata()
    with pytest.raises(ValueError, match="bare.safetensors has no metadata industry, trigger, checkpoint"):
        read_origin(tmp_path / "bare.safetensors")
