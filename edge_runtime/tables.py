"""Untrusted tables (TOML from an owner, CBOR from a peer) into frozen dataclasses, once, at the edge.

A dataclass states its own bounds with ``Annotated[int, Range(1, 1000)]``; everything that does not fit is refused
with the path of the key, the value and the bound. Behind this module nobody handles a dictionary with string keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
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


_Reader = Callable[[object, str], object]
_SHOWN = 60  # characters of a peer's value that a message repeats


def from_mapping(cls: type[T], table: object, *, where: str, error: type[FedgeError] = LocalError) -> T:
    """Build the dataclass ``cls`` from ``table``.

    ``where`` names the table in messages ("task.toml", "Task from the coordinator"); ``error`` is the class raised,
    which says whose fault a misfit is. Unknown keys, missing keys, wrong types, values out of range, NaN and
    infinities are refused.
    """
    try:
        read: _Reader = _reader(typing.cast(Any, cls))
        return typing.cast(T, read(table, where))
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


@functools.lru_cache(maxsize=1024)
def _reader(hint: Any) -> _Reader:
    """A function that turns an untrusted value into one of type ``hint``, or raises _Misfit. Made once a type."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _annotated(*typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        (inner,) = [option for option in typing.get_args(hint) if option is not type(None)]
        read = _reader(inner)
        return lambda value, where: None if value is None else read(value, where)
    if origin is typing.Literal:
        return _literal(typing.get_args(hint))
    if origin is tuple:
        return _sequence(_reader(typing.get_args(hint)[0]))
    if dataclasses.is_dataclass(hint):
        return _dataclass(typing.cast(type, hint))
    return _scalar(hint)


def _dataclass(cls: type) -> _Reader:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls, include_extras=True)
    readers = {name: _reader(hints[name]) for name in fields}
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]

    def read(table: object, where: str) -> object:
        if not isinstance(table, Mapping):
            raise _Misfit(f"{where}: want a table of {cls.__name__}, got {_shown(table)}")
        values = {}
        for key, value in table.items():
            if key not in fields:
                # Matching takes quadratic time, and a peer may send a key of many megabytes.
                close = difflib.get_close_matches(key, fields, n=1) if _short_text(key) else []
                hint = f'; did you mean "{close[0]}"?' if close else f"; known keys: {', '.join(fields)}"
                raise _Misfit(f"{where}: unknown key {_shown(key)}{hint}")
            values[key] = readers[key](value, f"{where}: {key}")
        for name in required:
            if name not in values:
                raise _Misfit(f'{where}: the key "{name}" is missing')
        try:
            return cls(**values)
        except ValueError as misfit:  # a __post_init__ that checks one member against another
            raise _Misfit(f"{where}: {misfit}") from None

    return read


def _annotated(inner: Any, *bounds: Range) -> _Reader:
    read = _reader(inner)

    def check(value: object, where: str) -> object:
        result = read(value, where)
        for bound in bounds if result is not None else ():
            number = isinstance(result, (int, float))
            size = result if number else len(typing.cast(typing.Sized, result))
            if not bound.low <= typing.cast(float, size) <= bound.high:
                what = _shown(result) if number else f"a length of {size}"
                raise _Misfit(f"{where}: {what} is outside {bound.low:g}..{bound.high:g}")
        return result

    return check


def _literal(choices: tuple[object, ...]) -> _Reader:
    def read(value: object, where: str) -> object:
        if not isinstance(value, (str, int)) or value not in choices:
            raise _Misfit(f"{where}: want one of {', '.join(map(str, choices))}; got {_shown(value)}")
        return value

    return read


def _sequence(item: _Reader) -> _Reader:
    def read(value: object, where: str) -> object:
        if not isinstance(value, (list, tuple)):
            raise _Misfit(f"{where}: want a list, got {_shown(value)}")
        return tuple([item(member, where) for member in value])

    return read


def _scalar(kind: type) -> _Reader:
    def read(value: object, where: str) -> object:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            if abs(value) > 2**53:
                raise _Misfit(f"{where}: the integer {_shown(value)} is too large for a float to hold exactly")
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise _Misfit(f"{where}: want {kind.__name__}, got {_shown(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise _Misfit(f"{where}: {value} is not a finite number")
        return value

    return read


def _short_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _SHOWN


def _shown(value: object) -> str:
    """``value`` in a few characters: what a peer sent may have many megabytes, and control characters in it."""
    if isinstance(value, (str, bytes)):
        text = repr(value[:_SHOWN])
    elif isinstance(value, (list, tuple, Mapping)):
        text = f"a {'table' if isinstance(value, Mapping) else 'list'} of {len(value)} entries"
    elif isinstance(value, int) and value.bit_length() > 128:
        text = f"an integer of {value.bit_length()} bits"
    else:
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def to_toml(value: object) -> str:
    """A dataclass as TOML text that :func:`from_mapping` reads back."""
    table = to_mapping(value)
    plain = [f"{key} = {_toml_value(member)}" for key, member in table.items() if not isinstance(member, dict)]
    parts = ["\n".join(plain)] if plain else []
    for key, member in table.items():
        if isinstance(member, dict):
            lines = [f"{name} = {_toml_value(inner)}" for name, inner in member.items()]
            parts.append("\n".join([f"[{key}]", *lines]))
    return "\n\n".join(parts) + "\n"


def _toml_value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml_value(member)}" for key, member in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, (str, bool)):  # JSON strings are TOML strings but for DEL, which TOML wants escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return repr(value)
