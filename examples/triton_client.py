"""Draws one picture by calling the ensemble over gRPC, without the gateway."""

import argparse

import numpy as np
from PIL import Image
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import np_to_triton_dtype

MODEL = "flux_text_to_image"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="127.0.0.1:8001", help="HOST:PORT of Triton's gRPC")
parser.add_argument("--prompt", default="A sleek smartphone on a dark gradient background")
parser.add_argument("--output", default="picture.png")
arguments = parser.parse_args()

with InferenceServerClient(arguments.url) as client:
    size = int(client.get_model_config(MODEL).config.parameters["native_size"].string_value)
    values = {
        "prompt": np.array([[arguments.prompt.encode()]], dtype=object),
        "seed": np.array([[0]], dtype=np.int64),
        "num_inference_steps": np.array([[28]], dtype=np.int32),
        "guidance_scale": np.array([[3.5]], dtype=np.float32),
        "height": np.array([[size]], dtype=np.int32),
        "width": np.array([[size]], dtype=np.int32),
    }
    inputs = [
        InferInput(name, value.shape, np_to_triton_dtype(value.dtype)) for name, value in values.items()
    ]
    for tensor, value in zip(inputs, values.values(), strict=True):
        tensor.set_data_from_numpy(value)
    images = client.infer(MODEL, inputs).as_numpy("images")  # uint8 [1, height, width, 3]

Image.fromarray(images[0]).save(arguments.output)
print(f"saved {arguments.output}, {size} x {size} pixels")
