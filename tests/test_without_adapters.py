"""Calls without adapters run a graph without their products, and rows in parts; nobody can tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from small_graphs import Case

from export import graph, values
from export.component import export_component
from export.parity import with_zero_packs
from export.without_adapters import without_packs
from families.lora import LORA_A, LORA_B, PACKS, RANKS, without_adapters
from serving.backends.onnxruntime.onnx_engine import OnnxEngine, even, shares

ROWS = 8
Arrays = Mapping[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def file(lora_denoiser: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of both graphs, as export writes them."""
    path, model = tmp_path_factory.mktemp("engine") / "model.onnx", lora_denoiser.model.clone()
    values.fill(model, lora_denoiser.weights, {})
    graph.save(model, path)
    graph.save(without_packs(model), without_adapters(path))
    return path


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda threads: f"{threads} threads")
def engine(file: Path, request: pytest.FixtureRequest) -> OnnxEngine:
    return OnnxEngine(file, threads=request.param)


@pytest.fixture(scope="module")
def plain(file: Path) -> OnnxEngine:
    """The graph with adapters' products, for every call, on one thread."""
    engine = OnnxEngine(file, threads=1)
    engine.plain = None
    return engine


@pytest.fixture(scope="module")
def adapted(lora_denoiser: Case) -> Arrays:
    """Of eight rows, of which the odd ones have adapters; position ids of a call are those of its first."""
    inputs = lora_denoiser.inputs({**lora_denoiser.axes(RANKS[0]), "batch": ROWS})
    for name in (LORA_A, LORA_B):
        inputs[name][::2] = 0
    ids = {name: tensor[:1].expand_as(tensor) for name, tensor in inputs.items() if name.endswith("_ids")}
    return arrays({**inputs, **ids})


@pytest.fixture(params=["adapters", "none"])
def inputs(adapted: Arrays, request: pytest.FixtureRequest) -> Arrays:
    tensors = {name: torch.from_numpy(array) for name, array in adapted.items()}
    return adapted if request.param == "adapters" else arrays(with_zero_packs(tensors))


def arrays(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}


def rows(inputs: Arrays, start: int, end: int) -> Arrays:
    return {name: array[start:end] for name, array in inputs.items()}


def test_the_twin_has_no_products_of_packs_and_every_weight(lora_denoiser: Case) -> None:
    adapted, base = lora_denoiser.model.graph, without_packs(lora_denoiser.model).graph
    read = {value.name for node in base for value in node.inputs if value is not None}
    assert not {LORA_A, LORA_B} & (read | {value.name for value in base.inputs})
    assert {LORA_A, LORA_B} < {value.name for value in adapted.inputs}
    weights = [value.name for value in adapted.initializers.values() if value.const_value is None]
    assert weights
    assert set(weights) <= read
    assert len(base) < 0.75 * len(adapted)


def test_a_call_answers_as_the_whole_graph(engine: OnnxEngine, plain: OnnxEngine, inputs: Arrays) -> None:
    (answer,), (wanted,) = engine(inputs), plain(inputs)
    assert np.array_equal(answer, wanted)


def test_without_packs_a_call_answers_as_with_zeros(engine: OnnxEngine, adapted: Arrays) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in adapted.items()}
    zeros = arrays(with_zero_packs(tensors))
    unpacked = {name: array for name, array in zeros.items() if name not in PACKS}
    assert np.array_equal(engine(unpacked)[0], engine(zeros)[0])


@pytest.mark.parametrize("left_out", PACKS)
def test_half_a_pack_is_refused(engine: OnnxEngine, adapted: Arrays, left_out: str) -> None:
    half = {name: array for name, array in adapted.items() if name != left_out}
    with pytest.raises(ValueError, match="of lora_a and lora_b only lora_. was sent: send both, or neither"):
        engine(half)


def test_a_missing_input_is_named(engine: OnnxEngine, adapted: Arrays) -> None:
    with pytest.raises(ValueError, match="timestep"):
        engine({name: array for name, array in adapted.items() if name != "timestep"})


def test_a_part_that_fails_fails_its_call_alone(tmp_path: Path) -> None:
    engine = OnnxEngine(lookup(tmp_path / "model.onnx"), threads=2)
    rows = np.arange(ROWS)[:, None] % 4
    bad = np.concatenate([[[9]], rows[1:]])  # of the first part
    with pytest.raises(InvalidArgument, match="idx=9"):
        engine({"index": bad})
    np.testing.assert_array_equal(engine({"index": rows})[0], 10 * rows)


def lookup(path: Path) -> Path:
    """A graph that answers 10 times `index`, which must be below 4."""
    table = numpy_helper.from_array(np.arange(0, 40, 10), "table")
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", 1]) for name in ("index", "found")
    ]
    nodes = [helper.make_node("Gather", ["table", "index"], ["found"])]
    made = helper.make_graph(nodes, "lookup", tensors[:1], tensors[1:], [table])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_parts_are_as_many_as_threads_where_rows_come_out_nearly_even() -> None:
    split = {threads: [rows for rows in range(1, 13) if even(rows, threads)] for threads in (2, 4, 16)}
    assert split == {2: [*range(2, 13)], 4: [4, 6, 7, 8, 9, 10, 11, 12], 16: []}
    assert [end - start for start, end in shares(7, 3)] == [2, 2, 3]


@pytest.mark.slow  # it exports the denoiser once more
def test_large_weights_lie_in_one_file_for_both_graphs(
    lora_denoiser: Case, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapted: Arrays
) -> None:
    monkeypatch.setattr(graph, "SINGLE_FILE_BYTES", 1000)
    path, component = tmp_path / "model.onnx", lora_denoiser.component
    export_component(lora_denoiser.plan, component, tmp_path, path.name, {})
    assert {each.name for each in tmp_path.iterdir()} == {
        path.name,
        f"{path.name}.data",
        without_adapters(path).name,
    }
    assert np.array_equal(OnnxEngine(path, threads=2)(adapted)[0], OnnxEngine(file, threads=2)(adapted)[0])


def test_a_row_is_the_same_alone_and_in_any_batch(engine: OnnxEngine, inputs: Arrays) -> None:
    """Rows without adapters go to one graph alone, to the other beside rows with adapters."""
    alone = np.concatenate([engine(rows(inputs, row, row + 1))[0] for row in range(ROWS)])
    for size in range(2, ROWS + 1):
        (answer,) = engine(rows(inputs, 0, size))
        assert np.array_equal(answer, alone[:size]), size


def test_adapters_count(engine: OnnxEngine, adapted: Arrays) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in adapted.items()}
    (answer,), (base,) = engine(adapted), engine(arrays(with_zero_packs(tensors)))
    same = [np.array_equal(*pair) for pair in zip(answer, base, strict=True)]
    assert same == [True, False] * (ROWS // 2)
