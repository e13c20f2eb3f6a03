"""A model as ONNX, in operators that every runtime has had for years (operator set 17)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.architecture import (
    Conv,
    Dense,
    DepthwiseConv,
    Dropout,
    Elementwise,
    Embedding,
    Flatten,
    Gru,
    Norm,
    Placed,
    Pool,
    both_sizes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.task import ModelSpec

OPERATOR_SET = 17
FORMAT_VERSION = 8  # of the file: what runtimes of 2022 read
_OPERATORS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softplus": "Softplus"}


def onnx_model(spec: ModelSpec, params: NDArray[np.float32], *, description: str) -> bytes | None:
    """From "features" (n, *shape) float32, channels-last, to "probabilities" or "output" (n, O); None where the package
    onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        return None
    return _Writer(onnx, spec, params).write(description)


class _Writer:
    """One model on its way into one graph. Values are channels-last between the layers, and are turned where an
    operator wants them otherwise; two turns in a row, as between two convolutions, are left out.
    """

    def __init__(self, onnx: Any, spec: ModelSpec, params: NDArray[np.float32]) -> None:
        self._onnx, self._spec, self._params = onnx, spec, params
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._channels_first: dict[str, str] = {}  # a channels-last value and the one that it was turned from

    def write(self, description: str) -> bytes:
        helper, spec = self._onnx.helper, self._spec
        current = "features"
        for placed in spec.placed:
            current = self._layer(placed, current)
        result = {"softmax_cross_entropy": "probabilities", "binary_cross_entropy": "probabilities"}.get(
            spec.loss, "output"
        )
        last = {"softmax_cross_entropy": "Softmax", "binary_cross_entropy": "Sigmoid"}.get(spec.loss, "Identity")
        options = {"axis": -1} if last == "Softmax" else {}
        self._nodes.append(helper.make_node(last, [current], [result], **options))
        float32 = self._onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self._used(result),
            "main",
            [helper.make_tensor_value_info("features", float32, ["n", *spec.shape])],
            [helper.make_tensor_value_info(result, float32, ["n", spec.outputs])],
            self._constants,
        )
        model = helper.make_model(
            graph,
            producer_name="fedge",
            doc_string=description,
            ir_version=FORMAT_VERSION,
            opset_imports=[helper.make_opsetid("", OPERATOR_SET)],
        )
        self._onnx.checker.check_model(model)
        return bytes(model.SerializeToString())

    def _used(self, result: str) -> list[Any]:
        """The nodes that lead to ``result``: a turn that the next layer turned back is not among them."""
        wanted, kept = {result}, []
        for node in reversed(self._nodes):
            if wanted & {*node.output}:
                kept.append(node)
                wanted |= {*node.input}
        return kept[::-1]

    def _layer(self, placed: Placed, x: str) -> str:
        name = f"{placed.number}.output"
        match placed.layer:
            case Dense():
                inputs = [x, self._tensor(placed, "weight"), *self._bias(placed)]
                return self._node("Gemm", inputs, name)
            case Conv(stride=stride, padding=padding):
                weight = self._tensor(placed, "weight", lambda w: np.moveaxis(w, (-1, -2), (0, 1)))
                return self._windows("Conv", placed, x, stride, padding, inputs=[weight, *self._bias(placed)])
            case DepthwiseConv(stride=stride, padding=padding):
                weight = self._tensor(placed, "weight", lambda w: np.moveaxis(w, -1, 0)[:, None])
                inputs, channels = [weight, *self._bias(placed)], placed.takes[-1]
                return self._windows("Conv", placed, x, stride, padding, inputs=inputs, group=channels)
            case Pool(size=size, stride=stride, padding=padding, type=kind):
                options: dict[str, Any] = {"kernel_shape": _sides(size, placed)}
                if kind == "average_pool":
                    options["count_include_pad"] = 1
                operator = "MaxPool" if kind == "max_pool" else "AveragePool"
                return self._windows(operator, placed, x, size if stride is None else stride, padding, **options)
            case Norm(groups=None, epsilon=epsilon):
                inputs = [x, self._tensor(placed, "weight"), self._tensor(placed, "bias")]
                return self._node("LayerNormalization", inputs, name, axis=-1, epsilon=epsilon)
            case Norm():
                return self._group_norm(placed, x)
            case Gru():
                return self._gru(placed, x)
            case Embedding():
                flat = self._reshaped(x, [placed.takes[0]], f"{placed.number}.steps")
                indices = self._node("Cast", [flat], f"{placed.number}.indices", to=self._onnx.TensorProto.INT64)
                return self._node("Gather", [self._tensor(placed, "weight"), indices], name, axis=0)
            case Flatten():
                return self._node("Flatten", [x], name, axis=1)
            case Dropout():
                return x
            case Elementwise(type=kind):
                turned = self._channels_first.get(x)  # the same numbers in any order
                if turned is None:
                    return self._node(_OPERATORS[kind], [x], name)
                return self._turned_back(self._node(_OPERATORS[kind], [turned], f"{name}.first"), name, placed)

    def _windows(
        self,
        operator: str,
        placed: Placed,
        x: str,
        stride: int | tuple[int, ...],
        padding: int | tuple[int, ...],
        *,
        inputs: list[str] | None = None,
        **options: Any,
    ) -> str:
        sides = _sides(padding, placed)
        first = self._turned(x, placed)
        name = f"{placed.number}.output"
        strides, pads = _sides(stride, placed), [*sides, *sides]
        made = self._node(operator, [first, *(inputs or [])], f"{name}.first", strides=strides, pads=pads, **options)
        return self._turned_back(made, name, placed)

    def _group_norm(self, placed: Placed, x: str) -> str:
        """Each group as one channel of an InstanceNormalization: GroupNormalization came with operator set 21."""
        assert isinstance(placed.layer, Norm)
        groups, channels, number = placed.layer.groups, placed.takes[-1], placed.number
        assert groups is not None
        vector = len(placed.takes) == 1
        first = x if vector else self._turned(x, placed)
        grouped = self._reshaped(first, [groups, math.prod(placed.takes) // groups], f"{number}.groups")
        ones = self._constant(f"{number}.ones", np.ones(groups, np.float32))
        zeros = self._constant(f"{number}.zeros", np.zeros(groups, np.float32))
        inputs = [grouped, ones, zeros]
        normal = self._node("InstanceNormalization", inputs, f"{number}.normal", epsilon=placed.layer.epsilon)
        back = self._reshaped(normal, [channels, *placed.takes[:-1]], f"{number}.channels")
        ones_behind = [1] * (len(placed.takes) - 1)
        scale = self._tensor(placed, "weight", lambda w: w.reshape(channels, *ones_behind))
        shift = self._tensor(placed, "bias", lambda w: w.reshape(channels, *ones_behind))
        scaled = self._node("Mul", [back, scale], f"{number}.scaled")
        name = f"{number}.output"
        if vector:
            return self._node("Add", [scaled, shift], name)
        return self._turned_back(self._node("Add", [scaled, shift], f"{name}.first"), name, placed)

    def _gru(self, placed: Placed, x: str) -> str:
        """Gates are z, r, h in ONNX and r, z, n here; its steps come first."""
        assert isinstance(placed.layer, Gru)
        units, number = placed.layer.units, placed.number

        def gates(w: NDArray[np.float32]) -> NDArray[np.float32]:
            r, z, n = np.split(w, 3, axis=-1)
            return np.concatenate([z, r, n], axis=-1).T

        steps = self._node("Transpose", [x], f"{number}.steps", perm=[1, 0, 2])
        biases = [gates(placed.tensor(name, self._params)) for name in ("bias_ih", "bias_hh")]
        inputs = [
            steps,
            self._tensor(placed, "weight_ih", lambda w: gates(w)[None]),
            self._tensor(placed, "weight_hh", lambda w: gates(w)[None]),
            self._constant(f"{number}.bias", np.concatenate(biases)[None]),
        ]
        every, last, name = f"{number}.every", f"{number}.last", f"{number}.output"
        node = self._onnx.helper.make_node("GRU", inputs, [every, last], hidden_size=units, linear_before_reset=1)
        self._nodes.append(node)
        if not placed.layer.sequences:
            return self._node("Squeeze", [last, self._integers(f"{number}.axis", [0])], name)
        straight = self._node("Squeeze", [every, self._integers(f"{number}.axis", [1])], f"{number}.states")
        return self._node("Transpose", [straight], name, perm=[1, 0, 2])

    def _turned(self, x: str, placed: Placed) -> str:
        """``x`` channels-first."""
        if x in self._channels_first:
            return self._channels_first[x]
        rank = len(placed.takes) + 1
        return self._node("Transpose", [x], f"{placed.number}.first", perm=[0, rank - 1, *range(1, rank - 1)])

    def _turned_back(self, x: str, name: str, placed: Placed) -> str:
        rank = len(placed.gives) + 1
        self._channels_first[name] = x
        return self._node("Transpose", [x], name, perm=[0, *range(2, rank), 1])

    def _reshaped(self, x: str, shape: list[int], name: str) -> str:
        return self._node("Reshape", [x, self._integers(f"{name}.shape", [-1, *shape])], name)

    def _node(self, operator: str, inputs: list[str], name: str, **options: Any) -> str:
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, [name], **options))
        return name

    def _tensor(self, placed: Placed, name: str, turn: Any = lambda w: w) -> str:
        return self._constant(f"{placed.number}.{name}", turn(placed.tensor(name, self._params)))

    def _bias(self, placed: Placed) -> list[str]:
        return [self._tensor(placed, "bias")] if "bias" in placed.tensors else []

    def _integers(self, name: str, values: list[int]) -> str:
        return self._constant(name, np.asarray(values, np.int64))

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        self._constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _sides(sizes: int | tuple[int, ...], placed: Placed) -> list[int]:
    return [*both_sizes(sizes)][: len(placed.takes) - 1]
