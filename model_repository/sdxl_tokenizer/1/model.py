"""prompt and negative prompt -> token ids of both text encoders, with what was kept and dropped."""

from dataclasses import asdict

from diffusion.prompts import PromptTokenizer, check_prompt, check_text
from diffusion.triton_adapter import Deployment, Outputs, Request, Stage
from families import SDXL


class TritonPythonModel(Stage):
    def setup(self, deployment: Deployment) -> None:
        self.tokenize = PromptTokenizer.load(deployment.checkpoint)

    def run(self, request: Request) -> Outputs:
        prompts, negatives = request.texts("prompt"), request.texts("negative_prompt")
        for prompt, negative in zip(prompts, negatives, strict=True):
            check_prompt(prompt, SDXL.max_prompt_characters)
            check_text("negative_prompt", negative, SDXL.max_prompt_characters)
        against = {f"negative_{name}": ids for name, ids in asdict(self.tokenize(negatives)).items()}
        return {**asdict(self.tokenize(prompts)), **against}
