"""The live sensor end to end: the host firmware replays a recording over a simulated line."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import ColumnMissing, DeviceFault, LocalError
from edge_runtime.features import Table, examples
from edge_runtime.live import SensorSource
from edge_runtime.task import InputSpec, WindowSpec
from firmware_bridge.host_firmware import host_firmware_path
from firmware_bridge.line_simulator import LineSimulator
from firmware_bridge.sensor import Batch

BAUD = 1_000_000
SPEC = InputSpec(("ax", "n"), "on", ("off", "on"))


def write_recording(path: Path, rows: int, rate_hz: float = 200.0) -> np.ndarray:
    """(rows, 3): ax = 0.001 k, n counts, on changes every 100 rows."""
    n = np.arange(rows)
    raw = np.stack([np.round(9810 * np.sin(n / 20)), n, n // 100 % 2], axis=1)
    lines = ["# sensor: imu", f"# rate_hz: {rate_hz}", "ax[m/s2]*0.001,n[1],on[1]"]
    lines += [f"{x / 1000:.3f},{int(k)},{int(on)}" for x, k, on in raw.tolist()]
    path.write_text("\n".join(lines) + "\n")
    return (raw * [0.001, 1, 1]).astype(np.float32)


@contextlib.contextmanager
def board(line: LineSimulator, recording: Path, *options: str) -> Iterator[None]:
    command = [host_firmware_path(), "--tty", line.b, "--baud", str(BAUD), *options, recording]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def listening(line: LineSimulator, **options: float) -> Iterator[SensorSource]:
    source = SensorSource(line.a, baud=BAUD, **options)
    try:
        yield source
    finally:
        source.close()


def read_until(source: SensorSource, enough: Callable[[Table], bool], timeout_s: float = 15.0) -> Table:
    deadline_s = time.monotonic() + timeout_s
    while not enough(table := source.read(SPEC)):
        assert time.monotonic() < deadline_s, f"{len(table.labels)} rows after {timeout_s} s"
        time.sleep(0.02)
    return table


def test_a_lossy_line_gives_the_recording_in_one_segment(tmp_path) -> None:
    want = write_recording(tmp_path / "imu.csv", 700)
    with (
        LineSimulator(baud=BAUD, corrupt=1e-4) as line,
        board(line, tmp_path / "imu.csv", "--speed", "0"),
        listening(line) as source,
    ):
        table = read_until(source, lambda table: len(table.labels) == 700)
        assert source.read(SPEC) is table  # nothing new, nothing made
        np.testing.assert_allclose(table.values, want[:, :2], rtol=1e-5)
        np.testing.assert_array_equal(table.labels, want[:, 2].astype(np.int32))
        assert set(table.segments) == {1}
        windowed = InputSpec(("ax", "n"), "on", ("off", "on"), window=WindowSpec(50, 50))
        assert len(examples(source.read(windowed), windowed).y) == 14
        with pytest.raises(ColumnMissing, match='has no channel "ay"; it has: ax, n, on') as caught:
            source.read(InputSpec(("ay",), "on", ("off", "on")))
        assert caught.value.column == "ay"
        with pytest.raises(LocalError, match='the sensor\'s channel "n" has values outside the 2 classes'):
            source.read(InputSpec(("ax",), "n", ("off", "on")))


def test_a_cable_pulled_and_put_back_changes_no_value_and_a_gap_is_in_no_window(tmp_path) -> None:
    want = write_recording(tmp_path / "imu.csv", 3000, rate_hz=1000.0)
    with LineSimulator(baud=BAUD) as line, board(line, tmp_path / "imu.csv"), listening(line) as source:
        read_until(source, lambda table: len(table.labels) > 200)
        line.unplug()
        time.sleep(0.4)
        line.plug()
        table = read_until(source, lambda table: table.values[-1, 1] > 1500)
    rows = table.values[:, 1].astype(int)
    assert len(set(rows)) == len(rows)  # nothing twice
    np.testing.assert_allclose(table.values, want[rows, :2], rtol=1e-5)
    for first, second in zip(range(len(rows) - 1), range(1, len(rows)), strict=True):
        if table.segments[first] == table.segments[second]:
            assert rows[second] == rows[first] + 1


def test_a_board_that_restarts_begins_a_new_segment(tmp_path) -> None:
    write_recording(tmp_path / "imu.csv", 4000)
    with LineSimulator(baud=BAUD) as line, listening(line) as source:
        with board(line, tmp_path / "imu.csv"):
            before = read_until(source, lambda table: len(table.labels) > 40)
        with board(line, tmp_path / "imu.csv"):
            after = read_until(source, lambda table: len(table.labels) > len(before.labels) + 60)
    restarts = np.flatnonzero(np.diff(after.values[:, 1]) < 0)
    assert len(restarts) == 1
    assert after.segments[restarts[0]] != after.segments[restarts[0] + 1]


def test_another_board_on_the_line_replaces_the_columns(tmp_path) -> None:
    write_recording(tmp_path / "imu.csv", 4000)
    (tmp_path / "other.csv").write_text("# rate_hz: 200\nn[1],on[1]\n" + "".join(f"{i},1\n" for i in range(500)))
    with LineSimulator(baud=BAUD) as line, listening(line) as source:
        with board(line, tmp_path / "imu.csv"):
            read_until(source, lambda table: len(table.labels) > 40)
        spec = InputSpec(("n",), "on", ("off", "on"))
        with board(line, tmp_path / "other.csv"):
            deadline_s = time.monotonic() + 10
            while not (table := source.read(spec)).labels.size or not table.labels.all():
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
            with pytest.raises(ColumnMissing):
                source.read(SPEC)
    assert table.values.shape[1] == 1


def test_a_silent_port_is_told_after_some_patience() -> None:
    with (
        LineSimulator() as line,
        listening(line, patience_s=0.2) as source,
        pytest.raises(DeviceFault, match="is silent"),
    ):
        source.read(SPEC)


def test_a_port_that_is_not_there_is_waited_for(tmp_path) -> None:
    source = SensorSource(str(tmp_path / "none"), patience_s=0.1)
    with pytest.raises(DeviceFault, match="is silent"):
        source.read(SPEC)
    source.close()


# Without a board: what a reader hands over


@pytest.fixture
def quiet(tmp_path) -> Iterator[SensorSource]:
    source = SensorSource(str(tmp_path / "none"), kept_rows=100, patience_s=0.0)
    source._names = ("ax", "n", "on")
    yield source
    source.close()


def batch(values: np.ndarray, missed: int = 0) -> Batch:
    return Batch(values, values.astype(np.int16), np.zeros(len(values)), 0, 0, missed)


def counted(first: int, rows: int) -> np.ndarray:
    return np.array([[0.5, number, 1] for number in range(first, first + rows)])


def test_missed_samples_begin_a_new_segment(quiet) -> None:
    for values, missed in [(counted(0, 5), 0), (counted(5, 5), 0), (counted(13, 5), 3)]:
        quiet._keep(batch(values, missed))
    assert quiet.read(SPEC).segments.tolist() == [0] * 10 + [1] * 5


def test_a_sample_that_is_not_finite_is_a_gap(quiet) -> None:
    values = counted(0, 10)
    values[0, 0] = values[4, 1] = np.nan
    values[5, 0] = 1e300
    values[9, 2] = np.inf
    with np.errstate(invalid="ignore"):
        quiet._keep(Batch(values, np.zeros((10, 3), np.int16), np.zeros(10), 0, 0, 0))
    table = quiet.read(SPEC)
    assert table.values[:, 1].tolist() == [1, 2, 3, 6, 7, 8]
    assert len(set(table.segments[:3])) == len(set(table.segments[3:])) == 1
    assert table.segments[2] != table.segments[3]
    examples(table, SPEC)


def test_only_the_newest_rows_are_kept(quiet) -> None:
    for first in range(0, 1000, 7):
        quiet._keep(batch(counted(first, 7)))
        assert quiet._rows == sum(len(values) for _, values in quiet._batches) < 107
    assert quiet.read(SPEC).values[-1, 1] == 1000
