r"""What int8 costs: pictures of a component in int8 beside those of stock diffusers in float32, same seeds.

    python -m benchmarks.int8 --checkpoint assets/checkpoints/flux-tiny --pictures 200

PSNR compares the pictures with each other, the checker says how many show what the prompt asks for. Without
`--onnx`, int8 is computed by torch in floating point, from a calibration on training captions, which name no
combination that the evaluation prompts name. With it, that graph runs in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from export import calibration
from export.checkpoint import Checkpoint, open_checkpoint
from export.parity import open_session
from export.smoothquant import ALPHA, fake_quantise
from families import ComponentSpec, FamilySpec
from finetune import checker, evaluate
from finetune.captions import caption, held_out_prompts
from finetune.dataset import Pixels
from finetune.scene import Scene, sample_scene

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def calibration_prompts(count: int) -> list[str]:
    return [caption(sample_scene(seed), random.Random(f"calibration {seed}")) for seed in range(count)]


def evaluation(count: int) -> tuple[list[Scene], list[str]]:
    """`count` of the held-out prompts, spread over all of them."""
    pairs = held_out_prompts()
    scenes, prompts = zip(*pairs[:: len(pairs) // count][:count], strict=True)
    return list(scenes), list(prompts)


def transformer_inputs(
    hidden_states: Tensor, timestep: Tensor, guidance: Tensor, pooled_projections: Tensor,
    encoder_hidden_states: Tensor, txt_ids: Tensor, img_ids: Tensor,
    joint_attention_kwargs: None = None, return_dict: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """What FluxPipeline passes its transformer -> the engine's inputs."""
    rows = len(hidden_states)
    return {
        "hidden_states": hidden_states,
        "encoder_hidden_states": encoder_hidden_states,
        "pooled_projections": pooled_projections,
        "timestep": timestep[:, None],
        "img_ids": img_ids.expand(rows, -1, -1),
        "txt_ids": txt_ids.expand(rows, -1, -1),
        "guidance": guidance[:, None],
    }


def unet_inputs(
    sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, added_cond_kwargs: Mapping[str, Tensor],
    timestep_cond: None = None, cross_attention_kwargs: None = None, return_dict: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """What StableDiffusionXLPipeline passes its UNet -> the engine's inputs."""
    return {
        "sample": sample,
        "timestep": timestep.float().expand(len(sample), 1),
        "encoder_hidden_states": encoder_hidden_states,
        **added_cond_kwargs,
    }


def t5_inputs(input_ids: Tensor, output_hidden_states: bool = False) -> dict[str, Tensor]:
    """What FluxPipeline passes its second text encoder -> the engine's inputs."""
    return {"input_ids": input_ids}


INPUTS: Mapping[str, Callable[..., dict[str, Tensor]]] = {
    "flux.transformer": transformer_inputs,
    "flux.text_encoder_2": t5_inputs,
    "sdxl.unet": unet_inputs,
}


@dataclass(frozen=True)
class Engine:
    """An ONNX graph of a component, called as the pipeline calls the module in its place."""

    session: onnxruntime.InferenceSession
    inputs: Callable[..., dict[str, Tensor]]

    def __call__(self, *values: Any, **named: Any) -> tuple[Tensor, ...]:
        inputs = {name: tensor.numpy() for name, tensor in self.inputs(*values, **named).items()}
        rows = len(next(iter(inputs.values())))
        absent = [wanted for wanted in self.session.get_inputs() if wanted.name not in inputs]
        adapters = {wanted.name: _no_adapter(wanted, rows) for wanted in absent}
        return tuple(torch.from_numpy(array) for array in self.session.run(None, {**inputs, **adapters}))


def _no_adapter(wanted: onnxruntime.NodeArg, rows: int) -> np.ndarray[Any, Any]:
    """LoRA of rank 0 for a packed input: [rows, 0, in] or [rows, out, 0]."""
    sizes = [size if isinstance(size, int) else 0 for size in wanted.shape]
    return np.zeros([rows, *sizes[1:]], FLOATS[wanted.type])


def quantised(
    model: Any, checkpoint: Checkpoint, component: ComponentSpec, options: argparse.Namespace
) -> None:
    """Makes `model` answer in int8, in place."""
    name = checkpoint.family.key(component)
    if options.onnx:
        model.forward = Engine(open_session(options.onnx), INPUTS[name])
        return
    absmax = calibrated(checkpoint, component, options).absmax if name != "flux.text_encoder_2" else {}
    fake_quantise(model, name, absmax, options.alpha)


def calibrated(
    checkpoint: Checkpoint, component: ComponentSpec, options: argparse.Namespace
) -> calibration.Calibration:
    """What the calibration file holds, which is written first where there is none."""
    prompts = calibration_prompts(options.calibration_prompts)
    settings = dataclasses.replace(
        calibration.default_settings(checkpoint.family), num_inference_steps=options.num_inference_steps
    )
    if options.calibration:
        return calibration.kept(options.calibration, checkpoint, component, prompts, settings)
    return calibration.calibrate(checkpoint, component, prompts, settings)


def pictures(pipeline: Any, family: FamilySpec, prompts: list[str], steps: int) -> Pixels:
    return evaluate.generate(pipeline, prompts, steps, family.guidance_scale.default)


def psnr(pixels: Pixels, reference: Pixels) -> np.ndarray[Any, Any]:
    """Decibels [N], of uint8 [N, ...]; equal pictures have as many as if one number differed by 1 of 255."""
    squares = (pixels.astype(np.float64) - reference).reshape(len(pixels), -1) ** 2
    least = 1 / squares.shape[1]
    return 10 * np.log10(255**2 / np.maximum(squares.mean(axis=1), least))


def fidelity(pixels: Pixels, scenes: list[Scene]) -> dict[str, float]:
    """Shares of pictures that show what was asked."""
    shares = evaluate.scores(checker.correct(checker.load(), pixels, scenes), scenes)
    return {name: round(shares[name], 3) for name in (*evaluate.ASKED, "all three")}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a folder in diffusers' layout")
    parser.add_argument("--component", help="default: the denoiser; or flux's text_encoder_2, weights alone")
    parser.add_argument("--pictures", type=int, default=200, help="held-out prompts to draw, at most 200")
    parser.add_argument(
        "--onnx", type=Path, help="the component's int8 graph; torch imitates int8 if not told"
    )
    parser.add_argument("--calibration", type=Path, help="the file to use, or to write if it is not there")
    parser.add_argument("--calibration-prompts", type=int, default=calibration.PROMPTS)
    parser.add_argument("--num-inference-steps", type=int, help="default: the family's")
    parser.add_argument("--alpha", type=float, default=ALPHA, help="SmoothQuant's migration strength")
    parser.add_argument("--output", type=Path, help="folder for grid.png: float32 above int8")
    return parser.parse_args(arguments)


def report(options: argparse.Namespace) -> dict[str, Any]:
    checkpoint = open_checkpoint(options.checkpoint)
    family = checkpoint.family
    options.num_inference_steps = options.num_inference_steps or int(family.num_inference_steps.default)
    component = family.component(options.component) if options.component else family.denoiser
    scenes, prompts = evaluation(options.pictures)
    pipeline = evaluate.load(options.checkpoint)
    reference = pictures(pipeline, family, prompts, options.num_inference_steps)
    quantised(getattr(pipeline, component.folder), checkpoint, component, options)
    pixels = pictures(pipeline, family, prompts, options.num_inference_steps)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        shown = np.concatenate([reference[:10], pixels[:10]])
        evaluate.grid(shown, len(shown) // 2).save(options.output / "grid.png")
    decibels = psnr(pixels, reference)
    return {
        "component": family.key(component),
        "pictures": len(pixels),
        "psnr median": round(float(np.median(decibels)), 2),
        "psnr 10 %": round(float(np.percentile(decibels, 10)), 2),
        "psnr min": round(float(decibels.min()), 2),
        "fp32": fidelity(reference, scenes),
        "int8": fidelity(pixels, scenes),
    }


if __name__ == "__main__":
    print(json.dumps(report(parse()), indent=1))
