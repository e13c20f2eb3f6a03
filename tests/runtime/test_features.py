from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import LocalError, NotEnoughYet
from edge_runtime.features import Table, examples, label_reader
from edge_runtime.task import InputSpec, WindowSpec

ORACLES = {
    "mean": lambda column: math.fsum(column) / len(column),
    "std": lambda column: math.sqrt(
        math.fsum((v - math.fsum(column) / len(column)) ** 2 for v in column) / len(column)
    ),
    "min": min,
    "max": max,
}


def slow_windows(table: Table, spec: InputSpec) -> list[tuple[list[float], int]]:
    """One window after another, one number after another."""
    out, window = [], spec.window
    rows = table.values.tolist()
    for start in range(0, len(rows) - window.length + 1, window.step):
        chosen = range(start, start + window.length)
        if len({int(table.labels[row]) for row in chosen}) > 1:
            continue
        if table.segments is not None and len({int(table.segments[row]) for row in chosen}) > 1:
            continue
        features = [
            ORACLES[name]([rows[row][column] for row in chosen])
            for name in window.statistics
            for column in range(len(spec.columns))
        ]
        out.append((features, int(table.labels[start])))
    return out


@st.composite
def recordings(draw: st.DrawFn) -> tuple[Table, InputSpec]:
    count = draw(st.integers(0, 40))
    values = draw(st.lists(st.integers(-1000, 1000), min_size=2 * count, max_size=2 * count))
    runs = st.lists(st.integers(0, 2), min_size=count, max_size=count).map(lambda steps: np.cumsum(np.array(steps) > 1))
    labels = draw(runs).astype(np.int32) % 3
    segments = draw(st.none() | runs.map(lambda segments: segments.astype(np.int32)))
    statistics = draw(st.permutations(list(ORACLES)).map(tuple))[: draw(st.integers(1, 4))]
    window = WindowSpec(draw(st.integers(2, 9)), draw(st.integers(1, 5)), statistics)
    spec = InputSpec(("a", "b"), "label", ("x", "y", "z"), window=window)
    return Table(np.array(values, np.float32).reshape(count, 2) / 8, labels, segments), spec


@given(recordings())
def test_windows_lie_within_one_label_and_one_segment_and_their_statistics_are_right(recording) -> None:
    table, spec = recording
    want = slow_windows(table, spec)
    if not want:
        with pytest.raises(LocalError, match="no complete example"):
            examples(table, spec)
        return
    got = examples(table, spec)
    assert got.x.dtype == np.float32
    assert got.x.flags.c_contiguous
    assert got.y.tolist() == [label for _, label in want]
    np.testing.assert_allclose(got.x, [features for features, _ in want], rtol=1e-4, atol=1e-4)


def test_many_overlapping_windows_take_little_more_memory_than_the_data() -> None:
    rows, length = 20_000, 1000
    spec = InputSpec(("a",), "label", ("x", "y"), window=WindowSpec(length, 1, ("mean",)))
    table = Table(np.arange(rows, dtype=np.float32).reshape(-1, 1), np.zeros(rows, np.int32))
    tracemalloc.start()
    try:
        got = examples(table, spec)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(got.y) == rows - length + 1
    np.testing.assert_allclose(got.x[:, 0], np.arange(len(got.y)) + (length - 1) / 2, rtol=1e-5)
    assert peak_bytes < 8 << 20  # all windows at once are 80 MB


def test_columns_are_scaled_by_the_public_constants() -> None:
    spec = InputSpec(("a", "b"), "label", ("x", "y"), offset=(1.0, 2.0), scale=(2.0, -4.0))
    values = np.array([[3, 6], [1, 2]], np.float32)
    got = examples(Table(values, np.array([0, 1], np.int32)), spec)
    np.testing.assert_array_equal(got.x, [[1, -1], [0, 0]])
    np.testing.assert_array_equal(values, [[3, 6], [1, 2]])  # the owner's table is left alone


def test_a_regression_has_one_target_an_example() -> None:
    got = examples(Table(np.ones((3, 1), np.float32), np.array([1, 2, 3], np.float32)), InputSpec(("a",), "b"))
    assert got.y.shape == (3, 1)
    assert got.y.dtype == np.float32


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_with_its_row_and_column(poison: float) -> None:
    values, labels = np.ones((5, 2), np.float32), np.ones(5, np.float32)
    values[3, 1] = poison
    with pytest.raises(LocalError, match='row 4 of the data has no finite number in column "b"'):
        examples(Table(values, labels), InputSpec(("a", "b"), "label"))
    labels[2] = poison
    with pytest.raises(LocalError, match='row 3 of the data has no finite number in column "label"'):
        examples(Table(np.ones((5, 2), np.float32), labels), InputSpec(("a", "b"), "label"))


def test_no_rows_are_no_examples() -> None:
    with pytest.raises(LocalError, match="no complete example"):
        examples(Table(np.empty((0, 1), np.float32), np.empty(0, np.int32)), InputSpec(("a",), "b", ("x", "y")))


def test_a_class_is_written_by_name_or_position() -> None:
    read = label_reader(InputSpec(("a",), "label", ("walk", "run", "0")))
    assert [read(text) for text in ("walk", "run", "1", "2")] == [0, 1, 1, 2]
    assert read("0") == 2  # a name goes before a position
    with pytest.raises(LocalError, match='the label "fly" is none of the classes walk, run, 0'):
        read("fly")
    for text in ("nan", "inf", "-Infinity"):
        with pytest.raises(LocalError, match="not a finite number"):
            label_reader(InputSpec(("a",), "label"))(text)


def test_more_examples_than_a_device_has_room_for_are_refused_before_there_is_room(monkeypatch) -> None:
    window = WindowSpec(2, 1, ("mean", "std", "min", "max"))
    spec = InputSpec(("a", "b"), "label", ("x",), window=window)
    table = Table(np.zeros((100, 2), np.float32), np.zeros(100, np.int32))
    monkeypatch.setattr("edge_runtime.features.MAX_EXAMPLE_VALUES", 99 * 8)
    assert len(examples(table, spec).y) == 99
    monkeypatch.setattr("edge_runtime.features.MAX_EXAMPLE_VALUES", 99 * 8 - 1)
    with pytest.raises(LocalError, match="more than the 791 values"):
        examples(table, spec)


def test_a_live_sensor_without_one_window_is_told_from_a_file_that_is_too_short() -> None:
    spec = InputSpec(("a",), "label", ("x",), window=WindowSpec(5, 1))
    values, labels = np.zeros((3, 1), np.float32), np.zeros(3, np.int32)
    with pytest.raises(NotEnoughYet):
        examples(Table(values, labels, live=True), spec)
    with pytest.raises(LocalError) as caught:
        examples(Table(values, labels), spec)
    assert not isinstance(caught.value, NotEnoughYet)
