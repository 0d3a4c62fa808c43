"""flux-tiny: CLIP and T5, a 16-channel VAE, flow matching, then guidance distillation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast, T5EncoderModel

from diffusion.flux import scheduler_for
from diffusion.latents import pack
from finetune import card, flux, text_encoders, vae
from finetune.dataset import as_model_input
from finetune.flux import FluxPhase
from finetune.run import Phase
from finetune.stages import Pretraining, Recipe
from finetune.tokenizers import caption_corpus, train_clip_tokenizer, train_t5_tokenizer
from finetune.vae import VaePhase

T5_LENGTH = 64  # tokens
STEPS = 28  # of the drawings that the last phase learns from
# FLUX.1-dev's scheduler_config.json
SCHEDULER = {
    "shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15,
    "base_image_seq_len": 256, "max_image_seq_len": 4096,
}  # fmt: skip
TEACHER = "transformer-refine"
FLUX_TINY = Recipe(
    size=128,
    pictures=12_000,
    captions=20_000,
    text=Phase("text", steps=1_500, learning_rate=2e-3, batch=64),
    vae=VaePhase("vae-joint", steps=8_300, learning_rate=3e-3, batch=8),
    # Whole frames: group normalisation sees in training what it sees in use.
    decoder=VaePhase("vae-decoder", 3_500, learning_rate=1.5e-3, batch=3, crop=128, decoder_only=True),
    denoiser=(
        FluxPhase("transformer-base", steps=9_500, learning_rate=2e-3, batch=32),
        FluxPhase("transformer-refine", steps=4_000, learning_rate=1.2e-3, batch=32),
        FluxPhase("transformer-distil", 3_000, learning_rate=6e-4, batch=32, teacher=TEACHER),
        FluxPhase("transformer-uniform", 1_200, 5e-4, batch=32, teacher=TEACHER, uniform=True),
        FluxPhase("transformer-rescaled", 1_600, 5e-4, batch=32, teacher=TEACHER, uniform=True, rescale=0.7),
        FluxPhase("transformer-last", 2_000, 4e-4, batch=32, teacher=TEACHER, uniform=True, rescale=0.7),
        FluxPhase("transformer-rollout", 2_000, 4e-4, batch=32, teacher=TEACHER, rescale=0.7, rollout=True),
    ),
    guidance=3.5,
)


@dataclass(frozen=True)
class FluxPretraining(Pretraining):
    """Makes a tiny Flux."""

    def text(self) -> None:
        torch.manual_seed(0)
        corpus = caption_corpus(self.recipe.captions)
        clip_tokenizer = train_clip_tokenizer(corpus)
        t5_tokenizer = train_t5_tokenizer(corpus, T5_LENGTH)
        clip = CLIPTextModel(text_encoders.clip_config(len(clip_tokenizer), clip_tokenizer.eos_token_id))
        t5 = text_encoders.build_t5(len(t5_tokenizer))
        with self.result("text") as folder:
            # Before use: a tokenizer keeps the padding and truncation it was last called with.
            clip_tokenizer.save_pretrained(folder / "tokenizer")
            t5_tokenizer.save_pretrained(folder / "tokenizer_2")
            text = flux.Text(clip, clip_tokenizer, t5, t5_tokenizer)
            widths = [clip.config.hidden_size, t5.config.d_model]
            modules = nn.ModuleList([clip, t5])
            text_encoders.train(modules, text.features, widths, self.recipe.text, self.runs)
            clip.save_pretrained(folder / "text_encoder")
            t5.save_pretrained(folder / "text_encoder_2")

    def new_vae(self) -> AutoencoderKL:
        bare = {"use_quant_conv": False, "use_post_quant_conv": False}
        return vae.build_vae(16, sample_size=self.recipe.size, **bare)

    def normalise(self, model: AutoencoderKL) -> None:
        vae.set_latent_statistics(model, as_model_input(self.pictures()[:1000]))

    def train_denoiser(self, latents: torch.Tensor) -> FluxTransformer2DModel:
        model, condition, tokens = flux.build_transformer(), self.load_text(), pack(latents)
        scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
        sigmas = scheduler_for(scheduler, STEPS, tokens.shape[1]).sigmas
        for phase in self.recipe.denoiser:
            flux.train(model, phase, tokens, condition, sigmas, self.runs)
        return model

    def pipeline(self) -> FluxPipeline:
        """The transformer in fp16, which halves it; the small rest in fp32."""
        condition = self.load_text()
        return FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
            vae=AutoencoderKL.from_pretrained(self.work / "decoder", dtype=torch.float32),
            text_encoder=condition.clip,
            tokenizer=condition.clip_tokenizer,
            text_encoder_2=condition.t5,
            tokenizer_2=condition.t5_tokenizer,
            transformer=FluxTransformer2DModel.from_pretrained(self.work / "denoiser").half(),
        )

    @property
    def words(self) -> card.Words:
        return card.FLUX

    def load_text(self) -> flux.Text:
        folder = self.work / "text"
        return flux.Text(
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval(),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            T5EncoderModel.from_pretrained(folder / "text_encoder_2", dtype=torch.float32).eval(),
            PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer_2"),
        )
