"""A live sensor as a device's data: a thread collects what the board sends, bounded; nothing is written to disk."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import ColumnMissing, DeviceFault, FedgeError, LocalError
from edge_runtime.features import Table
from firmware_bridge.line import LinkPort
from firmware_bridge.sensor import Batch, SensorReader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.task import InputSpec

log = logging.getLogger("fedge.device")

_KEPT_ROWS = 1 << 18  # an hour and a half at 50 Hz; with seven channels 7 MB
_RETRY_S = 1.0


class SensorSource:
    """Reads the sensor on ``port`` (at ``baud``) until closed; the newest rows are kept.

    The label is a channel of the sensor like any other, with the class's position as its value: a button, a mode
    switch, an annotation. A board that restarts or is unplugged is waited for; the gap it leaves is in no window, and
    neither is a sample that is not a finite number.
    """

    def __init__(
        self, port: str, *, baud: int = 115_200, kept_rows: int = _KEPT_ROWS, patience_s: float = 20.0
    ) -> None:
        self._kept_rows, self._patience_s = kept_rows, patience_s
        self._lock = threading.Condition()
        self._names: tuple[str, ...] | None = None
        self._batches: deque[tuple[int, NDArray[np.float32]]] = deque()  # segment and values (n, c)
        self._rows = 0
        self._segment = 0
        self._last_fault: Exception | None = None
        self._table: tuple[InputSpec, int, Table] | None = None
        self._received = 0
        self._port = LinkPort(port, baud=baud, identity=b"fedge-host", wait_for_port=True)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._collect, name=f"sensor {port}", daemon=True)
        self._thread.start()

    def read(self, spec: InputSpec) -> Table:
        """What has arrived so far; waits up to ``patience_s`` for a first window of it.

        Raises LocalError when the sensor lacks a column, DeviceFault when it has not answered yet.
        """
        with self._lock:
            wanted_rows = spec.window.length if spec.window else 1
            self._lock.wait_for(lambda: self._rows >= wanted_rows, self._patience_s)
            if self._names is None:
                raise DeviceFault(f"the sensor on {self._port.url} is silent: {self._last_fault or 'no answer yet'}")
            if self._table is not None and self._table[:2] == (spec, self._received):
                return self._table[2]
            names, batches, received = self._names, list(self._batches), self._received
        columns = [_position(name, names, self._port.url) for name in (*spec.columns, spec.label)]
        values = np.concatenate([batch for _, batch in batches]) if batches else np.empty((0, len(names)), np.float32)
        segments = np.repeat([segment for segment, _ in batches], [len(batch) for _, batch in batches]).astype(np.int32)
        table = Table(values[:, columns[:-1]], _labels(values[:, columns[-1]], spec), segments, live=True)
        self._table = (spec, received, table)
        return table

    def close(self) -> None:
        self._closing.set()
        self._port.close()
        self._thread.join()

    def _collect(self) -> None:
        while not self._closing.is_set():
            try:
                self._follow(SensorReader(self._port))
                return  # the board said END
            except (FedgeError, ValueError) as fault:  # ValueError: a board whose numbers do not fit together
                if self._closing.is_set():
                    return
                self._last_fault = fault
                log.info("the sensor: %s; asking it again", fault)
                self._closing.wait(_RETRY_S)

    def _follow(self, reader: SensorReader) -> None:
        description = reader.describe()
        reader.start()
        names = tuple(channel.name for channel in description.channels)
        with self._lock:
            if self._names not in (None, names):  # another board: its columns are not those of the rows before
                self._batches.clear()
                self._rows = 0
            self._names = names
            self._segment += 1
            self._lock.notify_all()
        for batch in reader.batches():
            self._keep(batch)

    def _keep(self, batch: Batch) -> None:
        with self._lock:
            if batch.missed:
                self._segment += 1
            for values in self._finite_runs(batch.values):
                self._batches.append((self._segment, values))
                self._rows += len(values)
                self._received += len(values)
            self._lock.notify_all()
            while self._batches and self._rows - len(self._batches[0][1]) >= self._kept_rows:
                self._rows -= len(self._batches.popleft()[1])

    def _finite_runs(self, values: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
        """``values`` (n, c) as float32, cut where a row has no finite number; each cut begins a new segment."""
        with np.errstate(over="ignore"):
            rows = values.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        first = 0
        for end in (*bad.tolist(), len(rows)):
            if end > first:
                yield rows[first:end]
            if end < len(rows):
                self._segment += 1
            first = end + 1


def _position(name: str, names: tuple[str, ...], url: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise ColumnMissing(name, f'the sensor on {url} has no channel "{name}"; it has: {", ".join(names)}') from None


def _labels(values: NDArray[np.float32], spec: InputSpec) -> NDArray[Any]:
    if not spec.classes:
        return values
    codes = np.rint(values).astype(np.int32)
    if codes.size and not (codes.min() >= 0 and codes.max() < len(spec.classes)):
        raise LocalError(f'the sensor\'s channel "{spec.label}" has values outside the {len(spec.classes)} classes')
    return codes
