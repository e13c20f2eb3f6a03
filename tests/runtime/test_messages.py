from __future__ import annotations

import contextlib
import random
import typing
from typing import Any

import numpy as np
import pytest

from edge_runtime import messages, wire
from edge_runtime.architecture import Dense
from edge_runtime.errors import RemoteError
from edge_runtime.messages import (
    Authority,
    Contribute,
    Decline,
    Enrol,
    Enrolled,
    Finished,
    GetAuthority,
    GetTask,
    Hello,
    Message,
    Metrics,
    Offer,
    Receipt,
    Refusal,
    Wait,
    Welcome,
    decode,
    encode,
    encode_task,
)
from edge_runtime.params import Tensor, narrowest_integer
from edge_runtime.task import InputSpec, ModelSpec, Task

TASK = Task("t", 3, InputSpec(("a", "b"), "label", ("no", "yes")), ModelSpec(2, (Dense(2),)))
UPDATE = Tensor.of(np.arange(-3, 3, dtype=np.int8))

EXAMPLES: list[Message] = [
    GetAuthority(),
    Authority(b"certificate"),
    Enrol(b"s" * 16, b"request", "porch"),
    Enrolled("dev-1", b"certificate"),
    Hello(1, "fedge 0", "tcp"),
    Welcome("dev-1", "porch"),
    GetTask(30.0),
    Offer("t1", 1, 8, encode_task(TASK), Tensor.of(np.zeros(6, np.float32))),
    Wait(1.0),
    Finished("t1", "all 3 rounds are done"),
    Contribute("t1", 1, "release-1", UPDATE),
    Contribute("t1", 1, "release-1", Tensor.of(np.ones(6, np.float32)), 40, Metrics(0.5, 0.75)),
    Contribute("t1", 1, "release-1", Tensor.of(np.ones(6, np.float32)), 40, Metrics(0.5)),
    Decline("t1", 1, "budget_spent", "nothing left"),
    Receipt("release-1", "accepted"),
    Refusal("device", "not_enrolled", "join first"),
]
EACH = pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)


def test_there_is_an_example_of_every_message() -> None:
    assert {type(message) for message in EXAMPLES} == set(typing.get_args(Message))


@EACH
def test_a_message_comes_back_equal_and_always_as_the_same_bytes(message: Message) -> None:
    data = encode(message)
    assert decode(data, peer="x") == message
    assert encode(decode(data, peer="x")) == data


@EACH
def test_every_truncation_is_the_peers_fault(message: Message) -> None:
    data = encode(message)
    for end in range(len(data)):
        with pytest.raises(RemoteError):
            decode(data[:end], peer="x")


@EACH
def test_every_byte_changed_is_a_valid_message_or_the_peers_fault(message: Message) -> None:
    data, rng = encode(message), random.Random(3)
    for position in range(len(data)):
        for byte in {0x00, 0xFF, data[position] ^ 0x20, data[position] ^ 1, rng.randrange(256), rng.randrange(256)}:
            changed = data[:position] + bytes([byte]) + data[position + 1 :]
            with contextlib.suppress(RemoteError):
                valid = decode(changed, peer="x")
                assert decode(encode(valid), peer="x") == valid
                tensor = getattr(valid, "update", None) or getattr(valid, "params", None)
                if tensor is not None:
                    assert tensor.array().shape == tensor.shape


@pytest.mark.parametrize(
    "value",
    [None, [], ["offer"], ["offer", {}, 1], [b"offer", {}], {"offer": {}}, ["nonsense", {}], [["offer"], {}], 7],
    ids=str,
)
def test_what_is_no_message_is_refused(value: Any) -> None:
    with pytest.raises(RemoteError, match="x sent something that is not a message"):
        decode(wire.encode(value), peer="x")


def test_an_offer_whose_task_is_not_one_is_refused() -> None:
    for spec in (b"x", wire.encode({"name": "t"}), encode_task(TASK)[:-1]):
        with pytest.raises(RemoteError):
            decode(encode(Offer("t1", 1, 8, spec, UPDATE)), peer="x")


@pytest.mark.parametrize("shape", [(5,), (7,), (1 << 24, 1 << 24), (6, 0), ()])
def test_a_tensor_that_is_not_as_long_as_its_shape_is_refused(shape: tuple[int, ...]) -> None:
    table = {"dtype": "<i1", "shape": list(shape), "data": b"123456"}
    contribution = {"task_id": "t", "round": 1, "release_id": "release-1", "update": table}
    with pytest.raises(RemoteError, match=r"Contribute from x: update: a tensor <i1 of shape"):
        decode(wire.encode(["contribute?", contribution]), peer="x")


@pytest.mark.parametrize("shape", [(0,), (3, 0), (2, 3), (), (1, 2, 3, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int16, np.int32])
def test_a_tensor_comes_back_equal_whatever_its_shape(shape: tuple[int, ...], dtype: type) -> None:
    array = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    np.testing.assert_array_equal(Tensor.of(array).array(), array)
    np.testing.assert_array_equal(Tensor.of(array.T).array(), array.T)
    swapped = array.astype(array.dtype.newbyteorder(">"))
    np.testing.assert_array_equal(Tensor.of(swapped).array(), array)


def test_a_tensor_is_read_only_and_of_few_types() -> None:
    with pytest.raises(ValueError, match="read-only"):
        UPDATE.array()[0] = 1
    with pytest.raises(TypeError, match="want a float32, int8, int16 or int32 array, got float64"):
        Tensor.of(np.zeros(2))


def test_integers_take_the_narrowest_type_that_holds_them() -> None:
    for bound, dtype in [(127, np.int8), (128, np.int16), (32767, np.int16), (32768, np.int32), (2**31 - 1, np.int32)]:
        assert narrowest_integer(np.array([bound])).dtype == dtype
        assert narrowest_integer(np.array([-bound - 1])).dtype == dtype
    assert narrowest_integer(np.array([], np.int64)).size == 0
    with pytest.raises(OverflowError, match="do not fit 32 bits"):
        narrowest_integer(np.array([2**31]))


def test_text_for_the_terminal_has_no_control_characters() -> None:
    assert messages.printable("a\x1b[2J\nb\u202e\u00fc") == "a?[2J?b?\u00fc"
