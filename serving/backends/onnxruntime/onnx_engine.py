"""The ONNX Runtime sessions of a model, and which of them makes a call."""

import os
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort

from families.lora import LORA_B, PACKS, without_adapters

# ONNX Runtime's names, as those of the config's parameters.
THREADS, SPINNING = "intra_op_thread_count", "session.intra_op.allow_spinning"
# On 2 threads, parts took 0.75 of the time of 2 rows of sdxl-tiny at 128 x 128 pixels, 0.84 of flux-tiny's 8.
UNEVEN = 4 / 3


class OnnxEngine:
    """Arrays by input name, batch first -> a list of outputs. `inputs` and `outputs` are the names of both.

    A call without packs, or whose lora_b is 0, goes to the graph without adapters, where export wrote one.
    Whichever session answers a row, whatever other rows the call has, the answer is the same, bit for bit.
    ValueError if an input is missing.
    """

    def __init__(self, file, threads, spins=False):
        self.graph = Graph(file, threads, spins)
        plain = without_adapters(file)
        self.plain = Graph(plain, threads, spins) if plain.exists() else None
        self.inputs, self.outputs = self.graph.names()

    def __call__(self, inputs):
        sent = [name for name in PACKS if name in inputs]
        if len(sent) == 1:
            raise ValueError(f"of {' and '.join(PACKS)} only {sent[0]} was sent: send both, or neither")
        adapted = self.plain is None or (sent and inputs[LORA_B].any())
        return (self.graph if adapted else self.plain)(inputs)


class Graph:
    """One ONNX file; a session of it, which has its own copy of the weights, is opened when first wanted.

    Where rows come out nearly even, a call is made in parts, one a thread, since threads that share every
    operator wait for each other after each. Other calls have all threads. With `spins`, these wait for the
    next operator of a call, and for nothing else, in loops.
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
        if self.threads == 1 or not even(rows, self.threads):
            return run(self.shared, inputs)
        session = self.single
        parts = [
            self.workers.submit(run, session, {name: array[start:end] for name, array in inputs.items()})
            for start, end in shares(rows, self.threads)
        ]
        wait(parts)  # for all, even if one fails: what comes next must not run beside them
        return [np.concatenate(pieces) for pieces in zip(*(part.result() for part in parts), strict=True)]


def run(session, inputs):
    """Of `inputs` those that the graph has: not lora_a and lora_b where it is without adapters."""
    read = {tensor.name for tensor in session.get_inputs()}
    return session.run(None, {name: array for name, array in inputs.items() if name in read})


def even(rows, threads):
    """Whether parts lose less to the threads that end early than they gain."""
    return rows >= threads and -(-rows // threads) * threads <= rows * UNEVEN


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
    """The engine of a model's config and version folder; ValueError if they do not fit each other."""
    parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
    cores = len(os.sched_getaffinity(0))
    threads = int(parameters.get(THREADS) or os.environ.get("OMP_NUM_THREADS") or cores)
    file = Path(version_folder, config["default_model_filename"] or "model.onnx")
    engine = OnnxEngine(file, threads, spins=parameters.get(SPINNING) == "1")
    check_names("input", config, engine.inputs)
    check_names("output", config, engine.outputs)
    if engine.plain is None and any(tensor.get("optional") for tensor in config["input"]):
        raise ValueError(f"{config['name']}: {without_adapters(file).name} is missing: export again")
    return engine


def check_names(kind, config, found):
    configured = [tensor["name"] for tensor in config[kind]]
    if sorted(configured) != sorted(found):
        raise ValueError(
            f"{config['name']}: {kind}s are {configured} in config.pbtxt, {found} in the ONNX file"
        )
