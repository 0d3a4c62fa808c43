"""A model.py under an ensemble's name: colours from every input, and misbehaviour on demand.

A prompt `!kind argument` asks for: invalid, broken, tokens K D, shape, dtype, sleep SECONDS, die, echo (the
base image itself).
Each request leaves a line in the file that the config's parameter `journal` names.
"""

import hashlib
import json
import os
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.journal = config["parameters"]["journal"]["string_value"]
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.counts = [tensor["name"] for tensor in config["output"] if tensor["name"].endswith("_tokens")]

    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        kind, *arguments = self.read(request, "prompt").decode().split(" ")
        self.applied = self.told(json.loads(self.read(request, "loras") or "[]"))
        self.note(kind)
        refusal = (
            getattr(self, f"do_{kind[1:]}", lambda *_: None)(request, *arguments) if kind[:1] == "!" else None
        )
        if refusal is not None:
            return pb_utils.InferenceResponse(error=refusal)
        return self.picture(request, kind, arguments)

    def picture(self, request, kind, arguments):
        if kind == "!echo":
            return self.answer(self.array(request, "image"), 9, 0)
        height, width = self.size(request)
        words = b"|".join(self.array(request, name).tobytes() for name in self.inputs if name != "prompt")
        seed = int.from_bytes(hashlib.sha256(words + self.read(request, "prompt")).digest()[:4], "big")
        size = (1, height, width // 2, 3) if kind == "!shape" else (1, height, width, 3)
        images = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
        images = images.astype(np.float32) * np.nan if kind == "!dtype" else images
        kept, dropped = map(int, arguments) if kind == "!tokens" else (9, 0)
        return self.answer(images, kept, dropped)

    def told(self, loras):
        """Says of every adapter that is asked that it was applied."""
        facts = [{**lora, "sha256": "0" * 64, "modules_applied": 2, "modules": 2} for lora in loras]
        return json.dumps(facts).encode()

    def answer(self, images, kept, dropped):
        tokens = np.array([[[kept, dropped], [7, 0]]], dtype=np.int32)
        counts = [pb_utils.Tensor(name, tokens) for name in self.counts]
        applied = pb_utils.Tensor("applied_loras", np.array([[self.applied]], dtype=np.object_))
        return pb_utils.InferenceResponse([pb_utils.Tensor("images", images), *counts, applied])

    def size(self, request):
        if "image" in self.inputs:
            return self.array(request, "image").shape[1:3]
        return self.read(request, "height"), self.read(request, "width")

    def do_invalid(self, request, *_):
        return pb_utils.TritonError("height 8 is not a multiple of 16", pb_utils.TritonError.INVALID_ARG)

    def do_broken(self, request, *_):
        return pb_utils.TritonError("something broke")

    def do_sleep(self, request, seconds):
        ends = time.monotonic() + float(seconds)
        while time.monotonic() < ends:
            if request.is_cancelled():
                self.note("cancelled")
                return pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
            time.sleep(0.02)

    def do_die(self, request, *_):
        os._exit(1)

    def note(self, word):
        with open(self.journal, "a", encoding="utf-8") as journal:
            journal.write(word + "\n")

    @staticmethod
    def array(request, name):
        array = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
        return np.array([b"|".join(array.ravel())]) if array.dtype == object else array

    @staticmethod
    def read(request, name):
        return pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0, 0]
