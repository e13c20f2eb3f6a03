"""Encodings: their bytes, what hostile bytes are answered with, and error feedback."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime._kernels import seeded
from edge_runtime.compress import ErrorFeedback, Quantized, Signs, TopK, decode, encode, encoded_bytes
from edge_runtime.errors import LocalError, RemoteError

F = np.float32
ordinary = st.floats(-1e6, 1e6, width=32)
updates = hnp.arrays(F, st.integers(0, 200), elements=ordinary)
quantizers = st.builds(Quantized, bits=st.sampled_from([1, 2, 4, 8]), norm=st.sampled_from(["l2", "max"]))


def rng(seed=0):
    return seeded.SeededRng(seed.to_bytes(32, "little"))


def an_encoding(data, size):
    return data.draw(st.one_of(quantizers, st.just(Signs()), st.builds(TopK, k=st.integers(0, size))))


@given(updates, st.data())
def test_the_bytes_are_as_many_as_accounted_for(update, data):
    encoding = an_encoding(data, len(update))
    assert len(encode(update, encoding, rng())) == encoded_bytes(encoding, len(update))


@pytest.mark.parametrize(
    ("encoding", "want"),
    [
        (TopK(10), 10 + 10 * 20 // 8 + 40),  # twenty bits an index
        (TopK(500_000), 10 + 125_000 + 2_000_000),  # a bitmap
        (Quantized(8), 10 + 1_000_000),
        (Quantized(4), 10 + 500_000),
        (Quantized(1), 10 + 125_000),
        (Signs(), 10 + 125_000),
    ],
)
def test_a_million_coordinates_take(encoding, want):
    assert encoded_bytes(encoding, 1_000_000) == want


@given(updates, st.data())
def test_what_is_taken_and_what_arrives_are_the_update(update, data):
    encoding, left = an_encoding(data, len(update)), update.copy()
    arrived = decode(encode(left, encoding, rng(), take=True), len(update))
    scale = np.abs(update).max(initial=0) * (len(update) ** 0.5 if encoding == Quantized(1, "l2") else 1)
    np.testing.assert_allclose(left.astype(np.float64) + arrived, update, rtol=1e-6, atol=scale * 1e-6 + 1e-40)


@given(updates, st.data())
def test_what_was_decoded_encodes_to_itself(update, data):
    encoding = data.draw(st.one_of(st.just(Signs()), st.builds(TopK, k=st.integers(0, len(update)))))
    once = decode(encode(update, encoding, rng()), len(update))
    np.testing.assert_array_equal(decode(encode(once, encoding, rng()), len(update)), once)


def test_the_bytes_are_these():
    update = np.array([0.5, -2.0, 0.0, 1.0, -1.0], F)
    head = struct.pack("<I", 5)
    assert encode(update, TopK(1), rng()) == b"\x01\0" + head + struct.pack("<IBf", 1, 1, -2.0)
    assert encode(update, TopK(2), rng()) == b"\x01\0" + head + struct.pack("<IBff", 2, 1 | 3 << 3, -2.0, 1.0)
    assert encode(update, TopK(3), rng()) == b"\x02\0" + head + struct.pack("<IBfff", 3, 0b11010, -2.0, 1.0, -1.0)
    assert encode(update, Signs(), rng()) == b"\x04\0" + head + struct.pack("<fB", 0.9, 0b10010)
    exact = np.array([2.0, -2.0, 0.0, 2.0, 0.0], F)  # levels themselves: nothing is left to chance
    assert encode(exact, Quantized(2), rng()) == b"\x03\x02" + head + struct.pack("<fBB", 2.0, 0b10010010, 0b01)


@given(st.binary(max_size=120), st.integers(0, 40))
def test_arbitrary_bytes_are_refused_or_decode_to_finite_numbers(data, size):
    with contextlib.suppress(RemoteError):
        assert np.isfinite(decode(data, size)).all()


@given(updates, st.data())
def test_a_bit_flipped_or_a_byte_missing_is_refused_or_decodes_to_finite_numbers(update, data):
    encoding = an_encoding(data, len(update))
    good = bytearray(encode(update, encoding, rng()))
    with pytest.raises(RemoteError):
        decode(bytes(good[:-1]), len(update))
    with pytest.raises(RemoteError):
        decode(bytes(good) + b"\0", len(update))
    with pytest.raises(RemoteError):
        decode(bytes(good), len(update) + 1)
    position = data.draw(st.integers(0, 8 * len(good) - 1))
    good[position // 8] ^= 1 << position % 8
    with contextlib.suppress(RemoteError):
        assert np.isfinite(decode(bytes(good), len(update))).all()


def head(kind, bits, size):
    return struct.pack("<BBI", kind, bits, size)


@pytest.mark.parametrize(
    ("data", "size", "words"),
    [
        (b"", 4, "too short"),
        (head(1, 0, 2**32 - 1) + struct.pack("<I", 0), 4, "4294967295 coordinates; want 4"),
        (head(9, 0, 4) + bytes(5), 4, "unknown kind 9"),
        (head(3, 5, 4) + bytes(7), 4, "kind 3 with 5 bits"),
        (head(4, 1, 4) + bytes(5), 4, "kind 4 with 1 bits"),
        (head(1, 0, 4) + struct.pack("<I", 2**31), 4, "2147483648 of 4 coordinates"),
        (head(1, 0, 64) + struct.pack("<IHff", 2, 5 | 5 << 6, 1, 1), 64, "do not ascend"),
        (head(1, 0, 64) + struct.pack("<IHff", 2, 6 | 5 << 6, 1, 1), 64, "do not ascend"),
        (head(1, 0, 40) + struct.pack("<IBf", 1, 40, 1), 40, "do not ascend within"),
        (head(1, 0, 64) + struct.pack("<IBf", 1, 5 | 1 << 6, 1), 64, "after the last code are not zero"),
        (head(1, 0, 64) + struct.pack("<IBf", 1, 5, np.nan), 64, "not finite"),
        (head(2, 0, 64) + struct.pack("<IQf", 1, 1, 1), 64, "the longer of two forms"),
        (head(2, 0, 8) + struct.pack("<IBfff", 3, 0b11, 1, 1, 1), 8, "2 coordinates marked, 3 declared"),
        (head(3, 4, 2) + struct.pack("<fB", 1.0, 0xF0), 2, "beyond the last level"),
        (head(3, 4, 1) + struct.pack("<fB", 1.0, 0x10), 1, "after the last code are not zero"),
        (head(3, 4, 1) + struct.pack("<fB", np.inf, 0), 1, "a scale of inf"),
        (head(4, 0, 1) + struct.pack("<fB", -1.0, 0), 1, "a scale of -1.0"),
        (head(4, 0, 1) + struct.pack("<fB", -0.0, 0), 1, "a scale of -0.0"),
        (head(4, 0, 1) + struct.pack("<fB", np.nan, 0), 1, "a scale of nan"),
    ],
)
def test_hostile_bytes_are_refused_in_words(data, size, words):
    with pytest.raises(RemoteError, match=words):
        decode(data, size)


@pytest.mark.parametrize("encoding", [TopK(2), Quantized(4), Quantized(4, "l2"), Signs()])
def test_what_cannot_be_encoded_is_the_callers_fault_and_leaves_the_residual(encoding):
    feedback = ErrorFeedback(np.array([0.25, 0.0, -1.0], F))
    with pytest.raises(LocalError, match="cannot be encoded: x holds NaN or infinity"):
        feedback.encode(np.array([1, np.nan, 0], F), encoding, rng())
    assert feedback.residual.tolist() == [0.25, 0.0, -1.0]


def test_fewer_coordinates_than_k_and_norms_beyond_floats_are_refused():
    with pytest.raises(LocalError, match=r"want k in \[0, 3\]; got 4"):
        encode(np.ones(3, F), TopK(4), rng())
    with pytest.raises(LocalError, match="want norm a float32"):
        encode(np.full(9, 3e38, F), Quantized(4, "l2"), rng())


@pytest.mark.parametrize("encoding", [TopK(7), Quantized(2), Quantized(1), Quantized(4, "l2"), Signs()])
def test_with_feedback_all_that_was_sent_and_the_residual_are_the_sum_of_updates(encoding):
    source, generator = np.random.default_rng(1), rng()
    feedback, sent, total = ErrorFeedback(np.zeros(100, F)), np.zeros(100), np.zeros(100)
    for _ in range(50):
        update = source.standard_normal(100).astype(F)
        sent += decode(feedback.encode(update, encoding, generator), 100)
        total += update
    scale = max(1.0, float(np.abs(feedback.residual).max()))
    np.testing.assert_allclose(sent + feedback.residual, total, atol=2e-5 * scale)


def descend(compress, steps=2000):
    """f(x) = eps |x1 + x2| + |x1 - x2| by subgradients from (1, 1), whose f is 2 eps (Karimireddy et al. 2019, section
    3, counterexample 2), with steps of 1 / sqrt(t)."""
    eps, x = 0.5, np.array([1.0, 1.0])

    def gradient():
        along, across = np.sign(x[0] + x[1]), np.sign(x[0] - x[1]) or 1.0
        return np.array([eps * along + across, eps * along - across])

    values = []
    for t in range(1, steps + 1):
        x = x - compress((0.1 / np.sqrt(t) * gradient()).astype(F))
        values.append(eps * abs(x[0] + x[1]) + abs(x[0] - x[1]))
    return values


def test_signs_alone_never_descend_where_signs_with_feedback_converge():
    feedback = ErrorFeedback(np.zeros(2, F))
    alone = descend(lambda step: decode(encode(step, Signs(), rng()), 2))
    with_feedback = descend(lambda step: decode(feedback.encode(step, Signs(), rng()), 2))
    assert min(alone) >= 2 * 0.5 * (1 - 1e-6)
    assert min(with_feedback) < 0.05
