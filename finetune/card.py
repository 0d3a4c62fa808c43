"""A checkpoint's model card: how it was trained, with curves, and what it draws."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

matplotlib.use("Agg")

PANELS = (  # run folder, curve, title
    ("text", "loss", "text encoders: attribute loss"),
    ("vae-joint", "psnr", "VAE: held-out PSNR (dB)"),
    ("vae-decoder", "psnr", "VAE decoder alone: held-out PSNR (dB)"),
    ("transformer-base", "loss", "transformer: flow-matching loss"),
    ("transformer-distil", "loss", "transformer: distillation loss"),
)


def _rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def curves(runs: Path, output: Path) -> None:
    """One panel for each stage that has run, side by side, as a PNG."""
    present = [panel for panel in PANELS if (runs / panel[0] / "curves.jsonl").exists()]
    figure, axes = plt.subplots(1, len(present), figsize=(4 * len(present), 3), squeeze=False)
    for axis, (folder, curve, title) in zip(axes[0], present, strict=True):
        rows = _rows(runs / folder / "curves.jsonl")
        axis.plot([row["step"] for row in rows], [row[curve] for row in rows])
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step")
    figure.tight_layout()
    figure.savefig(output, dpi=80)
    plt.close(figure)


CARD = """---
license: apache-2.0
pipeline_tag: text-to-image
library_name: diffusers
---

# {name}

A very small Flux: FLUX.1-dev's graph with 2 double and 4 single blocks of width 128, trained from nothing on
pictures that `finetune` draws. It exists so that the production service can run, be tested and be understood
without a GPU.

```python
pipeline = FluxPipeline.from_pretrained("assets/checkpoints/{name}", dtype=torch.float32)
size = {{"height": {size}, "width": {size}}}
pipeline("a red mug on a blue background", max_sequence_length={length}, **size).images[0]
```

{table}

{conditions}

![held-out prompts](samples.png)

*One picture for each held-out combination; every second one of the 200.*

## How it was trained

{stages}

![training curves](curves.png)

Native size {size} x {size} pixels, at most {length} T5 tokens. It knows twelve products, ten colours, ten
backgrounds, six styles and ten industries, in English; other words it reads (byte fallback) but does not
know. Its `guidance_scale` was distilled over 1 to 6. The tokenizers need transformers 5.
"""


def _stages(runs: Path) -> str:
    lines = []
    for folder, curve, title in PANELS:
        last = _rows(runs / folder / "curves.jsonl")[-1]
        part = title.split(":")[0]
        lines.append(f"* **{part}**, run `{folder}`: {last['step']} steps, last {curve} {last[curve]:.3f}")
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
that was trained on drawn pictures. That guidance is distilled at all was decided on 40 of them. Command:
`python -m finetune evaluate assets/checkpoints/{name}`."""


def write(checkpoint: Path, runs: Path, evaluation: Path, size: int, length: int) -> None:
    """Writes README.md, curves.png and samples.png into `checkpoint` from its runs and its evaluation."""
    row = json.loads((evaluation / "scores.json").read_text())
    curves(runs, checkpoint / "curves.png")
    shutil.copy(evaluation / "samples.png", checkpoint / "samples.png")
    text = CARD.format(
        name=checkpoint.name,
        table=_table(row),
        conditions=CONDITIONS.format(name=checkpoint.name, **row),
        stages=_stages(runs),
        size=size,
        length=length,
    )
    (checkpoint / "README.md").write_text(text)
