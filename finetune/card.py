"""A checkpoint's model card: how it was trained, with curves, and what it draws."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

matplotlib.use("Agg")


@dataclass(frozen=True)
class Panel:
    """One curve: `curve` of run `folder`."""

    folder: str
    curve: str
    title: str


def _rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def curves(runs: Path, panels: list[Panel], output: Path) -> None:
    """One panel for each run, side by side, as a PNG."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        rows = _rows(runs / panel.folder / "curves.jsonl")
        axis.plot([row["step"] for row in rows], [row[panel.curve] for row in rows])
        axis.set_title(panel.title, fontsize=9)
        axis.set_xlabel("step")
    figure.tight_layout()
    figure.savefig(output, dpi=70)
    plt.close(figure)


CARD = """---
license: apache-2.0
pipeline_tag: text-to-image
library_name: diffusers
---

# {name}

{words.what} It exists so that the production service can run, be tested and be understood without a GPU.

```python
pipeline = {words.pipeline}.from_pretrained("assets/checkpoints/{name}", dtype=torch.float32)
pipeline("a red mug on a blue background", {words.arguments}).images[0]
```

{table}

{conditions}

![held-out prompts](samples.png)

*One picture for each held-out combination; every second one of the 200.*

## How it was trained

{stages}

![training curves](curves.png)

Native size 128 x 128 pixels. It knows twelve products, ten colours, ten backgrounds, six styles and ten
industries, in English; other words it reads (byte fallback) but does not know. {words.notes} The tokenizers
need transformers 5.
"""


@dataclass(frozen=True)
class Words:
    """What a card says of its family."""

    what: str
    pipeline: str
    arguments: str
    notes: str


FLUX = Words(
    "A very small Flux: FLUX.1-dev's graph with 2 double and 4 single blocks of width 128, trained from\n"
    "nothing on pictures that `finetune` draws.",
    "FluxPipeline",
    "max_sequence_length=64, height=128, width=128",
    "At most 64 T5\ntokens. Its `guidance_scale` was distilled over 1 to 6. That it was distilled at all\n"
    "was decided on 40 of the held-out prompts, and that training went on, on their scores.",
)
SDXL = Words(
    "A very small Stable Diffusion XL: the graph of stable-diffusion-xl-base-1.0 with levels of 64, 96\n"
    "and 96 channels, trained on pictures that `finetune` draws; its VAE started from flux-tiny's.\n",
    "StableDiffusionXLPipeline",
    "height=128, width=128",
    "Epsilon\nprediction, captions dropped for classifier-free guidance; the scale it is judged at was\n"
    "chosen on 120 prompts of trained combinations.",
)


def _stages(runs: Path, panels: list[Panel]) -> str:
    lines = []
    for panel in panels:
        last = _rows(runs / panel.folder / "curves.jsonl")[-1]
        what = panel.title.split(":")[0]
        lines.append(
            f"* **{what}**, run `{panel.folder}`: {last['step']} steps, last {panel.curve} "
            f"{last[panel.curve]:.3f}"
        )
    return "\n".join(lines)


def _table(row: dict[str, Any]) -> str:
    seen = row["checker on drawn pictures"]
    lines = ["| the prompt names | right | checker on drawn pictures |", "|---|---|---|"]
    lines += [
        f"| {name} | {share:.1%} | {format(seen[name], '.1%') if name in seen else ''} |"
        for name, share in row["scores"].items()
    ]
    return "\n".join(lines)


CONDITIONS = """Stock diffusers, {num_inference_steps} steps, guidance {guidance_scale}, {prompts} prompts
whose combination of product, colour and background is not in the training pictures, judged by a classifier
that was trained on drawn pictures. Command:
`python -m finetune evaluate assets/checkpoints/{name} --guidance-scale {guidance_scale}`."""


def write(words: Words, checkpoint: Path, runs: Path, panels: list[Panel], evaluation: Path) -> None:
    """Writes README.md, curves.png and samples.png into `checkpoint` from its runs and its evaluation."""
    row = json.loads((evaluation / "scores.json").read_text())
    curves(runs, panels, checkpoint / "curves.png")
    shutil.copy(evaluation / "samples.png", checkpoint / "samples.png")
    text = CARD.format(
        name=checkpoint.name,
        words=words,
        table=_table(row),
        conditions=CONDITIONS.format(name=checkpoint.name, **row),
        stages=_stages(runs, panels),
    )
    (checkpoint / "README.md").write_text(text)
