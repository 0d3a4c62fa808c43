"""What components are made of: layers with weights, attentions without, and the positions they run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from families.spec import Axes, Dimension

Kind = Literal["linear", "conv", "norm", "embedding"]


@dataclass(frozen=True)
class Positions:
    """Positions of one row of a batch: `fixed`, plus the sizes of `axes`, plus a picture's pixels.

    `shrink` is the number of pixels that a position spans, each way; 0: no picture.
    """

    fixed: int = 0
    axes: tuple[str, ...] = ()
    shrink: int = 0

    def count(self, axes: Axes) -> int:
        picture = (axes["height"] // self.shrink) * (axes["width"] // self.shrink) if self.shrink else 0
        return self.fixed + sum(axes[name] for name in self.axes) + picture


ONCE = Positions(fixed=1)  # per row of the batch, as embeddings of the timestep


def tokens(size: Dimension) -> Positions:
    """The positions of a tensor whose first size after the batch is `size`."""
    return Positions(axes=(size,)) if isinstance(size, str) else Positions(fixed=int(str(size)))


def picture(shrink: int) -> Positions:
    """The positions of a feature map `shrink` times smaller, each way, than the picture."""
    return Positions(shrink=shrink)


@dataclass(frozen=True)
class Layer:
    """A module with weights. `name` is the module's in the state dict of the component's class.

    An embedding's `in_features` are its rows; a norm's `in_features` and `out_features` are equal.
    """

    name: str
    kind: Kind
    in_features: int
    out_features: int
    positions: Positions
    bias: bool = True
    kernel: int = 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """torch's: [out, in], [out, in, kernel, kernel], [size] or [rows, size]."""
        return {
            "linear": (self.out_features, self.in_features),
            "conv": (self.out_features, self.in_features, self.kernel, self.kernel),
            "norm": (self.out_features,),
            "embedding": (self.in_features, self.out_features),
        }[self.kind]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape."""
        weight = {f"{self.name}.weight": self.weight_shape}
        return {**weight, f"{self.name}.bias": (self.out_features,)} if self.bias else weight

    def rows(self, axes: Axes) -> int:
        """Positions that a call with these axes runs it on, over the whole batch."""
        return axes["batch"] * self.positions.count(axes)

    def flops(self, axes: Axes) -> int:
        """FLOP = 2 x MAC; only matrix products and convolutions count."""
        if self.kind not in ("linear", "conv"):
            return 0
        return 2 * self.in_features * self.out_features * self.kernel**2 * self.rows(axes)


@dataclass(frozen=True)
class Attention:
    """softmax(Q K') V without its projections; `width` is heads x size of a head."""

    name: str
    width: int
    queries: Positions
    keys: Positions

    def flops(self, axes: Axes) -> int:
        """FLOP = 2 x MAC of both matrix products."""
        return 4 * axes["batch"] * self.queries.count(axes) * self.keys.count(axes) * self.width


Part = Layer | Attention


def linear(name: str, in_features: int, out_features: int, positions: Positions, bias: bool = True) -> Layer:
    return Layer(name, "linear", in_features, out_features, positions, bias)


def conv(name: str, in_channels: int, out_channels: int, positions: Positions, kernel: int = 3) -> Layer:
    """`positions` are those of the output."""
    return Layer(name, "conv", in_channels, out_channels, positions, kernel=kernel)


def norm(name: str, size: int, positions: Positions, bias: bool = True) -> Layer:
    return Layer(name, "norm", size, size, positions, bias)


def embedding(name: str, rows: int, size: int, positions: Positions) -> Layer:
    return Layer(name, "embedding", rows, size, positions, bias=False)
