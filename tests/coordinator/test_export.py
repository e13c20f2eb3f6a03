"""The exported files, read back by other people's code: safetensors, json, LiteRT."""

import builtins
import json
import warnings

import numpy as np
import pytest

from coordinator.export import TFLITE_ALIGNMENT, export_model, feature_names, state_dict
from edge_runtime.errors import LocalError
from edge_runtime.task import InputSpec, Layer, ModelSpec, Task, WindowSpec

CLASSES = ("idle", "walk", "run")


def a_task(*layers: Layer, classes: tuple[str, ...] = CLASSES, window: WindowSpec | None = None) -> Task:
    inputs = InputSpec(
        columns=("x", "y"), label="activity", classes=classes, offset=(0.5, -1.0), scale=(2.0, 3.0), window=window
    )
    loss = "softmax_cross_entropy" if classes else "mse"
    return Task(name="gait", rounds=3, inputs=inputs, model=ModelSpec(inputs.features, layers, loss))


def some_params(task: Task) -> np.ndarray:
    return np.random.default_rng(7).normal(size=task.model.parameter_count).astype(np.float32)


def forward(task: Task, params: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The oracle: double precision, its own walk over the flat buffer."""
    x = x.astype(np.float64)
    rest = params.astype(np.float64)
    for layer in task.model.layers:
        weight, rest = np.split(rest, [layer.units * x.shape[1]])
        bias, rest = np.split(rest, [layer.units])
        x = x @ weight.reshape(layer.units, -1).T + bias
        x = {"identity": lambda v: v, "relu": lambda v: np.maximum(v, 0), "tanh": np.tanh}[layer.activation](x)
    if task.model.loss == "mse":
        return x
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def litert():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel's own imports are not this project's to fix
        pytest.importorskip("ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed")
        return pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make every import of ``package`` fail, as on a machine that does not have it."""
    real = builtins.__import__

    def refusing(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)


SHAPES = {
    "one layer": (Layer(3),),
    "relu then tanh": (Layer(8, "relu"), Layer(5, "tanh"), Layer(3)),
    "an activation before the softmax": (Layer(4, "tanh"), Layer(3, "relu")),
}


@pytest.mark.parametrize("layers", SHAPES.values(), ids=SHAPES.keys())
def test_litert_computes_what_the_network_computes(tmp_path, layers):
    interpreter = litert()
    task = a_task(*layers, window=WindowSpec(4, 2))
    params = some_params(task)
    export_model(tmp_path, task, params)
    x = np.random.default_rng(1).normal(size=(6, task.model.inputs)).astype(np.float32)

    runner = interpreter.Interpreter(model_path=str(tmp_path / "model.tflite"))
    source, sink = runner.get_input_details()[0], runner.get_output_details()[0]
    assert source["shape"].tolist() == [1, task.model.inputs]
    runner.resize_tensor_input(source["index"], [6, task.model.inputs])
    runner.allocate_tensors()
    runner.set_tensor(source["index"], x)
    runner.invoke()
    np.testing.assert_allclose(runner.get_tensor(sink["index"]), forward(task, params, x), atol=1e-6)
    assert sink["name"] == "probabilities"


def test_litert_predicts_a_number_for_a_regression(tmp_path):
    interpreter = litert()
    task = a_task(Layer(6, "tanh"), Layer(1), classes=())
    params = some_params(task)
    export_model(tmp_path, task, params)
    x = np.array([[0.25, -1.5]], np.float32)

    runner = interpreter.Interpreter(model_path=str(tmp_path / "model.tflite"))
    runner.allocate_tensors()
    runner.set_tensor(runner.get_input_details()[0]["index"], x)
    runner.invoke()
    got = runner.get_tensor(runner.get_output_details()[0]["index"])
    np.testing.assert_allclose(got, forward(task, params, x), atol=1e-6)


def test_every_weight_lies_where_a_microcontroller_can_read_it_in_place(tmp_path):
    litert()
    from ai_edge_litert import schema_py_generated as schema

    task = a_task(Layer(7, "relu"), Layer(3))
    params = some_params(task)
    export_model(tmp_path, task, params)
    data = (tmp_path / "model.tflite").read_bytes()
    assert data[4:8] == b"TFL3"
    for name, tensor in state_dict(task.model, params).items():
        position = data.find(tensor.tobytes())
        assert position > 0, name
        assert position % TFLITE_ALIGNMENT == 0, name
    model = schema.ModelT.InitFromPackedBuf(data)
    assert model.buffers[0].data is None
    assert model.description == b"gait"


def test_safetensors_holds_pytorch_names_and_says_how_to_feed_the_model(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    task = a_task(Layer(4, "relu"), Layer(3))
    params = some_params(task)
    assert tmp_path / "model.safetensors" in export_model(tmp_path, task, params)
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "0.weight": (4, 2),
        "0.bias": (4,),
        "1.weight": (3, 4),
        "1.bias": (3,),
    }
    flat = [tensors[name].T.ravel() for name in ("0.weight", "0.bias", "1.weight", "1.bias")]
    np.testing.assert_array_equal(np.concatenate(flat), params)
    assert metadata["task"] == "gait"
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["inputs"])["offset"] == [0.5, -1.0]


def test_without_safetensors_the_same_tensors_go_into_an_npz(tmp_path, monkeypatch):
    task = a_task(Layer(3))
    params = some_params(task)
    without(monkeypatch, "safetensors")
    written = export_model(tmp_path, task, params)
    assert tmp_path / "model.npz" in written
    assert not (tmp_path / "model.safetensors").exists()
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(np.concatenate([file["0.weight"].T.ravel(), file["0.bias"]]), params)
        assert json.loads(str(file["classes"])) == list(CLASSES)


def test_without_litert_the_return_value_has_no_tflite_file_and_none_of_before_stays(tmp_path, monkeypatch):
    task = a_task(Layer(3))
    export_model(tmp_path, task, some_params(task))
    without(monkeypatch, "ai_edge_litert")
    written = export_model(tmp_path, task, some_params(task))
    assert "model.tflite" not in {path.name for path in written}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    assert json.loads((tmp_path / "model.json").read_text())["files"] == [path.name for path in written[:-1]]


def test_the_written_layout_alone_is_enough_to_run_the_model_on_raw_columns(tmp_path):
    from edge_runtime.features import Table, examples

    task = a_task(Layer(5, "tanh"), Layer(3), window=WindowSpec(4, 3, ("mean", "std", "max")))
    params = some_params(task)
    export_model(tmp_path, task, params)
    raw = np.random.default_rng(3).normal(size=(10, 2)).astype(np.float32)
    layout = json.loads((tmp_path / "model.json").read_text())

    source, window = layout["input"], layout["input"]["window"]
    scaled = (raw - source["offset"]) / source["scale"]
    rows = []
    for start in range(0, len(raw) - window["length"] + 1, window["step"]):
        cut = scaled[start : start + window["length"]]
        rows.append([getattr(cut[:, column], name)() for name in window["statistics"] for column in range(2)])
    theirs = examples(Table(raw, np.zeros(10, np.int32)), task.inputs)
    np.testing.assert_allclose(rows, theirs.x, rtol=1e-5, atol=1e-6)
    assert source["features"] == feature_names(task.inputs)
    assert source["features"][:3] == ["mean(x)", "mean(y)", "std(x)"]
    assert [layer["activation"] for layer in layout["network"]["layers"]] == ["tanh", "identity"]
    assert layout["output"]["classes"] == list(CLASSES)


def test_unscaled_columns_are_written_as_offset_zero_and_scale_one(tmp_path):
    inputs = InputSpec(columns=("t",), label="load")
    task = Task(name="load", rounds=1, inputs=inputs, model=ModelSpec(1, (Layer(1),), "mse"))
    export_model(tmp_path, task, np.zeros(2, np.float32))
    layout = json.loads((tmp_path / "model.json").read_text())
    assert (layout["input"]["offset"], layout["input"]["scale"], layout["input"]["window"]) == ([0.0], [1.0], None)


@pytest.mark.parametrize("params", [np.zeros(8, np.float32), np.zeros(9, np.float64), np.zeros((9, 1), np.float32)])
def test_a_buffer_of_another_model_is_refused_and_nothing_is_written(tmp_path, params):
    with pytest.raises(LocalError, match="9 float32 parameters"):
        export_model(tmp_path / "out", a_task(Layer(3)), params)
    assert not (tmp_path / "out").exists()
