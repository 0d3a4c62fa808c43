"""The quality manifests as one HTML page, with their grids beside it, and as one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from pathlib import Path

from finetune.quality import QualityManifest, verdict
from finetune.ratings import Rating

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Adapters: quality</title>
<style>
body {{ font: 15px/1.4 sans-serif; margin: 2em; }}
table {{ border-collapse: collapse; }}
th, td {{ border: 1px solid #ccc; padding: .3em .6em; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; }}
</style>
<h1>Adapters: quality</h1>
<p>{verdict}</p>
<p>{conditions}</p>
{table}
{ratings}
{grids}
</html>
"""
CONDITIONS = """Prompts {prompts}, held out, one seed each, drawn by {engine} in {precision} with
{checkpoint}, {steps} steps, guidance {guidance}. A cell is the score with the adapter, in brackets without
it. Sector likeness is the mean probability of the sector by a classifier of looks; product, colour and
background are shares seen as asked; diversity is the mean pairwise cosine distance of the checker's features
over the seeds of a prompt; SSIM is the median."""


def write(output: Path, manifests: list[QualityManifest], ratings: tuple[Rating, ...]) -> None:
    """report.json and report.html in `output`; the grids `<name>.png` lie there already."""
    facts = {
        "verdict": verdict(manifests),
        "manifests": [asdict(manifest) for manifest in manifests],
        "ratings": [asdict(rating) for rating in ratings],
    }
    (output / "report.json").write_text(json.dumps(facts, indent=1) + "\n")
    (output / "report.html").write_text(html(manifests, ratings))


def text(manifests: list[QualityManifest]) -> str:
    """The table for a terminal, then the verdict."""
    names = list(manifests[0].scores)
    width = max(len(manifest.name) for manifest in manifests)
    lines = ["  ".join([" " * width, *names])]
    for manifest in manifests:
        cells = [
            f"{manifest.base[name]:.3f} > {manifest.scores[name]:.3f}".ljust(len(name)) for name in names
        ]
        lines.append("  ".join([manifest.name.ljust(width), *cells]))
    return "\n".join([*lines, verdict(manifests)])


def html(manifests: list[QualityManifest], ratings: tuple[Rating, ...]) -> str:
    first = manifests[0]
    conditions = CONDITIONS.format(
        prompts=first.prompts,
        engine=first.engine,
        precision=first.precision,
        checkpoint=first.checkpoint,
        steps=first.drawing.num_inference_steps,
        guidance=first.drawing.guidance_scale,
    )
    return PAGE.format(
        verdict=escape(verdict(manifests)),
        conditions=escape(conditions),
        table=_scores(manifests),
        ratings=_ratings(ratings),
        grids="\n".join(_grid(manifest) for manifest in manifests),
    )


def _scores(manifests: list[QualityManifest]) -> str:
    names = list(manifests[0].scores)
    head = ["adapter", "industry", "step", *names, "rating"]
    return _table(head, (_row(manifest, names) for manifest in manifests))


def _row(manifest: QualityManifest, names: list[str]) -> list[str]:
    origin, rating = manifest.origin, manifest.rating
    cells = [f"{manifest.scores[name]:.3f} ({manifest.base[name]:.3f})" for name in names]
    rated = f"{rating.mean:.1f} of {rating.count}" if rating else ""
    return [manifest.name, origin.industry, str(origin.step), *cells, rated]


def _ratings(ratings: tuple[Rating, ...]) -> str:
    if not ratings:
        return ""
    rows = ([r.model, r.industry or "all", f"{r.mean:.1f}", str(r.count)] for r in ratings)
    return "<h2>Users' ratings</h2>" + _table(["model", "industry", "mean", "ratings"], rows)


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["".join(f"<th>{escape(name)}</th>" for name in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"


def _grid(manifest: QualityManifest) -> str:
    name = escape(manifest.name)
    return f'<h2>{name}</h2>\n<img src="{name}.png" alt="without the adapter above, with it below">'
