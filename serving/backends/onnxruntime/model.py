"""Serves `<version>/model.onnx` on ONNX Runtime (CPU), under the name and config of Triton's C++ backend.

That one would want packs with every call; here `model.without_adapters.onnx` answers calls without them.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from batching import answered, separated
from onnx_engine import open_engine
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        version_folder = Path(args["model_repository"], args["model_version"])
        self.name = args["model_name"]
        self.batches = config["max_batch_size"] > 0
        self.engine = open_engine(config, version_folder)

    def execute(self, requests):
        inputs = [self.read(request) for request in requests]
        return answered(inputs, self.batches, self.run, self.failure)

    def read(self, request):
        return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}

    def run(self, inputs):
        outputs = self.engine({name: joined(name, inputs) for name in inputs[0]})
        return [self.response(part) for part in separated(outputs, inputs)]

    def response(self, outputs):
        return pb_utils.InferenceResponse(list(map(pb_utils.Tensor, self.engine.outputs, outputs)))

    def failure(self, error):
        """ONNX Runtime says InvalidArgument of wrong shapes, types and indices; both name the input."""
        invalid = isinstance(error, (InvalidArgument, ValueError))
        code = pb_utils.TritonError.INVALID_ARG if invalid else pb_utils.TritonError.INTERNAL
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.name}: {error}", code))


def joined(name, inputs):
    return inputs[0][name] if len(inputs) == 1 else np.concatenate([arrays[name] for arrays in inputs])
