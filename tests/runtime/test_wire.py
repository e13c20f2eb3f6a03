from __future__ import annotations

import contextlib
import math
import random
import struct
import tracemalloc
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import wire
from edge_runtime.errors import RemoteError

values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=30)
    | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def depth(value: Any) -> int:
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth, children), default=0)


@given(values.filter(lambda value: depth(value) <= wire.MAX_DEPTH))
def test_a_value_comes_back_equal_and_always_as_the_same_bytes(value: Any) -> None:
    data = wire.encode(value)
    assert wire.decode(data) == value
    assert wire.encode(wire.decode(data)) == data


def test_the_bytes_are_those_of_the_standard() -> None:
    known = {"a": 1, "b": [True, None, -1, 1.5, b"\x01", "\u00fc"]}
    assert wire.encode(known).hex() == "a2616101616286f5f620f93e00410162c3bc"


def refused(data: bytes, words: str = "") -> None:
    """Refused as the peer's fault, and without making room for what it declares."""
    tracemalloc.start()
    try:
        with pytest.raises(RemoteError, match=words):
            wire.decode(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100_000 + 12 * len(data)


@pytest.mark.parametrize("major", [2, 3, 4, 5])
@pytest.mark.parametrize("declared", [2**16 - 1, 2**32 - 1, 2**63, 2**64 - 1])
def test_a_declared_size_beyond_the_message_is_refused_before_there_is_room_for_it(major: int, declared: int) -> None:
    refused(bytes([major << 5 | 27]) + declared.to_bytes(8, "big") + b"\0" * 40, "declares")


REFUSED = {
    "nothing": (b"", "cut short"),
    "a thousand levels": (b"\x81" * 1000 + b"\0", "nested deeper than 8"),
    "nine levels": (b"\x81" * 9 + b"\0", "nested deeper than 8"),
    "nine levels of maps": (b"\xa1\x61a" * 9 + b"\0", "nested deeper than 8"),
    "a tag": (b"\xc0\x61a", "tags"),
    "a shared reference": (b"\xd8\x1c\x80", "tags"),
    "a regular expression": (b"\xd8\x23\x65(a+)+", "tags"),
    "an endless string": (b"\x5f\x41a\xff", "indefinite"),
    "an endless text": (b"\x7f\x61a\xff", "indefinite"),
    "an endless array": (b"\x9f\x00\xff", "indefinite"),
    "an endless map": (b"\xbf\xff", "indefinite"),
    "a break out of place": (b"\xff", "indefinite"),
    "a reserved length": (b"\x1c", "reserved"),
    "undefined": (b"\xf7", "simple value 23"),
    "a simple value": (b"\xe0", "simple value 0"),
    "a simple value of a byte": (b"\xf8\x20", "indefinite lengths or reserved"),
    "two items": (b"\x00\x00", "1 bytes trail"),
    "a key twice": (b"\xa2\x61a\x00\x61a\x01", "a key twice"),
    "a key twice, once in a longer form": (b"\xa2\x61a\x00\x78\x01a\x01", "a key twice"),
    "a key of a megabyte": (wire.encode({"k" * 1_000_000: 1}), "more than 80 bytes"),
    "a number as a key": (b"\xa1\x01\x00", "not text"),
    "bytes as a key": (b"\xa1\x41a\x00", "not text"),
    "an array as a key": (b"\xa1\x80\x00", "not text"),
    "a map as a key": (b"\xa1\xa0\x00", "not text"),
    "a text that is not UTF-8": (b"\x62\xc3\x28", "not valid CBOR"),
    "a surrogate": (b"\x63\xed\xa0\x80", "not valid CBOR"),
    "seventy thousand items": (b"\x9a" + (70_000).to_bytes(4, "big") + b"\0" * 70_000, "more than 65536 items"),
    "a bomb of empty arrays": (b"\x82\x99\xff\xff" + b"\x80" * 65535 + b"\x81\x00", "more than 65536 items"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_protocol_does_not_use_is_refused(case: str) -> None:
    refused(*REFUSED[case])


def test_eight_levels_are_taken() -> None:
    assert depth(wire.decode(b"\x81" * 8 + b"\0")) == 8


def test_the_same_key_may_occur_in_different_maps() -> None:
    value = {"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}
    assert wire.decode(wire.encode(value)) == value


@given(values.filter(lambda value: depth(value) <= wire.MAX_DEPTH))
def test_every_truncation_is_refused(value: Any) -> None:
    data = wire.encode(value)
    for end in range(len(data)):
        with pytest.raises(RemoteError):
            wire.decode(data[:end])


@settings(max_examples=400)
@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_the_peers_fault(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        wire.decode(data)


def test_random_structures_are_a_value_or_the_peers_fault_within_bounded_memory() -> None:
    rng = random.Random(7)
    heads = [0x00, 0x20, 0x41, 0x61, 0x81, 0x9A, 0xA1, 0xBA, 0xF4, 0xF6, 0xFA, 0xFB, 0x78, 0x58, 0x82, 0xA2]
    tracemalloc.start()
    try:
        for _ in range(3000):
            data = bytes(rng.choice(heads) if rng.random() < 0.7 else rng.randrange(256) for _ in range(60))
            with contextlib.suppress(RemoteError):
                wire.decode(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


def test_floats_of_every_width_are_read() -> None:
    for data, value in [
        (b"\xf9\x3e\x00", 1.5),
        (b"\xfa" + struct.pack(">f", 0.1), None),
        (b"\xfb" + b"\x7f\xf0" + b"\0" * 6, math.inf),
    ]:
        assert wire.decode(data) == (cbor2.loads(data) if value is None else value)
