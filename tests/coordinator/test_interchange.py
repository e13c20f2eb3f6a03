"""Models in the formats of others, run by the others' own runtimes, against the device's arithmetic."""

import pickle
import warnings

import numpy as np
import pytest

from coordinator.interchange.onnx import onnx_model
from coordinator.interchange.state_dict import load_state_dict, read_tensors, state_dict
from coordinator.interchange.tflite import tflite_model
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
    Pool,
)
from edge_runtime.errors import LocalError
from edge_runtime.model import network
from edge_runtime.task import ModelSpec

MODELS = {
    "one layer": ModelSpec(4, (Dense(3),)),
    "no bias": ModelSpec(4, (Dense(8, "relu", bias=False), Dense(3))),
    "every activation": ModelSpec(
        4, (Dense(8, "relu"), Dense(7, "tanh"), Dense(6, "sigmoid"), Dense(5, "softplus"), Dense(3))
    ),
    "an activation before the softmax": ModelSpec(4, (Dense(4, "tanh"), Dense(3, "relu"))),
    "two activations in a row": ModelSpec(4, (Dense(4, "relu"), Elementwise(type="softplus"), Dense(3))),
    "a number": ModelSpec(4, (Dense(6, "tanh"), Dense(1)), "mse"),
    "two classes with one output": ModelSpec(4, (Dense(6, "tanh"), Dense(1)), "binary_cross_entropy"),
    "three scores": ModelSpec(4, (Dense(3),), "hinge"),
    "convolutions over time": ModelSpec(
        layers=(
            Conv(6, 5, stride=2, padding=2, activation="relu", type="conv1d"),
            Pool(2, type="max_pool"),
            DepthwiseConv(3, padding=1, activation="tanh", type="depthwise_conv1d"),
            Conv(4, 3, bias=False, type="conv1d"),
            Pool(3, stride=2, padding=1, type="average_pool"),
            Dropout(0.3),
            Flatten(),
            Dense(3),
        ),
        shape=(29, 2),
    ),
    "convolutions over pixels": ModelSpec(
        layers=(
            Conv(5, (3, 2), stride=(2, 1), padding=(1, 0), activation="sigmoid", type="conv2d"),
            Pool((2, 3), stride=1, padding=(1, 1), type="max_pool"),
            DepthwiseConv((2, 3), stride=(1, 2), bias=False, type="depthwise_conv2d"),
            Pool(2, type="average_pool"),
            Flatten(),
            Elementwise(type="relu"),
            Dense(3),
        ),
        shape=(11, 12, 3),
    ),
    "a pool that sees only negative values": ModelSpec(
        layers=(
            Elementwise(type="softplus"),
            Conv(3, 1, bias=False, type="conv1d"),
            Pool(3, padding=1, type="max_pool"),
            Flatten(),
            Dense(3),
        ),
        shape=(6, 1),
    ),
    "normalizations": ModelSpec(
        layers=(
            Conv(6, 3, type="conv2d"),
            Norm(3, type="group_norm"),
            Elementwise(type="relu"),
            Norm(type="layer_norm"),
            Flatten(),
            Norm(type="layer_norm"),
            Norm(1, epsilon=1e-3, type="group_norm"),
            Dense(8),
            Norm(4, type="group_norm"),
            Dense(3),
        ),
        shape=(7, 8, 2),
    ),
    "a norm over time": ModelSpec(
        layers=(Norm(2, type="group_norm"), Norm(type="layer_norm"), Flatten(), Dense(3)), shape=(5, 4)
    ),
    "recurrent": ModelSpec(
        layers=(
            Conv(5, 3, type="conv1d"),
            Gru(7, sequences=True),
            Elementwise(type="tanh"),
            Gru(6),
            Dense(3),
        ),
        shape=(10, 2),
    ),
    "recurrent and flattened": ModelSpec(layers=(Gru(4, sequences=True), Flatten(), Dense(3)), shape=(5, 2)),
    "words": ModelSpec(layers=(Embedding(9, 4), Pool(2, type="average_pool"), Flatten(), Dense(3)), shape=(6, 1)),
}


def some_params(spec: ModelSpec, seed: int = 7) -> np.ndarray:
    scale = np.float32(0.5)
    return np.random.default_rng(seed).normal(size=spec.parameter_count).astype(np.float32) * scale


def some_inputs(spec: ModelSpec, n: int = 6) -> np.ndarray:
    rng = np.random.default_rng(1)
    if isinstance(spec.layers[0], Embedding):
        return rng.integers(0, spec.layers[0].vocabulary, (n, *spec.shape)).astype(np.float32)
    return rng.normal(size=(n, *spec.shape)).astype(np.float32)


def expected(spec: ModelSpec, params: np.ndarray, x: np.ndarray) -> np.ndarray:
    y = network(spec).predict(params, x.reshape(len(x), -1)).astype(np.float64)
    if spec.loss == "softmax_cross_entropy":
        y = np.exp(y - y.max(axis=1, keepdims=True))
        return y / y.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-y)) if spec.loss == "binary_cross_entropy" else y


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def spec(request) -> ModelSpec:
    return request.param


def test_litert_computes_what_the_network_computes(spec):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel's own imports are not this project's to fix
        interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    if any(isinstance(layer, Gru) for layer in spec.layers):
        with pytest.raises(LocalError, match="is a gru"):
            tflite_model(spec, some_params(spec), description="gait")
        return
    params, x = some_params(spec), some_inputs(spec)
    runner = interpreter.Interpreter(model_content=tflite_model(spec, params, description="gait"))
    source, sink = runner.get_input_details()[0], runner.get_output_details()[0]
    assert (source["name"], source["shape"].tolist()) == ("features", [1, *spec.shape])
    for rows in (x, x[:1]):  # a batch, and what a microcontroller does
        runner.resize_tensor_input(source["index"], rows.shape)
        runner.allocate_tensors()
        runner.set_tensor(source["index"], rows)
        runner.invoke()
        np.testing.assert_allclose(runner.get_tensor(sink["index"]), expected(spec, params, rows), atol=1e-5)
    if spec.loss in ("softmax_cross_entropy", "binary_cross_entropy"):
        assert sink["name"] == "probabilities"


def test_onnxruntime_computes_what_the_network_computes(spec):
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    params, x = some_params(spec), some_inputs(spec)
    data = onnx_model(spec, params, description="gait")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    assert (source.name, source.shape) == ("features", ["n", *spec.shape])
    for rows in (x, x[:1]):
        (got,) = session.run(None, {"features": rows})
        np.testing.assert_allclose(got, expected(spec, params, rows), atol=1e-5)


def test_pytorch_computes_what_the_network_computes(spec):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params, x = some_params(spec), some_inputs(spec)
    modules, channels_first = in_torch(torch, spec)
    tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in state_dict(spec, params).items()}
    torch.nn.Sequential(*modules).load_state_dict(tensors)
    y = run_torch(torch, modules, torch.from_numpy(x), channels_first)
    if spec.loss == "softmax_cross_entropy":
        y = y.softmax(1)
    elif spec.loss == "binary_cross_entropy":
        y = y.sigmoid()
    np.testing.assert_allclose(y.detach().numpy(), expected(spec, params, x), atol=1e-5)


def in_torch(torch, spec):
    """The modules that docs/models.md names, and for each whether it works channels-first."""
    nn = torch.nn
    modules, first = [], []
    for placed in spec.placed:
        layer, rank = placed.layer, len(placed.takes) - 1
        one_or_two = {1: "1d", 2: "2d"}.get(rank, "")
        convolution = getattr(nn, f"Conv{one_or_two}", None)
        match layer:
            case Dense():
                module = nn.Linear(placed.takes[0], layer.units, bias=layer.bias)
            case Conv():
                options = {"stride": layer.stride, "padding": layer.padding, "bias": layer.bias}
                module = convolution(placed.takes[-1], layer.filters, layer.kernel, **options)
            case DepthwiseConv():
                c, options = placed.takes[-1], {"stride": layer.stride, "padding": layer.padding, "bias": layer.bias}
                module = convolution(c, c, layer.kernel, groups=c, **options)
            case Pool():
                kind = "Max" if layer.type == "max_pool" else "Avg"
                module = getattr(nn, f"{kind}Pool{one_or_two}")(layer.size, layer.stride, layer.padding)
            case Norm(groups=None):
                module = nn.LayerNorm(placed.takes[-1], eps=layer.epsilon)
            case Norm():
                module = nn.GroupNorm(layer.groups, placed.takes[-1], eps=layer.epsilon)
            case Gru():
                module = nn.GRU(placed.takes[-1], layer.units, batch_first=True)
            case Embedding():
                module = nn.Embedding(layer.vocabulary, layer.units)
            case Flatten():
                module = nn.Flatten()
            case Dropout():
                module = nn.Dropout(layer.rate)
            case Elementwise():
                module = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus}[
                    layer.type
                ]()
        modules.append(module.eval())
        first.append(isinstance(layer, (Conv, DepthwiseConv, Pool, Flatten)) or getattr(layer, "groups", None))
    return modules, first


def run_torch(torch, modules, x, channels_first):
    for module, first in zip(modules, channels_first, strict=True):
        if isinstance(module, torch.nn.Embedding):
            x = module(x[..., 0].long())
        elif isinstance(module, torch.nn.GRU):
            states, last = module(x)
            x = states if wants_sequences(modules, module) else last[0]
        elif first and x.ndim > 2:
            x = module(x.movedim(-1, 1))
            x = x.movedim(1, -1) if x.ndim > 2 else x
        else:
            x = module(x)
    return x


def wants_sequences(modules, module) -> bool:
    later = modules[modules.index(module) + 1 :]
    return any("GRU" in type(other).__name__ or "Flatten" in type(other).__name__ for other in later)


def test_tensors_that_go_out_come_back_the_same(spec):
    params = some_params(spec)
    tensors = state_dict(spec, params)
    assert all(tensor.flags.c_contiguous and tensor.dtype == np.float32 for tensor in tensors.values())
    loaded = load_state_dict(spec, tensors, np.zeros_like(params))
    np.testing.assert_array_equal(loaded.params, params)
    assert loaded.fresh == ()


def test_what_stands_behind_a_flatten_is_in_pytorchs_order():
    """The oracle convolves and flattens channels-first, position by position, as PyTorch defines it."""
    spec = ModelSpec(layers=(Conv(3, (2, 3), type="conv2d"), Flatten(), Dense(4)), loss="hinge", shape=(4, 5, 2))
    params, x = some_params(spec), some_inputs(spec, 3)
    tensors = {name: tensor.astype(np.float64) for name, tensor in state_dict(spec, params).items()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "0.weight": (3, 2, 2, 3),
        "0.bias": (3,),
        "2.weight": (4, 27),
        "2.bias": (4,),
    }
    first = np.moveaxis(x.astype(np.float64), -1, 1)
    maps = np.zeros((3, 3, 3, 3))
    for row in range(3):
        for column in range(3):
            patch = first[:, :, row : row + 2, column : column + 3]
            maps[:, :, row, column] = np.einsum("ncij,ocij->no", patch, tensors["0.weight"]) + tensors["0.bias"]
    want = maps.reshape(3, -1) @ tensors["2.weight"].T + tensors["2.bias"]
    np.testing.assert_allclose(network(spec).predict(params, x.reshape(3, -1)), want, atol=1e-5)


def test_a_layer_that_the_file_does_not_have_stays_fresh():
    spec = ModelSpec(4, (Dense(5, "relu", frozen=True), Dense(3)))
    fresh, trained = some_params(spec, 1), some_params(spec, 2)
    tensors = {name: tensor for name, tensor in state_dict(spec, trained).items() if name.startswith("0.")}
    loaded = load_state_dict(spec, tensors, fresh)
    assert (loaded.taken, loaded.fresh) == ((0,), (2,))
    np.testing.assert_array_equal(loaded.params, np.concatenate([trained[:25], fresh[25:]]))


FAULTS = {
    "another name": ({"9.weight": np.zeros((3, 4), np.float32)}, r'"9\.weight" has no place.*0\.weight, 0\.bias'),
    "another shape": (
        {"0.weight": np.zeros((4, 3), np.float32)},
        r"float32 \[4, 3\], the model wants float32 \[3, 4\]",
    ),
    "another type": ({"0.weight": np.zeros((3, 4))}, r"is float64 \[3, 4\]"),
    "half a layer": ({"0.weight": np.zeros((3, 4), np.float32)}, r'"0\.bias" is missing'),
    "NaN": ({"0.bias": np.full(3, np.nan, np.float32)}, "NaN"),
    "nothing": ({}, "no tensor of this model"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_tensors_that_do_not_fit_are_refused(case):
    tensors, words = FAULTS[case]
    spec = ModelSpec(4, (Dense(3),))
    with pytest.raises(LocalError, match=words):
        load_state_dict(spec, tensors, some_params(spec))


def test_a_file_of_tensors_is_read_and_a_pickle_is_not(tmp_path):
    tensors = {"0.weight": np.ones((3, 4), np.float32), "0.bias": np.zeros(3, np.float32)}
    np.savez(tmp_path / "w.npz", task=np.asarray("gait"), **tensors)
    assert {*read_tensors(tmp_path / "w.npz")} == {"0.weight", "0.bias"}
    (tmp_path / "w.pt").write_bytes(pickle.dumps(tensors))
    np.savez(tmp_path / "objects.npz", np.array([{}], object))
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 and then nothing")
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 20)
    for name, words in {
        "w.pt": "is a pickle",
        "objects.npz": "cannot read the tensors",
        "damaged.npz": "cannot read the tensors",
        "damaged.safetensors": "cannot read the tensors",
        "w.txt": "want a .safetensors or .npz file",
        "gone.npz": "No such file",
    }.items():
        if name == "w.txt":
            (tmp_path / name).write_text("")
        with pytest.raises(LocalError, match=words):
            read_tensors(tmp_path / name)
