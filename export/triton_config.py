"""config.pbtxt of the model that serves an engine, complete: Triton need not ask the plan.

With --disable-auto-complete-config Triton reads a plan once, not twice. What the fields do is read from
Triton's tensorrt_backend, src/instance_state.cc, and its core, src/backend_model_instance.cc for warm-ups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

from export.errors import ExportError
from export.layout import Layout
from families import ComponentSpec, TensorSpec, Width
from families.lora import RANKS
from families.triton import component_config, numbers, parameters, tensor_line

TENSORRT = "tensorrt"
# For Python-based models, whose inputs Triton otherwise brings to the CPU. Other backends do not read it.
GPU_INPUTS = {"FORCE_CPU_ONLY_INPUT_TENSORS": "no"}
# A denoiser's call for one picture most often has the machine to itself: its threads may wait in loops.
SPINNING = {"session.intra_op.allow_spinning": 1}
# A plan has one profile, for which both strategies allocate the same, whether it encodes text or denoises.
# This one never moves the memory, whose address captured graphs keep.
ALLOCATION = {"execution_context_allocation_strategy": "STATIC"}

# A VAE's kernels run for long and once a picture: nothing to gain from launching them faster.
# Only when asked for: with graphs on, Triton 25.06 to 25.10 was seen to answer with an earlier request's
# output (server issue 8550, open when this was written). On a GPU, first compare answers to alternating
# requests with and without.
UNCAPTURED = "vae"
TEXT_LENGTHS = 128, 256  # tokens that get graphs of their own, beside the most that the checkpoint reads

INSTANCES = """\
# Triton does not share a plan with dynamic shapes: each further instance would load all weights again.
instance_group [ { count: 1 kind: KIND_GPU } ]"""
BATCHING = """\
# Requests that wait already run as one; none waits for others.
dynamic_batching { max_queue_delay_microseconds: 0 }"""
CACHE = """\
# Triton's cache takes tensors on the CPU only. So it keeps what our Python-based backend answers; of what the
# C++ one leaves on the GPU it keeps nothing, and logs that for every prompt.
response_cache { enable: true }"""

Call = Mapping[str, tuple[int, ...]]  # input -> shape, batch first


def model_config(layout: Layout, component: ComponentSpec) -> str:
    """config.pbtxt of the model that serves `component`; ExportError if a shape in it leaves the profile."""
    if layout.target.engine == TENSORRT:
        return _plan_config(layout, component)
    config = component_config(layout.family, layout.spec(component)) + f'backend: "{layout.target.engine}"\n'
    return config + (parameters(SPINNING) if component.denoiser else BATCHING + "\n")


def _plan_config(layout: Layout, component: ComponentSpec) -> str:
    graphs, warmup = graph_calls(layout, component), warmup_call(layout, component)
    check_calls(layout, component, [largest_call(layout, component), *graphs, warmup])
    lines = [
        *_head(layout, component),
        *_tensors(layout, component),
        INSTANCES,
        *([] if component.denoiser else [BATCHING]),
        *([CACHE] if component.response_cache else []),
        parameters({**ALLOCATION, **GPU_INPUTS}).rstrip(),
        *([_cuda(graphs)] if graphs else []),
        _warmup(layout, component, warmup),
    ]
    return "\n".join(lines) + "\n"


def _head(layout: Layout, component: ComponentSpec) -> list[str]:
    return [
        "# Written by `python -m export`: change export/triton_config.py and export again.",
        f'name: "{layout.family.model_name(component)}"',
        'platform: "tensorrt_plan"',
        f'backend: "{TENSORRT}"',
        f'default_model_filename: "{layout.target.engine_file}"',
        "version_policy { latest { num_versions: 1 } }",
        f"max_batch_size: {max_batch_size(layout, component)}",
    ]


def _tensors(layout: Layout, component: ComponentSpec) -> list[str]:
    spec = layout.spec(component)
    sides = [("input", tensor) for tensor in spec.inputs] + [("output", tensor) for tensor in spec.outputs]
    return [tensor_line(side, tensor, _dims(layout, tensor)) for side, tensor in sides]


def max_batch_size(layout: Layout, component: ComponentSpec) -> int:
    """Rows of the largest call that the plan of `component` takes."""
    return layout.ranges_of(component)["batch"][1]


def _dims(layout: Layout, tensor: TensorSpec) -> list[int]:
    """-1 for what the request decides; the plan's buffers are then as large as its profile allows."""
    configs = layout.checkpoint.configs
    widths = [size.resolve(configs) if isinstance(size, Width) else size for size in tensor.shape]
    return [-1 if isinstance(size, str) else size for size in widths]


def largest_call(layout: Layout, component: ComponentSpec) -> Call:
    """The most that the config allows: -1 where it sets no limit."""
    rows = max_batch_size(layout, component)
    return {tensor.name: (rows, *_dims(layout, tensor)) for tensor in layout.spec(component).inputs}


def native_call(layout: Layout, component: ComponentSpec, rows: int, text_length: int, rank: int) -> Call:
    """A call for pictures of the checkpoint's native size."""
    size = layout.checkpoint.native_size
    axes = layout.axes(rows, size, size, text_length, rank)
    return layout.spec(component).input_sizes(axes, layout.checkpoint.configs)


def graph_calls(layout: Layout, component: ComponentSpec) -> list[Call]:
    """Calls for one picture that are launched as one CUDA graph; a call of other shapes is launched as ever.

    Each is a graph for every of Triton's three sets of events, so only sizes that come often are worth it.
    """
    if not layout.cuda_graphs or component.folder == UNCAPTURED:
        return []
    rank, rows = layout.target.profile.rank, (1, component.rows_per_picture)
    choices = product(rows, text_lengths(layout), (max(rank.min, RANKS[0]), rank.opt))
    calls = [native_call(layout, component, *choice) for choice in choices]
    return [call for place, call in enumerate(calls) if call not in calls[:place]]


def text_lengths(layout: Layout) -> list[int]:
    """Tokens of the second text encoder that graphs are captured for."""
    least, most = layout.ranges["text_length"]
    return [*(length for length in TEXT_LENGTHS if least <= length < most), most]


def warmup_call(layout: Layout, component: ComponentSpec) -> Call:
    """One picture with as much text as the checkpoint reads and an adapter of the usual rank."""
    rank = layout.target.profile.rank.opt
    return native_call(layout, component, component.rows_per_picture, text_lengths(layout)[-1], rank)


def check_calls(layout: Layout, component: ComponentSpec, calls: Iterable[Call]) -> None:
    """ExportError at the first shape of `calls` that the plan of `component` would refuse."""
    for call, (name, (least, _, most)) in product(calls, layout.profile(component).items()):
        if not _fits(call[name], least, most):
            shape = list(call[name])
            raise ExportError(f"{component.name}: {name} {shape} is not in the profile {least}..{most}")


def _fits(shape: tuple[int, ...], least: list[int], most: list[int]) -> bool:
    sizes = zip(least, shape, most, strict=False)
    return len(shape) == len(most) and all(size == -1 or low <= size <= high for low, size, high in sizes)


def _cuda(calls: Iterable[Call]) -> str:
    """Without graph_lower_bound a graph serves its own shapes only, so that no call is padded to it."""
    return "\n".join(["optimization { cuda {", "  graphs: true", *map(_graph, calls), "} }"])


def _graph(call: Call) -> str:
    inputs = [
        f'    input {{ key: "{name}" value {{ dim: {numbers(shape[1:])} }} }}' for name, shape in call.items()
    ]
    return "\n".join(["  graph_spec {", f"    batch_size: {_rows(call)}", *inputs, "  }"])


def _warmup(layout: Layout, component: ComponentSpec, call: Call) -> str:
    """Zeros of every type, BF16 too: random bytes would be token ids that no vocabulary has."""
    inputs = [
        f'  inputs {{ key: "{tensor.name}" value {{ data_type: TYPE_{tensor.dtype} '
        f"dims: {numbers(call[tensor.name][1:])} zero_data: true }} }}"
        for tensor in layout.spec(component).inputs
    ]
    head = [f'  name: "{layout.checkpoint.native_size} px"', f"  batch_size: {_rows(call)}"]
    return "\n".join(["model_warmup [ {", *head, *inputs, "} ]"])


def _rows(call: Call) -> int:
    return next(iter(call.values()))[0]
