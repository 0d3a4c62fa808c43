"""The batches of `batch`, each one request to a running Triton: text encoders, VAE and copies included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tritonclient.grpc import InferenceServerClient

from benchmarks.adapters.batch import ONE_RANK, RANKS, figures, turns
from benchmarks.adapters.made import store_of
from benchmarks.adapters.turns import Row
from benchmarks.inputs import VALUES, Value
from benchmarks.triton_inputs import column
from families import FLUX
from families.lora import LORAS
from families.loras import Lora, loras_text
from families.tasks import TEXT_TO_IMAGE
from serving import EmbeddedTriton
from serving.launch import Options

ENSEMBLE = FLUX.ensemble(TEXT_TO_IMAGE)


@dataclass(frozen=True)
class Served:
    """Requests of a row for each adapter, all at once."""

    client: InferenceServerClient
    steps: int

    def __call__(self, names: Sequence[str]) -> Tensor:
        """Pictures [N, height, width, 3] of 0 to 255: row n with the adapter names[n], prompt and seed n."""
        inputs = [
            column(tensor, [self._value(tensor.name, row, name) for row, name in enumerate(names)])
            for tensor in ENSEMBLE.inputs
        ]
        answer = self.client.infer(FLUX.ensemble_name(ENSEMBLE), inputs)
        return torch.from_numpy(answer.as_numpy("images").astype(np.float32))

    def _value(self, name: str, row: int, adapter: str) -> Value:
        own = {LORAS.name: loras_text([Lora(adapter)]), "num_inference_steps": self.steps}
        return own[name] if name in own else VALUES[name](FLUX, row)


def of_repository(repository: Path, checkpoint: Path, folder: Path, rounds: int, steps: int) -> Iterator[Row]:
    """Rows of `repository`, exported from the Flux checkpoint; store and logs go to `folder`."""
    store_of(folder / "adapters", checkpoint, {**ONE_RANK, **RANKS})
    options = Options(adapters=folder / "adapters", threads=1)
    with (
        EmbeddedTriton([repository], folder / "logs", options) as triton,
        InferenceServerClient(triton.grpc_url) as client,
    ):
        draw = Served(client, steps)
        for ranks in (ONE_RANK, RANKS):
            timings = turns(draw, ranks, rounds)
            yield {
                "benchmark": "served",
                "checkpoint": checkpoint.name,
                "steps": steps,
                **figures(draw, ranks, timings),
            }
