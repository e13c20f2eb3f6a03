"""CBOR (RFC 8949) in and out, with the input checked before a decoder allocates anything for it.

A peer may declare an array of 2^32 items in five bytes, nest a thousand levels, or use tags that make a decoder
compile regular expressions and follow shared references. :func:`decode` walks the bytes once, costs a few
microseconds per item, and lets through only definite-length integers, strings, floats, booleans, null, arrays and
maps whose declared sizes fit the bytes there are. Keys are text and occur once: two readers of the same bytes never
see two different values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cbor2

from edge_runtime.errors import RemoteError

MAX_DEPTH = 8
MAX_KEY_BYTES = 80
MAX_ITEMS = 65_536  # a message holds tens of items; tensors are one byte string


def encode(value: Any) -> bytes:
    """CBOR bytes of plain dictionaries, lists, strings, bytes and numbers; the same value gives the same bytes."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes) -> Any:
    """The value of one CBOR item that fills ``data`` exactly.

    Raises RemoteError for truncated or trailing bytes, sizes beyond the message, tags, indefinite lengths, keys that
    are repeated or not text, and nesting deeper than ``MAX_DEPTH``.
    """
    _check_structure(data)
    try:
        return cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError, TypeError) as fault:  # invalid UTF-8
        raise RemoteError(f"the message is not valid CBOR: {fault}") from None


@dataclass(slots=True)
class _Level:
    """An open array or map: the items still expected, and for a map the keys so far. A key is due when an even number
    is left.
    """

    remaining: int
    keys: set[bytes] | None = field(default=None)


def _check_structure(data: bytes) -> None:
    position, items = 0, 0
    levels = [_Level(1)]
    while levels:
        level = levels[-1]
        if level.remaining == 0:
            levels.pop()
            continue
        key_due = level.keys is not None and level.remaining % 2 == 0
        level.remaining -= 1
        items += 1
        if items > MAX_ITEMS:
            raise RemoteError(f"the message has more than {MAX_ITEMS} items")
        major, argument, position = _head(data, position)
        if key_due and major != 3:
            raise RemoteError("the message has a key that is not text")
        if major in (2, 3):
            if argument > len(data) - position:
                raise RemoteError(f"the message declares a string of {argument} bytes, {len(data) - position} are left")
            if key_due and level.keys is not None:
                _note_key(level.keys, data[position : position + argument])
            position += argument
        elif major in (4, 5):
            count = argument if major == 4 else 2 * argument
            if count > len(data) - position:  # every item takes at least one byte
                raise RemoteError(f"the message declares {argument} entries, {len(data) - position} bytes are left")
            if len(levels) > MAX_DEPTH:
                raise RemoteError(f"the message is nested deeper than {MAX_DEPTH} levels")
            levels.append(_Level(count, set() if major == 5 else None))
    if position != len(data):
        raise RemoteError(f"{len(data) - position} bytes trail the message")


def _note_key(keys: set[bytes], key: bytes) -> None:
    if len(key) > MAX_KEY_BYTES or key in keys:
        raise RemoteError(f"the message has a key twice, or one of more than {MAX_KEY_BYTES} bytes")
    keys.add(key)


def _head(data: bytes, position: int) -> tuple[int, int, int]:
    """Major type, argument and the position after the head of the item at ``position``."""
    if position >= len(data):
        raise RemoteError("the message is cut short")
    major, info = data[position] >> 5, data[position] & 31
    position += 1
    if major == 6:
        raise RemoteError("the message uses CBOR tags, which the protocol does not")
    if info < 24:
        if major == 7 and info not in (20, 21, 22):
            raise RemoteError(f"the message uses the CBOR simple value {info}, which the protocol does not")
        return major, info, position
    if info > 27 or (major == 7 and info == 24):
        raise RemoteError("the message uses indefinite lengths or reserved CBOR values")
    width = 1 << (info - 24)
    if position + width > len(data):
        raise RemoteError("the message is cut short")
    return major, int.from_bytes(data[position : position + width], "big"), position + width
