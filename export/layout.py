"""What a component's engine is to be on a target: tensors, axis sizes, precision. No weights, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from export.targets import COMPUTE, Target
from families import Axes, ComponentSpec, FamilySpec
from families.layers import LoraTarget, lora_targets
from families.lora import with_lora
from families.loras import Applied
from families.spec import Configs


class Structure(Protocol):
    """What decides a graph: a checkpoint's configs, or published ones without their weights."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> FamilySpec: ...
    @property
    def index(self) -> Mapping[str, Any]: ...  # part -> (library, class)
    @property
    def configs(self) -> Configs: ...
    @property
    def native_size(self) -> int: ...  # pixels of a side
    @property
    def max_sequence_length(self) -> int: ...  # tokens of the second text encoder
    @property
    def denoiser_sha256(self) -> str: ...  # of its weights; blank if there are none


@dataclass(frozen=True)
class Layout:
    """The engines of `checkpoint` on `target`; with `lora`, denoisers take packed adapters as inputs.

    `cuda_graphs` has Triton launch the commonest calls as CUDA graphs. `merged` are adapters that the
    denoiser's weights already have.
    """

    checkpoint: Structure
    target: Target
    lora: bool = False
    cuda_graphs: bool = False
    merged: tuple[Applied, ...] = ()

    @property
    def family(self) -> FamilySpec:
        return self.checkpoint.family

    def key(self, component: ComponentSpec) -> str:
        return self.family.key(component)

    def precision(self, component: ComponentSpec) -> str:
        return self.target.default_precision(self.key(component))

    def compute(self, component: ComponentSpec) -> str:
        """What the engine computes in where its precision leaves the choice: a word of `COMPUTE`."""
        return self.target.precisions[self.key(component)][self.precision(component)]

    def opset(self, component: ComponentSpec) -> int:
        """The target's; a VAE's one head of 512 has no fused kernel, so it must not be 23's one Attention."""
        opset = self.target.denoiser_opset if component.denoiser else self.target.opset
        return min(opset, 22) if component.folder == "vae" else opset

    def targets(self, component: ComponentSpec) -> tuple[LoraTarget, ...]:
        """The linears of `component` that take adapters in this export."""
        return lora_targets(self.family, component, self.checkpoint.configs) if self.lora else ()

    def lora_contract(self, component: ComponentSpec) -> dict[str, int] | None:
        """What an adapter must fit: number of targets, sums of their sizes, the largest rank."""
        if not (targets := self.targets(component)):
            return None
        last = targets[-1]  # offsets are cumulative
        return {
            "targets": len(targets),
            "sum_in": last.in_offset + last.in_features,
            "sum_out": last.out_offset + last.out_features,
            "max_rank": self.max_rank,
        }

    @property
    def max_rank(self) -> int:
        """The largest rank of adapters that the denoiser takes; 0 if it takes none."""
        return self.target.profile.rank.max if self.lora else 0

    def spec(self, component: ComponentSpec) -> ComponentSpec:
        """`component` with the tensors that its engine has here. Packs come in the engine's own type."""
        contract = self.lora_contract(component)
        if contract is None:
            return component
        sums = contract["sum_in"], contract["sum_out"]
        return with_lora(component, *sums, dtype=COMPUTE[self.compute(component)])

    def axes(self, batch: int, height: int, width: int, text_length: int, rank: int = 0) -> Axes:
        sizes = {"batch": batch, "height": height, "width": width, "text_length": text_length}
        return self.family.axes(**sizes, rank=rank)

    def extreme(self, end: str, rows_per_picture: int = 1) -> Axes:
        """Axis sizes at one `end` of the profile: "min", "opt" or "max"; the smallest batch is one row."""
        size, batch, text, rank = (
            getattr(getattr(self.target.profile, axis), end)
            for axis in ("size", "batch", "text_length", "rank")
        )
        rows = batch if end == "min" else batch * rows_per_picture
        return self.axes(rows, size, size, min(text, self.checkpoint.max_sequence_length), rank)

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """Axis -> smallest and largest size of a request."""
        least, most = self.extreme("min"), self.extreme("max")
        return {name: (least[name], most[name]) for name in least}

    def ranges_of(self, component: ComponentSpec) -> dict[str, tuple[int, int]]:
        """`ranges`, with the rows that a call of `component` may have."""
        most = self.extreme("max", component.rows_per_picture)
        return {**self.ranges, "batch": (1, most["batch"])}

    def profile(self, component: ComponentSpec) -> dict[str, list[list[int]]]:
        """Input -> its [min, opt, max] shapes: the optimization profile of the engine."""
        spec, configs = self.spec(component), self.checkpoint.configs
        ends = [self.extreme(end, component.rows_per_picture) for end in ("min", "opt", "max")]
        sizes = [spec.input_sizes(axes, configs) for axes in ends]
        return {name: [list(size[name]) for size in sizes] for name in sizes[0]}

    @property
    def traced_axes(self) -> Axes:
        """Sizes to trace with: at least 2 and all different, lest the exporter take one for a constant."""
        step, low = self.family.size_multiple, self.target.min_size
        text = max(self.checkpoint.max_sequence_length // 2 - 1, self.target.profile.text_length.min)
        return self.axes(2, low + 2 * step, low + 4 * step, text, rank=6)

    @property
    def checked_axes(self) -> dict[str, Axes]:
        """Sizes at which an engine is compared with torch, by their words."""
        step, low = self.family.size_multiple, self.target.min_size
        length = self.checkpoint.max_sequence_length
        calls = ((1, low, low + step, length, 4), (3, low + 5 * step, low + 2 * step, length // 2, 6))
        return {f"batch {b}, {h}x{w} px, {t} tokens": self.axes(b, h, w, t, r) for b, h, w, t, r in calls}
