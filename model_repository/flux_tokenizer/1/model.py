"""prompt -> token ids of both text encoders, with what was kept and dropped."""

from dataclasses import asdict

from diffusion.prompts import PromptTokenizer, check_prompt
from diffusion.triton_adapter import Deployment, Outputs, Request, Stage
from families import FLUX


class TritonPythonModel(Stage):
    def setup(self, deployment: Deployment) -> None:
        self.tokenize = PromptTokenizer.load(deployment.checkpoint)

    def run(self, request: Request) -> Outputs:
        prompts = request.texts("prompt")
        for prompt in prompts:
            check_prompt(prompt, FLUX.max_prompt_characters)
        return asdict(self.tokenize(prompts))
