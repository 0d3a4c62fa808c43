"""One component: checkpoint -> engine file, compared with torch."""

from __future__ import annotations

from pathlib import Path

from torch._subclasses.fake_tensor import FakeTensorMode

from export import graph, models, parity
from export.errors import ExportError
from export.manifest import ComponentRecord, sha256_of_file
from export.plan import Plan
from families import ComponentSpec

UINT8_TOLERANCE = 1.0  # rounding may fall to either side


def export_component(plan: Plan, component: ComponentSpec, repository: Path, file: str) -> ComponentRecord:
    """Writes the engine to `repository`/`file`; its record. ExportError if it differs from torch."""
    configs = plan.checkpoint.configs
    module = models.load(plan.checkpoint, component)
    mode = FakeTensorMode()
    structure = models.fake(plan.checkpoint, component, mode)
    multiples, ranges = plan.checkpoint.family.axis_multiples, plan.ranges_of(component)
    program = graph.trace(component, structure, mode, plan.traced_axes, ranges, multiples, configs)
    model = graph.to_onnx(component, program, plan.target.opset)
    graph.put_weights(model, models.weights(module))
    graph.save(model, repository / file)
    session = parity.open_session(repository / file)
    errors = {
        words: parity.max_error(session, module, parity.random_inputs(component, axes, configs))
        for words, axes in plan.checked_axes.items()
    }
    record = ComponentRecord(
        file=file,
        sha256=sha256_of_file(repository / file),
        inputs_sha256=plan.component_sha256(component),
        max_error=errors,
        tolerance=UINT8_TOLERANCE if component.outputs[0].dtype == "UINT8" else plan.target.tolerance,
    )
    _check(component, record)
    return record


def _check(component: ComponentSpec, record: ComponentRecord) -> None:
    for words, error in record.max_error.items():
        if not error <= record.tolerance:  # a NaN fails too
            raise ExportError(
                f"{component.name} differs from torch by {error:.1e} at {words}; allowed {record.tolerance:g}"
            )
