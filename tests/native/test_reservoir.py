"""The reservoir: noise made ahead, each draw handed out once, by nobody but the system's generator."""

import copy
import os
import pickle
import threading

import numpy as np
import pytest

from edge_runtime import _kernels


def law(m):
    """Of x + 1/2 mirrored: P(x) proportional to r^max(x, -x - 1)."""
    reach = 45 << m
    x = np.arange(-reach, reach + 1)
    p = 2.0 ** (-np.maximum(x, -x - 1) / 2**m)
    return p / p.sum()


def test_draws_made_ahead_follow_the_law_of_those_made_on_the_spot():
    m, n = 4, 1 << 19
    reservoir = _kernels.NoiseReservoir(m, 50_000)
    x = np.concatenate([reservoir.take(count) for count in (1000, 50_000, n - 51_000)])
    counts = np.bincount((np.clip(x, -60, 59) + 60).astype(np.intp), minlength=120)
    p = law(m)
    middle = len(p) // 2
    expected = np.concatenate([[p[: middle - 59].sum()], p[middle - 59 : middle + 59], [p[middle + 59 :].sum()]]) * n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 119 + 6 * (2 * 119) ** 0.5


def test_draws_are_added_in_place_and_fill_either_width():
    reservoir = _kernels.NoiseReservoir(10, 10_000)
    values = np.full(5000, 1 << 40, np.int64)
    reservoir.add_to(values)
    assert np.abs(values - (1 << 40)).max() < 64 << 10
    assert len(np.unique(values)) > 1000
    for dtype in (np.int32, np.int64):
        out = np.zeros(5000, dtype)
        assert reservoir.take(5000, out=out) is out
        assert len(np.unique(out)) > 1000
    assert reservoir.log2_scale == 10
    assert reservoir.capacity == 16_384


def test_threads_never_get_the_same_draws():
    reservoir, draws = _kernels.NoiseReservoir(24, 8192), []
    threads = [
        threading.Thread(target=lambda: draws.extend(reservoir.take(64).tobytes() for _ in range(200)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(draws)) == 800


def test_it_cannot_be_seeded_copied_or_pickled():
    with pytest.raises(TypeError):
        _kernels.NoiseReservoir(10, 100, b"0" * 32)
    reservoir = _kernels.NoiseReservoir(10, 100)
    assert reservoir.secure is True
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="each draw leaves once"):
            attempt(reservoir)


def test_a_closed_reservoir_gives_nothing():
    reservoir = _kernels.NoiseReservoir(10, 100)
    reservoir.take(10)
    reservoir.close()
    reservoir.close()
    values = np.zeros(3, np.int64)
    for use in (lambda: reservoir.take(1), lambda: reservoir.add_to(values)):
        with pytest.raises(ValueError, match="it is closed, or of the parent's"):
            use()
    assert reservoir.ready == 0
    assert not values.any()


def test_a_forked_child_is_refused_the_noise_of_its_parent():
    reservoir = _kernels.NoiseReservoir(10, 100)
    child = os.fork()
    if child == 0:
        try:
            reservoir.take(1)
        except ValueError:
            del reservoir
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(reservoir.take(5)) == 5


@pytest.mark.parametrize(("m", "capacity"), [(25, 10), (-1, 10), (10, 0), (10, 2**26 + 1)])
def test_scales_and_capacities_out_of_range_are_refused(m, capacity):
    with pytest.raises(ValueError, match=r"want (log2_scale|capacity) in"):
        _kernels.NoiseReservoir(m, capacity)
