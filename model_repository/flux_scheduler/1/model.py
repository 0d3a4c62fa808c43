"""prompt_embeds -> latents: the denoising loop; each step calls flux_transformer."""

from diffusion.checkpoint import latent_channels, load_scheduler
from diffusion.flux import FluxPicture, FluxText
from diffusion.scheduler_stage import SchedulerStage
from families import FLUX


class TritonPythonModel(SchedulerStage):
    family = FLUX

    def setup(self, deployment):
        checkpoint = deployment.checkpoint
        self.picture = FluxPicture(load_scheduler(checkpoint), latent_channels(checkpoint))
        super().setup(deployment)

    def start(self, request, rows, images, adapters):
        texts = map(FluxText, request.rows("prompt_embeds"), request.rows("pooled_prompt_embeds"))
        return [self.picture.start(*row) for row in zip(rows, texts, images, adapters, strict=True)]
