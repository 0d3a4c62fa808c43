"""prompt_embeds -> latents: the denoising loop; each step calls flux_transformer."""

import torch

from diffusion.checkpoint import latent_channels, load_scheduler
from diffusion.denoise import denoise
from diffusion.flux import FluxPicture, FluxText
from diffusion.settings import check_rows
from diffusion.triton_adapter import Deployment, Outputs, Request, Stage, base_images, engine, packs, settings
from families import FLUX

TRANSFORMER = FLUX.component("transformer")


class TritonPythonModel(Stage):
    def setup(self, deployment: Deployment) -> None:
        self.deployment, checkpoint = deployment, deployment.checkpoint
        self.picture = FluxPicture(load_scheduler(checkpoint), latent_channels(checkpoint))
        self.transformer = engine(FLUX, TRANSFORMER)

    def run(self, request: Request) -> Outputs:
        rows = settings(request, FLUX)
        check_rows(FLUX, rows, self.deployment.sizes)
        texts = map(FluxText, request.rows("prompt_embeds"), request.rows("pooled_prompt_embeds"))
        images, adapters = base_images(request, len(rows)), packs(request, self.deployment)
        samples = [self.picture.start(*row) for row in zip(rows, texts, images, adapters, strict=True)]
        denoise(samples, self.transformer, FLUX.max_rows(TRANSFORMER), request.cancelled)
        return {"latents": torch.cat([sample.result() for sample in samples])}
