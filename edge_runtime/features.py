"""From a device's columns to the examples a task trains on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import LocalError, NotEnoughYet

if TYPE_CHECKING:
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


# From (n, values of one example) to (n, features): edge_runtime.inference makes it.
Extract: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def examples(table: Table, spec: InputSpec, extract: Extract | None = None) -> Examples:
    """Scale the columns, cut windows where the task asks for them, and run them through ``extract`` where it asks for
    an extractor.

    Raises LocalError when no example is left (NotEnoughYet where more rows are on their way), too many are, or what was
    extracted is not finite.
    """
    if spec.extractor is not None and extract is None:
        raise LocalError(f"the task runs an extractor {spec.extractor.title}, which is not at hand here")
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
        values, labels = _windows(values, labels, table.segments, spec, extract)
    elif extract is not None:
        values = _in_pieces(values, len(values), spec.features, values.shape[1], extract)
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
    values: NDArray[np.float32],
    labels: NDArray[Any],
    segments: NDArray[np.int32] | None,
    spec: InputSpec,
    extract: Extract | None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(n, features) and each window's label. Statistics: all columns of the first one, then of the second; samples: all
    columns of the first row, then of the second.
    """
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
    views = np.lib.stride_tricks.sliding_window_view(values, window.length, axis=0)  # (t - length + 1, c, length)

    def made(some: NDArray[np.intp]) -> NDArray[np.float32]:
        cut = views[some]
        if window.values == "samples":
            rows = np.ascontiguousarray(cut.transpose(0, 2, 1)).reshape(len(some), -1)
        else:
            rows = np.stack([_STATISTICS[name](cut, axis=2) for name in window.statistics], axis=1)
            rows = rows.reshape(len(some), -1)
        return extract(rows) if extract else rows

    with np.errstate(over="ignore", invalid="ignore"):
        features = _in_pieces(starts, len(starts), spec.features, window.length * values.shape[1], made)
    return features, labels[starts + window.length - 1]


def _in_pieces(
    source: NDArray[Any], count: int, features: int, values: int, make: Callable[[NDArray[Any]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """(count, features), made of a few of ``source`` at a time: overlapping windows together may be a thousand times
    the data. ``values`` go into one example.
    """
    if count * features > MAX_EXAMPLE_VALUES:  # windows at every row, and four statistics: several times the data
        raise LocalError(_too_many(count, features))
    made = np.empty((count, features), np.float32)
    some = max(1, _WINDOWED_VALUES // values)
    for first in range(0, count, some):
        made[first : first + some] = make(source[first : first + some])
    return made


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
