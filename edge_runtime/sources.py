"""Where a device's data comes from: a CSV file, an NPZ archive, or a live sensor. Nothing here leaves the device."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_runtime.errors import ColumnMissing, DeviceFault, LocalError
from edge_runtime.transports import serial_address

# NumPy is imported when data are read: a device opens its source long before that.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.features import Table
    from edge_runtime.task import InputSpec


_LARGEST = 3.4028234e38  # float32's


class Source(Protocol):
    """Data that a device owns."""

    def read(self, spec: InputSpec) -> Table:
        """The columns that ``spec`` names, as of now.

        Raises ColumnMissing where the data lack one, DeviceFault where they cannot be reached just now, and another
        LocalError where their values do not fit.
        """
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
    """A CSV file with a header line. Only the columns a task names are read, and only they must be numbers.

    The file is read again when it has changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = _Kept(path)

    def read(self, spec: InputSpec) -> Table:
        return self._kept.get(spec, self._parse)

    def close(self) -> None:
        self._kept.forget()

    def _parse(self, spec: InputSpec) -> Table:
        import numpy as np

        from edge_runtime.features import Table, label_reader

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
            raise DeviceFault(f"cannot read {self._path}: {fault.strerror}") from None
        return Table(np.asarray(values).reshape(-1, len(spec.columns)), _labels(np.asarray(labels), spec))


class NpzSource:
    """An NPZ archive: one 1-D array per column, or ``x`` (t, c) and its column names in ``columns`` (else x0, x1, ...).

    The label is an array of its own (t,), numbers or strings. Pickled objects are never loaded. Only the arrays a task
    names are read, and again when the file has changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = _Kept(path)

    def read(self, spec: InputSpec) -> Table:
        return self._kept.get(spec, self._parse)

    def close(self) -> None:
        self._kept.forget()

    def _parse(self, spec: InputSpec) -> Table:
        try:
            return self._table(spec)
        except LocalError:
            raise
        except PermissionError as fault:
            raise DeviceFault(f"cannot read {self._path}: {fault.strerror}") from None
        except Exception as fault:  # zip, zlib, NumPy's header parser and its memory: each has errors of its own
            raise LocalError(f"cannot read {self._path} as an NPZ archive: {fault or type(fault).__name__}") from None

    def _table(self, spec: InputSpec) -> Table:
        import numpy as np

        from edge_runtime.features import Table, label_reader

        with self._path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = [name for name in archive.files if name not in ("x", "columns")]
            matrix = archive["x"] if "x" in archive.files else np.empty((0, 0))
            if matrix.ndim != 2:
                names, matrix = [*names, "x"], np.empty((0, 0))
            in_matrix = [f"x{index}" for index in range(matrix.shape[1])]
            if "columns" in archive.files and matrix.size:
                in_matrix = [str(name) for name in archive["columns"]]
            if len(in_matrix) != matrix.shape[1]:
                raise LocalError(f"{self._path} names {len(in_matrix)} columns, its x has {matrix.shape[1]}")

            def column(name: str) -> NDArray[Any]:
                index = _position(name, [*in_matrix, *names], self._path)
                values = matrix[:, index] if index < len(in_matrix) else archive[name]
                if not isinstance(values, np.ndarray) or values.ndim != 1:
                    raise LocalError(f'{self._path}: "{name}" is not an array of one dimension')
                return values

            columns, targets = [column(name) for name in spec.columns], column(spec.label)
        if len({len(values) for values in (*columns, targets)}) != 1:
            raise LocalError(f"the columns of {self._path} differ in length")
        if any(values.dtype.kind not in "biuf" for values in columns):
            raise LocalError(f"{self._path}: a column that the task reads does not hold real numbers")
        read_label = label_reader(spec)
        try:
            labels = np.array([read_label(_label_text(label)) for label in targets.tolist()], np.float32)
        except (ValueError, LocalError) as fault:
            raise LocalError(f"{self._path}: {fault}") from None
        with np.errstate(over="ignore"):  # infinities are refused with their row, later
            values = np.stack([values.astype(np.float32) for values in columns], axis=1)
        return Table(values, _labels(labels, spec))


class _Kept:
    """The table of the last task, as long as the file stays as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table: tuple[InputSpec, tuple[int, int, int], Table] | None = None

    def get(self, spec: InputSpec, parse: Callable[[InputSpec], Table]) -> Table:
        try:
            status = self._path.stat()
        except OSError as fault:
            raise DeviceFault(f"cannot read {self._path}: {fault.strerror}") from None
        version = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._table is None or self._table[:2] != (spec, version):
            self._table = None
            self._table = (spec, version, parse(spec))
        return self._table[2]

    def forget(self) -> None:
        self._table = None


def _label_text(label: object) -> str:
    if isinstance(label, bytes):
        return label.decode("utf-8", "replace")
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _labels(labels: NDArray[np.float32], spec: InputSpec) -> NDArray[Any]:
    return labels.astype("int32") if spec.classes else labels


def _position(name: str, names: list[str], path: Path) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise ColumnMissing(
            name, f'{path} lacks the column "{name}" that the task reads; it has: {", ".join(names)}'
        ) from None


def _number(text: str, column: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:
        raise LocalError(f'{path}, line {line}, column "{column}": "{text[:40]}" is not a finite number')
    return value
