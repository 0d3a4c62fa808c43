"""The stage that merges the adapters that a request names into one pack a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from diffusion.adapters.packs import Pack, Packs, stacked
from diffusion.triton_adapter import Deployment, Outputs, Request, Stage
from diffusion.triton_metrics import Counters
from families import FamilySpec, InvalidRequest
from families.adapters import AdapterError, store_folder
from families.layers import LoraTarget, lora_targets
from families.lora import APPLIED_LORAS, LORA_A, LORA_B, LORAS
from families.loras import Lora, applied_of, applied_text, loras_of, refused_text

KEPT = {"packs_hits": "packs kept since their last use", "packs_misses": "packs that were merged anew"}


class LoraStage(Stage):
    """Base of a model.py of one `family`.

    Packs have the type and lie on the device that the deployment's engine takes them from.
    """

    family: FamilySpec

    def setup(self, deployment: Deployment) -> None:
        self.max_rank = deployment.integer("max_rank")
        self.merged = applied_of(deployment.parameters["merged_loras"])
        where = deployment.output_dtype(LORA_A), deployment.parameters["device"]
        engine = self._targets(deployment), self.max_rank, *where, deployment.parameters["denoiser_sha256"]
        self.metrics = Counters(deployment.model, KEPT)
        self.packs = Packs(store_folder(), self.family, *engine)

    def _targets(self, deployment: Deployment) -> tuple[LoraTarget, ...]:
        denoiser = self.family.denoiser
        config = json.loads(Path(deployment.checkpoint, denoiser.folder, "config.json").read_text())
        return lora_targets(self.family, denoiser, {denoiser.folder: config})

    def run(self, request: Request) -> Outputs:
        rows = [self.merged_or_refused(text) for text in request.texts(LORAS.name)]
        lora_a, lora_b = stacked([pack for pack, _ in rows])
        self.metrics.tell({f"packs_{end}": number for end, number in self.packs.counts.items()})
        told = np.array([[text.encode()] for _, text in rows], dtype=np.object_)
        return {LORA_A: lora_a, LORA_B: lora_b, APPLIED_LORAS.name: told}

    def merged_or_refused(self, text: str) -> tuple[Pack, str]:
        """The pack of one row and what it tells; zeros and a refusal, which the scheduler raises, if any."""
        try:
            loras = loras_of(text)
            pack = self.packs.packs(loras) if self.max_rank else self.unread(loras)
            return pack, applied_text((*self.merged, *pack.applied))
        except (InvalidRequest, AdapterError) as error:
            return self.packs.packs(()) if self.max_rank else self.unread(()), refused_text(error)

    def unread(self, loras: Sequence[Lora]) -> Pack:
        """What goes to an engine that takes no adapters; InvalidRequest if any is asked of it."""
        if loras:
            merged = ", ".join(lora.name for lora in self.merged) or "none"
            raise InvalidRequest(
                f"{loras[0].name} cannot be applied: this engine takes no adapters; merged into it: {merged}"
            )
        return Pack(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), applied=())
