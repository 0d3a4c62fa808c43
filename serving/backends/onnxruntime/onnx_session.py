"""An ONNX Runtime session for a model's version folder, checked against the model's config."""

import os
from pathlib import Path

import onnxruntime as ort


def open_session(config, version_folder):
    """Returns the session, its input names and its output names; ValueError if the config names others."""
    file = Path(version_folder, config["default_model_filename"] or "model.onnx")
    session = ort.InferenceSession(file, session_options(config))
    inputs = agreed_names("input", config, session.get_inputs())
    return session, inputs, agreed_names("output", config, session.get_outputs())


def session_options(config):
    options = ort.SessionOptions()
    threads = config["parameters"].get("intra_op_thread_count", {}).get("string_value")
    options.intra_op_num_threads = int(threads or os.environ.get("OMP_NUM_THREADS", 0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def agreed_names(kind, config, tensors):
    configured = sorted(tensor["name"] for tensor in config[kind])
    found = sorted(tensor.name for tensor in tensors)
    if configured != found:
        raise ValueError(
            f"{config['name']}: {kind}s are {configured} in config.pbtxt, {found} in the ONNX file"
        )
    return configured
