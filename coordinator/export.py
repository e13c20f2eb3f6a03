"""Train here, infer there: the trained model as PyTorch's tensors, for ONNX and for LiteRT, and a layout that one can
read without fedge. docs/models.md is the long version.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coordinator.interchange.onnx import onnx_model
from coordinator.interchange.state_dict import slots, state_dict, tensor_file
from coordinator.interchange.tflite import tflite_model
from edge_runtime.durable import make_directory, write_file
from edge_runtime.errors import LocalError
from edge_runtime.tables import to_mapping

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.task import InputSpec, ModelSpec, Task

_FILES = ("model.safetensors", "model.npz", "model.tflite", "model.onnx")


@dataclass(frozen=True)
class Exported:
    """``files`` that were written, and for each one that was not, why."""

    files: list[Path]
    missing: dict[str, str]


def export_model(folder: Path, task: Task, params: NDArray[np.float32]) -> Exported:
    """Write the model with parameters ``params`` (P,) float32 into ``folder``.

    The tensors are ``model.safetensors``, or ``model.npz`` where safetensors is not installed; ``model.json`` says how
    to feed them. ``model.tflite`` takes ai-edge-litert, whose wheel carries the schema, and ``model.onnx`` the package
    onnx. Every file appears whole or not at all, and none of an earlier export stays. Raises LocalError when ``params``
    is not a buffer of this model.
    """
    if params.shape != (task.model.parameter_count,) or params.dtype != np.float32:
        raise LocalError(
            f"the model has {task.model.parameter_count} float32 parameters; got {params.dtype} {list(params.shape)}"
        )
    contents: dict[str, bytes] = {}
    missing: dict[str, str] = {}

    def attempt(name: str, make: Callable[[], tuple[str, bytes | None]], package: str = "") -> None:
        try:
            made, data = make()
        except LocalError as fault:
            missing[name] = str(fault)
            return
        if data is None:
            missing[name] = f"{package} is not installed"
        else:
            contents[made] = data

    attempt("model.safetensors", lambda: _tensors(task, params))
    attempt(
        "model.tflite",
        lambda: ("model.tflite", tflite_model(task.model, params, description=task.name)),
        "ai-edge-litert (pip install 'fedge[tflite]')",
    )
    attempt(
        "model.onnx",
        lambda: ("model.onnx", onnx_model(task.model, params, description=task.name)),
        "onnx (pip install 'fedge[onnx]')",
    )
    contents["model.json"] = json.dumps(layout(task, files=[*contents]), indent=2).encode() + b"\n"
    make_directory(folder)
    for name, data in contents.items():
        write_file(folder / name, data)
    for name in {*_FILES} - contents.keys():
        (folder / name).unlink(missing_ok=True)
    return Exported([folder / name for name in contents], missing)


def _tensors(task: Task, params: NDArray[np.float32]) -> tuple[str, bytes | None]:
    metadata = {
        "task": task.name,
        "classes": json.dumps(task.inputs.classes),
        "inputs": json.dumps(_scaling(task.inputs)),
    }
    return tensor_file(state_dict(task.model, params), metadata)


def layout(task: Task, *, files: list[str]) -> dict[str, Any]:
    """What ``model.json`` says: enough to run the model on raw columns without this code or its documentation."""
    spec = task.model
    rule, scores = _output_rule(spec)
    return {
        "format": "fedge-model",
        "version": 2,
        "task": task.name,
        "files": files,
        "input": {
            "rule": "subtract offset from each column and divide by scale; with a window, cut windows of `length` rows "
            "every `step` rows: `statistics` take each statistic of each column (std: population), `samples` the rows "
            "as they are; with an extractor, run that LiteRT model on it; the input x is the features in this order, "
            "in the network's shape",
            **_scaling(task.inputs),
            "features": feature_names(task.inputs),
        },
        "network": {
            "rule": "the layers one after the other, float32, channels-last; tensors are named and laid out as in a "
            "torch.nn.Sequential of the same layers, which works channels-first: dense (units, inputs), conv (filters, "
            "channels, kernel), gru gates r, z, n; what stands behind a flatten of (..., channels) expects (channels, "
            "...) there. dropout does nothing",
            "shape": list(spec.shape),
            "parameters": spec.parameter_count,
            "layers": _layers(spec),
        },
        "output": {
            "rule": rule,
            "loss": spec.loss,
            "activation": scores,
            "label": task.inputs.label,
            "classes": list(task.inputs.classes),
            "label_offset": task.inputs.label_offset,
            "label_scale": task.inputs.label_scale,
        },
    }


def _layers(spec: ModelSpec) -> list[dict[str, Any]]:
    try:
        tensors: dict[int, dict[str, list[int]]] = {}
        for slot in slots(spec):
            tensors.setdefault(slot.layer.number, {})[slot.name] = list(slot.torch_shape)
    except LocalError:  # a model that no tensor file can hold
        tensors = {}
    layers = []
    for placed in spec.placed:
        options = to_mapping(placed.layer)
        kind = options.pop("type")
        options.pop("activation", None)
        layers.append(
            {
                "number": placed.number,
                "type": kind,
                **options,
                "takes": list(placed.takes),
                "gives": list(placed.gives),
                "tensors": tensors.get(placed.number, {}),
            }
        )
    return layers


def _output_rule(spec: ModelSpec) -> tuple[str, str]:
    """How the last x is read, and the activation that model.tflite and model.onnx have applied to it already."""
    match spec.loss:
        case "softmax_cross_entropy":
            return "softmax turns the last x into one probability per class", "softmax"
        case "binary_cross_entropy" if spec.outputs == 1:
            return "sigmoid turns the last x into the probability of the second class", "sigmoid"
        case "binary_cross_entropy":
            return "sigmoid turns the last x into one probability per class, each by itself", "sigmoid"
        case "hinge" if spec.outputs == 1:
            return "the second class where the last x is positive, else the first", "identity"
        case "hinge":
            return "the class whose value in the last x is largest", "identity"
        case _:
            return "the last x, times label_scale and plus label_offset, is the predicted value", "identity"


def feature_names(inputs: InputSpec) -> list[str]:
    """The features in the order in which the columns give them: of statistics all columns of the first one, then of the
    second; of samples the columns of one row, which repeat row by row.
    """
    if inputs.window is None or inputs.window.values == "samples":
        return list(inputs.columns)
    return [f"{statistic}({column})" for statistic in inputs.window.statistics for column in inputs.columns]


def _scaling(inputs: InputSpec) -> dict[str, Any]:
    return {
        "columns": list(inputs.columns),
        "offset": list(inputs.offset or (0.0,) * len(inputs.columns)),
        "scale": list(inputs.scale or (1.0,) * len(inputs.columns)),
        "window": dataclasses.asdict(inputs.window) if inputs.window else None,
        "extractor": dataclasses.asdict(inputs.extractor) if inputs.extractor else None,
    }
