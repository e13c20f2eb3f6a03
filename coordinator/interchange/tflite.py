"""A model as a LiteRT (TensorFlow Lite) flatbuffer, built on the schema in ai-edge-litert's wheel."""

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
    Shape,
    both_sizes,
)
from edge_runtime.errors import LocalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.task import ModelSpec

TFLITE_ALIGNMENT = 16  # force_align of Buffer.data in the LiteRT schema: microcontrollers read the weights in place
_LOWEST = np.finfo(np.float32).min
_OPERATORS = {"relu": "RELU", "tanh": "TANH", "sigmoid": "LOGISTIC"}


def tflite_model(spec: ModelSpec, params: NDArray[np.float32], *, description: str) -> bytes | None:
    """From examples (n, *shape) float32, channels-last, to probabilities, scores or the predicted value; None where
    there is no schema. Raises LocalError, with the reason, for a layer that LiteRT has no operator for.

    A RELU is fused into the operator before it where that can be; sequences run as images of height 1.
    """
    for placed in spec.placed:
        if isinstance(placed.layer, Gru):
            raise LocalError(f"layer {placed.entry} is a gru, and LiteRT has no operator for it: use model.onnx")
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        return None
    return _Writer(schema, spec, params).write(description)


class _Writer:
    """One model on its way into one graph. Tensors are (n, height, width, channels), or (n, values) for vectors."""

    def __init__(self, schema: Any, spec: ModelSpec, params: NDArray[np.float32]) -> None:
        self._schema, self._spec, self._params = schema, spec, params
        self._graph = _Graph(schema)

    def write(self, description: str) -> bytes:
        graph, spec = self._graph, self._spec
        current = graph.tensor("features", (1, *spec.shape))
        graph.subgraph.inputs = [current]
        if len(spec.shape) == 2:
            current = self._reshaped(current, (1, *spec.shape), "sequence")
        skip = False
        for index, placed in enumerate(spec.placed):
            if skip:  # a RELU that the layer before has taken along
                skip = False
                continue
            behind = spec.placed[index + 1].layer if index + 1 < len(spec.placed) else None
            skip = isinstance(placed.layer, (Dense, Conv, DepthwiseConv)) and behind == Elementwise(type="relu")
            current = self._layer(placed, current, fused_relu=skip)
        classes = (1, spec.outputs)
        if spec.loss == "softmax_cross_entropy":
            softmax = self._schema.SoftmaxOptionsT(beta=1.0)
            current = graph.operator("SOFTMAX", [current], "probabilities", classes, softmax)
        elif spec.loss == "binary_cross_entropy":
            current = graph.operator("LOGISTIC", [current], "probabilities", classes)
        graph.subgraph.outputs = [current]
        return graph.pack(description)

    def _layer(self, placed: Placed, x: int, *, fused_relu: bool) -> int:
        graph, schema, name = self._graph, self._schema, f"{placed.number}.output"
        shape = _four(placed.gives)
        relu = schema.ActivationFunctionType.RELU if fused_relu else schema.ActivationFunctionType.NONE
        match placed.layer:
            case Dense():
                options = schema.FullyConnectedOptionsT(fusedActivationFunction=relu)
                inputs = [x, self._constant(placed, "weight", lambda w: w.T), self._bias(placed)]
                return graph.operator("FULLY_CONNECTED", inputs, name, shape, options)
            case Conv(stride=stride):
                high, wide = both_sizes(stride)
                options = schema.Conv2DOptionsT(
                    padding=schema.Padding.VALID, strideH=high, strideW=wide, fusedActivationFunction=relu
                )
                weight = self._constant(placed, "weight", lambda w: np.moveaxis(_two(w, 4), -1, 0))
                inputs = [self._padded(placed, x, 0.0), weight, self._bias(placed)]
                return graph.operator("CONV_2D", inputs, name, shape, options)
            case DepthwiseConv(stride=stride):
                high, wide = both_sizes(stride)
                options = schema.DepthwiseConv2DOptionsT(
                    padding=schema.Padding.VALID,
                    strideH=high,
                    strideW=wide,
                    depthMultiplier=1,
                    fusedActivationFunction=relu,
                )
                weight = self._constant(placed, "weight", lambda w: _two(w, 3)[None])
                inputs = [self._padded(placed, x, 0.0), weight, self._bias(placed)]
                return graph.operator("DEPTHWISE_CONV_2D", inputs, name, shape, options)
            case Pool(size=size, stride=stride, type=kind):
                high, wide = both_sizes(size if stride is None else stride)
                tall, broad = both_sizes(size)
                if len(placed.takes) == 2:
                    high = tall = 1
                options = schema.Pool2DOptionsT(
                    padding=schema.Padding.VALID, strideH=high, strideW=wide, filterHeight=tall, filterWidth=broad
                )
                padded = self._padded(placed, x, float(_LOWEST) if kind == "max_pool" else 0.0)
                return graph.operator(f"{kind.split('_')[0].upper()}_POOL_2D", [padded], name, shape, options)
            case Norm():
                return self._norm(placed, x)
            case Embedding():
                return self._embedding(placed, x)
            case Flatten():
                return x if len(placed.takes) == 1 else self._reshaped(x, placed.gives, name)
            case Dropout():
                return x
            case Elementwise(type="softplus"):
                return self._softplus(x, name, shape)
            case Elementwise(type=kind):
                return graph.operator(_OPERATORS[kind], [x], name, shape)
            case Gru():
                raise AssertionError("refused before")

    def _norm(self, placed: Placed, x: int) -> int:
        """Mean and variance over the right axes, in the operators that every LiteRT has."""
        graph, schema, number = self._graph, self._schema, placed.number
        assert isinstance(placed.layer, Norm)
        channels, given = placed.takes[-1], _four(placed.takes)
        groups = placed.layer.groups
        if groups is None:
            shape, axes = given, [len(given) - 1]
        else:
            positions = math.prod(placed.takes) // channels
            shape, axes = (1, positions, groups, channels // groups), [1, 3]
            x = self._reshaped(x, shape[1:], f"{number}.groups")
        narrow = tuple(1 if axis in axes else length for axis, length in enumerate(shape))
        over = graph.integers(f"{number}.axes", axes)
        mean_of = schema.ReducerOptionsT(keepDims=True)
        mean = graph.operator("MEAN", [x, over], f"{number}.mean", narrow, mean_of)
        squares = graph.operator("SQUARED_DIFFERENCE", [x, mean], f"{number}.squares", shape)
        variance = graph.operator("MEAN", [squares, over], f"{number}.variance", narrow, mean_of)
        epsilon = graph.floats(f"{number}.epsilon", np.array([placed.layer.epsilon], np.float32))
        steady = graph.operator("ADD", [variance, epsilon], f"{number}.steady", narrow, schema.AddOptionsT())
        inverse = graph.operator("RSQRT", [steady], f"{number}.inverse", narrow)
        centered = graph.operator("SUB", [x, mean], f"{number}.centered", shape, schema.SubOptionsT())
        x = graph.operator("MUL", [centered, inverse], f"{number}.normal", shape, schema.MulOptionsT())
        if groups is not None:
            x = self._reshaped(x, given[1:], f"{number}.channels")
        scale = self._constant(placed, "weight", lambda w: w)
        x = graph.operator("MUL", [x, scale], f"{number}.scaled", given, schema.MulOptionsT())
        return graph.operator("ADD", [x, self._bias(placed)], f"{number}.output", given, schema.AddOptionsT())

    def _embedding(self, placed: Placed, x: int) -> int:
        graph, schema, number = self._graph, self._schema, placed.number
        steps, units = placed.gives
        x = self._reshaped(x, (steps,), f"{number}.steps")
        whole = schema.TensorType.INT32
        kinds = schema.CastOptionsT(inDataType=schema.TensorType.FLOAT32, outDataType=whole)
        x = graph.operator("CAST", [x], f"{number}.indices", (1, steps), kinds, kind=whole)
        table = self._constant(placed, "weight", lambda w: w)
        rows = graph.operator("GATHER", [table, x], f"{number}.rows", (1, steps, units), schema.GatherOptionsT(axis=0))
        return self._reshaped(rows, (1, steps, units), f"{number}.output")

    def _softplus(self, x: int, name: str, shape: Shape) -> int:
        """max(x, 0) + log(1 + e^-|x|), which overflows nowhere."""
        graph, schema = self._graph, self._schema
        size = graph.operator("ABS", [x], f"{name}.abs", shape)
        falling = graph.operator("NEG", [size], f"{name}.neg", shape)
        power = graph.operator("EXP", [falling], f"{name}.exp", shape)
        one = graph.floats(f"{name}.one", np.array([1.0], np.float32))
        above = graph.operator("ADD", [power, one], f"{name}.above", shape, schema.AddOptionsT())
        rest = graph.operator("LOG", [above], f"{name}.log", shape)
        positive = graph.operator("RELU", [x], f"{name}.relu", shape)
        return graph.operator("ADD", [positive, rest], name, shape, schema.AddOptionsT())

    def _padded(self, placed: Placed, x: int, value: float) -> int:
        layer = placed.layer
        assert isinstance(layer, (Conv, DepthwiseConv, Pool))
        high, wide = both_sizes(layer.padding)
        if len(placed.takes) == 2:
            high = 0
        if (high, wide) == (0, 0):
            return x
        graph, number = self._graph, placed.number
        _, height, width, channels = _four(placed.takes)
        margins = graph.integers(f"{number}.margins", [[0, 0], [high, high], [wide, wide], [0, 0]])
        shape = (1, height + 2 * high, width + 2 * wide, channels)
        if value == 0.0:
            return graph.operator("PAD", [x, margins], f"{number}.padded", shape)
        filling = graph.floats(f"{number}.filling", np.array([value], np.float32))
        return graph.operator("PADV2", [x, margins, filling], f"{number}.padded", shape)

    def _reshaped(self, x: int, shape: Shape, name: str) -> int:
        target = [-1, *shape]  # the batch is what is left over
        options = self._schema.ReshapeOptionsT(newShape=target)
        inputs = [x, self._graph.integers(f"{name}.shape", target)]
        return self._graph.operator("RESHAPE", inputs, name, (1, *shape), options)

    def _constant(self, placed: Placed, name: str, turn: Any) -> int:
        return self._graph.floats(f"{placed.number}.{name}", turn(placed.tensor(name, self._params)))

    def _bias(self, placed: Placed) -> int:
        if "bias" in placed.tensors:
            return self._constant(placed, "bias", lambda b: b)
        return self._graph.floats(f"{placed.number}.bias", np.zeros(placed.gives[-1], np.float32))


def _four(shape: Shape) -> Shape:
    """One example's shape as the graph has it, with the batch in front."""
    return (1, 1, *shape) if len(shape) == 2 else (1, *shape)


def _two(weight: NDArray[np.float32], rank: int) -> NDArray[np.float32]:
    """The weight of a convolution over time as one over height 1 and width."""
    return weight if weight.ndim == rank else weight[None]


class _Graph:
    """A LiteRT model under construction, on the object API of the generated ``schema``."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._codes: list[str] = []
        self._buffers: list[bytes | None] = [None]  # buffer 0 is the empty one by convention
        self.subgraph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[], name="main")

    def tensor(self, name: str, shape: Shape, *, kind: int | None = None, buffer: int = 0) -> int:
        """Add a tensor, of float32 where no ``kind`` is given, and return its index; the batch dimension of one without
        a buffer may be resized.
        """
        kind = self._schema.TensorType.FLOAT32 if kind is None else kind
        tensor = self._schema.TensorT(shape=[*shape], type=kind, buffer=buffer, name=name)
        if buffer == 0:
            tensor.shapeSignature = [-1, *shape[1:]]
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def floats(self, name: str, values: NDArray[np.float32]) -> int:
        """Add a constant and return its index."""
        self._buffers.append(values.astype("<f4").tobytes())
        return self.tensor(name, values.shape, buffer=len(self._buffers) - 1)

    def integers(self, name: str, values: Any) -> int:
        """Add a constant of int32 and return its index."""
        array = np.asarray(values, "<i4")
        self._buffers.append(array.tobytes())
        return self.tensor(name, array.shape, kind=self._schema.TensorType.INT32, buffer=len(self._buffers) - 1)

    def operator(
        self, code: str, inputs: list[int], name: str, shape: Shape, options: Any = None, *, kind: int | None = None
    ) -> int:
        """Add an operator with one output tensor and return that tensor's index."""
        if code not in self._codes:
            self._codes.append(code)
        output = self.tensor(name, shape, kind=kind)
        operator = self._schema.OperatorT(opcodeIndex=self._codes.index(code), inputs=inputs, outputs=[output])
        if options is not None:
            kind_name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, kind_name)
            operator.builtinOptions = options
        self.subgraph.operators.append(operator)
        return output

    def pack(self, description: str) -> bytes:
        """The finished file. Weights go in by hand: the generated code neither aligns them nor copies them in bulk."""
        schema = self._schema
        base: Any = schema.BufferT

        class AlignedBuffer(base):  # type: ignore[misc]
            def Pack(self, builder: Any) -> int:
                if self.data is None:
                    return int(super().Pack(builder))
                builder.Prep(TFLITE_ALIGNMENT, len(self.data))
                data = builder.CreateByteVector(self.data)
                schema.BufferStart(builder)
                schema.BufferAddData(builder, data)
                return int(schema.BufferEnd(builder))

        codes = [getattr(schema.BuiltinOperator, code) for code in self._codes]
        model = schema.ModelT(
            version=3,
            operatorCodes=[schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code) for code in codes],
            subgraphs=[self.subgraph],
            description=description,
            buffers=[AlignedBuffer(data) for data in self._buffers],
        )
        builder = schema.flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
