from __future__ import annotations

import itertools
import math
import re
import tomllib
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import model
from edge_runtime.architecture import Dense
from edge_runtime.errors import LocalError
from edge_runtime.features import Examples
from edge_runtime.schedule import (
    AnySchedule,
    ConstantRate,
    CosineDecay,
    ExponentialDecay,
    Schedule,
    StepDecay,
    learning_rates,
)
from edge_runtime.tables import from_mapping, to_mapping
from edge_runtime.task import ModelSpec, TrainingSpec


@dataclass(frozen=True)
class Table:
    schedule: Schedule | None = None


def share(spec: AnySchedule, step: int, steps: int) -> float:
    """By the definitions, one step at a time, with the C library's functions."""
    if step < spec.warmup:
        return (step + 1) / (spec.warmup + 1)
    after, rest = step - spec.warmup, steps - spec.warmup
    match spec:
        case ConstantRate():
            return 1.0
        case StepDecay():
            return math.pow(spec.factor, after // spec.every)
        case ExponentialDecay():
            return math.pow(spec.factor, after)
        case CosineDecay():
            return spec.final + (1 - spec.final) * (1 + math.cos(math.pi * after / rest)) / 2


warmups = st.integers(0, 30)
factors = st.floats(0.5, 1)
schedules = st.one_of(
    st.builds(ConstantRate, warmup=warmups),
    st.builds(StepDecay, every=st.integers(1, 40), factor=factors, warmup=warmups),
    st.builds(ExponentialDecay, factor=factors, warmup=warmups),
    st.builds(CosineDecay, final=st.floats(0, 1), warmup=warmups),
)


@given(spec=schedules, steps=st.integers(0, 120), learning_rate=st.floats(1e-6, 10))
def test_every_rate_is_the_one_of_the_definition(spec: AnySchedule, steps: int, learning_rate: float) -> None:
    rates = learning_rates(spec, steps, learning_rate=learning_rate)
    assert rates.dtype == np.float32
    assert rates.shape == (steps,)
    want = [learning_rate * share(spec, step, steps) for step in range(steps)]
    np.testing.assert_allclose(rates, want, rtol=1e-6, atol=1e-40)


@given(spec=schedules, steps=st.integers(1, 120))
def test_rates_rise_to_the_whole_one_during_the_warm_up_and_never_after_it(spec: AnySchedule, steps: int) -> None:
    rates = learning_rates(spec, steps, learning_rate=0.3)
    assert (np.diff(rates[: spec.warmup + 1]) > 0).all()
    assert (np.diff(rates[spec.warmup :]) <= 0).all()
    assert (rates[spec.warmup : spec.warmup + 1] == np.float32(0.3)).all()
    assert ((rates >= 0) & (rates <= np.float32(0.3))).all()


def test_a_cosine_passes_through_its_middle_and_heads_for_its_final_share() -> None:
    rates = learning_rates(CosineDecay(final=0.2), 1000, learning_rate=1.0)
    assert rates[0] == 1
    assert rates[500] == np.float32(0.6)
    assert 0.2 < rates[-1] < 0.20001


def test_the_bits_are_the_same_whatever_library_has_the_cosine() -> None:
    rates = np.concatenate(
        [
            learning_rates(CosineDecay(final=0.01, warmup=7), 333, learning_rate=0.37),
            learning_rates(ExponentialDecay(0.987), 333, learning_rate=0.37),
            learning_rates(StepDecay(every=9, factor=0.7), 333, learning_rate=0.37),
        ]
    )
    assert int(rates.view(np.uint32).astype(np.uint64).sum()) == 1_012_383_765_413


@given(spec=schedules, steps=st.integers(1, 120), cuts=st.lists(st.integers(0, 120), max_size=3))
def test_a_part_at_a_time_gives_the_same_bits(spec: AnySchedule, steps: int, cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut <= steps), steps]
    parts = [
        learning_rates(spec, steps, learning_rate=0.3, part=range(first, last))
        for first, last in itertools.pairwise(edges)
    ]
    assert np.concatenate(parts).tobytes() == learning_rates(spec, steps, learning_rate=0.3).tobytes()


def test_a_part_of_an_endless_training_takes_little_memory() -> None:
    spec = ExponentialDecay(1 - 1e-12, warmup=5)
    rates = learning_rates(spec, 1 << 40, learning_rate=1.0, part=range((1 << 40) - 3, 1 << 40))
    np.testing.assert_allclose(rates, math.exp((1 << 40) * math.log1p(-1e-12)), rtol=1e-4)


def test_steps_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match="want at least 0 steps; got -1"):
        learning_rates(ConstantRate(), -1, learning_rate=0.1)
    for part in (range(5, 12), range(-1, 3), range(0, 10, 2)):
        with pytest.raises(ValueError, match=re.escape(f"want consecutive steps of 0..9; got {part}")):
            learning_rates(ConstantRate(), 10, learning_rate=0.1, part=part)


@pytest.mark.parametrize(
    "spec",
    [ConstantRate(warmup=3), StepDecay(every=5), ExponentialDecay(0.99), CosineDecay(final=0.1, warmup=2)],
)
def test_a_schedule_goes_into_a_table_and_back(spec: AnySchedule) -> None:
    assert from_mapping(Table, to_mapping(Table(spec)), where="task.toml") == Table(spec)


def test_a_table_names_its_schedule() -> None:
    table = tomllib.loads('schedule = { type = "step", every = 100, factor = 0.5, warmup = 10 }')
    assert from_mapping(Table, table, where="task.toml").schedule == StepDecay(every=100, factor=0.5, warmup=10)
    assert from_mapping(Table, {"schedule": {"warmup": 5}}, where="task.toml").schedule == ConstantRate(warmup=5)


@pytest.mark.parametrize(
    ("table", "refusal"),
    [
        ({"type": "cosin"}, "cosine"),
        ({"type": "step"}, '"every" is missing'),
        ({"type": "step", "every": 0}, "0 is outside 1..1e"),
        ({"type": "exponential", "factor": 1.5}, "1.5 is outside 1e-06..1"),
        ({"type": "exponential", "factor": 0.0}, "outside 1e-06..1"),
        ({"type": "cosine", "every": 5}, "unknown key .every"),
        ({"type": "constant", "warmup": -1}, "-1 is outside 0.."),
    ],
)
def test_what_no_schedule_has_is_refused(table: dict[str, object], refusal: str) -> None:
    with pytest.raises(LocalError, match=refusal):
        from_mapping(Table, {"schedule": table}, where="task.toml")


@pytest.mark.parametrize("epochs_at_once", [1, 2, 100])
def test_a_local_update_takes_the_rates_of_its_schedule(epochs_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the rate after every epoch, against one local update for each epoch."""
    rng = np.random.default_rng(5)
    data = Examples(rng.standard_normal((8, 3)).astype(np.float32), rng.integers(0, 2, 8).astype(np.int32))
    spec = ModelSpec(inputs=3, layers=(Dense(2),))
    training = TrainingSpec(epochs=5, batch_size=4, learning_rate=0.4, schedule=StepDecay(every=2, factor=0.5))
    start = rng.standard_normal(spec.parameter_count).astype(np.float32)
    monkeypatch.setattr(model, "_DRAWS_AT_ONCE", epochs_at_once * 8)
    update = model.local_update(spec, training, start, data, np.random.default_rng(1))
    weights, shuffles = start, np.random.default_rng(1)
    for epoch in range(5):
        one = TrainingSpec(epochs=1, batch_size=4, learning_rate=0.4 * 0.5**epoch)
        weights = weights + model.local_update(spec, one, weights, data, shuffles)
    np.testing.assert_allclose(start + update, weights, rtol=0, atol=1e-6)
