"""Local training and scores of whole tasks: losses of classes, optimizers, frozen layers, windows of samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime import model
from edge_runtime.architecture import Conv, Dense, Dropout, Flatten, Gru, Norm, Pool
from edge_runtime.errors import LocalError
from edge_runtime.features import Examples, Table, examples
from edge_runtime.tables import from_mapping
from edge_runtime.task import InputSpec, ModelSpec, Task, TrainingSpec, WindowSpec


def blobs(classes: int, rows: int = 300) -> Examples:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, rows).astype(np.int32)
    centers = 3 * np.eye(4)[:classes]
    return Examples((centers[y] + 0.5 * rng.normal(size=(rows, 4))).astype(np.float32), y)


def trained(spec: ModelSpec, data: Examples, **training: object) -> np.ndarray:
    params = model.initial_params(spec, np.random.default_rng(1))
    options = TrainingSpec(**{"epochs": 20, **training})
    return params + model.local_update(spec, options, params, data, np.random.default_rng(2))


@pytest.mark.parametrize(
    ("loss", "outputs", "classes"),
    [
        ("softmax_cross_entropy", 3, 3),
        ("binary_cross_entropy", 3, 3),
        ("binary_cross_entropy", 1, 2),
        ("hinge", 3, 3),
        ("hinge", 1, 2),
    ],
)
def test_every_loss_of_classes_learns_them_and_counts_right_answers(loss, outputs, classes) -> None:
    spec, data = ModelSpec(4, (Dense(outputs),), loss), blobs(classes)
    params = trained(spec, data)
    score = model.score(spec, params, data)
    assert score.accuracy is not None
    assert score.accuracy > 0.97
    wrong = Examples(data.x, ((data.y + 1) % classes).astype(np.int32))
    assert model.score(spec, params, wrong).accuracy == pytest.approx(0, abs=0.03)


def test_targets_of_two_classes_are_what_each_loss_compares_with() -> None:
    y = np.array([0, 1, 1], np.int32)
    bce, hinge = ModelSpec(2, (Dense(1),), "binary_cross_entropy"), ModelSpec(2, (Dense(2),), "hinge")
    assert model.targets(bce, y).tolist() == [[0.0], [1.0], [1.0]]
    assert model.targets(hinge, y).tolist() == [[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0]]
    assert model.targets(ModelSpec(2, (Dense(2),)), y) is y


def test_a_probability_above_one_half_is_the_second_class() -> None:
    assert model.decide(np.array([[-0.1], [0.1], [0.0]], np.float32)).tolist() == [0, 1, 0]
    assert model.decide(np.array([[1.0, 2.0, 0.0]], np.float32)).tolist() == [1]


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_a_number_has_no_accuracy(loss) -> None:
    spec = ModelSpec(4, (Dense(1),), loss, huber_delta=0.5 if loss == "huber" else 1.0)
    x = np.random.default_rng(5).normal(size=(300, 4)).astype(np.float32)
    data = Examples(x, (x @ [[1.0], [2.0], [0.0], [0.0]]).astype(np.float32))
    params = trained(spec, data, learning_rate=0.05)
    assert model.score(spec, params, data).accuracy is None
    np.testing.assert_allclose(params, [1, 2, 0, 0, 0], atol=0.02)


def test_a_class_that_weighs_more_is_decided_for_more_often() -> None:
    x = np.zeros((200, 1), np.float32)
    data = Examples(x, (np.arange(200) % 4 == 0).astype(np.int32))  # a quarter is of class 1
    plain, weighted = ModelSpec(1, (Dense(2),)), ModelSpec(1, (Dense(2),), class_weights=(1.0, 9.0))
    assert model.decide(model.network(plain).predict(trained(plain, data), x)).tolist() == [0] * 200
    assert model.decide(model.network(weighted).predict(trained(weighted, data), x)).tolist() == [1] * 200


def test_a_frozen_layer_moves_by_exactly_nothing_and_the_rest_learns() -> None:
    spec, data = ModelSpec(4, (Dense(16, "tanh", frozen=True), Dense(3))), blobs(3)
    params = model.initial_params(spec, np.random.default_rng(1))
    for options in ({}, {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}, {"proximal": 0.1}):
        training = TrainingSpec(epochs=10, **options)
        update = model.local_update(spec, training, params, data, np.random.default_rng(2))
        assert not update[:80].any()
        assert model.score(spec, params + update, data).accuracy > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9, "nesterov": True, "learning_rate": 0.02},
        {"optimizer": "adam", "learning_rate": 0.01},
        {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.01, "beta1": 0.8},
        {"reproducible": True},
        {"weight_decay": 1e-3},
    ],
)
def test_every_optimizer_learns(options) -> None:
    spec, data = ModelSpec(4, (Dense(8, "relu"), Dense(3))), blobs(3)
    assert model.score(spec, trained(spec, data, **options), data).accuracy > 0.97


def test_a_micro_batch_changes_no_bit() -> None:
    spec, data = ModelSpec(4, (Dense(8, "relu"), Dense(3))), blobs(3)
    whole = trained(spec, data, batch_size=64)
    np.testing.assert_array_equal(trained(spec, data, batch_size=64, micro_batch=5), whole)


def test_dropout_acts_in_training_and_not_in_scores() -> None:
    data = blobs(3)
    spec = ModelSpec(4, (Dense(32, "relu"), Dropout(0.5), Dense(3)))
    params = trained(spec, data)
    without = replace(spec, layers=(spec.layers[0], spec.layers[2]))
    assert not np.array_equal(trained(without, data), params)
    assert model.score(spec, params, data) == model.score(without, params, data)


def test_a_convolution_tells_windows_of_samples_apart_that_no_statistic_tells() -> None:
    """Rising and falling teeth have the same mean, deviation, minimum and maximum."""
    tooth = np.tile(np.arange(8, dtype=np.float32), 40)
    values = np.concatenate([tooth, tooth[::-1]])[:, None]
    labels = np.repeat([0, 1], len(tooth)).astype(np.int32)
    inputs = InputSpec(("x",), "way", ("up", "down"), scale=(8.0,), window=WindowSpec(16, 3, values="samples"))
    data = examples(Table(values, labels), inputs)
    assert data.x.shape[1] == 16
    np.testing.assert_allclose(data.x[1], np.tile(np.roll(np.arange(8), -3), 2) / 8)
    for layers in (
        (Conv(8, 3, activation="relu", type="conv1d"), Norm(2, type="group_norm"), Pool(14, type="average_pool")),
        (Gru(8),),
    ):
        behind = (Flatten(), Dense(2)) if len(layers) > 1 else (Dense(2),)
        spec = ModelSpec(layers=(*layers, *behind), shape=(16, 1))
        Task("teeth", 1, inputs, spec)
        params = trained(spec, data, optimizer="adam", learning_rate=0.02, epochs=60)
        assert model.score(spec, params, data).accuracy == 1.0


def test_samples_come_row_by_row_with_all_columns_of_a_row() -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    inputs = InputSpec(("a", "b"), "label", window=WindowSpec(3, 2, values="samples"))
    data = examples(Table(values, np.arange(6, dtype=np.float32)), inputs)
    assert data.x.tolist() == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]
    assert data.y.tolist() == [[2], [4]]
    assert inputs.shape == (3, 2)


def test_windows_of_another_shape_than_the_models_are_refused() -> None:
    inputs = InputSpec(("a", "b"), "label", ("x", "y"), window=WindowSpec(6, 2, values="samples"))
    with pytest.raises(ValueError, match=r"the windows are \[6, 2\], the model takes \[4, 3\]"):
        Task("t", 1, inputs, ModelSpec(layers=(Flatten(), Dense(2)), shape=(4, 3)))
    Task("t", 1, inputs, ModelSpec(12, (Dense(2),)))  # as a vector


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, "momentum and nesterov go with sgd, adam has beta1 and beta2"),
        ({"beta1": 0.8}, "beta1, beta2 and adam_epsilon go with adam and adamw"),
        ({"nesterov": True}, "nesterov needs a momentum"),
        ({"optimizer": "adma"}, "optimizer: want one of sgd, adam, adamw; got 'adma'"),
        ({"beta2": 1.0, "optimizer": "adam"}, "beta2: 1.0 is outside"),
    ],
)
def test_options_of_another_optimizer_are_a_mistake(options, words) -> None:
    with pytest.raises(LocalError) as caught:
        from_mapping(TrainingSpec, options, where="training")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "outputs", "classes", "words"),
    [
        ("hinge", 1, 3, "3 classes are named; the loss hinge with one output tells two classes apart"),
        ("binary_cross_entropy", 2, 3, "3 classes are named, the model has 2 outputs"),
        ("huber", 1, 2, "the loss huber predicts one number"),
        ("huber", 2, 0, "the loss huber predicts one number"),
    ],
)
def test_outputs_that_cannot_be_the_classes_are_refused(loss, outputs, classes, words) -> None:
    inputs = InputSpec(("a",), "label", tuple("xyz"[:classes]))
    with pytest.raises(ValueError, match=words):
        Task("t", 1, inputs, ModelSpec(1, (Dense(outputs),), loss))
