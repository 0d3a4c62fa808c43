"""The engines of a Flux repository in one process: what the service does without a service around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.run import checkpoint, engine
from diffusion.checkpoint import latent_channels, load_scheduler
from diffusion.flux import FluxPicture, FluxText
from diffusion.prompts import PromptTokenizer
from diffusion.settings import Settings
from diffusion.step_batcher import denoise
from families import FLUX


class EngineLoop:
    """Prompt to pixels with the repository's own ONNX files, on all cores; no adapters, no PNG."""

    def __init__(self, name: str) -> None:
        found = checkpoint(name)
        self.engines = {each.name: engine(name, FLUX, each) for each in FLUX.components}
        self.tokenizer = PromptTokenizer.load(found.folder)
        self.picture = FluxPicture(load_scheduler(found.folder), latent_channels(found.folder))

    def __call__(self, body: Mapping[str, Any]) -> NDArray[np.uint8]:
        """uint8 [height, width, 3] of a request's body, whose fields are all said."""
        settings = Settings(
            body["seed"],
            body["num_inference_steps"],
            body["guidance_scale"],
            body["height"],
            body["width"],
            FLUX.schedulers[0],
        )
        sample = self.picture.start(settings, self._text(body["prompt"]))
        denoise([sample], self.denoiser, FLUX.max_rows(FLUX.denoiser))
        pixels: NDArray[np.uint8] = self._run("vae_decoder", latents=sample.result().numpy())[0]
        return pixels

    def denoiser(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """As `diffusion.denoise.Engine`."""
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(self._run(FLUX.denoiser.name, **arrays))

    def _text(self, prompt: str) -> FluxText:
        tokens = self.tokenizer([prompt])
        pooled = self._run("text_encoder", input_ids=tokens.input_ids)
        embeds = self._run("text_encoder_2", input_ids=tokens.input_ids_2)
        return FluxText(torch.from_numpy(embeds), torch.from_numpy(pooled))

    def _run(self, component: str, **inputs: Any) -> Any:
        return self.engines[component](inputs)[0]
