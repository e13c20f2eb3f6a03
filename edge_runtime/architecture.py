"""Layers in a row: what each one takes, gives and holds, in plain integers.

A device checks an offered model here before NumPy or the kernels are imported, and before anything is allocated for it.
Examples are channels-last: a vector (I,), a sequence (T, C) or an image (H, W, C). Layers are counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from edge_runtime.tables import Range, Tagged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Shape: TypeAlias = tuple[int, ...]
Activation = Literal["identity", "relu", "tanh", "sigmoid", "softplus"]
Count = Annotated[int, Range(1, 65_536)]
Sizes = Count | Annotated[tuple[Count, ...], Range(2, 2)]  # [height, width], or one number for both
Paddings = Annotated[int, Range(0, 65_535)] | Annotated[tuple[Annotated[int, Range(0, 65_535)], ...], Range(2, 2)]
Epsilon = Annotated[float, Range(1e-12, 1)]

MAX_STEPS = 65_536  # of a recurrent layer: they run one after the other
MAX_POSITIONS = 1 << 24  # values of one example anywhere in the network


class Unfit(Exception):
    """A layer cannot take the shape before it: what it wants, and what to do."""

    def __init__(self, wants: str, advice: str = "") -> None:
        super().__init__(wants)
        self.wants, self.advice = wants, advice


@dataclass(frozen=True)
class Dense:
    """y = x W + b."""

    units: Count
    activation: Activation = "identity"
    bias: bool = True
    frozen: bool = False
    type: Literal["dense"] = field(default="dense", kw_only=True)

    def output(self, shape: Shape) -> Shape:
        _want_rank(shape, 1, "a vector", "put a flatten layer before it")
        return (self.units,)

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (shape[0], self.units), **_bias(self.units, self.bias)}

    def operations(self, shape: Shape) -> int:
        return shape[0] * self.units


@dataclass(frozen=True)
class Conv:
    """A convolution over time (conv1d) or over height and width (conv2d), zeros beyond the edges."""

    filters: Count
    kernel: Sizes
    stride: Sizes = 1
    padding: Paddings = 0
    activation: Activation = "identity"
    bias: bool = True
    frozen: bool = False
    type: Literal["conv1d", "conv2d"] = field(kw_only=True)

    def output(self, shape: Shape) -> Shape:
        return (*_windows(self, self.kernel, shape), self.filters)

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        weight = (*_sizes(self.kernel, len(shape) - 1), shape[-1], self.filters)
        return {"weight": weight, **_bias(self.filters, self.bias)}

    def operations(self, shape: Shape) -> int:
        return math.prod(self.output(shape)) * math.prod(_sizes(self.kernel, len(shape) - 1)) * shape[-1]


@dataclass(frozen=True)
class DepthwiseConv:
    """A convolution of every channel by itself."""

    kernel: Sizes
    stride: Sizes = 1
    padding: Paddings = 0
    activation: Activation = "identity"
    bias: bool = True
    frozen: bool = False
    type: Literal["depthwise_conv1d", "depthwise_conv2d"] = field(kw_only=True)

    def output(self, shape: Shape) -> Shape:
        return (*_windows(self, self.kernel, shape), shape[-1])

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        weight = (*_sizes(self.kernel, len(shape) - 1), shape[-1])
        return {"weight": weight, **_bias(shape[-1], self.bias)}

    def operations(self, shape: Shape) -> int:
        return math.prod(self.output(shape)) * math.prod(_sizes(self.kernel, len(shape) - 1))


@dataclass(frozen=True)
class Pool:
    """The largest or the mean value of each window; beyond the edges a maximum sees nothing, a mean sees zeros."""

    size: Sizes
    stride: Sizes | None = None  # the size
    padding: Paddings = 0
    type: Literal["max_pool", "average_pool"] = field(kw_only=True)

    def output(self, shape: Shape) -> Shape:
        return (*_windows(self, self.size, shape), shape[-1])

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {}

    def operations(self, shape: Shape) -> int:
        return math.prod(self.output(shape)) * math.prod(_sizes(self.size, len(shape) - 1))


@dataclass(frozen=True)
class Norm:
    """Group normalization (over positions and a group's channels) or layer normalization (over the channels of each
    position), with a scale and a shift for each channel. Neither looks at another example.
    """

    groups: Annotated[int, Range(1, 65_536)] | None = None
    epsilon: Epsilon = 1e-5
    frozen: bool = False
    type: Literal["group_norm", "layer_norm"] = field(kw_only=True)

    def __post_init__(self) -> None:
        if (self.groups is None) != (self.type == "layer_norm"):
            raise ValueError(f"{self.type} takes {'no groups' if self.groups else 'a number of groups'}")

    def output(self, shape: Shape) -> Shape:
        channels = shape[-1]
        if self.groups is None and channels == 1:
            raise Unfit("takes more than one channel, or every output is its shift", "use group_norm, or leave it out")
        if self.groups is not None and channels % self.groups:
            raise Unfit(f"wants channels in {self.groups} equal groups")
        if self.groups is not None and math.prod(shape) == self.groups:
            raise Unfit("takes more than one value a group, or every output is its shift", "take fewer groups")
        return shape

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (shape[-1],), "bias": (shape[-1],)}

    def operations(self, shape: Shape) -> int:
        return 4 * math.prod(shape)


@dataclass(frozen=True)
class Gru:
    """A gated recurrent unit as in PyTorch (reset gate after the product); gives its last state, or with ``sequences``
    that of every step.
    """

    units: Count
    sequences: bool = False
    frozen: bool = False
    type: Literal["gru"] = field(default="gru", kw_only=True)

    def output(self, shape: Shape) -> Shape:
        _want_rank(shape, 2, "a sequence (steps, channels)")
        if shape[0] > MAX_STEPS:
            raise Unfit(f"takes at most {MAX_STEPS} steps", "pool or convolve with a stride before it")
        return (shape[0], self.units) if self.sequences else (self.units,)

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        gates = 3 * self.units
        return {
            "weight_ih": (shape[1], gates),
            "weight_hh": (self.units, gates),
            "bias_ih": (gates,),
            "bias_hh": (gates,),
        }

    def operations(self, shape: Shape) -> int:
        return shape[0] * 3 * self.units * (shape[1] + self.units)


@dataclass(frozen=True)
class Embedding:
    """A row of a table for each of a sequence's whole numbers 0 .. vocabulary - 1."""

    vocabulary: Annotated[int, Range(1, 1 << 20)]
    units: Count
    frozen: bool = False
    type: Literal["embedding"] = field(default="embedding", kw_only=True)

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 2 or shape[1] != 1:
            raise Unfit("takes a sequence of whole numbers (steps, 1)")
        return (shape[0], self.units)

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.vocabulary, self.units)}

    def operations(self, shape: Shape) -> int:
        return shape[0] * self.units


@dataclass(frozen=True)
class Flatten:
    """The same values as a vector, row-major and channels-last."""

    type: Literal["flatten"] = field(default="flatten", kw_only=True)

    def output(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {}

    def operations(self, shape: Shape) -> int:
        return 0


@dataclass(frozen=True)
class Dropout:
    """Zeros for a share ``rate`` of the values while training, the rest scaled up; nothing afterwards."""

    rate: Annotated[float, Range(0, 0.99)] = 0.5
    type: Literal["dropout"] = field(default="dropout", kw_only=True)

    def output(self, shape: Shape) -> Shape:
        return shape

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {}

    def operations(self, shape: Shape) -> int:
        return math.prod(shape)


@dataclass(frozen=True)
class Elementwise:
    """An activation as a layer of its own."""

    type: Literal["relu", "tanh", "sigmoid", "softplus"] = field(kw_only=True)

    def output(self, shape: Shape) -> Shape:
        return shape

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        return {}

    def operations(self, shape: Shape) -> int:
        return math.prod(shape)


BATCH_NORM_REFUSED = (
    "batch normalization mixes the examples of a batch, so no gradient belongs to one example and none can be clipped, "
    "and its running statistics would leave the device without noise; use group_norm or layer_norm"
)

AnyLayer: TypeAlias = Dense | Conv | DepthwiseConv | Pool | Norm | Gru | Embedding | Flatten | Dropout | Elementwise
Layer = Annotated[
    AnyLayer,
    Tagged(
        default="dense",
        refused=(
            ("batch_norm", BATCH_NORM_REFUSED),
            ("lstm", "there is no lstm; a gru does its work with three gates instead of four"),
            ("softmax", "the loss softmax_cross_entropy applies the softmax: leave the layer out"),
            ("linear", 'a linear layer is called "dense" here'),
        ),
    ),
]


@dataclass(frozen=True)
class Placed:
    """One layer at its place. ``number`` is its position with the activations counted, as in ``torch.nn.Sequential``;
    ``entry`` that in the task's list. ``layer`` has no activation of its own any more.
    """

    number: int
    entry: int
    layer: AnyLayer
    takes: Shape
    gives: Shape
    offset: int  # of its parameters in the flat buffer, in floats

    @property
    def tensors(self) -> dict[str, Shape]:
        """The layer's parameters in the order of the flat buffer, each row-major."""
        return self.layer.tensors(self.takes)

    @property
    def parameter_count(self) -> int:
        return sum(map(math.prod, self.tensors.values()))

    @property
    def frozen(self) -> bool:
        """Its parameters are read and never trained."""
        return getattr(self.layer, "frozen", False)

    @property
    def values(self) -> int:
        """Floats that one example takes in this layer while training; a bound, not an exact count."""
        match self.layer:
            case Gru(units=units):  # gates and states of all steps
                return 5 * self.takes[0] * units + math.prod(self.gives)
            case Conv() | DepthwiseConv():  # its input with the padding, and its output
                dimensions = len(self.takes) - 1
                padded = [
                    length + 2 * padding
                    for length, padding in zip(self.takes, _sizes(self.layer.padding, dimensions), strict=False)
                ]
                return math.prod(padded) * self.takes[-1] + math.prod(self.gives)
            case Flatten() | Elementwise():
                return 0
            case _:
                return math.prod(self.gives)

    def tensor(self, name: str, params: NDArray[np.float32]) -> NDArray[np.float32]:
        """A view of one of the ``tensors`` in the flat buffer ``params`` (P,)."""
        start = self.offset
        for known, shape in self.tensors.items():
            if known == name:
                return params[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        raise KeyError(name)

    def native(self) -> dict[str, object]:
        """The layer as ``_kernels.Network`` takes it."""
        table: dict[str, object] = {"type": self.layer.type}
        for name in self.layer.__dataclass_fields__:
            value = getattr(self.layer, name)
            if name not in ("type", "activation") and value is not None:
                table[name] = list(value) if isinstance(value, tuple) else value
        return table


def place(shape: Shape, layers: Sequence[AnyLayer]) -> tuple[Placed, ...]:
    """The ``layers`` one behind the other on examples of ``shape``, activations as layers of their own.

    Raises ValueError that names the layer, what came in, what it wants and what to do.
    """
    if math.prod(shape) > MAX_POSITIONS:
        raise ValueError(f"an input of {math.prod(shape)} values is above the limit of {MAX_POSITIONS}")
    placed: list[Placed] = []
    offset = 0
    given = "the input is"
    for entry, layer in enumerate(layers):
        if entry and isinstance(layer, Embedding):
            raise ValueError(f"layer {entry} (embedding) takes whole numbers of the data: put it first")
        try:
            gives = layer.output(shape)
        except Unfit as unfit:
            advice = f": {unfit.advice}" if unfit.advice else ""
            raise ValueError(f"layer {entry} ({layer.type}) {unfit.wants}, {given} {shape}{advice}") from None
        if math.prod(gives) > MAX_POSITIONS:
            raise ValueError(f"layer {entry} ({layer.type}) gives {gives}, more than {MAX_POSITIONS} values")
        bare, activation = _apart(layer)
        placed.append(Placed(len(placed), entry, bare, shape, gives, offset))
        offset += placed[-1].parameter_count
        if activation is not None:
            placed.append(Placed(len(placed), entry, activation, gives, gives, offset))
        shape, given = gives, f"layer {entry} gives"
    return tuple(placed)


def _apart(layer: AnyLayer) -> tuple[AnyLayer, Elementwise | None]:
    """The layer without its activation, and that as a layer."""
    if not isinstance(layer, (Dense, Conv, DepthwiseConv)) or layer.activation == "identity":
        return layer, None
    return replace(layer, activation="identity"), Elementwise(type=layer.activation)


def _bias(length: int, has: bool) -> Mapping[str, Shape]:
    return {"bias": (length,)} if has else {}


def both_sizes(sizes: Sizes | Paddings) -> tuple[int, ...]:
    """Height and width of a kernel, a stride or a padding."""
    return _sizes(sizes, 2)


def _sizes(sizes: Sizes | Paddings | None, dimensions: int) -> tuple[int, ...]:
    """Height and width, or the one length of a sequence."""
    if isinstance(sizes, tuple):
        return sizes
    assert sizes is not None
    return (sizes,) * dimensions


def _want_rank(shape: Shape, rank: int, what: str, advice: str = "") -> None:
    if len(shape) != rank:
        raise Unfit(f"takes {what}", advice)


def _windows(layer: Conv | DepthwiseConv | Pool, size: Sizes, shape: Shape) -> tuple[int, ...]:
    """How many windows fit along each dimension."""
    if layer.type.endswith("1d"):
        _want_rank(shape, 2, "a sequence (steps, channels)", _rank_advice(shape, layer.type))
    elif layer.type.endswith("2d"):
        _want_rank(shape, 3, "an image (height, width, channels)", _rank_advice(shape, layer.type))
    elif len(shape) == 1:
        raise Unfit("takes a sequence or an image", 'give the model its shape, as in "shape = [187, 1]"')
    dimensions = len(shape) - 1
    strides = layer.stride if layer.stride is not None else size
    if dimensions == 1 and any(isinstance(sizes, tuple) for sizes in (size, strides, layer.padding)):
        raise Unfit("has two sizes for a sequence", "give one number")
    counts = []
    for length, window, stride, padding in zip(
        shape, _sizes(size, dimensions), _sizes(strides, dimensions), _sizes(layer.padding, dimensions), strict=False
    ):
        most = window // 2 if isinstance(layer, Pool) else window - 1
        if padding > most:
            raise Unfit(f"has a padding of {padding} for windows of {window}, the most that makes sense is {most}")
        if window > length + 2 * padding:
            padded = f" ({length + 2 * padding} with its padding)" if padding else ""
            raise Unfit(
                f"has windows of {window}, its input a length of {length}{padded}",
                "take smaller windows, more padding, or less pooling before it",
            )
        counts.append((length + 2 * padding - window) // stride + 1)
    return tuple(counts)


def _rank_advice(shape: Shape, kind: str) -> str:
    if len(shape) == 1:
        example = "[187, 1]" if kind.endswith("1d") else "[28, 28, 1]"
        return f'give the model its shape, as in "shape = {example}", and put flatten behind this layer'
    return f"use {kind[:-2]}{'2d' if len(shape) == 3 else '1d'}"
