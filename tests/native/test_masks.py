"""Mask expansion: RFC 8439's keystream as words, and masks that cancel."""

import itertools
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import _kernels

U = np.uint32


def keystream(key, nonce, words):
    """OpenSSL's, whose sixteen bytes begin with the block counter."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(4 * words)), "<u4").astype(U)


def mask(key, nonce, words):
    values = np.zeros(words, U)
    _kernels.add_mask(values, key, nonce)
    return values


@pytest.mark.parametrize(
    ("nonce", "block", "expected"),
    [
        # RFC 8439, appendix A.1, test vectors 1, 2 and 5: the key is zero
        (bytes(12), 0, "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"),
        (bytes(12), 1, "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"),
        (bytes(11) + b"\x02", 0, "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"),
    ],
)
def test_masks_are_rfc_8439s_keystream(nonce, block, expected):
    assert mask(bytes(32), nonce, 32)[16 * block : 16 * block + 8].astype("<u4").tobytes().hex() == expected


def test_the_nonce_stands_where_rfc_8439_puts_it():
    """Section 2.3.2, block 1."""
    words = mask(bytes(range(32)), bytes.fromhex("000000090000004a00000000"), 32)[16:]
    assert words[:4].tolist() == [0xE4E7F110, 0x15593BD1, 0x1FDD0F50, 0xC47120A3]


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12), st.integers(0, 3000))
def test_masks_are_those_of_another_implementation(key, nonce, words):
    np.testing.assert_array_equal(mask(key, nonce, words), keystream(key, nonce, words))


@given(st.binary(min_size=32, max_size=32), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_subtracting_undoes_adding(key, words, first):
    values = np.arange(first, first + words, dtype=np.uint64).astype(U)
    before = values.copy()
    _kernels.add_mask(values, key, bytes(12))
    np.testing.assert_array_equal(values, before + keystream(key, bytes(12), words))
    _kernels.subtract_mask(values, key, bytes(12))
    np.testing.assert_array_equal(values, before)


@given(st.integers(2, 7), st.integers(0, 100), st.randoms(use_true_random=False))
def test_pairwise_masks_cancel_exactly_in_any_order(parties, size, random):
    rng = np.random.default_rng(random.randrange(2**32))
    plain = rng.integers(0, 2**32, (parties, size), dtype=np.uint64).astype(U)
    masked, nonce = plain.copy(), struct.pack("<III", 0, 5, 0)
    for i, j in itertools.combinations(range(parties), 2):
        key = rng.bytes(32)
        _kernels.add_mask(masked[i], key, nonce)
        _kernels.subtract_mask(masked[j], key, nonce)
    total, order = np.zeros(size, U), list(range(parties))
    random.shuffle(order)
    for i in order:
        _kernels.accumulate_u32(total, masked[i])
    np.testing.assert_array_equal(total, plain.sum(axis=0, dtype=U))


def test_ten_million_words():
    key, nonce = bytes(range(32)), bytes(range(12))
    np.testing.assert_array_equal(mask(key, nonce, 10_000_003), keystream(key, nonce, 10_000_003))


def test_keys_nonces_and_arrays_of_another_shape_are_refused():
    values = np.zeros(3, U)
    with pytest.raises(ValueError, match="want key of exactly 32 bytes; got 31"):
        _kernels.add_mask(values, bytes(31), bytes(12))
    with pytest.raises(ValueError, match="want nonce of exactly 12 bytes; got 8"):
        _kernels.subtract_mask(values, bytes(32), bytes(8))
    with pytest.raises(TypeError, match="want key bytes; got str"):
        _kernels.add_mask(values, "key", bytes(12))
    with pytest.raises(TypeError, match=r"want values \(d,\) uint32"):
        _kernels.add_mask(values.astype(np.int32), bytes(32), bytes(12))
    values.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        _kernels.add_mask(values, bytes(32), bytes(12))
