"""Where a device's data comes from: a CSV file, an NPZ archive, or a live sensor. Nothing here leaves the device."""

from __future__ import annotations

import csv
import math
import zipfile
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edge_runtime.errors import LocalError
from edge_runtime.features import Table, label_reader
from edge_runtime.transports import serial_address

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.task import InputSpec


class Source(Protocol):
    """Data that a device owns."""

    def read(self, spec: InputSpec) -> Table:
        """The columns that ``spec`` names, as of now. Raises LocalError where the data lacks them."""
        ...

    def close(self) -> None: ...


def open_source(address: str) -> Source:
    """``PATH.csv``, ``PATH.npz`` or ``sensor:PORT``; raises LocalError for anything else."""
    if address.startswith("sensor:"):
        from edge_runtime.live import SensorSource

        port, baud = serial_address(address.removeprefix("sensor:"))
        return SensorSource(port, baud=baud)
    path = Path(address)
    kinds: dict[str, type[CsvSource] | type[NpzSource]] = {".csv": CsvSource, ".npz": NpzSource}
    if path.suffix.lower() not in kinds:
        raise LocalError(f"cannot tell what {address} is: want a .csv or .npz file, or sensor:PORT for a live sensor")
    if not path.is_file():
        raise LocalError(f"there is no file {address}")
    return kinds[path.suffix.lower()](path)


class CsvSource:
    """A CSV file with a header line. Only the columns a task names are read, and only they must be numbers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[InputSpec, Table] | None = None

    def read(self, spec: InputSpec) -> Table:
        if self._read is None or self._read[0] != spec:
            self._read = (spec, self._parse(spec))
        return self._read[1]

    def close(self) -> None:
        self._read = None

    def _parse(self, spec: InputSpec) -> Table:
        read_label = label_reader(spec)
        values, labels = array("f"), array("f")
        try:
            with self._path.open(newline="", encoding="utf-8-sig") as file:
                rows = csv.reader(file)
                header = [name.strip() for name in next(rows, [])]
                positions = [_position(name, header, self._path) for name in (*spec.columns, spec.label)]
                for row in rows:
                    if not row:
                        continue
                    if len(row) != len(header):
                        raise LocalError(
                            f"{self._path}, line {rows.line_num}: {len(row)} cells, the header has {len(header)}"
                        )
                    for position in positions[:-1]:
                        values.append(_number(row[position], header[position], self._path, rows.line_num))
                    try:
                        labels.append(read_label(row[positions[-1]].strip()))
                    except (LocalError, ValueError) as fault:
                        raise LocalError(f"{self._path}, line {rows.line_num}: {fault}") from None
        except UnicodeDecodeError as fault:
            raise LocalError(f"{self._path} is not UTF-8 text: {fault.reason}") from None
        except csv.Error as fault:
            raise LocalError(f"{self._path} is not a CSV file: {fault}") from None
        except OSError as fault:
            raise LocalError(f"cannot read {self._path}: {fault.strerror}") from None
        return Table(
            np.frombuffer(values, np.float32).reshape(-1, len(spec.columns)),
            _labels(np.frombuffer(labels, np.float32), spec),
        )


class NpzSource:
    """An NPZ archive: one 1-D array per column, or ``x`` (t, c) with the column names in ``columns`` (else x0, x1,
    ...).

    The label is an array of its own (t,), numbers or strings. Pickled objects are never loaded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, spec: InputSpec) -> Table:
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as fault:
            raise LocalError(f"cannot read {self._path} as an NPZ archive: {fault}") from None
        columns = {name: values for name, values in arrays.items() if values.ndim == 1}
        if "x" in arrays and arrays["x"].ndim == 2:
            names = arrays.get("columns", np.array([f"x{index}" for index in range(arrays["x"].shape[1])]))
            columns |= {str(name): arrays["x"][:, index] for index, name in enumerate(names)}
        chosen = [
            columns[list(columns)[_position(name, list(columns), self._path)]] for name in (*spec.columns, spec.label)
        ]
        if len({len(column) for column in chosen}) != 1:
            raise LocalError(f"the columns of {self._path} differ in length: {[len(column) for column in chosen]}")
        try:
            values = np.stack([column.astype(np.float32) for column in chosen[:-1]], axis=1)
            read_label = label_reader(spec)
            labels = np.array([read_label(_label_text(label)) for label in chosen[-1].tolist()], np.float32)
        except (ValueError, TypeError, LocalError) as fault:
            raise LocalError(f"{self._path}: {fault}") from None
        return Table(values, _labels(labels, spec))

    def close(self) -> None:
        pass


def _label_text(label: object) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _labels(labels: NDArray[np.float32], spec: InputSpec) -> NDArray[Any]:
    return labels.astype(np.int32) if spec.classes else labels


def _position(name: str, names: list[str], path: Path) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise LocalError(f'{path} lacks the column "{name}" that the task reads; it has: {", ".join(names)}') from None


def _number(text: str, column: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LocalError(f'{path}, line {line}, column "{column}": "{text[:40]}" is not a finite number')
    return value
