"""The stage that merges the adapters that a request names into one pack a row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffusion.adapters.packs import Pack, Packs, stacked
from diffusion.triton_adapter import Deployment, Outputs, Request, Stage
from families import FamilySpec, InvalidRequest
from families.adapters import applied_of, applied_text, loras_of, store_folder
from families.layers import LoraTarget, lora_targets
from families.lora import APPLIED_LORAS, LORA_A, LORA_B, LORAS, RANKS


class LoraStage(Stage):
    """Base of a model.py of one `family`.

    Packs have the type and lie on the device that the deployment's engine takes them from.
    """

    family: FamilySpec

    def setup(self, deployment: Deployment) -> None:
        self.max_rank = deployment.integer("max_rank")
        self.merged = applied_of(deployment.parameters["merged_loras"])
        where = deployment.output_dtype(LORA_A), deployment.parameters["device"]
        rank = self.max_rank or RANKS[0]  # zeros that nobody reads, where the engine takes none
        self.packs = Packs(store_folder(), self.family, self._targets(deployment), rank, *where)

    def _targets(self, deployment: Deployment) -> tuple[LoraTarget, ...]:
        denoiser = self.family.denoiser
        config = json.loads(Path(deployment.checkpoint, denoiser.folder, "config.json").read_text())
        return lora_targets(self.family, denoiser, {denoiser.folder: config})

    def run(self, request: Request) -> Outputs:
        packs = [self.pack(text) for text in request.texts(LORAS.name)]
        lora_a, lora_b = stacked(packs)
        return {LORA_A: lora_a, LORA_B: lora_b, APPLIED_LORAS.name: self.told(packs)}

    def pack(self, text: str) -> Pack:
        """InvalidRequest if an adapter is asked of an engine that takes none."""
        loras = loras_of(text)
        if loras and not self.max_rank:
            merged = ", ".join(lora.name for lora in self.merged) or "none"
            raise InvalidRequest(
                f"{loras[0].name} cannot be applied: this engine takes no adapters; merged into it: {merged}"
            )
        return self.packs.packs(loras)

    def told(self, packs: list[Pack]) -> NDArray[np.object_]:
        """What was applied to each row, [B, 1]: what is merged into the engine first."""
        texts = [applied_text((*self.merged, *pack.applied)).encode() for pack in packs]
        return np.array(texts, dtype=np.object_)[:, None]
