"""The round machine: its whole table, and what must hold whatever happens."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.round import TRANSITIONS, Event, IllegalTransition, Phase, Rounds
from edge_runtime.task import CohortSpec

PATHS = {  # how to get into every phase
    Phase.GATHERING: (),
    Phase.COLLECTING: (Event.OPENED,),
    Phase.AGGREGATING: (Event.OPENED, Event.COMPLETE),
    Phase.FINISHED: (Event.FINISHED,),
}
NAMES = [f"dev-{index}" for index in range(12)]


def rounds(spec=None, **changes):
    return Rounds(spec or CohortSpec(4, 2, deadline_s=60.0, gather_s=10.0), **({"number": 0, "now_s": 0.0} | changes))


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_every_event_in_every_phase_follows_the_table_or_is_refused_by_name(phase, event):
    machine = rounds()
    for step in PATHS[phase]:
        machine.step(step, 0.0)
    assert machine.phase is phase
    if (phase, event) in TRANSITIONS:
        machine.step(event, 1.0)
        assert machine.phase is TRANSITIONS[phase, event]
    else:
        with pytest.raises(IllegalTransition, match=f'"{event}" while {phase}'):
            machine.step(event, 1.0)
        assert machine.phase is phase


def test_every_phase_can_be_reached_and_only_the_last_has_no_way_out():
    reached = {Phase.GATHERING} | set(TRANSITIONS.values())
    assert reached == set(Phase)
    assert set(Phase) - {phase for phase, _ in TRANSITIONS} == {Phase.FINISHED}


specs = st.integers(1, 8).flatmap(
    lambda size: st.builds(
        CohortSpec, st.just(size), st.integers(1, size), deadline_s=st.just(60.0), gather_s=st.sampled_from([0.0, 10.0])
    )
)


@given(specs, st.sets(st.sampled_from(NAMES)), st.floats(0, 30), st.integers(0, 99))
def test_a_cohort_is_part_of_who_is_there_and_never_smaller_than_the_quorum(spec, available, now_s, seed):
    machine = rounds(spec)
    cohort = machine.choose(available, now_s, random.Random(seed))
    if cohort is None:
        assert len(available) < (spec.quorum if now_s >= spec.gather_s else spec.size)
    else:
        assert cohort <= available
        assert spec.quorum <= len(cohort) <= spec.size
        assert cohort == machine.choose(sorted(available, reverse=True), now_s, random.Random(seed))


def test_a_cohort_is_drawn_uniformly():
    machine, rng = rounds(CohortSpec(2, 2)), random.Random(3)
    counts = dict.fromkeys(NAMES[:4], 0)
    for _ in range(3000):
        for device in machine.choose(NAMES[:4], 0.0, rng) or ():
            counts[device] += 1
    assert all(abs(count - 1500) < 150 for count in counts.values())


actions = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.sets(st.sampled_from(NAMES), min_size=1)),
        st.tuples(st.sampled_from(["contribute", "decline"]), st.sampled_from(NAMES)),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 5.0, 59.0, 61.0])),
    ),
    max_size=60,
)


@given(specs, actions, st.integers(0, 9))
def test_whatever_happens_no_round_is_aggregated_below_quorum_and_no_number_comes_twice(spec, schedule, seed):
    machine, now_s, rng = rounds(spec), 0.0, random.Random(seed)
    numbers: list[int] = []
    for action, what in schedule:
        if action == "wait":
            now_s += what
        elif action == "open" and machine.phase is Phase.GATHERING:
            cohort = machine.choose(what, now_s, rng)
            if cohort is not None:
                machine.open(cohort, now_s)
                numbers.append(machine.number)
        elif action in ("contribute", "decline") and machine.phase is Phase.COLLECTING:
            answers = machine.contributed if action == "contribute" else machine.declined
            answers |= {what} & (machine.cohort - machine.contributed - machine.declined)
        while (event := machine.due(now_s)) is not None:
            machine.step(event, now_s)
            if machine.phase is Phase.AGGREGATING:
                assert len(machine.contributed) >= spec.quorum
                assert machine.contributed <= machine.cohort
                machine.step(Event.COMMITTED, now_s)
            else:
                assert len(machine.contributed) < spec.quorum
    assert numbers == sorted(set(numbers))


def test_a_round_closes_as_soon_as_everybody_has_answered():
    machine = rounds()
    machine.open(frozenset("abcd"), 0.0)
    machine.contributed |= {"a", "b", "c"}
    assert machine.due(1.0) is None
    machine.declined.add("d")
    assert machine.due(1.0) is Event.COMPLETE


def test_a_round_that_cannot_reach_its_quorum_any_more_is_given_up_before_its_deadline():
    machine = rounds(CohortSpec(4, 3))
    machine.open(frozenset("abcd"), 0.0)
    machine.declined |= {"a", "b"}
    assert machine.due(0.1) is Event.ABANDONED


@pytest.mark.parametrize(("answers", "event"), [("ab", Event.QUORUM), ("a", Event.ABANDONED)])
def test_at_the_deadline_the_quorum_decides(answers, event):
    machine = rounds()
    machine.open(frozenset("abcd"), 5.0)
    machine.contributed |= set(answers)
    assert machine.due(64.9) is None
    assert machine.wakeup_at_s(64.9) == 65.0
    assert machine.due(65.0) is event


def test_a_resumed_round_counts_a_device_that_declined_and_then_contributed_once():
    machine = rounds()
    machine.resume(7, "abcd", contributed=["a", "x"], declined=["a", "b", "y"], now_s=100.0)
    assert (machine.number, machine.contributed, machine.declined) == (7, {"a"}, {"b"})
    assert machine.due(101.0) is None  # c and d are waited for
    assert machine.deadline_s == 160.0


def test_gathering_asks_to_be_woken_only_while_time_can_change_something():
    machine = rounds()
    assert machine.wakeup_at_s(3.0) == 10.0
    assert machine.wakeup_at_s(10.0) is None
    machine.step(Event.FINISHED, 11.0)
    assert machine.wakeup_at_s(11.0) is None
