"""Train here, infer there: the trained model as safetensors, for LiteRT, and as a layout one can read without fedge."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.durable import make_directory, write_file
from edge_runtime.errors import LocalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.task import InputSpec, ModelSpec, Task

TFLITE_ALIGNMENT = 16  # force_align of Buffer.data in the LiteRT schema: microcontrollers read the weights in place


def export_model(folder: Path, task: Task, params: NDArray[np.float32]) -> list[Path]:
    """Write the model with parameters ``params`` (P,) float32 into ``folder``; return what was written.

    Always the tensors (``model.safetensors``, or ``model.npz`` where safetensors is not installed) and ``model.json``,
    how to feed them. ``model.tflite`` only where ai-edge-litert is installed: its wheel carries the schema. Every file
    appears whole or not at all, and none of an earlier export stays. Raises LocalError when ``params`` is not a buffer
    of this model.
    """
    if params.shape != (task.model.parameter_count,) or params.dtype != np.float32:
        raise LocalError(
            f"the model has {task.model.parameter_count} float32 parameters; got {params.dtype} {list(params.shape)}"
        )
    make_directory(folder)
    tensors = state_dict(task.model, params)
    contents = dict([_tensor_file(tensors, task)])
    flatbuffer = tflite_model(task.model, tensors, description=task.name)
    if flatbuffer is not None:
        contents["model.tflite"] = flatbuffer
    contents["model.json"] = json.dumps(layout(task, files=[*contents]), indent=2).encode() + b"\n"
    for name, data in contents.items():
        write_file(folder / name, data)
    for name in {"model.safetensors", "model.npz", "model.tflite"} - contents.keys():
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in contents]


def state_dict(spec: ModelSpec, params: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The tensors of ``params`` (P,) as PyTorch has them: "0.weight" (O, I), "0.bias" (O,), "1.weight" and so on."""
    tensors = {}
    start = 0
    for index, (inputs, outputs) in enumerate(itertools.pairwise(spec.widths)):
        bias = start + inputs * outputs
        tensors[f"{index}.weight"] = np.ascontiguousarray(params[start:bias].reshape(inputs, outputs).T)
        tensors[f"{index}.bias"] = params[bias : bias + outputs]
        start = bias + outputs
    return tensors


def layout(task: Task, *, files: list[str]) -> dict[str, Any]:
    """What ``model.json`` says: enough to run the model on raw columns without this code or its documentation."""
    spec = task.model
    classifies = spec.loss == "softmax_cross_entropy"
    return {
        "format": "fedge-model",
        "version": 1,
        "task": task.name,
        "files": files,
        "input": {
            "rule": "subtract offset from each column and divide by scale; with a window, cut windows of `length` rows "
            "every `step` rows and take each statistic of each column (std: population); the input x is the features "
            "in this order",
            **_scaling(task.inputs),
            "features": feature_names(task.inputs),
        },
        "network": {
            "rule": "for each layer: x = activation(weight @ x + bias), float32; weight has shape (units, inputs)",
            "parameters": spec.parameter_count,
            "layers": [
                {
                    "weight": f"{index}.weight",
                    "bias": f"{index}.bias",
                    "inputs": inputs,
                    "units": layer.units,
                    "activation": layer.activation,
                }
                for index, (inputs, layer) in enumerate(zip(spec.widths, spec.layers, strict=False))
            ],
        },
        "output": {
            "rule": "softmax turns the last x into one probability per class"
            if classifies
            else "the last x, times label_scale and plus label_offset, is the predicted value",
            "loss": spec.loss,
            "label": task.inputs.label,
            "classes": list(task.inputs.classes),
            "label_offset": task.inputs.label_offset,
            "label_scale": task.inputs.label_scale,
        },
    }


def feature_names(inputs: InputSpec) -> list[str]:
    """The features in the order of the model's inputs: all columns of the first statistic, then of the second."""
    if inputs.window is None:
        return list(inputs.columns)
    return [f"{statistic}({column})" for statistic in inputs.window.statistics for column in inputs.columns]


def _scaling(inputs: InputSpec) -> dict[str, Any]:
    return {
        "columns": list(inputs.columns),
        "offset": list(inputs.offset or (0.0,) * len(inputs.columns)),
        "scale": list(inputs.scale or (1.0,) * len(inputs.columns)),
        "window": dataclasses.asdict(inputs.window) if inputs.window else None,
    }


def _tensor_file(tensors: dict[str, NDArray[np.float32]], task: Task) -> tuple[str, bytes]:
    metadata = {
        "task": task.name,
        "classes": json.dumps(task.inputs.classes),
        "inputs": json.dumps(_scaling(task.inputs)),
    }
    try:
        from safetensors.numpy import save
    except ImportError:
        file = io.BytesIO()
        np.savez(file, **{name: np.asarray(text) for name, text in metadata.items()}, **tensors)  # type: ignore[arg-type]
        return "model.npz", file.getvalue()
    return "model.safetensors", save(tensors, metadata)


def tflite_model(spec: ModelSpec, tensors: dict[str, NDArray[np.float32]], *, description: str) -> bytes | None:
    """A LiteRT flatbuffer from features (n, I) to probabilities or the predicted value; None where there is no schema.

    A RELU is fused into its FULLY_CONNECTED; LiteRT fuses no TANH there, so that is an operator of its own.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        return None
    graph = _Graph(schema)
    current = graph.tensor("features", (1, spec.inputs))
    graph.subgraph.inputs = [current]
    for index, layer in enumerate(spec.layers):
        weight = graph.constant(tensors, f"{index}.weight")
        bias = graph.constant(tensors, f"{index}.bias")
        dense = schema.FullyConnectedOptionsT()
        if layer.activation == "relu":
            dense.fusedActivationFunction = schema.ActivationFunctionType.RELU
        shape = (1, layer.units)
        current = graph.operator("FULLY_CONNECTED", [current, weight, bias], f"{index}.output", shape, dense)
        if layer.activation == "tanh":
            current = graph.operator("TANH", [current], f"{index}.tanh", shape)
    if spec.loss == "softmax_cross_entropy":
        softmax = schema.SoftmaxOptionsT(beta=1.0)
        current = graph.operator("SOFTMAX", [current], "probabilities", (1, spec.widths[-1]), softmax)
    graph.subgraph.outputs = [current]
    return graph.pack(description)


class _Graph:
    """A LiteRT model under construction, on the object API of the generated ``schema``."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._codes: list[str] = []
        self._buffers: list[bytes | None] = [None]  # buffer 0 is the empty one by convention
        self.subgraph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[], name="main")

    def tensor(self, name: str, shape: tuple[int, ...], *, buffer: int = 0) -> int:
        """Add a float32 tensor and return its index; the batch dimension of one without a buffer may be resized."""
        tensor = self._schema.TensorT(shape=[*shape], type=self._schema.TensorType.FLOAT32, buffer=buffer, name=name)
        if buffer == 0:
            tensor.shapeSignature = [-1, *shape[1:]]
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def constant(self, tensors: dict[str, NDArray[np.float32]], name: str) -> int:
        """Add ``tensors[name]`` with its values and return its index."""
        self._buffers.append(tensors[name].astype("<f4").tobytes())
        return self.tensor(name, tensors[name].shape, buffer=len(self._buffers) - 1)

    def operator(self, code: str, inputs: list[int], name: str, shape: tuple[int, ...], options: Any = None) -> int:
        """Add an operator with one output tensor and return that tensor's index."""
        if code not in self._codes:
            self._codes.append(code)
        output = self.tensor(name, shape)
        operator = self._schema.OperatorT(opcodeIndex=self._codes.index(code), inputs=inputs, outputs=[output])
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, kind)
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
