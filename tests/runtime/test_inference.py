"""Frozen extractors: files that the exporter itself has made, found by their hash and run on the device's data."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.interchange.tflite import tflite_model
from edge_runtime import inference
from edge_runtime.architecture import Conv, Dense, Flatten, Pool
from edge_runtime.device import Device
from edge_runtime.errors import ExtractorUnusable, LocalError
from edge_runtime.features import Table, examples
from edge_runtime.inference import Extractors
from edge_runtime.ledger import Ledger
from edge_runtime.messages import Contribute, Decline, Welcome
from edge_runtime.model import initial_params, network
from edge_runtime.policy import Policy
from edge_runtime.task import ExtractorSpec, InputSpec, ModelSpec, PrivacySpec, Task, WindowSpec

FROZEN = ModelSpec(
    layers=(
        Conv(4, 3, activation="relu", type="conv1d"),
        Pool(2, type="max_pool"),
        Flatten(),
        Dense(5, "tanh"),
    ),
    loss="hinge",  # which adds nothing behind the last layer
    shape=(10, 2),
)
PARAMS = initial_params(FROZEN, np.random.default_rng(3))
WINDOW = WindowSpec(10, 4, values="samples")


@pytest.fixture
def file() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel's own imports are not this project's to fix
        pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    data = tflite_model(FROZEN, PARAMS, description="frozen")
    assert data is not None
    return data


def inputs_for(data: bytes, **changes: object) -> InputSpec:
    spec = ExtractorSpec(hashlib.sha256(data).hexdigest(), 5, "steps")
    inputs = InputSpec(("a", "b"), "label", ("no", "yes"), scale=(2.0, 0.5), window=WINDOW, extractor=spec)
    return replace(inputs, **changes)


def a_task(inputs: InputSpec, **changes: object) -> Task:
    return Task("t", 1, inputs, ModelSpec(inputs.features, (Dense(2),)), **changes)


def a_table(rows: int = 60) -> Table:
    values = np.random.default_rng(1).normal(size=(rows, 2)).astype(np.float32)
    return Table(values, np.repeat([0, 1], rows // 2).astype(np.int32))


def put(folder: Path, data: bytes, name: str = "any name.tflite") -> Extractors:
    folder.mkdir(exist_ok=True)
    (folder / "another.tflite").write_bytes(b"another")
    (folder / name).write_bytes(data)
    return Extractors(folder)


def test_the_file_with_the_hash_is_run_on_every_window(tmp_path: Path, file: bytes) -> None:
    inputs, table = inputs_for(file), a_table()
    got = examples(table, inputs, put(tmp_path, file).of(inputs))
    raw = examples(table, replace(inputs, extractor=None))
    assert raw.x.shape == (len(got.y), 20)
    np.testing.assert_allclose(got.x, network(FROZEN).predict(PARAMS, raw.x), atol=1e-5)
    np.testing.assert_array_equal(got.y, raw.y)


def test_windows_in_pieces_give_the_same(tmp_path: Path, file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, table = inputs_for(file), a_table()
    extract = put(tmp_path, file).of(inputs)
    whole = examples(table, inputs, extract)
    monkeypatch.setattr("edge_runtime.features._WINDOWED_VALUES", 50)
    np.testing.assert_array_equal(examples(table, inputs, extract).x, whole.x)


def test_rows_without_a_window_go_through_as_they_are(tmp_path: Path, file: bytes) -> None:
    columns = tuple(f"c{index}" for index in range(20))
    inputs = inputs_for(file, columns=columns, scale=(), window=None)
    rows = np.random.default_rng(2).normal(size=(7, 20)).astype(np.float32)
    got = examples(Table(rows, np.zeros(7, np.int32)), inputs, put(tmp_path, file).of(inputs))
    np.testing.assert_allclose(got.x, network(FROZEN).predict(PARAMS, rows), atol=1e-5)


def test_a_file_that_was_changed_is_not_the_one(tmp_path: Path, file: bytes) -> None:
    inputs = inputs_for(file)
    assert put(tmp_path, file).of(inputs) is not None
    changed = put(tmp_path, file[:-1] + bytes([file[-1] ^ 1]))
    with pytest.raises(
        ExtractorUnusable, match=rf'"steps" \(SHA-256 {inputs.extractor.sha256}\) is not on this device'
    ):
        changed.of(inputs)
    with pytest.raises(ExtractorUnusable, match="into the folder extractors"):
        Extractors(None).of(inputs)


def test_an_extractor_of_another_shape_is_refused_before_data_are_read(tmp_path: Path, file: bytes) -> None:
    extractors = put(tmp_path, file)
    with pytest.raises(ExtractorUnusable, match=r"takes \[1, 10, 2\], an example of the task has 24"):
        extractors.of(inputs_for(file, window=replace(WINDOW, length=12)))
    inputs = inputs_for(file)
    with pytest.raises(ExtractorUnusable, match="gives 5 features, the task says 6"):
        extractors.of(replace(inputs, extractor=replace(inputs.extractor, features=6)))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, file: bytes) -> None:
    broken = b"no model at all"
    with pytest.raises(ExtractorUnusable, match="cannot load the extractor"):
        put(tmp_path, broken).of(inputs_for(broken))


def test_without_litert_the_error_says_how_to_get_it(tmp_path: Path, file: bytes, monkeypatch) -> None:
    real = builtins.__import__

    def refusing(name, *args, **kwargs):
        if name.split(".")[0] in ("ai_edge_litert", "tflite_runtime"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    extractors = put(tmp_path, file)
    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(ExtractorUnusable, match=r"pip install 'fedge\[tflite\]'"):
        extractors.of(inputs_for(file))


def test_features_that_are_not_finite_are_the_datas_fault(tmp_path: Path, file: bytes) -> None:
    inputs, table = inputs_for(file), a_table()
    wild = Table(table.values * np.float32(1e30), table.labels)
    extract = put(tmp_path, file).of(replace(inputs, scale=(1e-30, 1e-30)))
    with pytest.raises(LocalError, match="gave NaN or an infinity"):
        examples(wild, replace(inputs, scale=(1e-30, 1e-30)), extract)


def test_examples_are_not_made_without_the_extractor_that_the_task_names(file: bytes) -> None:
    with pytest.raises(LocalError, match="which is not at hand here"):
        examples(a_table(), inputs_for(file))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_quantized_model_is_fed_and_read_in_its_own_steps(dtype) -> None:
    detail = {"dtype": dtype, "quantization": (0.5, 3)}
    values = np.array([-1.0, 0.0, 0.2, 0.3, 1e9], np.float32)
    steps = inference._quantized(values, detail)
    assert steps.dtype == dtype
    assert steps.tolist() == [1, 3, 3, 4, np.iinfo(dtype).max]
    np.testing.assert_allclose(inference._real(steps[:4], detail), [-1.0, 0.0, 0.0, 0.5])


def answer(folder: Path, source, offer) -> Contribute | Decline:
    ledger = Ledger(folder / "ledger.sqlite", create=True)
    policy = Policy(epsilon_budget=100.0, places=("none", "local"))
    device = Device(policy=policy, ledger=ledger, source=source, extractor_folder=folder)
    with contextlib.closing(ledger):
        device.request(0.0)
        device.receive(Welcome("dev-1", "porch"), 0.0)
        device.request(0.0)
        device.receive(offer, 0.0)
        return device.request(0.0)


@pytest.mark.parametrize("here", [True, False])
def test_a_device_trains_the_head_on_what_its_extractor_gives_or_says_what_it_lacks(
    here: bool, tmp_path: Path, file: bytes, new_offer, source
) -> None:
    source.table = a_table()
    put(tmp_path, file if here else b"nothing")
    task = a_task(inputs_for(file), privacy=PrivacySpec("none"))
    got = answer(tmp_path, source, new_offer(task))
    if here:
        assert isinstance(got, Contribute)
        assert got.update.shape == (12,)
        assert got.update.array().any()
    else:
        assert isinstance(got, Decline)
        assert got.code == "data"
        assert task.inputs.extractor.sha256 in got.reason
        assert source.reads == 0  # it depends on no value of the data


def test_an_extractor_is_named_by_its_hash_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="lower-case hexadecimal"):
        ExtractorSpec("g" * 64, 5)
    spec = ExtractorSpec("0" * 64, 7)
    inputs = InputSpec(("a",), "label", ("no", "yes"), window=WINDOW, extractor=spec)
    with pytest.raises(ValueError, match="the inputs give 7 features, the model takes 10"):
        Task("t", 1, inputs, ModelSpec(10, (Dense(2),)))
