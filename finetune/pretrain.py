"""The stages that make a tiny Flux checkpoint; each leaves a folder and is skipped where that exists.

text -> encoders and tokenizers; vae -> encoder and decoder; decoder -> the same latents, better drawn;
transformer -> flow matching, then guidance distillation; assemble -> a checkpoint that stock diffusers
loads; card -> its scores and curves.
`decoder` and `transformer` both need `vae` only, so two processes can run them side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast, T5EncoderModel

from finetune import card, evaluate, flux, text_encoders, vae
from finetune.dataset import Pixels, as_model_input, training_pictures
from finetune.flux import FluxPhase
from finetune.run import Phase
from finetune.tokenizers import caption_corpus, train_clip_tokenizer, train_t5_tokenizer
from finetune.vae import VaePhase
from finetune.workers import rank, run_workers

STAGES = ("text", "vae", "decoder", "transformer", "assemble", "card")
# FLUX.1-dev's scheduler_config.json
SCHEDULER = {
    "shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15,
    "base_image_seq_len": 256, "max_image_seq_len": 4096,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How a tiny checkpoint is made; `size` in pixels, `t5_length` in tokens, `captions` for tokenizers."""

    size: int
    t5_length: int
    latent_channels: int
    pictures: int
    captions: int
    text: Phase
    vae: VaePhase
    decoder: VaePhase
    base: FluxPhase
    distil: FluxPhase


FLUX_TINY = Recipe(
    size=128,
    t5_length=64,
    latent_channels=16,
    pictures=12_000,
    captions=20_000,
    text=Phase("text", steps=1_500, learning_rate=2e-3, batch=64),
    vae=VaePhase("vae-joint", steps=8_300, learning_rate=3e-3, batch=8),
    # Whole frames: group normalisation sees in training what it sees in use.
    decoder=VaePhase("vae-decoder", 3_500, learning_rate=1.5e-3, batch=3, crop=128, decoder_only=True),
    base=FluxPhase("transformer-base", steps=9_500, learning_rate=2e-3, batch=32),
    distil=FluxPhase("transformer-distil", steps=1_200, learning_rate=5e-4, batch=24, distil=True),
)
RECIPES = {"flux-tiny": FLUX_TINY}


@dataclass(frozen=True)
class Pretraining:
    """A recipe at work: results and runs lie in `work`, the checkpoint goes to `output`."""

    recipe: Recipe
    work: Path
    output: Path
    workers: int = 1

    def run(self, only: str | None = None) -> None:
        """Every stage that has not been done, or the one called `only`."""
        for name in STAGES if only is None else (only,):
            if not (self.work / name).exists():
                getattr(self, name)()

    @property
    def runs(self) -> Path:
        return self.work / "runs"

    @contextmanager
    def _result(self, name: str) -> Iterator[Path]:
        """A folder that gets its name when it is complete."""
        unfinished = self.work / f"{name}.unfinished"
        unfinished.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.rename(self.work / name)

    def text(self) -> None:
        torch.manual_seed(0)
        corpus = caption_corpus(self.recipe.captions)
        clip_tokenizer = train_clip_tokenizer(corpus)
        t5_tokenizer = train_t5_tokenizer(corpus, self.recipe.t5_length)
        clip = text_encoders.build_clip(len(clip_tokenizer), clip_tokenizer.eos_token_id)
        t5 = text_encoders.build_t5(len(t5_tokenizer))
        with self._result("text") as folder:
            # Before use: a tokenizer keeps the padding and truncation it was last called with.
            clip_tokenizer.save_pretrained(folder / "tokenizer")
            t5_tokenizer.save_pretrained(folder / "tokenizer_2")
            text_encoders.train(clip, clip_tokenizer, t5, t5_tokenizer, self.recipe.text, self.runs)
            clip.save_pretrained(folder / "text_encoder")
            t5.save_pretrained(folder / "text_encoder_2")

    def vae(self) -> None:
        torch.manual_seed(0)
        model = vae.build_vae(
            self.recipe.latent_channels,
            use_quant_conv=False,
            use_post_quant_conv=False,
            sample_size=self.recipe.size,
        )
        vae.train(model, self.recipe.vae, self._pictures(), self.runs, self.work)
        vae.set_latent_statistics(model, as_model_input(self._pictures()[:1000]))
        with self._result("vae") as folder:
            model.save_pretrained(folder)

    def decoder(self) -> None:
        model = AutoencoderKL.from_pretrained(self.work / "vae", dtype=torch.float32)
        vae.train(model, self.recipe.decoder, self._pictures(), self.runs, self.work)
        with self._result("decoder") as folder:
            model.save_pretrained(folder)

    def transformer(self) -> None:
        if not (self.work / "latents").exists():
            self._encode()
        run_workers(self.workers, self._train_transformer)

    def _encode(self) -> None:
        model = AutoencoderKL.from_pretrained(self.work / "vae", dtype=torch.float32)
        latents = flux.scaled_latents(model, self._pictures())
        with self._result("latents") as folder:
            torch.save(latents, folder / "latents.pt")

    def _train_transformer(self) -> None:
        torch.manual_seed(0)
        latents = torch.load(self.work / "latents" / "latents.pt", weights_only=True)
        model, condition = flux.build_transformer(), self.load_text()
        for phase in (self.recipe.base, self.recipe.distil):
            flux.train(model, phase, latents, condition, self.runs)
        if rank() == 0:
            with self._result("transformer") as folder:
                model.save_pretrained(folder)

    def assemble(self) -> None:
        """Writes the checkpoint: the transformer in fp16, which halves it; the small rest in fp32."""
        condition = self.load_text()
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
            vae=AutoencoderKL.from_pretrained(self.work / "decoder", dtype=torch.float32),
            text_encoder=condition.clip,
            tokenizer=condition.clip_tokenizer,
            text_encoder_2=condition.t5,
            tokenizer_2=condition.t5_tokenizer,
            transformer=FluxTransformer2DModel.from_pretrained(self.work / "transformer").half(),
        )
        pipeline.save_pretrained(self.output)
        for config in self.output.glob("*/config.json"):
            _forget_origin(config)

    def card(self) -> None:
        """Evaluates the checkpoint and writes its model card beside it."""
        evaluation = self.work / "evaluation"
        evaluate.report(self.output, self.work, evaluation, steps=28, guidance=3.5)
        card.write(self.output, self.runs, evaluation, self.recipe.size, self.recipe.t5_length)

    def load_text(self) -> flux.Text:
        folder = self.work / "text"
        return flux.Text(
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval(),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            T5EncoderModel.from_pretrained(folder / "text_encoder_2", dtype=torch.float32).eval(),
            PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer_2"),
        )

    def _pictures(self) -> Pixels:
        return training_pictures(self.recipe.pictures, self.recipe.size, self.work)


def _forget_origin(config: Path) -> None:
    """A path of the machine that trained is no fact of the model."""
    facts = json.loads(config.read_text())
    facts.pop("_name_or_path", None)
    config.write_text(json.dumps(facts, indent=2) + "\n")
