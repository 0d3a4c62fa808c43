"""sdxl-tiny: two CLIPs, a 4-channel VAE that starts from flux-tiny's, epsilon prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)  # fmt: skip
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from finetune import card, sdxl, text_encoders, vae
from finetune.dataset import as_model_input
from finetune.run import Phase
from finetune.stages import Pretraining, Recipe
from finetune.tokenizers import caption_corpus, train_clip_tokenizer
from finetune.vae import VaePhase

FLUX_TINY = Path("assets/checkpoints/flux-tiny")
SCALING_FACTOR = 0.13025  # stable-diffusion-xl-base-1.0's
SDXL_TINY = Recipe(
    size=128,
    pictures=12_000,
    captions=20_000,
    text=Phase("text", steps=1_000, learning_rate=2e-3, batch=64),
    vae=VaePhase("vae-joint", steps=2_000, learning_rate=2e-3, batch=8),
    decoder=VaePhase("vae-decoder", 800, learning_rate=1.2e-3, batch=3, crop=128, decoder_only=True),
    denoiser=(Phase("unet", steps=5_000, learning_rate=1.5e-3, batch=32),),
    guidance=3.0,  # of 3, 4 and 5 the best on 120 prompts of trained combinations
)


@dataclass(frozen=True)
class SdxlPretraining(Pretraining):
    """Makes a tiny Stable Diffusion XL."""

    def text(self) -> None:
        torch.manual_seed(0)
        corpus = caption_corpus(self.recipe.captions)
        # SDXL's second tokenizer pads with "!", its id 0.
        tokenizer, tokenizer_2 = train_clip_tokenizer(corpus), train_clip_tokenizer(corpus, pad_token="!")
        size, eos = len(tokenizer), tokenizer.eos_token_id
        clip = CLIPTextModel(text_encoders.clip_config(size, eos, width=64, layers=3))
        clip_2 = CLIPTextModelWithProjection(text_encoders.clip_config(size, eos, width=96, layers=3))
        with self.result("text") as folder:
            # Before use: a tokenizer keeps the padding and truncation it was last called with.
            tokenizer.save_pretrained(folder / "tokenizer")
            tokenizer_2.save_pretrained(folder / "tokenizer_2")
            text = sdxl.Text(clip, tokenizer, clip_2, tokenizer_2)
            modules, phase = nn.ModuleList([clip, clip_2]), self.recipe.text
            text_encoders.train(modules, text.features, [64 + 96, 64], phase, self.runs)
            clip.save_pretrained(folder / "text_encoder")
            clip_2.save_pretrained(folder / "text_encoder_2")

    def new_vae(self) -> AutoencoderKL:
        model = vae.build_vae(4, sample_size=self.recipe.size)
        vae.start_from(model, AutoencoderKL.from_pretrained(FLUX_TINY / "vae", dtype=torch.float32))
        return model

    def normalise(self, model: AutoencoderKL) -> None:
        vae.normalise_latents(model, as_model_input(self.pictures()[:1000]), SCALING_FACTOR)

    def train_denoiser(self, latents: torch.Tensor) -> UNet2DConditionModel:
        model, condition = sdxl.build_unet(), self.load_text()
        for phase in self.recipe.denoiser:
            sdxl.train(model, phase, latents, condition, self.runs)
        return model

    def pipeline(self) -> StableDiffusionXLPipeline:
        """Every weight in fp16, which halves it."""
        condition = self.load_text()
        return StableDiffusionXLPipeline(
            scheduler=EulerDiscreteScheduler(**sdxl.SCHEDULER),
            vae=AutoencoderKL.from_pretrained(self.work / "decoder").half(),
            text_encoder=condition.clip.half(),
            tokenizer=condition.tokenizer,
            text_encoder_2=condition.clip_2.half(),
            tokenizer_2=condition.tokenizer_2,
            unet=UNet2DConditionModel.from_pretrained(self.work / "denoiser").half(),
            add_watermarker=False,
        )

    @property
    def words(self) -> card.Words:
        return card.SDXL

    def load_text(self) -> sdxl.Text:
        folder = self.work / "text"
        return sdxl.Text(
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval(),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            CLIPTextModelWithProjection.from_pretrained(
                folder / "text_encoder_2", dtype=torch.float32
            ).eval(),
            CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        )
