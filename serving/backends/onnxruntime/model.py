"""Serves `<version>/model.onnx` on ONNX Runtime (CPU), under the name and config of Triton's C++ backend."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from onnx_session import open_session
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        version_folder = Path(args["model_repository"], args["model_version"])
        self.name = args["model_name"]
        self.batches = config["max_batch_size"] > 0
        self.session, self.inputs, self.outputs = open_session(config, version_folder)

    def execute(self, requests):
        inputs = [self.read(request) for request in requests]
        responses = {}
        for group in self.groups(inputs):
            responses.update(zip(group, self.respond([inputs[place] for place in group]), strict=True))
        return [responses[place] for place in range(len(requests))]

    def read(self, request):
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}

    def groups(self, inputs):
        """Places of the requests that can run as one batch: they agree in all but the length of axis 0."""
        places = defaultdict(list)
        for place, arrays in enumerate(inputs):
            shapes = tuple(array.shape[1:] for array in arrays.values())
            places[shapes if self.batches else place].append(place)
        return places.values()

    def respond(self, inputs):
        """A response each; a batch that fails runs again one by one, so that only the guilty get an error."""
        try:
            outputs = self.session.run(self.outputs, {name: joined(name, inputs) for name in self.inputs})
        except Exception as error:
            if len(inputs) > 1:
                return [self.respond([one])[0] for one in inputs]
            return [self.failure(error)]
        parts = separated(outputs, [arrays[self.inputs[0]] for arrays in inputs])
        return [pb_utils.InferenceResponse(list(map(pb_utils.Tensor, self.outputs, part))) for part in parts]

    def failure(self, error):
        """ONNX Runtime says InvalidArgument, naming the input, of wrong shapes, types and indices."""
        invalid = isinstance(error, InvalidArgument)
        code = pb_utils.TritonError.INVALID_ARG if invalid else pb_utils.TritonError.INTERNAL
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.name}: {error}", code))


def joined(name, inputs):
    return inputs[0][name] if len(inputs) == 1 else np.concatenate([arrays[name] for arrays in inputs])


def separated(outputs, requested):
    """Each request's rows of the batch's outputs: as many as its array in `requested` has."""
    if len(requested) == 1:
        return [outputs]
    ends = np.cumsum([len(array) for array in requested])[:-1]
    return zip(*(np.split(output, ends) for output in outputs), strict=True)
