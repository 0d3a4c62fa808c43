"""A repository of tiny models for the embedded Triton: ONNX graphs of one node, short Python models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export import manifest
from families.hashes import sha256_of_file

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)

CONFIG = """max_batch_size: 4
input {{ name: "{input}" data_type: TYPE_{input_dtype} dims: [ -1 ] }}
output {{ name: "y" data_type: TYPE_FP32 dims: [ -1{more_dims} ] }}
instance_group {{ kind: KIND_CPU count: 1 }}
{more}
"""
QUEUE = "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 1000000 }"
CACHE = "response_cache { enable: true }"

SLEEPER = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "seconds") for request in requests]
        time.sleep(float(tensors[0].as_numpy()[0, 0]))
        return [pb_utils.InferenceResponse([tensor]) for tensor in tensors]
"""


def save_onnx(folder: Path, node: onnx.NodeProto, source: onnx.ValueInfoProto, rank: int) -> None:
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *["n"] * (rank - 2), 3])
    graph = helper.make_graph([node], "tiny", [source], [target], [numpy_helper.from_array(WEIGHT, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")


def add_linear(models: Path, more: str = QUEUE) -> None:
    """x FP32 [B, 4] -> y = x @ WEIGHT FP32 [B, 3]; the config leaves both widths open, the graph does not."""
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    save_onnx(models / "linear", helper.make_node("MatMul", ["x", "w"], ["y"]), source, rank=2)
    config = CONFIG.format(input="x", input_dtype="FP32", more_dims="", more=more)
    (models / "linear" / "config.pbtxt").write_text(config)


def add_lookup(models: Path) -> None:
    """ids INT64 [B, n] -> y = WEIGHT[ids] FP32 [B, n, 3]; ids go from -4 to 3. Responses are cached."""
    source = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "n"])
    save_onnx(models / "lookup", helper.make_node("Gather", ["w", "ids"], ["y"]), source, rank=3)
    config = CONFIG.format(input="ids", input_dtype="INT64", more_dims=", 3", more=f"{QUEUE} {CACHE}")
    (models / "lookup" / "config.pbtxt").write_text(config)


def add_python(models: Path, name: str, code: str) -> None:
    """seconds FP32 [B, 1] -> the same."""
    (models / name / "1").mkdir(parents=True)
    (models / name / "1" / "model.py").write_text(code)
    tensor = 'name: "seconds" data_type: TYPE_FP32 dims: [ 1 ]'
    instances = "instance_group { kind: KIND_CPU count: 1 }"
    config = f'backend: "python" max_batch_size: 4 input {{ {tensor} }} output {{ {tensor} }} {instances}'
    (models / name / "config.pbtxt").write_text(config)


def finish(repository: Path) -> None:
    """Write the manifest that makes a folder with models/ an assembled repository."""
    paths = [path for path in (repository / "models").rglob("*") if path.is_file()]
    files = {path.relative_to(repository).as_posix(): sha256_of_file(path) for path in paths}
    manifest.write(manifest.Manifest("tiny", "", "none", "cpu", "", "", {}, {}, "", {}, files), repository)
