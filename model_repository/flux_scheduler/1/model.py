"""prompt_embeds -> latents: the denoising loop; each step calls flux_transformer."""

import torch

from diffusion.checkpoint import latent_channels, load_scheduler
from diffusion.flux import Sample, Settings, check_rows, denoise
from diffusion.triton_adapter import Deployment, Outputs, Request, Stage, engine
from families import FLUX, Range

SETTINGS = ("seed", "num_inference_steps", "guidance_scale", "height", "width")


class TritonPythonModel(Stage):
    def setup(self, deployment: Deployment) -> None:
        self.sizes = Range(*(deployment.integer(name) for name in ("min_size", "native_size", "max_size")))
        self.scheduler = load_scheduler(deployment.checkpoint)
        self.channels = latent_channels(deployment.checkpoint)
        self.transformer = engine(FLUX, FLUX.component("transformer"))

    def run(self, request: Request) -> Outputs:
        rows = [Settings(*row) for row in zip(*(request.column(name) for name in SETTINGS), strict=True)]
        check_rows(rows, self.sizes)
        embeds = request.tensor("prompt_embeds").split(1), request.tensor("pooled_prompt_embeds").split(1)
        samples = [
            Sample.start(*row, self.scheduler, self.channels) for row in zip(rows, *embeds, strict=True)
        ]
        denoise(samples, self.transformer, FLUX.max_batch_size, request.cancelled)
        return {"latents": torch.cat([sample.result() for sample in samples])}
