"""``fedge demo --data FILE``: the user's own table, shared out among devices."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from coordinator import partition
from coordinator.fleet import Fleet, Member
from edge_runtime.architecture import Dense
from edge_runtime.errors import LocalError
from edge_runtime.features import Table
from edge_runtime.task import CohortSpec, InputSpec, ModelSpec, Place, PrivacySpec, Task, TrainingSpec

_TEST_SHARE = 0.25
_MOST_CLASSES = 50
_MOST_DEVICES = 64


def fleet(
    path: Path,
    *,
    label: str | None,
    device_column: str | None,
    devices: int,
    rounds: int,
    epsilon: float,
    place: Place,
    hidden: int = 0,
    serial_devices: int = 2,
) -> Fleet:
    """A fleet over the file's rows: by ``device_column``, or by Dirichlet(0.5) over the classes.

    Columns that are not numbers are left out, rows with gaps dropped, and the story says so. Raises LocalError when
    the file cannot be used.
    """
    columns = _read(path)
    label = label or list(columns)[-1]
    for name in filter(None, (label, device_column)):
        if name not in columns:
            raise LocalError(f'{path} has no column "{name}"; it has: {", ".join(columns)}')
    numeric = {
        name: values
        for name, column in columns.items()
        if name not in (label, device_column) and (values := _numbers(column)) is not None
    }
    left_out = [name for name in columns if name not in numeric and name not in (label, device_column)]
    if not numeric:
        raise LocalError(f"{path} has no column of numbers to learn from")
    classes, targets = _labels(columns[label], label, path)
    values = np.stack(list(numeric.values()), axis=1)
    whole = np.isfinite(values).all(axis=1) & np.isfinite(targets)
    if not whole.any():
        raise LocalError(f"{path} has no usable row: every one has a gap")
    values, targets = values[whole].astype(np.float32), targets[whole]
    if classes:  # of some, the gaps may have left none
        there, targets = np.unique(targets, return_inverse=True)
        classes = tuple(classes[int(code)] for code in there)
        if len(classes) < 2:
            raise LocalError(f'the label "{label}" of {path} has fewer than two classes in rows without a gap')
    owners = np.array(columns[device_column])[whole] if device_column else None
    rng = np.random.default_rng(7)
    parts, names = _share(targets, owners, devices, classes, rng)
    train, test = [], []
    for rows in parts:
        shuffled = rng.permutation(rows)
        kept = int(len(shuffled) * _TEST_SHARE)
        train.append(np.sort(shuffled[kept:]))
        test.append(shuffled[:kept])
    held_out = np.concatenate(test)
    if len(held_out) == 0:
        raise LocalError(
            f"{path} has {len(targets)} usable rows for {len(parts)} devices: too few to keep some for a test"
        )
    members = tuple(
        Member(name, _table(values, targets, rows, classes), "serial" if index < serial_devices else "tcp")
        for index, (name, rows) in enumerate(zip(names, train, strict=True))
    )
    target_scale = (0.0, 1.0)
    if not classes:
        target_scale = (float(targets.mean()), float(targets.std()) or 1.0)
    task = _task(
        path,
        list(numeric),
        label,
        classes,
        values,
        rounds=rounds,
        epsilon=epsilon,
        place=place,
        devices=len(parts),
        hidden=hidden,
        target_scale=target_scale,
    )
    story = [
        f"{len(targets)} rows of {path.name}: {len(numeric)} columns, {len(classes) or 'no'} classes, "
        f"{len(parts)} devices."
    ]
    story.append(
        "Columns are scaled by the mean and deviation of the whole file, which in the field would be public constants."
    )
    if left_out:
        story.append(f"Left out, not numbers: {', '.join(left_out)}.")
    if not whole.all():
        story.append(f"Dropped for gaps: {int((~whole).sum())} rows.")
    return Fleet(task, members, _table(values, targets, held_out, classes), tuple(story), epsilon)


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        if path.suffix.lower() == ".npz":
            with path.open("rb") as binary, np.load(binary, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            columns = {name: values.tolist() for name, values in arrays.items() if values.ndim == 1}
            if "x" in arrays and arrays["x"].ndim == 2:
                names = arrays.get("columns", [f"x{index}" for index in range(arrays["x"].shape[1])])
                columns = {str(name): arrays["x"][:, index].tolist() for index, name in enumerate(names)} | columns
                columns.pop("columns", None)
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = [row for row in csv.reader(file) if row]
            header = [name.strip() for name in rows[0]] if rows else []
            if twice := {name for name in header if header.count(name) > 1}:
                raise LocalError(f"{path} names a column twice: {', '.join(sorted(twice))}")
            if any(len(row) != len(header) for row in rows):
                raise LocalError(f"{path} is not a table: its lines have different numbers of cells")
            columns = {name: [row[index].strip() for row in rows[1:]] for index, name in enumerate(header)}
    except (OSError, ValueError, EOFError, AttributeError, csv.Error, zipfile.BadZipFile) as fault:
        raise LocalError(f"cannot read {path}: {fault}") from None
    if len({len(column) for column in columns.values()}) != 1 or not next(iter(columns.values()), []):
        raise LocalError(f"{path} has no rows, or columns of different lengths")
    return columns


def _numbers(column: list[Any]) -> np.ndarray | None:
    """The column as floats, gaps as NaN; None when it is not a column of numbers."""
    try:
        return np.array([float(cell) if cell not in ("", "?", "NA", "nan") else np.nan for cell in column])
    except (TypeError, ValueError):
        return None


def _labels(column: list[Any], name: str, path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and codes; no names and the numbers themselves for a quantity to predict."""
    numbers = _numbers(column)
    distinct = sorted({str(cell) for cell in column if cell not in ("", "?", "NA")})
    integers = numbers is not None and bool(np.all(~np.isfinite(numbers) | (numbers == np.rint(numbers))))
    if len(distinct) <= _MOST_CLASSES and (numbers is None or integers):
        if len(distinct) < 2:
            raise LocalError(f'the label "{name}" of {path} has fewer than two classes')
        codes = {text: float(code) for code, text in enumerate(distinct)}
        return tuple(distinct), np.array([codes.get(str(cell), np.nan) for cell in column])
    if numbers is None:
        raise LocalError(f'the label "{name}" of {path} has {len(distinct)} different texts: name another with --label')
    return (), numbers


def _share(
    targets: np.ndarray, owners: np.ndarray | None, devices: int, classes: tuple[str, ...], rng: np.random.Generator
) -> tuple[list[np.ndarray], list[str]]:
    if owners is None:
        if not 5 <= devices <= _MOST_DEVICES:
            raise LocalError(f"--devices {devices}: want 5 (a device's default policy) to {_MOST_DEVICES}")
        codes = targets.astype(np.int32)
        parts = partition.dirichlet(codes, devices, 0.5, rng) if classes else partition.iid(len(targets), devices, rng)
        return parts, [f"device-{index:02d}" for index in range(devices)]
    names = sorted(set(owners.tolist()), key=str)
    if not 5 <= len(names) <= _MOST_DEVICES:
        raise LocalError(
            f"the device column names {len(names)} devices: want 5 (a device's default policy) to {_MOST_DEVICES}"
        )
    return [np.flatnonzero(owners == name) for name in names], [f"device-{str(name)[:30]}" for name in names]


def _table(values: np.ndarray, targets: np.ndarray, rows: np.ndarray, classes: tuple[str, ...]) -> Table:
    labels = targets[rows]
    return Table(values[rows], labels.astype(np.int32) if classes else labels.astype(np.float32))


def _task(
    path: Path,
    columns: list[str],
    label: str,
    classes: tuple[str, ...],
    values: np.ndarray,
    *,
    rounds: int,
    epsilon: float,
    place: Place,
    devices: int,
    hidden: int,
    target_scale: tuple[float, float],
) -> Task:
    deviation = values.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1.0)
    outputs = len(classes) or 1
    layers = (*((Dense(hidden, "tanh"),) if hidden else ()), Dense(outputs))
    return Task(
        name=path.stem[:80],
        rounds=rounds,
        inputs=InputSpec(
            tuple(columns),
            label,
            classes,
            offset=tuple(values.mean(axis=0, dtype=np.float64).tolist()),
            scale=tuple(scale.tolist()),
            label_offset=target_scale[0],
            label_scale=target_scale[1],
        ),
        model=ModelSpec(len(columns), layers, "softmax_cross_entropy" if classes else "mse"),
        training=TrainingSpec(epochs=5, batch_size=32, learning_rate=0.1 if classes else 0.02),
        privacy=PrivacySpec(place, clip_norm=3.0, epsilon=epsilon / rounds),
        cohort=CohortSpec(devices, max(5, devices // 2), deadline_s=30.0, gather_s=60.0),
    )
