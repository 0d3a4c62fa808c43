"""perf_analyzer's input files: one for each ensemble, up to date, read as perf_analyzer reads them."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from benchmarks import inputs
from families import FAMILIES, FLUX, SDXL, Range, TensorSpec, check_strength
from families.generated import differing
from families.triton import MODEL_REPOSITORY
from gateway.samples import ORDERS, Order

FILES = sorted(inputs.FOLDER.iterdir())
ENTRIES = [(path, number) for path in FILES for number in range(len(inputs.PROMPTS))]
# Triton's dtype -> (smallest, largest) element of a content list.
LIMITS = {
    "TYPE_INT32": (-(2**31), 2**31 - 1),
    "TYPE_INT64": (-(2**63), 2**63 - 1),
    "TYPE_FP32": (-3e38, 3e38),
}


def entries_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["data"]


def config_of(path: Path) -> Any:
    config = MODEL_REPOSITORY / path.stem / "config.pbtxt"
    return text_format.Parse(config.read_text(), ModelConfig())


def order_of(path: Path) -> Order:
    return next(order for order in ORDERS if order.ensemble == path.stem)


def parsed(dtype: str, tensor: dict[str, Any]) -> list[Any]:
    """The elements of a tensor by perf_analyzer's rules: bytes as they are, or values in range."""
    content, count = tensor["content"], math.prod(tensor["shape"])
    if isinstance(content, dict):
        assert dtype == "TYPE_UINT8" and set(content) == {"b64"}
        elements = list(base64.b64decode(content["b64"], validate=True))
    elif dtype == "TYPE_STRING":
        elements = [text for text in content if isinstance(text, str)]
    else:
        low, high = LIMITS[dtype]
        kinds = (int, float) if dtype == "TYPE_FP32" else (int,)
        elements = [value for value in content if type(value) in kinds and low <= value <= high]
    assert len(elements) == count
    return elements


def value_of(entry: dict[str, Any], name: str) -> Any:
    return entry[name]["content"][0]


def test_every_ensemble_has_its_file_and_no_file_is_left_over() -> None:
    in_repository = {
        path.parent.name
        for path in MODEL_REPOSITORY.glob("*/config.pbtxt")
        if 'platform: "ensemble"' in path.read_text()
    }
    assert {path.name for path in FILES} == {f"{name}.json" for name in in_repository}


def test_the_files_are_up_to_date() -> None:
    assert differing(inputs.wanted()) == {}


def test_check_finds_what_differs_and_writing_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--folder", str(tmp_path / "inputs")]
    assert inputs.main([*folder, "--check"]) == 1
    assert not (tmp_path / "inputs").exists()
    assert inputs.main(folder) == 0
    assert inputs.main([*folder, "--check"]) == 0
    spoilt = tmp_path / "inputs" / "flux_text_to_image.json"
    spoilt.write_text(spoilt.read_text().replace("red", "blue"))
    capsys.readouterr()
    assert inputs.main([*folder, "--check"]) == 1
    assert capsys.readouterr().out.startswith(f"{spoilt}: differs")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_has_nothing_but_data(path: Path) -> None:
    assert set(json.loads(path.read_text())) == {
        "data"
    }  # perf_analyzer counts the entries of such files only
    assert len(entries_of(path)) == 8


@pytest.mark.parametrize(("path", "number"), ENTRIES, ids=lambda value: getattr(value, "stem", value))
def test_an_entry_is_what_the_config_declares(path: Path, number: int) -> None:
    entry, declared = entries_of(path)[number], config_of(path).input
    assert set(entry) == {tensor.name for tensor in declared}
    for tensor in declared:
        given = entry[tensor.name]
        fixed = zip(given["shape"], tensor.dims, strict=True)  # both without the batch axis
        assert all(size == dim or dim == -1 for size, dim in fixed), tensor.name
        parsed(DataType.Name(tensor.data_type), given)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_entries_ask_for_the_family_s_defaults_and_differ_in_prompt_and_seed(path: Path) -> None:
    order, entries = order_of(path), entries_of(path)
    family, varied = order.family, ("prompt", "negative_prompt", "seed", "image")
    for name in ("prompt", "seed"):
        assert len({value_of(entry, name) for entry in entries}) == len(entries)
    for entry in entries:
        same = [name for name in entry if name not in varied]
        assert all(entry[name] == entries[0][name] for name in same)
        assert value_of(entry, "num_inference_steps") == family.num_inference_steps.default
        assert value_of(entry, "guidance_scale") == family.guidance_scale.default
        if "scheduler" in entry:
            family.check_scheduler(value_of(entry, "scheduler"))
        if order.spec.takes_image:
            check_strength(value_of(entry, "strength"), value_of(entry, "num_inference_steps"))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_size_is_one_that_every_family_takes(family: Any) -> None:
    family.check_size("height", inputs.SIZE, Range(64, 128, 512))


def test_base_images_differ_and_fill_the_range() -> None:
    pictures = {inputs.gradient(number) for number in range(8)}
    assert len(pictures) == 8
    picture = np.frombuffer(inputs.gradient(7), np.uint8).reshape(inputs.SIZE, inputs.SIZE, 3)
    assert picture[0, 0].tolist() == [0, 0, 255] and picture[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (
            TensorSpec("new_setting", "FP32", (1,)),
            "no value for input 'new_setting' of sdxl; VALUES has prompt",
        ),
        (TensorSpec("seed", "FP32", (1,)), r"seed: 0 is not FP32 \[1\]"),
        (TensorSpec("seed", "INT64", (2,)), r"seed: 0 is not INT64 \[2\]"),
        (TensorSpec("seed", "UINT32", (1,)), r"seed: 0 is not UINT32 \[1\]"),
        (TensorSpec("prompt", "INT32", (1,)), "prompt: 'a sleek red .* is not INT32"),
        (TensorSpec("image", "UINT8", ("height", "width", 4)), r"image: .* is not UINT8 \[128, 128, 4\]"),
        (TensorSpec("image", "FP32", ("height", "width", 3)), r"image: .* is not FP32 \[128, 128, 3\]"),
    ],
)
def test_an_ensemble_input_that_has_no_value_is_never_left_out(tensor: TensorSpec, fault: str) -> None:
    ensemble = SDXL.ensemble("image_to_image")
    others = tuple(one for one in ensemble.inputs if one.name != tensor.name)
    changed = replace(ensemble, inputs=(*others, tensor))
    family = replace(SDXL, ensembles=(changed,))
    with pytest.raises(ValueError, match=fault):
        inputs.text(Order(family, changed.task))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_requests_are_of_one_picture_and_carry_the_config_s_dtypes(path: Path) -> None:
    declared = {tensor.name: tensor for tensor in config_of(path).input}
    requests = inputs.requests(path)
    assert len(requests) == 8
    for request, entry in zip(requests, entries_of(path), strict=True):
        assert {tensor.name() for tensor in request} == set(declared)
        for tensor in request:
            wanted = DataType.Name(declared[tensor.name()].data_type).removeprefix("TYPE_")
            assert tensor.datatype() == wanted.replace("STRING", "BYTES")
            assert tensor.shape() == [1, *entry[tensor.name()]["shape"]]


def test_a_request_carries_the_entry_s_values() -> None:
    path = inputs.FOLDER / "flux_image_to_image.json"
    content = {tensor.name(): tensor._raw_content for tensor in inputs.requests(path)[3]}
    assert content["image"] == inputs.gradient(3)
    assert content["seed"] == (3).to_bytes(8, "little")
    assert content["prompt"][4:].decode() == inputs.prompt(3)
    assert np.frombuffer(content["strength"], np.float32)[0] == np.float32(FLUX.default_strength)
