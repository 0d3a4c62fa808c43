"""Every name of TensorRT that the code uses exists, in the real bindings of both kinds, which need no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorrt_names import missing, names_used, uses_tensorrt, write_libraries

from export.finished import TYPES

ROOT = Path(__file__).parent.parent
# Triton's backend and the build for a GPU that is present use one, the check without a GPU the other.
TENSORRT, RTX = "tensorrt_bindings", "tensorrt_rtx"
ONLY_IN_RTX = {
    "ComputeCapability",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}
ONLY_IN_TENSORRT: set[str] = set()
# Of things of ours that bear such a name: a TensorSpec of families is a tensor, a line of a listing a layer.
NOT_TENSORRTS = {"ITensor.dims", "ILayer.split"}
SNIPPET = """
def build(trt, job, tensor: TensorSpec):
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network(0)
    network.get_input(0).name = tensor.words
    job.context.set_input_shape("x", (1, 4))
    for layer in range(network.num_layers):
        print(network.get_layer(layer))

class Log(trt.ILogger):
    def log(self, severity, message): ...
"""


def sources() -> dict[str, str]:
    """The files that use TensorRT."""
    paths = [*(ROOT / "export").glob("*.py"), *(ROOT / "serving" / "backends" / "tensorrt").glob("*.py")]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}
    return {name: text for name, text in texts.items() if uses_tensorrt(text)}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libraries")
    write_libraries(folder)
    return folder


def test_the_files_that_use_tensorrt_are_found() -> None:
    assert {"export/engine.py", "serving/backends/tensorrt/plan_session.py"} <= set(sources())


@pytest.mark.parametrize(("binding", "elsewhere"), [(TENSORRT, ONLY_IN_RTX), (RTX, ONLY_IN_TENSORRT)])
def test_every_name_exists(libraries: Path, binding: str, elsewhere: set[str]) -> None:
    used = {file: names_used(text) - elsewhere - NOT_TENSORRTS for file, text in sources().items()}
    lacking = missing(binding, set().union(*used.values()), libraries)
    wrong = [f"{file} uses {name}" for file, names in used.items() for name in names.intersection(lacking)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("binding", "other", "names"), [(TENSORRT, RTX, ONLY_IN_RTX), (RTX, TENSORRT, ONLY_IN_TENSORRT)]
)
def test_the_names_of_one_are_just_those(libraries: Path, binding: str, other: str, names: set[str]) -> None:
    assert missing(binding, names, libraries) == sorted(names)
    assert missing(other, names, libraries) == []


@pytest.mark.parametrize("binding", [TENSORRT, RTX])
def test_types_that_are_looked_up_in_a_table_exist(libraries: Path, binding: str) -> None:
    assert missing(binding, {f"DataType.{name}" for name in TYPES.values()}, libraries) == []


def test_chains_and_objects_are_read() -> None:
    assert names_used(SNIPPET) == {
        "Builder",
        "Logger",
        "Logger.WARNING",
        "Builder.create_network",
        "INetworkDefinition.get_input",
        "INetworkDefinition.num_layers",
        "INetworkDefinition.get_layer",
        "IExecutionContext.set_input_shape",
        "ILogger",
        "ILogger.log",
    }


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("Logger.WARNING", "Logger.WARNINGS", "Logger.WARNINGS"),
        ("set_input_shape", "set_binding_shape", "IExecutionContext.set_binding_shape"),
        ("def log(", "def logs(", "ILogger.logs"),
    ],
)
@pytest.mark.parametrize("binding", [TENSORRT, RTX])
def test_a_misspelt_name_is_found(libraries: Path, binding: str, right: str, wrong: str, named: str) -> None:
    assert missing(binding, names_used(SNIPPET), libraries) == []
    assert missing(binding, names_used(SNIPPET.replace(right, wrong)), libraries) == [named]


def test_precisions_that_tensorrt_11_removed_are_missing(libraries: Path) -> None:
    """Networks are strongly typed: the flags are gone, the types are not."""
    assert missing(TENSORRT, {"BuilderFlag.FP16", "BuilderFlag.TF32", "DataType.HALF"}, libraries) == [
        "BuilderFlag.FP16"
    ]
