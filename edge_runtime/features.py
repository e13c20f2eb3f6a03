"""From a device's columns to the examples a task trains on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import LocalError, NotEnoughYet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.task import InputSpec, Statistic


@dataclass(frozen=True)
class Table:
    """The columns a task reads, row by row in time: ``values`` (t, c) float32; ``labels`` (t,) int32 or float32.

    ``segments`` (t,) int32 changes where rows are missing; a window lies within one. None: the rows are continuous.
    ``live``: more rows are on their way.
    """

    values: NDArray[np.float32]
    labels: NDArray[Any]
    segments: NDArray[np.int32] | None = None
    live: bool = False


@dataclass(frozen=True)
class Examples:
    """``x`` (n, features) float32, C-contiguous; ``y`` (n,) int32 classes, or (n, 1) float32 targets."""

    x: NDArray[np.float32]
    y: NDArray[Any]


_WINDOWED_VALUES = 1 << 18  # copied at a time: 1 MiB
MAX_EXAMPLE_VALUES = 1 << 26  # of all examples together: 256 MiB

_STATISTICS: dict[Statistic, Callable[..., NDArray[Any]]] = {
    "mean": np.mean,
    "std": np.std,
    "min": np.min,
    "max": np.max,
}


def examples(table: Table, spec: InputSpec) -> Examples:
    """Scale the columns, cut windows where the task asks for them.

    Raises LocalError when no example is left (NotEnoughYet where more rows are on their way), or too many are.
    """
    if len(table.labels) * len(spec.columns) > MAX_EXAMPLE_VALUES:
        raise LocalError(_too_many(len(table.labels), len(spec.columns)))
    values = table.values.astype(np.float32)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise LocalError(f'row {row + 1} of the data has no finite number in column "{spec.columns[column]}"')
    labels = table.labels
    if not np.isfinite(labels).all():
        row = int(np.argmin(np.isfinite(labels)))
        raise LocalError(f'row {row + 1} of the data has no finite number in column "{spec.label}"')
    with np.errstate(over="ignore"):  # what training makes of an infinity is training's affair
        if spec.offset:
            values -= np.asarray(spec.offset, np.float32)
        if spec.scale:
            values /= np.asarray(spec.scale, np.float32)
    if spec.window is not None:
        values, labels = _windows(values, labels, table.segments, spec)
    if len(labels) == 0:
        kind = NotEnoughYet if table.live else LocalError
        raise kind("the data gives no complete example yet: it is shorter than one window of a single label")
    y: NDArray[Any]
    if spec.classes:
        y = labels.astype(np.int32)
    else:
        y = ((labels - spec.label_offset) / spec.label_scale).astype(np.float32).reshape(-1, 1)
    return Examples(np.ascontiguousarray(values), np.ascontiguousarray(y))


def _windows(
    values: NDArray[np.float32], labels: NDArray[Any], segments: NDArray[np.int32] | None, spec: InputSpec
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(n, statistics * columns): all columns of the first statistic, then of the second; and each window's label."""
    window = spec.window
    assert window is not None
    if len(labels) < window.length:
        return np.empty((0, spec.features), np.float32), labels[:0]
    breaks = labels[1:] != labels[:-1] if spec.classes else np.zeros(len(labels) - 1, bool)
    if segments is not None:
        breaks |= segments[1:] != segments[:-1]
    changes = np.concatenate([[0], np.cumsum(breaks)])
    starts = np.arange(0, len(labels) - window.length + 1, window.step)
    starts = starts[changes[starts] == changes[starts + window.length - 1]]
    if len(starts) * spec.features > MAX_EXAMPLE_VALUES:  # step 1 and four statistics: several times the data
        raise LocalError(_too_many(len(starts), spec.features))
    views = np.lib.stride_tricks.sliding_window_view(values, window.length, axis=0)  # (t - length + 1, c, length)
    features = np.empty((len(starts), len(window.statistics), values.shape[1]), np.float32)
    some = max(1, _WINDOWED_VALUES // (window.length * values.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(starts), some):  # overlapping windows together may be a thousand times the data
            cut = views[starts[first : first + some]]
            for index, name in enumerate(window.statistics):
                features[first : first + some, index] = _STATISTICS[name](cut, axis=2)
    return features.reshape(len(starts), spec.features), labels[starts + window.length - 1]


def _too_many(rows: int, values: int) -> str:
    return f"{rows} examples of {values} values are more than the {MAX_EXAMPLE_VALUES} values a device makes room for"


def label_reader(spec: InputSpec) -> Callable[[str], float]:
    """A function from the text of a label to its code: the class's position, or the number itself for a regression.

    A class may be written by its name or by its position. Raises LocalError for anything else.
    """
    if not spec.classes:
        return _finite
    codes = {str(position): float(position) for position in range(len(spec.classes))}
    codes |= {name: float(position) for position, name in enumerate(spec.classes)}

    def read(text: str) -> float:
        try:
            return codes[text]
        except KeyError:
            raise LocalError(f'the label "{text}" is none of the classes {", ".join(spec.classes)}') from None

    return read


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise LocalError(f'the label "{text}" is not a finite number')
    return value
