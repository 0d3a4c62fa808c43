"""Draws one picture by calling an ensemble over gRPC, without the gateway: from text, or from --image."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--url", default="127.0.0.1:8001", help="HOST:PORT of Triton's gRPC")
parser.add_argument(
    "--prompt", help="what to draw", default="a yellow backpack on a teal gradient background"
)
parser.add_argument("--image", help="picture to start from; it is scaled to the checkpoint's native size")
parser.add_argument(
    "--lora", nargs=2, action="append", default=[], metavar=("NAME", "SCALE"), help="an adapter to apply"
)
parser.add_argument("--output", type=Path, default=Path("out/picture.png"), help="file of the picture")
arguments = parser.parse_args()


def text(words: str) -> np.ndarray:
    return np.array([[words.encode()]], dtype=object)


def number(value: float, dtype: type) -> np.ndarray:
    return np.array([[value]], dtype)


def draw() -> None:
    model = "sdxl_image_to_image" if arguments.image else "flux_text_to_image"
    with InferenceServerClient(arguments.url) as client:
        size = int(client.get_model_config(model).config.parameters["native_size"].string_value)
        loras = [{"name": name, "scale": float(scale)} for name, scale in arguments.lora]
        values = {
            "prompt": text(arguments.prompt),
            "seed": number(0, np.int64),
            "loras": text(json.dumps(loras)),
        }
        if arguments.image:
            picture = Image.open(arguments.image).convert("RGB").resize((size, size))
            values |= {
                "negative_prompt": text(""),
                "num_inference_steps": number(30, np.int32),
                "guidance_scale": number(5.0, np.float32),
                "scheduler": text("EulerDiscreteScheduler"),
                "image": np.asarray(picture)[None],  # uint8 [1, height, width, 3]
                "strength": number(0.6, np.float32),
            }
        else:
            values |= {
                "num_inference_steps": number(28, np.int32),
                "guidance_scale": number(3.5, np.float32),
                "quality": text("high"),
                "height": number(size, np.int32),
                "width": number(size, np.int32),
            }
        inputs = [
            InferInput(name, value.shape, np_to_triton_dtype(value.dtype)) for name, value in values.items()
        ]
        for tensor, value in zip(inputs, values.values(), strict=True):
            tensor.set_data_from_numpy(value)
        answer = client.infer(model, inputs)

    images = answer.as_numpy("images")  # uint8 [1, height, width, 3]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images[0]).save(arguments.output)
    print(f"saved {arguments.output}, {size} x {size} pixels")
    print("adapters:", answer.as_numpy("applied_loras").item().decode())


try:
    draw()
except InferenceServerException as error:
    sys.exit(f"triton_client: {error.message()}")
except (OSError, ValueError) as error:  # files, a scale that is no number
    sys.exit(f"triton_client: {error}")
