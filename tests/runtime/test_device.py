from __future__ import annotations

import itertools
import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_runtime import messages, model
from edge_runtime._kernels import SystemRng, seeded
from edge_runtime.device import TRANSITIONS, Device, Event, IllegalTransition, State
from edge_runtime.errors import ColumnMissing, DeviceFault, LocalError, NotEnoughYet, RemoteError
from edge_runtime.features import Table, examples
from edge_runtime.ledger import Ledger
from edge_runtime.messages import (
    Authority,
    Contribute,
    Decline,
    Finished,
    GetTask,
    Hello,
    Receipt,
    Refusal,
    Wait,
    Welcome,
    encode,
)
from edge_runtime.policy import Policy
from edge_runtime.privacy.laplace import LaplaceEvent
from edge_runtime.task import InputSpec, PrivacySpec, TrainingSpec

OPEN_POLICY = Policy(epsilon_budget=100.0, places=("none", "local", "central"), minimum_cohort=3)


@pytest.fixture
def ledger():
    ledger = Ledger(":memory:", create=True)
    yield ledger
    ledger.close()


@pytest.fixture
def new_device(ledger, source):
    def new(policy: Policy = OPEN_POLICY, **changes: Any) -> Device:
        return Device(**({"policy": policy, "ledger": ledger, "source": source} | changes))

    return new


def greet(device: Device, now_s: float = 0.0) -> Device:
    assert isinstance(device.request(now_s), Hello)
    device.receive(Welcome("dev-1", "porch"), now_s)
    return device


def answer_to(device: Device, offer: Any, now_s: float = 0.0) -> Contribute | Decline:
    """What the device says to an offer, right after the greeting or the last receipt."""
    if device.state is State.GREETING:
        greet(device, now_s)
    assert isinstance(device.request(now_s), GetTask)
    device.receive(offer, now_s)
    request = device.request(now_s)
    assert isinstance(request, Contribute | Decline)
    return request


# The table


def test_every_event_in_every_state_is_in_the_table_or_refused_with_what_was_expected(new_device) -> None:
    for state, event in itertools.product(State, Event):
        device = new_device()
        device.state = state
        if (state, event) in TRANSITIONS:
            device._step(event)
            assert device.state is TRANSITIONS[state, event]
            continue
        with pytest.raises(IllegalTransition) as caught:
            device._step(event)
        assert device.state is state
        assert str(caught.value).startswith(f'"{event}" in state "{state}"; expected')
        assert all(known in str(caught.value) for other, known in TRANSITIONS if other is state)


def test_every_state_but_the_last_can_be_reached_and_left() -> None:
    reached = {State.GREETING}
    for _ in State:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(State)
    assert {before for before, _ in TRANSITIONS} == set(State) - {State.DONE}


def test_an_answer_out_of_place_is_the_coordinators_fault_and_releases_nothing(new_device, new_task, new_offer, ledger):
    replies = [
        Welcome("dev-1", "x"),
        Wait(1.0),
        Finished("t1", "over"),
        new_offer(new_task()),
        Receipt("x", "accepted"),
        Authority(b"x"),
    ]
    allowed = {
        State.GREETING: (Welcome,),
        State.READY: (Wait, Finished, type(replies[3])),
        State.RESTING: (),
        State.DONE: (),
    }
    for state, types in allowed.items():
        for reply in replies:
            if not isinstance(reply, types):
                device = new_device()
                device.state = state
                with pytest.raises(RemoteError):
                    device.receive(reply, 0.0)
                assert device.state is state
    assert list(ledger.entries()) == []


def test_a_device_that_rests_asks_again_when_it_is_time(new_device) -> None:
    device = greet(new_device(), 1000.0)
    device.receive(Wait(10.0), 1000.0)
    assert device.request(1009.9) is None
    assert isinstance(device.request(1010.0), GetTask)


def test_a_clock_set_back_does_not_put_a_device_to_sleep(new_device) -> None:
    device = greet(new_device(), 1_800_000_000.0)
    device.receive(Wait(10.0), 1_800_000_000.0)
    assert isinstance(device.request(5.0), GetTask)


def test_a_finished_task_is_the_end_and_its_reason_is_printable(new_device) -> None:
    device = greet(new_device())
    device.receive(Finished("t1", "done\x1b[2J"), 0.0)
    assert device.state is State.DONE
    assert device.finished_because == "done?[2J"
    assert device.request(0.0) is None


# Offers


def test_an_offer_is_answered_with_one_charged_release(new_device, new_task, new_offer, ledger) -> None:
    task = new_task()
    release = answer_to(new_device(), new_offer(task))
    assert isinstance(release, Contribute)
    assert release.update.shape == (6,)
    assert (release.examples, release.metrics) == (None, None)
    (entry,) = ledger.entries()
    assert entry.epsilon == task.privacy.noise().event.epsilon
    assert 0 < entry.delta < 1e-15
    assert entry.release_id == release.release_id


def test_under_central_noise_the_clipped_integers_leave_and_the_charge_is_the_same(
    new_device, new_task, new_offer, ledger
):
    task = new_task(privacy=PrivacySpec("central", epsilon=1.0))
    release = answer_to(new_device(), new_offer(task))
    assert np.abs(release.update.array().astype(np.int64)).sum() <= task.privacy.noise().levels
    assert next(iter(ledger.entries())).epsilon == task.privacy.noise().event.epsilon


def test_without_noise_the_update_and_its_weight_leave_and_nothing_is_charged(new_device, new_task, new_offer, ledger):
    release = answer_to(new_device(), new_offer(new_task(privacy=PrivacySpec("none"))))
    assert release.update.dtype == "<f4"
    assert release.examples == 40
    assert release.metrics.loss == pytest.approx(math.log(2))
    assert next(iter(ledger.entries())).epsilon is None
    assert ledger.spent_epsilon == 0


POISONED = np.array([0, 0, math.nan, 0, 0, 0], np.float32)
OBJECTIONS = {
    "NaN": ({"params": POISONED}, {}, Policy(), "task", "NaN or an infinity"),
    "infinity": ({"params": np.full(6, np.inf, np.float32)}, {}, Policy(), "task", "NaN or an infinity"),
    "wrong size": ({"params": np.zeros(7, np.float32)}, {}, Policy(), "task", "want parameters <f4 [6]"),
    "wrong shape": ({"params": np.zeros((2, 3), np.float32)}, {}, Policy(), "task", "want parameters <f4 [6]"),
    "wrong type": ({"params": np.zeros(6, np.int32)}, {}, Policy(), "task", "the offer has <i4 [6]"),
    "cohort too small": ({"cohort": 4}, {"place": "central"}, Policy(), "policy", "the cohort has 4 devices"),
    "clip too large": ({}, {"clip_norm": 101.0}, Policy(), "policy", "the clip norm 101 is above the owner's 100"),
    "no noise": ({}, {"place": "none"}, Policy(), "policy", "the device's owner allows local, central"),
    "place not allowed": ({}, {}, Policy(places=("central",)), "policy", "the device's owner allows central"),
    "nothing allowed": ({}, {}, Policy(places=()), "policy", "the device's owner allows nothing"),
    "label not allowed": ({}, {}, Policy(columns=("a", "b")), "policy", 'reads the column "label"'),
    "column not allowed": ({}, {}, Policy(columns=("a", "label")), "policy", 'reads the column "b"'),
    "budget spent": ({}, {}, Policy(epsilon_budget=0.5), "budget_spent", "0 of the owner's 0.5 are spent"),
    "no budget": ({}, {"epsilon": 0.02}, Policy(epsilon_budget=0.0), "budget_spent", "of the owner's 0 are spent"),
}


@pytest.mark.parametrize("case", OBJECTIONS)
def test_an_offer_against_the_owners_word_is_declined_before_the_data_are_read(
    case: str, new_device, new_task, new_offer, source, ledger
) -> None:
    offer_changes, privacy_changes, policy, code, words = OBJECTIONS[case]
    task = new_task()
    task = replace(task, privacy=replace(task.privacy, **privacy_changes))
    declined = answer_to(new_device(policy), new_offer(task, **offer_changes))
    assert isinstance(declined, Decline)
    assert declined.code == code
    assert words in declined.reason
    assert source.reads == 0
    assert list(ledger.entries()) == []


def test_columns_that_the_owner_allows_may_be_read(new_device, new_task, new_offer) -> None:
    policy = replace(OPEN_POLICY, columns=("a", "b", "label", "other"))
    assert isinstance(answer_to(new_device(policy), new_offer(new_task())), Contribute)


def test_the_budget_ends_after_as_many_rounds_as_it_covers(new_device, new_task, new_offer, ledger) -> None:
    device = new_device(Policy(epsilon_budget=3.2))
    answers = []
    for number in range(1, 6):
        answer = answer_to(device, new_offer(new_task(), round_number=number))
        answers.append(type(answer).__name__)
        receipt = Receipt(answer.release_id, "accepted") if isinstance(answer, Contribute) else Receipt("", "noted")
        device.receive(receipt, 0.0)
    assert answers == ["Contribute"] * 3 + ["Decline"] * 2
    assert ledger.spent_epsilon <= 3.0


@pytest.mark.parametrize("change", ["the same task", "another task", "another place"])
def test_a_round_that_was_charged_is_not_answered_again_whatever_it_asks(
    change, new_device, new_task, new_offer, ledger
):
    device, task = new_device(), new_task()
    first = answer_to(device, new_offer(task))
    device.receive(Receipt(first.release_id, "late"), 0.0)
    if change == "another task":
        task = replace(task, training=TrainingSpec(epochs=1))
    if change == "another place":
        task = replace(task, privacy=PrivacySpec("none"))
    again = answer_to(device, new_offer(task))
    assert isinstance(again, Decline)
    assert "contributed to the round already" in again.reason
    assert len(list(ledger.entries())) == 1


# What the coordinator can learn without a charge


def test_a_decline_for_data_quotes_nothing_of_them(new_device, new_task, new_offer, source, caplog) -> None:
    source.fault = LocalError('patients.csv, line 3, column "note\x1b[2J": "HIV positive" is not a finite number')
    with caplog.at_level(logging.WARNING):
        declined = answer_to(new_device(), new_offer(new_task(privacy=PrivacySpec("none"))))
    assert declined.code == "data"
    assert declined.reason == "the device's data do not fit the task; its own log says where"
    assert "HIV positive" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_missing_column_is_named_but_not_those_there_are(new_device, new_task, new_offer, source) -> None:
    source.fault = ColumnMissing("b", 'patients.csv lacks the column "b"; it has: name, diagnosis')
    declined = answer_to(new_device(), new_offer(new_task()))
    assert declined.reason == 'the device\'s data have no column "b"'


def test_a_silent_sensor_is_declined_and_asked_again(new_device, new_task, new_offer, source) -> None:
    device, source.fault = new_device(), DeviceFault("the sensor on /dev/ttyUSB0 is silent")
    for number in range(1, 40):
        assert answer_to(device, new_offer(new_task(), round_number=number)).code == "data"
        device.receive(Receipt("", "noted"), 0.0)
    source.fault = None
    assert isinstance(answer_to(device, new_offer(new_task(), round_number=40)), Contribute)


@pytest.mark.parametrize("fault", [ColumnMissing("b", "no b"), NotEnoughYet("one window is not complete")])
@pytest.mark.parametrize("task_varies", [True, False])
def test_sixteen_declines_for_data_are_all_that_is_answered_for_nothing(
    fault, task_varies: bool, new_device, new_task, new_offer, source
) -> None:
    device, task = new_device(), new_task()
    source.fault = fault
    for number in range(1, 17):
        inputs = InputSpec(("a", f"b{number}" if task_varies else "b"), "label", ("no", "yes"))
        assert answer_to(device, new_offer(replace(task, inputs=inputs), round_number=number)).code == "data"
        device.receive(Receipt("", "noted"), 0.0)
    source.fault = None
    declined = answer_to(device, new_offer(task, round_number=17))
    assert "takes no other until restarted" in declined.reason
    assert source.reads == 16


@pytest.mark.parametrize("fault", [LocalError('the label "maybe" is none of the classes'), MemoryError()])
@pytest.mark.parametrize("place", ["local", "central"])
def test_values_that_do_not_fit_are_a_charged_release_and_not_an_oracle(
    fault, place: str, new_device, new_task, new_offer, source, ledger
) -> None:
    """Whether the labels fit the named classes is a question about them: a decline would answer it for nothing."""
    source.fault = fault
    release = answer_to(new_device(), new_offer(new_task(privacy=PrivacySpec(place))))
    assert isinstance(release, Contribute)
    assert ledger.spent_epsilon > 0
    assert place == "local" or not release.update.array().any()


@pytest.mark.parametrize("place", ["local", "none"])
def test_training_that_needs_more_memory_than_there_is_does_not_end_the_device(
    place: str, new_device, new_task, new_offer, monkeypatch
) -> None:
    def hungry(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(model, "local_update", hungry)
    answer = answer_to(new_device(), new_offer(new_task(privacy=PrivacySpec(place))))
    assert isinstance(answer, Contribute) if place == "local" else "not enough memory" in answer.reason


def test_many_epochs_are_trained_in_groups_with_the_same_result_without_momentum(new_task, source, monkeypatch) -> None:
    task = new_task()
    data = examples(source.table, task.inputs)
    params, training = np.zeros(6, np.float32), TrainingSpec(epochs=7, batch_size=4)
    whole = model.local_update(task.model, training, params, data, np.random.default_rng(1))
    monkeypatch.setattr(model, "_DRAWS_AT_ONCE", 3 * len(data.y))
    in_groups = model.local_update(task.model, training, params, data, np.random.default_rng(1))
    np.testing.assert_array_equal(whole, in_groups)


@pytest.mark.parametrize("place", ["local", "central"])
def test_training_driven_out_of_the_finite_numbers_is_a_charged_release_and_not_an_oracle(
    place, new_device, new_task, new_offer, source, ledger
) -> None:
    source.table = Table(source.table.values * np.float32(1e30), source.table.labels)
    wild = replace(new_task(privacy=PrivacySpec(place)), training=TrainingSpec(epochs=3, learning_rate=1e3))
    release = answer_to(new_device(), new_offer(wild, params=np.full(6, 3e38, np.float32)))
    assert isinstance(release, Contribute)
    assert ledger.spent_epsilon > 0
    assert place == "local" or not release.update.array().any()


def test_training_driven_out_of_the_finite_numbers_is_declined_where_nothing_is_protected(
    new_device, new_task, new_offer, source, ledger
) -> None:
    source.table = Table(source.table.values * np.float32(1e30), source.table.labels)
    wild = replace(new_task(privacy=PrivacySpec("none")), training=TrainingSpec(epochs=3, learning_rate=1e3))
    declined = answer_to(new_device(), new_offer(wild, params=np.full(6, 3e38, np.float32)))
    assert declined.code == "task"
    assert list(ledger.entries()) == []


# Noise


def test_noise_from_a_seed_is_refused_unless_everything_is_simulated(new_device) -> None:
    noise = seeded.SeededRng(bytes(32))
    with pytest.raises(LocalError, match="protects nobody"):
        new_device(noise=noise)
    new_device(noise=noise, simulated=True)
    new_device(noise=SystemRng())


def test_two_devices_with_the_same_data_release_different_noise(new_task, new_offer, source) -> None:
    releases = []
    for _ in range(2):
        ledger = Ledger(":memory:", create=True)
        device = Device(policy=OPEN_POLICY, ledger=ledger, source=source)
        releases.append(answer_to(device, new_offer(new_task())).update.data)
        ledger.close()
    assert releases[0] != releases[1]


# Crashes, receipts and refusals


def test_after_a_crash_the_very_same_bytes_are_sent(new_task, new_offer, source, tmp_path) -> None:
    path = tmp_path / "ledger.sqlite"
    first = Ledger(path, create=True)
    release = answer_to(Device(policy=OPEN_POLICY, ledger=first, source=source), new_offer(new_task()))
    second = Ledger(path, create=False)  # the first process is gone without a word
    device = greet(Device(policy=OPEN_POLICY, ledger=second, source=source))
    again = device.request(0.0)
    assert encode(again) == encode(release)
    device.receive(Receipt(again.release_id, "accepted"), 0.0)
    assert isinstance(device.request(0.0), GetTask)
    assert second.spent_epsilon == new_task().privacy.noise().event.epsilon
    first.close()
    second.close()


def test_after_a_broken_connection_the_very_same_bytes_are_sent(new_device, new_task, new_offer) -> None:
    device = new_device()
    release = answer_to(device, new_offer(new_task()))
    device.connected()
    greet(device)
    assert encode(device.request(0.0)) == encode(release)


def test_a_ledger_that_cannot_be_written_lets_nothing_out(new_device, new_task, new_offer, ledger, monkeypatch) -> None:
    device = greet(new_device())
    device.request(0.0)

    def full(**_: Any) -> None:
        raise DeviceFault("the privacy ledger cannot be written (disk full); nothing was sent")

    monkeypatch.setattr(ledger, "charge", full)
    with pytest.raises(DeviceFault, match="nothing was sent"):
        device.receive(new_offer(new_task()), 0.0)
    assert device.request(0.0) is None


@pytest.mark.parametrize("status", ["accepted", "late"])
def test_a_receipt_settles_the_release_it_names(status: str, new_device, new_task, new_offer, ledger) -> None:
    device = new_device()
    release = answer_to(device, new_offer(new_task()))
    device.receive(Receipt(release.release_id, status), 0.0)
    assert next(iter(ledger.entries())).outcome == status
    assert ledger.unacknowledged() is None


def test_a_receipt_for_another_release_settles_nothing(new_device, new_task, new_offer, ledger) -> None:
    device = new_device()
    release = answer_to(device, new_offer(new_task()))
    for receipt in (Receipt("another\x1b", "accepted"), Receipt("", "late"), Receipt(release.release_id, "noted")):
        with pytest.raises(RemoteError, match=rf'release "{release.release_id}" was sent') as caught:
            device.receive(receipt, 0.0)
        assert "\x1b" not in str(caught.value)
        assert next(iter(ledger.entries())).outcome is None
        assert encode(device.request(0.0)) == encode(release)


def test_a_receipt_that_a_decline_cannot_have_is_refused(new_device, new_task, new_offer) -> None:
    device = new_device(Policy(places=()))
    assert isinstance(answer_to(device, new_offer(new_task())), Decline)
    with pytest.raises(RemoteError, match='answered "accepted" to a decline'):
        device.receive(Receipt("x", "accepted"), 0.0)


@pytest.mark.parametrize(("fault", "outcome"), [("device", "refused"), ("coordinator", None)])
def test_a_refused_release_is_sent_again_only_where_the_coordinator_is_at_fault(
    fault, outcome, new_device, new_task, new_offer, ledger
) -> None:
    device = new_device()
    release = answer_to(device, new_offer(new_task()))
    with pytest.raises(RemoteError, match=r"refused \(bad_update\): no\?\[m; at fault: the " + fault):
        device.receive(Refusal(fault, "bad_update", "no\x1b[m"), 0.0)
    assert next(iter(ledger.entries())).outcome == outcome
    assert ledger.spent_epsilon > 0  # the charge stands
    device.connected()
    greet(device)
    request = device.request(0.0)
    assert isinstance(request, GetTask) if outcome else encode(request) == encode(release)


def test_a_damaged_release_in_the_ledger_is_a_device_fault(new_device, ledger) -> None:
    for message in (b"\xff", encode(GetTask(1.0))):
        ledger.charge(
            release_id=f"release-{message.hex()}",
            task_id=message.hex(),
            round_number=1,
            place="local",
            event=LaplaceEvent(1, 1),
            message=message,
            budget=9.0,
            now_s=0.0,
        )
        with pytest.raises(DeviceFault, match="ledger"):
            greet(new_device()).request(0.0)
        ledger.settle(f"release-{message.hex()}", "refused")


def test_what_a_device_sends_is_taken_by_the_other_side(new_device, new_task, new_offer) -> None:
    for number, place in enumerate(("none", "local", "central"), start=1):
        device = new_device()
        release = answer_to(device, new_offer(new_task(privacy=PrivacySpec(place)), round_number=number))
        assert messages.decode(encode(release), peer="device") == release
        device.receive(Receipt(release.release_id, "accepted"), 0.0)


def test_a_loss_beyond_the_finite_numbers_is_left_out(new_device, new_task, new_offer, source) -> None:
    """A message that no coordinator takes would be sent for ever."""
    params = np.array([3e38, 0, -3e38, 0, 0, 0], np.float32)
    source.table = Table(source.table.values * np.float32(1e4), source.table.labels)
    task = new_task(privacy=PrivacySpec("none"), training=TrainingSpec(learning_rate=1e-9))
    answer = answer_to(new_device(), new_offer(task, params=params))
    assert messages.decode(encode(answer), peer="device") == answer
    if isinstance(answer, Contribute):
        assert answer.metrics is None or math.isfinite(answer.metrics.loss)
        assert np.isfinite(answer.update.array()).all()
