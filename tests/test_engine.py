"""Plans by the compiler that needs no GPU: what they have is checked, and a failure leaves what was there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import tensorrt_rtx
from small_graphs import Case

from export import engine, values
from export.builder_log import new_log
from export.component import job
from export.engine import Job
from export.errors import ExportError
from export.finished import Engine, check_finished
from export.spill import Spill
from families import TensorSpec

RTX = "tensorrt_rtx"
Change = Callable[[Job], Job]


@pytest.fixture(scope="module")
def spill(plan_case: Case, tmp_path_factory: pytest.TempPathFactory) -> Spill:
    return Spill(tmp_path_factory.mktemp("spill"), values.capacity(plan_case.model))


@pytest.fixture(scope="module")
def work(plan_case: Case, spill: Spill) -> Job:
    """The build of the VAE decoder; its weights lie in `spill`."""
    buffers = values.buffers(plan_case.model, plan_case.weights, {}, spill)
    return job(plan_case.plan, plan_case.component, plan_case.model, buffers)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine") / "model.plan"


@pytest.fixture(scope="module")
def built(work: Job, plan: Path) -> Engine:
    return engine.build(RTX, work, plan)


def test_the_engine_has_the_component_s_tensors(built: Engine, work: Job) -> None:
    assert {*built.tensors} == {"latents", "images"}
    latents, images = built.tensors["latents"], built.tensors["images"]
    assert (latents.dtype, latents.shape) == ("FLOAT", [-1, 16, -1, -1])
    assert (images.dtype, images.shape, images.profile) == ("UINT8", [-1, -1, -1, 3], [])
    assert latents.profile == [[1, 16, 8, 8], [1, 16, 16, 16], [4, 16, 32, 32]] == work.shapes["latents"]


def test_the_plan_is_a_file_of_its_own(built: Engine, plan: Path) -> None:
    assert [path.name for path in plan.parent.iterdir()] == ["model.plan"]
    assert built.plan_bytes == plan.stat().st_size > built.weights_bytes > 1e6
    assert built.device_memory_bytes > 1e6
    assert (built.builder, built.version) == (RTX, tensorrt_rtx.__version__)
    assert len(built.layers) > 20


def without_a_weight(work: Job) -> Job:
    kept = dict(list(work.weights.items())[1:])
    return replace(work, weights=kept)


def short_weight(work: Job) -> Job:
    name, buffer = next(iter(work.weights.items()))
    return replace(work, weights={**work.weights, name: buffer._replace(bytes=buffer.bytes - 2)})


def strange_weight(work: Job) -> Job:
    return replace(work, weights={**work.weights, "stranger": next(iter(work.weights.values()))})


def cut_graph(work: Job) -> Job:
    return replace(work, graph=work.graph[: len(work.graph) // 2])


def fp8_input(work: Job) -> Job:
    """The first convolution's input is cast to FLOAT8E4M3FN, its weight is not."""
    model = onnx.load_from_string(work.graph)
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    cast.attribute[0].i = onnx.TensorProto.FLOAT8E4M3FN
    return replace(work, graph=model.SerializeToString())


def shapes(*sizes: list[int]) -> Change:
    return lambda work: replace(work, shapes={"latents": list(sizes)})


def tensors(**changes: object) -> Change:
    """The component's output is another one."""

    def change(work: Job) -> Job:
        (images,) = work.component.outputs
        return replace(work, component=replace(work.component, outputs=(replace(images, **changes),)))

    return change


REFUSED: dict[str, tuple[Change, str]] = {
    "missing weight": (without_a_weight, "Failed to import initializer"),
    "short weight": (short_weight, "mismatches with that expected by the model"),
    "strange weight": (strange_weight, "Cannot find initializer name: stranger"),
    "cut graph": (cut_graph, "Failed to parse the ONNX model"),
    "fp8": (fp8_input, "IConvolutionLayer"),
    "profile of other channels": (shapes([1, 8, 8, 8], [1, 8, 8, 8], [1, 8, 8, 8]), "profile 0"),
    "falling profile": (
        shapes([2, 16, 8, 8], [1, 16, 8, 8], [1, 16, 8, 8]),
        "the builder refuses the profile",
    ),
    "no profile": (lambda work: replace(work, shapes={}), "missing dimensions in profile 0"),
    "other type": (tensors(dtype="FP32"), "where images is FP32 ['batch', 'height', 'width', 3]"),
    "other name": (tensors(name="pictures"), "the network has no such tensor where pictures is UINT8"),
    "other shape": (
        tensors(shape=("height", "width", 4)),
        "where images is UINT8 ['batch', 'height', 'width', 4]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_failed_build_is_one_line_and_leaves_the_old_plan(name: str, work: Job, tmp_path: Path) -> None:
    (change, fault), path = REFUSED[name], tmp_path / "model.plan"
    path.write_bytes(b"the old plan")
    with pytest.raises(ExportError) as refused:
        engine.build(RTX, change(work), path)
    assert str(refused.value).startswith("vae_decoder: ") and fault in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [
        ("model.plan", b"the old plan")
    ]


OTHER = TensorSpec("latents", "BF16", (16, "latent_height", "latent_width"))
UNFIT: dict[str, tuple[Change, str]] = {
    "profile": (shapes([1, 16, 8, 8], [1, 16, 16, 16], [8, 16, 32, 32]), r"with profile .*\[8, 16, 32, 32\]"),
    "type": (
        lambda work: replace(work, component=replace(work.component, inputs=(OTHER,))),
        "where latents is BF16",
    ),
    "tensor too many": (
        lambda work: replace(work, component=replace(work.component, outputs=())),
        "the engine has other tensors too: latents, images",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_finished_engine_that_is_not_what_was_asked_for_is_refused(
    name: str, work: Job, built: Engine
) -> None:
    change, fault = UNFIT[name]
    check_finished(built, work.component, work.shapes)
    with pytest.raises(ExportError, match=fault):
        check_finished(built, change(work).component, change(work).shapes)


@pytest.mark.parametrize("severity", ["ERROR", "WARNING", "INFO"])
def test_a_plan_that_is_not_self_consistent_is_a_failure(severity: str) -> None:
    """The builder says so in a warning, or in an error, and goes on."""
    said = "Internal error: plan is not self-consistent\nat node 3"
    log = new_log(tensorrt_rtx)
    log.log(getattr(tensorrt_rtx.ILogger, severity), said)
    assert log.failures == [said]


def test_a_log_keeps_what_is_said_and_fails_by_errors_alone() -> None:
    log = new_log(tensorrt_rtx)
    for severity in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        log.log(getattr(tensorrt_rtx.ILogger, severity), severity.lower())
    assert log.failures == ["internal_error", "error"]
    assert log.lines == ["internal_error", "error", "warning", "info"]
