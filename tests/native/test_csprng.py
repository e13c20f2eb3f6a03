"""ChaCha20 against the RFC and a plain Python twin; what the generator for releases refuses to do."""

import copy
import os
import pickle
import struct
import threading

import pytest

from edge_runtime import _kernels
from edge_runtime._kernels import seeded


def chacha20_block(key, counter, nonce):
    """RFC 8439 section 2.3 with the 64-bit counter and 64-bit nonce of the original cipher."""

    def rotate(v, n):
        return ((v << n) | (v >> (32 - n))) & 0xFFFFFFFF

    def quarter_round(s, a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] = rotate(s[z] ^ s[x], n)

    state = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key)]
    state += struct.unpack("<4I", struct.pack("<QQ", counter, nonce))
    mixed = state.copy()
    for _ in range(10):
        for i in range(4):
            quarter_round(mixed, i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter_round(mixed, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(mixed, state, strict=True)))


def stream(key):
    """Fast key erasure: 64 blocks a refill, of which the first 32 bytes become the key."""
    while True:
        refill = b"".join(chacha20_block(key, i, 0) for i in range(64))
        key = refill[:32]
        yield refill[32:]


def twin(seed, sizes):
    """What SeededRng(seed).bytes(n) returns for each n of ``sizes``: a stream each, keyed from the generator's own."""
    keys = next(stream(seed))
    for i, n in enumerate(sizes):
        out = b""
        for chunk in stream(keys[32 * i : 32 * i + 32]):
            out += chunk
            if len(out) >= n:
                break
        yield out[:n]


def test_the_python_twin_matches_rfc_8439():
    key = bytes(range(32))
    counter, nonce = struct.unpack("<QQ", struct.pack("<I", 1) + bytes.fromhex("000000090000004a00000000"))
    assert chacha20_block(key, counter, nonce).hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )
    assert chacha20_block(bytes(32), 0, 0).hex().startswith("76b8e0ada0f13d90405d6ae55386bd28")
    assert chacha20_block(bytes(32), 1, 0).hex().startswith("9f07e7be5551387a98ba977c732d080d")


def test_seeded_bytes_are_the_documented_stream():
    seed, sizes = bytes(range(100, 132)), [0, 1, 64, 4064, 4065, 9000]
    rng = seeded.SeededRng(seed)
    assert [rng.bytes(n) for n in sizes] == list(twin(seed, sizes))


def test_a_seed_fixes_the_stream_and_another_seed_gives_another():
    first, again, other = (seeded.SeededRng(bytes([b]) * 32) for b in (1, 1, 2))
    assert first.bytes(1000) == again.bytes(1000) != other.bytes(1000)
    assert first.bytes(1000) == again.bytes(1000)


def test_system_generators_never_repeat_each_other():
    rng = _kernels.SystemRng()
    draws = [rng.bytes(32) for _ in range(100)] + [_kernels.SystemRng().bytes(32) for _ in range(100)]
    assert len(set(draws)) == 200


def test_bytes_are_balanced():
    data = _kernels.SystemRng().bytes(1 << 20)
    ones = int.from_bytes(data, "little").bit_count()
    assert abs(ones - (1 << 22)) < 6 * (1 << 23) ** 0.5 / 2


@pytest.mark.parametrize("generator", [_kernels.SystemRng, lambda: seeded.SeededRng(bytes(32))])
def test_generators_are_neither_copied_nor_pickled_nor_extended(generator):
    rng = generator()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="two holders of one state"):
            attempt(rng)
    with pytest.raises(AttributeError):
        rng.seed = 1
    with pytest.raises(TypeError):
        type("Child", (type(rng),), {})


def test_the_generator_for_releases_cannot_be_seeded():
    for arguments in ((b"0" * 32,), (1,), (None,)):
        with pytest.raises(TypeError):
            _kernels.SystemRng(*arguments)
    assert not hasattr(_kernels.SystemRng, "seed")


def test_the_seeded_generator_lives_apart_and_says_what_it_is():
    assert not hasattr(_kernels, "SeededRng")
    assert _kernels.SystemRng.secure is True
    assert seeded.SeededRng.secure is False


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_is_exactly_thirty_two_bytes(length):
    with pytest.raises(ValueError, match=f"want seed of exactly 32 bytes; got {length}"):
        seeded.SeededRng(bytes(length))


def test_a_seed_is_bytes():
    for seed in (1, "0" * 32, bytearray(32)):
        with pytest.raises(TypeError):
            seeded.SeededRng(seed)


@pytest.mark.parametrize("n", [-1, 2**30 + 1, 2**70])
def test_absurd_counts_are_refused(n):
    with pytest.raises(ValueError, match=r"want n in \[0, 1073741824\]; got"):
        _kernels.SystemRng().bytes(n)


def from_a_child(draw):
    """The bytes that ``draw()`` returns in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, draw())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return data


def test_parent_and_children_draw_differently():
    rng = _kernels.SystemRng()
    rng.bytes(100)
    draws = [from_a_child(lambda: rng.bytes(32)) for _ in range(3)]
    draws += [from_a_child(lambda: from_a_child(lambda: rng.bytes(32)) + rng.bytes(32)), rng.bytes(32)]
    pieces = [piece[i : i + 32] for piece in draws for i in range(0, len(piece), 32)]
    assert len(pieces) == len(set(pieces)) == 6


def test_a_seeded_stream_does_replay_in_a_child():
    rng = seeded.SeededRng(bytes(32))
    assert from_a_child(lambda: rng.bytes(64)) == rng.bytes(64)


def test_threads_sharing_a_generator_never_draw_the_same():
    rng, draws = _kernels.SystemRng(), []

    def draw():
        draws.extend(_kernels.discrete_laplace(rng, 64, 32).tobytes() for _ in range(200))
        draws.extend(rng.bytes(100_000) for _ in range(20))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(draws)) == len(draws) == 880
