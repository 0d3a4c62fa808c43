"""Repositories of TensorRT plans, and what stands for a GPU and TensorRT on machines that have neither."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_repository import finish

from export import manifest

VERSION, COMPUTE_CAPABILITY = "11.4.0.106", "8.0"
CONFIG = """backend: "tensorrt"
max_batch_size: 4
input [
  {{ name: "x" data_type: TYPE_{dtype} dims: [ -1 ] }},
  {{ name: "lora_a" data_type: TYPE_BF16 dims: [ -1, 3 ] }}
]
output {{ name: "y" data_type: TYPE_{dtype} dims: [ -1 ] }}
instance_group {{ count: 1 }}
dynamic_batching {{ preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 1000000 }}
parameters {{ key: "FORCE_CPU_ONLY_INPUT_TENSORS" value {{ string_value: "no" }} }}
"""
# In place of the one that needs a GPU: notes the shapes and types of what it is asked, answers zeros.
SESSION = """
import json
import torch
from plan_tensors import TYPES

DTYPES = dict(TYPES.values())

class PlanSession:
    def __init__(self, config, file):
        self.inputs = {tensor["name"]: tensor for tensor in config["input"]}
        self.outputs = {tensor["name"]: tensor for tensor in config["output"]}
        self.asked = file.with_name("asked.json")

    def run(self, requests):
        batch = {name: torch.cat([arrays[name] for arrays in requests]) for name in self.inputs}
        for name, array in batch.items():
            assert array.dtype == DTYPES[self.inputs[name]["data_type"]], name
            assert not array.any(), name
        self.asked.write_text(json.dumps({name: list(array.shape) for name, array in batch.items()}))
        rows = len(next(iter(batch.values())))
        return [self.zeros(rows, tensor) for tensor in self.outputs.values()]

    def zeros(self, rows, tensor):
        return torch.zeros(rows, *map(abs, tensor["dims"]), dtype=DTYPES[tensor["data_type"]])

def open_session(config, file, instance_kind, device_id):
    return PlanSession(config, file)
"""


def add_plan(models: Path, name: str, dtype: str) -> None:
    """x of `dtype` [B, n], lora_a BF16 [B, rank, 3] -> y of `dtype` [B, n]; the plan itself is a stand-in."""
    (models / name / "1").mkdir(parents=True)
    (models / name / "1" / "model.plan").write_bytes(b"not a plan")
    (models / name / "config.pbtxt").write_text(CONFIG.format(dtype=dtype))


def finish_plans(repository: Path, **changes: Any) -> None:
    """Write the manifest of an export by TensorRT for an A100, with `changes`."""
    finish(repository)
    facts = {
        "engine": "tensorrt",
        "builder": "tensorrt",
        "builder_version": VERSION,
        "compute_capability": COMPUTE_CAPABILITY,
        **changes,
    }
    manifest.write(dataclasses.replace(manifest.read(repository), **facts), repository)


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, folder: Path, *capabilities: str) -> None:
    """nvidia-smi tells of GPUs of these compute capabilities, or fails if there are none."""
    folder.mkdir()
    lines = "\\n".join(capabilities)
    answer = f"printf '{lines}\\n'" if capabilities else "exit 9"
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{answer}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def pretend_tensorrt(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """`import tensorrt` in a new process runs `code`; Triton's stubs do not see it."""
    folder.mkdir()
    (folder / "tensorrt.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
