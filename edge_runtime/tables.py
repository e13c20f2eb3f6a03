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


@dataclass(frozen=True)
class Tagged:
    """Marks a union of dataclasses told apart by their key ``type``; a table without it is of the type ``default``.

    Each member has a field ``type``, a Literal of the names that are its. ``refused`` pairs names that somebody will
    try with the reason why there is no such member.
    """

    default: str
    refused: tuple[tuple[str, str], ...] = ()


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
        return _union(typing.get_args(hint))
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
                raise _Misfit(f"{where}: unknown key {_shown(key)}{_meant(key, fields, 'known keys')}")
            values[key] = readers[key](value, f"{where}: {key}")
        for name in required:
            if name not in values:
                raise _Misfit(f'{where}: the key "{name}" is missing')
        try:
            return cls(**values)
        except ValueError as misfit:  # a __post_init__ that checks one member against another
            raise _Misfit(f"{where}: {misfit}") from None

    return read


def _union(options: tuple[Any, ...]) -> _Reader:
    """One type, or a list instead (``kernel = 3`` and ``kernel = [3, 5]``), or None."""
    present = [option for option in options if option is not type(None)]
    lists = [_reader(option) for option in present if _is_list(option)]
    others = [_reader(option) for option in present if not _is_list(option)]
    if len(lists) > 1 or len(others) > 1:
        raise TypeError(f"{options} cannot be told apart: mark the union as Tagged")

    def read(value: object, where: str) -> object:
        if value is None and len(present) < len(options):
            return None
        return (lists if lists and (not others or isinstance(value, (list, tuple))) else others)[0](value, where)

    return read


def _is_list(hint: Any) -> bool:
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return typing.get_origin(hint) is tuple


def _tagged(members: tuple[type, ...], tagged: Tagged) -> _Reader:
    readers = {
        name: _dataclass(member)
        for member in members
        for name in typing.get_args(typing.get_type_hints(member)["type"])
    }
    refused = dict(tagged.refused)

    def read(table: object, where: str) -> object:
        if not isinstance(table, Mapping):
            raise _Misfit(f"{where}: want a table, got {_shown(table)}")
        name = table.get("type", tagged.default)
        if not isinstance(name, str) or name not in readers:
            if isinstance(name, str) and name in refused:
                raise _Misfit(f'{where}: no type "{name}": {refused[name]}')
            raise _Misfit(f"{where}: unknown type {_shown(name)}{_meant(name, readers, 'known types')}")
        return readers[name]({**table, "type": name}, f"{where} ({name})")

    return read


def _meant(name: object, known: Mapping[str, object], what: str) -> str:
    # Matching takes quadratic time, and a peer may send a key of many megabytes.
    close = difflib.get_close_matches(typing.cast(str, name), known, n=1) if _short_text(name) else []
    return f'; did you mean "{close[0]}"?' if close else f"; {what}: {', '.join(known)}"


def _annotated(inner: Any, *bounds: Range | Tagged) -> _Reader:
    if bounds and isinstance(bounds[0], Tagged):
        return _tagged(typing.get_args(inner), bounds[0])
    ranges = [bound for bound in bounds if isinstance(bound, Range)]
    read = _reader(inner)

    def check(value: object, where: str) -> object:
        result = read(value, where)
        for bound in ranges if result is not None else ():
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
        return tuple([item(member, f"{where}[{index}]") for index, member in enumerate(value)])

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
