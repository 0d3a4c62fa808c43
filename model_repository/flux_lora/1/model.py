"""loras -> one pack of the adapters that they name, and what was applied."""

from diffusion.lora_stage import LoraStage
from families import FLUX


class TritonPythonModel(LoraStage):
    family = FLUX
