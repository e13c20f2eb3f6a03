"""Untrusted tables (TOML from an owner, CBOR from a peer) into frozen dataclasses, once, at the edge.

A dataclass states its own bounds with ``Annotated[int, Range(1, 1000)]``; everything that does not fit is refused with the
path of the key, the value and the bound. Behind this module nobody handles a dictionary with string keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from edge_runtime.errors import FedgeError, LocalError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Inclusive bounds of a number, or of the length of a string, byte string or sequence."""

    low: float
    high: float


class _Misfit(Exception):
    """What does not fit and where; turned into the caller's class of error at the outermost call."""


@functools.lru_cache(maxsize=256)
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def from_mapping(cls: type[T], table: object, *, where: str, error: type[FedgeError] = LocalError) -> T:
    """Build the dataclass ``cls`` from ``table``.

    ``where`` names the table in messages ("task.toml", "Task from the coordinator"); ``error`` is the class raised, which says
    whose fault a misfit is. Unknown keys, missing keys, wrong types, values out of range, NaN and infinities are refused.
    """
    try:
        return typing.cast(T, _dataclass(cls, table, where))
    except _Misfit as misfit:
        raise error(str(misfit)) from None


def to_mapping(value: object) -> Any:
    """The inverse of :func:`from_mapping`: plain dictionaries, lists and scalars; ``None`` members are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_mapping(member) for name, member in members if member is not None}
    if isinstance(value, tuple):
        return [to_mapping(item) for item in value]
    return value


def _dataclass(cls: type, table: object, where: str) -> object:
    if not isinstance(table, Mapping):
        raise _Misfit(f"{where}: want a table of {cls.__name__}, got {_shown(table)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in table:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f'; did you mean "{close[0]}"?' if close else f"; known keys: {', '.join(fields)}"
            raise _Misfit(f"{where}: unknown key {_shown(key)}{hint}")
    hints = _hints(cls)
    values = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _value(hints[name], table[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _Misfit(f'{where}: the key "{name}" is missing')
    try:
        return cls(**values)
    except ValueError as misfit:  # a __post_init__ that checks one member against another
        raise _Misfit(f"{where}: {misfit}") from None


def _value(hint: Any, value: object, where: str) -> object:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        inner, *bounds = typing.get_args(hint)
        result = _value(inner, value, where)
        for bound in bounds:
            _check_range(bound, result, where)
        return result
    if origin in (typing.Union, types.UnionType):
        (inner,) = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _value(inner, value, where)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if not isinstance(value, (str, int)) or value not in choices:
            raise _Misfit(f"{where}: want one of {', '.join(map(str, choices))}; got {_shown(value)}")
        return value
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            raise _Misfit(f"{where}: want a list, got {_shown(value)}")
        return tuple(_value(inner, item, f"{where}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return _dataclass(typing.cast(type, hint), value, where)
    return _scalar(hint, value, where)


def _scalar(kind: type, value: object, where: str) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**53 else math.inf
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _Misfit(f"{where}: want {kind.__name__}, got {_shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _Misfit(f"{where}: {value} is not a finite number")
    return value


def _check_range(bound: Range, value: object, where: str) -> None:
    if value is None:
        return
    size = float(value) if isinstance(value, (int, float)) else len(typing.cast(typing.Sized, value))
    what = f"{value}" if isinstance(value, (int, float)) else f"a length of {size}"
    if not bound.low <= size <= bound.high:
        raise _Misfit(f"{where}: {what} is outside {bound.low:g}..{bound.high:g}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
