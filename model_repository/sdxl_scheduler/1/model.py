"""prompt_embeds -> latents: the denoising loop; each step calls sdxl_unet."""

from diffusion.checkpoint import latent_channels, load_scheduler, zeros_for_empty_prompt
from diffusion.scheduler_stage import SchedulerStage
from diffusion.sdxl import SdxlPicture, SdxlText
from families import SDXL

EMBEDS = ("prompt_embeds", "prompt_embeds_2", "pooled_prompt_embeds")


class TritonPythonModel(SchedulerStage):
    family = SDXL

    def setup(self, deployment):
        checkpoint = deployment.checkpoint
        self.picture = SdxlPicture(load_scheduler(checkpoint), latent_channels(checkpoint))
        self.zeros = zeros_for_empty_prompt(checkpoint)
        super().setup(deployment)

    def start(self, request, rows, images, adapters):
        texts, negatives = self.texts(request, ""), self.negatives(request)
        parts = zip(rows, texts, negatives, images, adapters, strict=True)
        return [self.picture.start(*row) for row in parts]

    def texts(self, request, prefix):
        return list(map(SdxlText.of, *(request.rows(prefix + name) for name in EMBEDS)))

    def negatives(self, request):
        encoded = zip(request.texts("negative_prompt"), self.texts(request, "negative_"), strict=True)
        return [text if prompt.strip() or not self.zeros else text.zeros() for prompt, text in encoded]
