"""The stages that make a tiny Flux checkpoint; each leaves a folder and is skipped where that exists.

text -> encoders and tokenizers; vae -> encoder and decoder; decoder -> the same latents, better drawn;
transformer -> flow matching, then guidance distillation; assemble -> a checkpoint that stock diffusers
loads; card -> its scores and curves.
`decoder` and `transformer` both need `vae` only, so two processes can run them side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast, T5EncoderModel

from finetune import card as model_card
from finetune import evaluate, flux, text_encoders, vae
from finetune.dataset import TRAIN_PICTURES, as_model_input, training_pictures
from finetune.tokenizers import caption_corpus, train_clip_tokenizer, train_t5_tokenizer
from finetune.workers import rank, run_workers

STAGES = ("text", "vae", "decoder", "transformer", "assemble", "card")
SIZE, T5_LENGTH, LATENT_CHANNELS = 128, 64, 16
VAE = vae.Phase("vae-joint", steps=8_300, learning_rate=3e-3, batch=8, crop=64)
# Whole frames: group normalisation sees in training what it sees in use.
DECODER = vae.Phase("vae-decoder", steps=6_500, learning_rate=1.5e-3, batch=3, crop=128, decoder_only=True)
BASE = flux.Phase("transformer-base", steps=9_500, learning_rate=2e-3, batch=16)
DISTIL = flux.Phase("transformer-distil", steps=1_200, learning_rate=5e-4, batch=16, distil=True)
# FLUX.1-dev's scheduler_config.json
SCHEDULER = {
    "shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15,
    "base_image_seq_len": 256, "max_image_seq_len": 4096,
}  # fmt: skip


def text(work: Path) -> None:
    torch.manual_seed(0)
    corpus = caption_corpus(20_000)
    clip_tokenizer, t5_tokenizer = train_clip_tokenizer(corpus), train_t5_tokenizer(corpus, T5_LENGTH)
    clip = text_encoders.build_clip(len(clip_tokenizer), clip_tokenizer.eos_token_id)
    t5 = text_encoders.build_t5(len(t5_tokenizer))
    text_encoders.train(clip, clip_tokenizer, t5, t5_tokenizer, work / "runs" / "text")
    parts = {
        "tokenizer": clip_tokenizer,
        "tokenizer_2": t5_tokenizer,
        "text_encoder": clip,
        "text_encoder_2": t5,
    }
    for name, part in parts.items():
        part.save_pretrained(work / "text" / name)


def joint_vae(work: Path) -> None:
    torch.manual_seed(0)
    model = vae.build_vae(LATENT_CHANNELS, use_quant_conv=False, use_post_quant_conv=False, sample_size=SIZE)
    vae.train(model, VAE, work / "runs", work, SIZE)
    vae.set_latent_statistics(model, as_model_input(training_pictures(TRAIN_PICTURES, SIZE, work)[:1000]))
    model.save_pretrained(work / "vae")


def decoder(work: Path) -> None:
    model = AutoencoderKL.from_pretrained(work / "vae")
    vae.train(model, DECODER, work / "runs", work, SIZE)
    model.save_pretrained(work / "decoder")


def load_text(work: Path) -> flux.Text:
    folder = work / "text"
    return flux.Text(
        CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval(),
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        T5EncoderModel.from_pretrained(folder / "text_encoder_2", dtype=torch.float32).eval(),
        PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer_2"),
    )


def _latents(work: Path) -> torch.Tensor:
    path = work / "latents.pt"
    if not path.exists():
        model = AutoencoderKL.from_pretrained(work / "vae")
        torch.save(flux.scaled_latents(model, training_pictures(TRAIN_PICTURES, SIZE, work)), path)
    return torch.load(path, weights_only=True)


def _train_transformer(work: Path) -> None:
    torch.manual_seed(0)
    model, latents, condition = flux.build_transformer(), _latents(work), load_text(work)
    for phase in (BASE, DISTIL):
        flux.train(model, phase, latents, condition, work / "runs")
    if rank() == 0:
        model.save_pretrained(work / "transformer")


def transformer(work: Path, workers: int) -> None:
    _latents(work)
    run_workers(workers, _train_transformer, work)


def assemble(work: Path, output: Path) -> None:
    """Writes the checkpoint: the transformer in fp16, which halves it; the small rest in fp32."""
    condition = load_text(work)
    parts = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=AutoencoderKL.from_pretrained(work / "decoder"),
        text_encoder=condition.clip,
        tokenizer=condition.clip_tokenizer,
        text_encoder_2=condition.t5,
        tokenizer_2=condition.t5_tokenizer,
        transformer=FluxTransformer2DModel.from_pretrained(work / "transformer").half(),
    )
    parts.save_pretrained(output)


def card(work: Path, output: Path) -> None:
    """Evaluates the checkpoint and writes its model card beside it."""
    evaluate.report(output, work, work / "evaluation", steps=28, guidance=3.5)
    model_card.write(output, work / "runs", work / "evaluation", SIZE, T5_LENGTH)


def stages(work: Path, output: Path, workers: int) -> dict[str, Callable[[], None]]:
    """Stage name -> what runs it, in order."""
    return {
        "text": lambda: text(work),
        "vae": lambda: joint_vae(work),
        "decoder": lambda: decoder(work),
        "transformer": lambda: transformer(work, workers),
        "assemble": lambda: assemble(work, output),
        "card": lambda: card(work, output),
    }
