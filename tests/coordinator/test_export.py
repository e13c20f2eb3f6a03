"""The exported files as their readers find them: safetensors, npz, json, and what a microcontroller maps."""

import builtins
import json
import warnings

import numpy as np
import pytest

from coordinator.export import export_model, feature_names
from coordinator.interchange.state_dict import state_dict
from coordinator.interchange.tflite import TFLITE_ALIGNMENT
from edge_runtime.architecture import Conv, Dense, Dropout, Flatten, Gru, Norm
from edge_runtime.errors import LocalError
from edge_runtime.task import InputSpec, ModelSpec, Task, WindowSpec

CLASSES = ("idle", "walk", "run")


def a_task(*layers: Dense, classes: tuple[str, ...] = CLASSES, window: WindowSpec | None = None) -> Task:
    inputs = InputSpec(
        columns=("x", "y"), label="activity", classes=classes, offset=(0.5, -1.0), scale=(2.0, 3.0), window=window
    )
    loss = "softmax_cross_entropy" if classes else "mse"
    return Task(name="gait", rounds=3, inputs=inputs, model=ModelSpec(layers=layers, loss=loss, shape=inputs.shape))


def some_params(task: Task) -> np.ndarray:
    return np.random.default_rng(7).normal(size=task.model.parameter_count).astype(np.float32)


def litert():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel's own imports are not this project's to fix
        pytest.importorskip("ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed")


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make every import of ``packages`` fail, as on a machine that does not have them."""
    real = builtins.__import__

    def refusing(name, *args, **kwargs):
        if name.split(".")[0] in packages:
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)


def names(paths) -> list[str]:
    return [path.name for path in paths]


def test_every_weight_lies_where_a_microcontroller_can_read_it_in_place(tmp_path):
    litert()
    from ai_edge_litert import schema_py_generated as schema

    task = a_task(Dense(7, "relu"), Dense(3))
    params = some_params(task)
    export_model(tmp_path, task, params)
    data = (tmp_path / "model.tflite").read_bytes()
    assert data[4:8] == b"TFL3"
    for tensor in (params[:14].reshape(2, 7).T, params[14:21], params[21:42].reshape(7, 3).T, params[42:]):
        position = data.find(tensor.tobytes())
        assert position > 0
        assert position % TFLITE_ALIGNMENT == 0
    model = schema.ModelT.InitFromPackedBuf(data)
    assert model.buffers[0].data is None
    assert model.description == b"gait"


def test_safetensors_holds_pytorch_names_and_says_how_to_feed_the_model(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    task = a_task(Dense(4, "relu"), Dense(3))
    params = some_params(task)
    assert tmp_path / "model.safetensors" in export_model(tmp_path, task, params).files
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "0.weight": (4, 2),
        "0.bias": (4,),
        "2.weight": (3, 4),  # 1 is the activation, as in nn.Sequential(Linear, ReLU, Linear)
        "2.bias": (3,),
    }
    flat = [tensors[name].T.ravel() for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    np.testing.assert_array_equal(np.concatenate(flat), params)
    assert metadata["task"] == "gait"
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["inputs"])["offset"] == [0.5, -1.0]


def test_without_safetensors_the_same_tensors_go_into_an_npz(tmp_path, monkeypatch):
    task = a_task(Dense(3))
    params = some_params(task)
    without(monkeypatch, "safetensors")
    written = export_model(tmp_path, task, params).files
    assert tmp_path / "model.npz" in written
    assert not (tmp_path / "model.safetensors").exists()
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(np.concatenate([file["0.weight"].T.ravel(), file["0.bias"]]), params)
        assert json.loads(str(file["classes"])) == list(CLASSES)


def test_a_format_whose_package_is_missing_is_named_and_no_file_of_before_stays(tmp_path, monkeypatch):
    task = a_task(Dense(3))
    (tmp_path / "model.tflite").write_bytes(b"of an earlier run")
    (tmp_path / "model.onnx").write_bytes(b"of an earlier run")
    without(monkeypatch, "ai_edge_litert", "onnx")
    exported = export_model(tmp_path, task, some_params(task))
    assert not {"model.tflite", "model.onnx"} & {*names(exported.files)}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names(exported.files))
    assert json.loads((tmp_path / "model.json").read_text())["files"] == names(exported.files)[:-1]
    assert "pip install 'fedge[tflite]'" in exported.missing["model.tflite"]
    assert "pip install 'fedge[onnx]'" in exported.missing["model.onnx"]


def test_what_litert_cannot_compute_is_refused_with_the_layer_and_goes_out_otherwise(tmp_path):
    task = a_task(Gru(4), Dense(3), window=WindowSpec(6, 2, values="samples"))
    exported = export_model(tmp_path, task, some_params(task))
    assert exported.missing["model.tflite"] == "layer 0 is a gru, and LiteRT has no operator for it: use model.onnx"
    assert "model.json" in names(exported.files)
    assert "model.npz" in names(exported.files) or "model.safetensors" in names(exported.files)


def test_groups_behind_a_flatten_cannot_be_written_in_pytorchs_order(tmp_path):
    layers = (Flatten(), Norm(4, type="group_norm"), Dense(3))
    task = a_task(*layers, window=WindowSpec(6, 2, values="samples"))
    exported = export_model(tmp_path, task, some_params(task))
    assert "put it before the flatten" in exported.missing["model.safetensors"]
    last = ModelSpec(layers=(Conv(2, 1, type="conv1d"), Flatten()), shape=(3, 1))
    with pytest.raises(LocalError, match="another order in PyTorch"):
        state_dict(last, np.zeros(4, np.float32))
    one = a_task(Flatten(), Norm(1, type="group_norm"), Dense(3), window=WindowSpec(6, 2, values="samples"))
    assert "model.safetensors" not in export_model(tmp_path, one, some_params(one)).missing


def test_the_written_layout_alone_is_enough_to_run_the_model_on_raw_columns(tmp_path):
    from edge_runtime.features import Table, examples

    task = a_task(Dense(5, "tanh"), Dropout(0.5), Dense(3), window=WindowSpec(4, 3, ("mean", "std", "max")))
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
    layers = layout["network"]["layers"]
    assert [layer["type"] for layer in layers] == ["dense", "tanh", "dropout", "dense"]
    assert layers[3]["tensors"] == {"3.weight": [3, 5], "3.bias": [3]}
    assert (layers[0]["takes"], layers[0]["gives"]) == ([6], [5])
    assert layout["output"]["classes"] == list(CLASSES)


def test_unscaled_columns_are_written_as_offset_zero_and_scale_one(tmp_path):
    inputs = InputSpec(columns=("t",), label="load")
    task = Task(name="load", rounds=1, inputs=inputs, model=ModelSpec(1, (Dense(1),), "mse"))
    export_model(tmp_path, task, np.zeros(2, np.float32))
    layout = json.loads((tmp_path / "model.json").read_text())
    assert (layout["input"]["offset"], layout["input"]["scale"], layout["input"]["window"]) == ([0.0], [1.0], None)


@pytest.mark.parametrize("params", [np.zeros(8, np.float32), np.zeros(9, np.float64), np.zeros((9, 1), np.float32)])
def test_a_buffer_of_another_model_is_refused_and_nothing_is_written(tmp_path, params):
    with pytest.raises(LocalError, match="9 float32 parameters"):
        export_model(tmp_path / "out", a_task(Dense(3)), params)
    assert not (tmp_path / "out").exists()
