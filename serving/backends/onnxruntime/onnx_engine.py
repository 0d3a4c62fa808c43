"""The ONNX Runtime sessions of a model, and which of them makes a call."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort

from families.lora import LORA_B, without_adapters

# ONNX Runtime's names, as those of the config's parameters.
THREADS, SPINNING = "intra_op_thread_count", "session.intra_op.allow_spinning"


class OnnxEngine:
    """Arrays by input name, batch first -> a list of outputs. `inputs` and `outputs` are the names of both.

    A call without lora_b, or whose lora_b is 0, goes to the graph without adapters, where export wrote one.
    Whichever session answers a row, whatever other rows the call has, the answer is the same, bit for bit.
    """

    def __init__(self, file, threads, spins=False):
        self.graph = Graph(file, threads, spins)
        base = without_adapters(file)
        self.base = Graph(base, threads, spins) if base.exists() else None
        self.inputs, self.outputs = self.graph.names()

    def __call__(self, inputs):
        adapted = self.base is None or (LORA_B in inputs and inputs[LORA_B].any())
        return (self.graph if adapted else self.base)(inputs)


class Graph:
    """One ONNX file; a session of it is opened when first wanted.

    A call of at least as many rows as threads is made in parts, one a thread, since threads that share every
    operator wait for each other after each: 2 rows of sdxl-tiny take 0.75 of the time. Smaller calls have all
    threads. With `spins`, these wait for the next operator of a call, and for nothing else, in loops.
    """

    def __init__(self, file, threads, spins):
        self.file, self.threads, self.spins = file, threads, spins
        self.workers = ThreadPoolExecutor(threads)

    @cached_property
    def shared(self):
        return open_session(self.file, self.threads, self.spins)

    @cached_property
    def single(self):
        return open_session(self.file, 1)

    def names(self):
        tensors = self.shared.get_inputs(), self.shared.get_outputs()
        return tuple([tensor.name for tensor in side] for side in tensors)

    def __call__(self, inputs):
        rows = len(next(iter(inputs.values())))
        if rows < self.threads or self.threads == 1:
            return self.shared.run(None, self.read(self.shared, inputs))
        parts = [self.workers.submit(self.part, inputs, *ends) for ends in shares(rows, self.threads)]
        return [np.concatenate(pieces) for pieces in zip(*(part.result() for part in parts), strict=True)]

    def part(self, inputs, start, end):
        rows = {name: array[start:end] for name, array in inputs.items()}
        return self.single.run(None, self.read(self.single, rows))

    def read(self, session, inputs):
        """Those that the graph has: not lora_a and lora_b where it is without adapters."""
        return {tensor.name: inputs[tensor.name] for tensor in session.get_inputs()}


def shares(rows, parts):
    """Start and end of each of `parts` of so many rows; they differ by one at most."""
    ends = [rows * part // parts for part in range(parts + 1)]
    return zip(ends, ends[1:], strict=False)


def open_session(file, threads, spins=False):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry(SPINNING, str(int(spins)))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(file, options)


def open_engine(config, version_folder):
    """The engine of a model's config and version folder; ValueError if the config names other tensors."""
    parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
    threads = int(parameters.get(THREADS) or os.environ.get("OMP_NUM_THREADS") or os.cpu_count())
    file = Path(version_folder, config["default_model_filename"] or "model.onnx")
    engine = OnnxEngine(file, threads, spins=parameters.get(SPINNING) == "1")
    check_names("input", config, engine.inputs)
    check_names("output", config, engine.outputs)
    return engine


def check_names(kind, config, found):
    configured = [tensor["name"] for tensor in config[kind]]
    if sorted(configured) != sorted(found):
        raise ValueError(
            f"{config['name']}: {kind}s are {configured} in config.pbtxt, {found} in the ONNX file"
        )
