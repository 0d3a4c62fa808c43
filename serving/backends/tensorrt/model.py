"""Serves `<version>/model.plan` by TensorRT's Python runtime, under the name and config of the C++ backend.

For a GPU without Triton's container, as on Colab. It has not run on a GPU yet.
"""

import json
from pathlib import Path

import torch
import triton_python_backend_utils as pb_utils
from batching import answered, separated
from plan_session import open_session
from plan_tensors import error_code


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        name = config["default_model_filename"] or "model.plan"
        file = Path(args["model_repository"], args["model_version"], name)
        self.name = args["model_name"]
        self.batches = config["max_batch_size"] > 0
        kind, device_id = args["model_instance_kind"], int(args["model_instance_device_id"])
        self.session = open_session(config, file, kind, device_id)

    def execute(self, requests):
        inputs = [self.read(request) for request in requests]
        return answered(inputs, self.batches, self.run, self.failure)

    def read(self, request):
        """The inputs where they lie; on a GPU only with the config's FORCE_CPU_ONLY_INPUT_TENSORS "no"."""
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self.session.inputs}
        return {name: torch.from_dlpack(tensor) for name, tensor in tensors.items()}

    def run(self, inputs):
        outputs = self.session.run(inputs)
        return [self.response(part) for part in separated(outputs, inputs)]

    def response(self, outputs):
        tensors = map(pb_utils.Tensor.from_dlpack, self.session.outputs, outputs)
        return pb_utils.InferenceResponse(list(tensors))

    def failure(self, error):
        code = getattr(pb_utils.TritonError, error_code(error))
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.name}: {error}", code))
