"""prompt_embeds -> latents: the denoising loop; each step calls sdxl_unet."""

import torch

from diffusion.checkpoint import latent_channels, load_scheduler, zeros_for_empty_prompt
from diffusion.denoise import denoise
from diffusion.sdxl import SdxlPicture, SdxlText
from diffusion.settings import check_rows
from diffusion.triton_adapter import Deployment, Outputs, Request, Stage, base_images, engine, packs, settings
from families import SDXL

UNET = SDXL.component("unet")
EMBEDS = ("prompt_embeds", "prompt_embeds_2", "pooled_prompt_embeds")


class TritonPythonModel(Stage):
    def setup(self, deployment: Deployment) -> None:
        self.deployment, checkpoint = deployment, deployment.checkpoint
        self.picture = SdxlPicture(load_scheduler(checkpoint), latent_channels(checkpoint))
        self.zeros = zeros_for_empty_prompt(checkpoint)
        self.unet = engine(SDXL, UNET)

    def run(self, request: Request) -> Outputs:
        rows = settings(request, SDXL)
        check_rows(SDXL, rows, self.deployment.sizes)
        texts, negatives = self.texts(request, ""), self.negatives(request)
        images, adapters = base_images(request, len(rows)), packs(request, self.deployment)
        samples = [
            self.picture.start(*row) for row in zip(rows, texts, negatives, images, adapters, strict=True)
        ]
        denoise(samples, self.unet, SDXL.max_rows(UNET), request.cancelled)
        return {"latents": torch.cat([sample.result() for sample in samples])}

    def texts(self, request: Request, prefix: str) -> list[SdxlText]:
        return list(map(SdxlText.of, *(request.rows(prefix + name) for name in EMBEDS)))

    def negatives(self, request: Request) -> list[SdxlText]:
        encoded = zip(request.texts("negative_prompt"), self.texts(request, "negative_"), strict=True)
        return [text if prompt.strip() or not self.zeros else text.zeros() for prompt, text in encoded]
