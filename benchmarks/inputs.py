r"""Writes perf_analyzer's input file of every ensemble; `--check` only compares, and fails on a difference.

perf_analyzer is a program inside tritonclient's manylinux wheels up to 2.60, to be unpacked; it needs libb64
and CUDA's libcudart.so.12, no GPU. On one file, with Triton from `make serve`:

    perf_analyzer -m flux_text_to_image -i grpc -u localhost:8001 \
        --input-data benchmarks/inputs/flux_text_to_image.json --concurrency-range 1:4 --percentile 95 \
        --measurement-mode count_windows --measurement-request-count 20

The entries come round again: from the second time on Triton answers text encoders from its response cache.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput

from families import FamilySpec, TensorSpec
from families.generated import settle
from families.wording import INDUSTRIES, STYLES
from gateway.prompts import compose
from gateway.samples import ORDERS, Order, input_tensor

FOLDER = Path(__file__).parent / "inputs"
SIZE = 128  # pixels, each way: the tiny checkpoints' native size
PROMPTS = (
    "a sleek red smartphone on a dark gradient background",
    "studio shot of a blue water bottle on a white studio background",
    "a green coffee mug against a beige backdrop",
    "product photo of a modern white sneaker on a gray gradient background",
    "an elegant black wristwatch, teal background",
    "a yellow desk lamp in front of a purple background",
    "a pair of pink headphones on a blue studio background",
    "commercial photo of a premium brown backpack on a green background",
)
NEGATIVE_PROMPTS = ("", "blurry, dark")
Value = str | int | float | bytes  # the only element of a tensor, or the bytes of a picture
ELEMENTS = {"STRING": str, "INT32": int, "INT64": int, "FP32": float}  # dtype -> what JSON has for it


def prompt(number: int) -> str:
    """The prompt of entry `number`, as the gateway words a request with a style and an industry."""
    style, industry = STYLES[number % len(STYLES)], INDUSTRIES[number % len(INDUSTRIES)]
    return compose(PROMPTS[number], style, industry)


def gradient(number: int) -> bytes:
    """RGB picture, uint8 [SIZE, SIZE, 3]: red grows to the right, green downwards, blue with `number`."""
    ramp = [place * 255 // (SIZE - 1) for place in range(SIZE)]
    blue = number * 255 // (len(PROMPTS) - 1)
    return bytes(channel for green in ramp for red in ramp for channel in (red, green, blue))


# Ensemble input -> its value in entry `number`; settings are those of a request that names none.
VALUES: dict[str, Callable[[FamilySpec, int], Value]] = {
    "prompt": lambda family, number: prompt(number),
    "negative_prompt": lambda family, number: NEGATIVE_PROMPTS[number % len(NEGATIVE_PROMPTS)],
    "seed": lambda family, number: number,
    "num_inference_steps": lambda family, number: int(family.num_inference_steps.default),
    "guidance_scale": lambda family, number: family.guidance_scale.default,
    "scheduler": lambda family, number: family.schedulers[0],
    "quality": lambda family, number: family.qualities[0],
    "loras": lambda family, number: "",
    "strength": lambda family, number: family.default_strength,
    "height": lambda family, number: SIZE,
    "width": lambda family, number: SIZE,
    "image": lambda family, number: gradient(number),
}


def _fits(tensor: TensorSpec, shape: list[int], value: Value) -> bool:
    """Is `value` the content of one `tensor` of this shape?"""
    if isinstance(value, bytes):
        return tensor.dtype == "UINT8" and len(value) == math.prod(shape)
    return shape == [1] and type(value) is ELEMENTS.get(tensor.dtype)


def encoded(family: FamilySpec, tensor: TensorSpec, number: int) -> dict[str, Any]:
    """perf_analyzer's form of `tensor`, without the batch axis: content in row-major order, and shape.

    ValueError if `VALUES` has nothing for it, or something that is not of its dtype and shape.
    """
    if tensor.name not in VALUES:
        raise ValueError(
            f"no value for input {tensor.name!r} of {family.name}; VALUES has {', '.join(VALUES)}"
        )
    axes = family.axes(batch=1, height=SIZE, width=SIZE, text_length=1)
    shape, value = list(tensor.sizes(axes, {})[1:]), VALUES[tensor.name](family, number)
    if not _fits(tensor, shape, value):
        raise ValueError(f"{tensor.name}: {value!r:.60} is not {tensor.dtype} {shape}")
    content = {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else [value]
    return {"content": content, "shape": shape}


def text(order: Order) -> str:
    """The file of an ensemble: one entry for each of `PROMPTS`."""
    entries = [
        {tensor.name: encoded(order.family, tensor, number) for tensor in order.spec.inputs}
        for number in range(len(PROMPTS))
    ]
    return json.dumps({"data": entries}, indent=1, ensure_ascii=False) + "\n"


def wanted(folder: Path = FOLDER) -> dict[Path, str]:
    """Path -> text of the file of every ensemble."""
    return {folder / f"{order.ensemble}.json": text(order) for order in ORDERS}


def requests(path: Path) -> list[list[InferInput]]:
    """The entries of a file as requests of one picture, batch axis 1, to the ensemble it is named after."""
    order = {order.ensemble: order for order in ORDERS}[path.stem]
    entries = json.loads(path.read_text())["data"]
    return [
        [input_tensor(tensor, _value(entry[tensor.name])) for tensor in order.spec.inputs]
        for entry in entries
    ]


def _value(entry: dict[str, Any]) -> Any:
    """The only element of a tensor, or a picture uint8 [height, width, 3]."""
    content = entry["content"]
    if isinstance(content, dict):
        return np.frombuffer(base64.b64decode(content["b64"]), np.uint8).reshape(entry["shape"])
    (value,) = content
    return value


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inputs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file differs")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files lie")
    options = parser.parse_args(arguments)
    return settle(wanted(options.folder), options.check, "python -m benchmarks.inputs")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
