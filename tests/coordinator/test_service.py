"""The coordinator's answers: to honest devices, to broken ones, and to liars."""

import dataclasses

import numpy as np
import pytest

from coordinator import aggregation
from coordinator.authority import Authority, device_id, new_secret
from coordinator.service import Peer
from edge_runtime.messages import (
    PROTOCOL,
    Decline,
    Enrol,
    Enrolled,
    Finished,
    GetAuthority,
    GetTask,
    Hello,
    Offer,
    Receipt,
    Refusal,
    Wait,
    Welcome,
)

ACCEPTED, LATE = Receipt("release-0001", "accepted"), Receipt("release-0001", "late")


def code(reply):
    assert isinstance(reply, Refusal), reply
    return reply.code


@pytest.fixture
def opened(bench):
    """A round of three under central noise with devices 0, 1 and 2 in it; 3 is there and was not asked."""
    made = bench("central", devices=4, size=3, quorum=2)
    made.gather(0, 1, 2)
    made.gather(3)
    assert made.service._rounds.cohort == {made.name(index) for index in range(3)}
    return made


# Contributions


def test_a_contribution_may_come_any_number_of_times_and_counts_once(opened):
    request = opened.contribution()
    assert [opened.ask(0, request) for _ in range(5)] == [ACCEPTED] * 5
    assert opened.store.contributors("task-1", 1) == [opened.name(0)]
    assert opened.service._total.tolist() == [1, -2, 0, 3, 0, 0]


def test_the_answer_to_a_repeated_contribution_is_the_same_when_its_round_is_long_over(opened):
    first = opened.contribution()
    for index in range(3):
        opened.ask(index, dataclasses.replace(first, release_id=f"release-000{index + 1}"))
    assert opened.service._committed == 1
    assert opened.ask(0, first) == ACCEPTED
    assert opened.store.answers("task-1")[1] == (3, 0)


def test_the_answer_to_a_repeated_contribution_is_the_same_under_the_next_task(opened, new_task):
    from coordinator.service import start_task

    first = opened.contribution()
    assert opened.ask(0, first) == ACCEPTED
    with opened.store.transaction():
        start_task(opened.store, new_task(), params=np.zeros(6, np.float32), now_s=1.0, task_id="task-2")
    opened.restart()
    assert opened.ask(0, first) == ACCEPTED
    assert opened.ask(1, dataclasses.replace(first, release_id="release-0002")).status == "late"


def test_a_second_release_for_the_same_round_is_refused(opened):
    opened.ask(0, opened.contribution())
    reply = opened.ask(0, opened.contribution([9, 9, 9, 9, 9, 9], release_id="release-0002"))
    assert code(reply) == "already_contributed"
    assert opened.service._total.tolist() == [1, -2, 0, 3, 0, 0]


def test_who_comes_after_the_round_has_closed_is_told_so(opened):
    late = opened.contribution(release_id="release-0001")
    for index in (0, 1):
        opened.ask(index, opened.contribution(release_id=f"release-001{index}"))
    opened.tick(61.0)
    assert opened.service._committed == 1
    assert opened.ask(2, late) == LATE
    assert opened.store.contribution("task-1", 1, opened.name(2)) is None


def test_a_round_that_was_not_opened_cannot_be_contributed_to(opened):
    assert code(opened.ask(0, opened.contribution(round=2))) == "unknown_round"


def test_who_was_not_asked_is_refused(opened):
    assert code(opened.ask(3, opened.contribution())) == "not_asked"


def test_a_contribution_to_an_unknown_task_is_late(opened):
    assert opened.ask(0, opened.contribution(task_id="another")) == LATE


LOW = np.iinfo(np.int32).min


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, 2, 3], "shape"),
        ([[1, 2, 3], [4, 5, 6]], "shape"),
        (np.zeros(6, np.float32), "integers"),
        (np.full(6, np.nan, np.float32), "integers"),
        ([LOW, 0, 0, 0, 0, 0], "above"),
        ([LOW] * 6, "above"),
        ([247, 247, 247, 247, 247, 246], "above"),
    ],
)
def test_an_update_that_does_not_fit_the_task_is_refused_and_not_counted(opened, values, words):
    reply = opened.ask(0, opened.contribution(values))
    assert code(reply) == "bad_update"
    assert words in reply.reason
    assert reply.fault == "device"
    assert not opened.service._total.any()
    assert opened.service._rounds.declined == {opened.name(0)}


def test_the_largest_honest_update_is_taken(opened):
    levels = opened.task.privacy.noise().levels
    for values in ([levels, 0, 0, 0, 0, 0], [-levels, 0, 0, 0, 0, 0]):
        assert opened.ask(0 if values[0] > 0 else 1, opened.contribution(values)) == ACCEPTED


def test_a_bad_update_followed_by_a_good_one_counts_as_one_answer_also_after_a_restart(opened):
    assert code(opened.ask(0, opened.contribution([1]))) == "bad_update"
    assert opened.ask(0, opened.contribution()) == ACCEPTED
    assert opened.store.answers("task-1")[1] == (1, 0)
    opened.restart()
    assert opened.service._rounds.contributed == {opened.name(0)}
    assert not opened.service._rounds.declined


def test_a_device_whose_update_was_bad_is_not_asked_again_until_it_greets(opened):
    opened.ask(0, opened.contribution([1]))
    for index in (1, 2):
        opened.ask(index, opened.contribution(release_id=f"release-001{index}"))
    opened.gather(1, 2, 3)
    assert opened.service._rounds.cohort == {opened.name(index) for index in (1, 2, 3)}


@pytest.mark.parametrize(
    ("values", "examples"),
    [
        (np.full(6, np.nan, np.float32), 3),
        (np.array([0, 0, np.inf, 0, 0, 0], np.float32), 3),
        (np.zeros(6, np.float32), None),
        ([1, 2, 3, 4, 5, 6], 3),
    ],
)
def test_without_noise_only_finite_floats_with_a_weight_are_taken(bench, values, examples):
    made = bench("none", size=2, quorum=1, devices=2)
    made.gather()
    assert code(made.ask(0, made.contribution(values, examples=examples))) == "bad_update"


def test_an_update_that_would_carry_the_model_out_of_the_floats_spoils_no_round(bench):
    made = bench("none", size=2, quorum=1, devices=2)
    made.service._params = np.full(6, 3e38, np.float32)
    made.gather()
    assert code(made.ask(0, made.contribution(np.full(6, 3e38, np.float32), examples=10**9))) == "bad_update"
    assert made.ask(1, made.contribution(np.full(6, -1e38, np.float32), examples=1)).status == "accepted"
    assert made.service._committed == 1


def test_under_local_noise_an_update_no_honest_device_could_make_is_refused(bench):
    made = bench("local", size=2, quorum=1, devices=2)
    made.gather()
    noise = made.task.privacy.noise()
    one, norm = aggregation.largest_local_release(noise.levels, noise.log2_scale, 6)
    assert code(made.ask(0, made.contribution([LOW, 0, 0, 0, 0, 0]))) == "bad_update"
    assert code(made.ask(0, made.contribution([one + 1, 0, 0, 0, 0, 0]))) == "bad_update"
    assert code(made.ask(0, made.contribution([one] * 6))) == "bad_update"
    assert 6 * one > norm
    assert made.ask(0, made.contribution([one, -100, 0, 0, 0, 0])).status == "accepted"


def test_the_model_is_the_numpy_mean_of_what_was_accepted(bench):
    made = bench("local", size=4, quorum=4, devices=4)
    made.gather()
    rng = np.random.default_rng(5)
    sent = rng.integers(-500, 500, (4, 6)).astype(np.int32)
    for index in (2, 0, 3, 1):
        assert made.ask(index, made.contribution(sent[index])).status == "accepted"
    noise = made.task.privacy.noise()
    mean = (sent.astype(np.int64).sum(axis=0) + 0.5 * 4) * (noise.clip_norm / noise.levels) / 4
    np.testing.assert_allclose(made.service.params, mean.astype(np.float32), rtol=1e-6)


def test_the_sum_taken_up_after_a_restart_is_the_sum_before_it(opened):
    opened.ask(0, opened.contribution([1, 2, 3, 4, 5, 6]))
    opened.ask(1, opened.contribution(np.array([-1, 0, 0, 0, 0, 100], np.int8), release_id="release-0002"))
    opened.restart()
    assert opened.service._total.tolist() == [0, 2, 3, 4, 5, 106]
    assert opened.service._rounds.contributed == {opened.name(0), opened.name(1)}


def test_without_noise_the_mean_is_weighted_by_the_examples(bench):
    made = bench("none", size=2, quorum=2, devices=2)
    made.gather()
    made.ask(0, made.contribution(np.ones(6, np.float32), examples=1))
    made.ask(1, made.contribution(np.full(6, 4.0, np.float32), examples=2))
    assert made.service.params.tolist() == [3.0] * 6


# Declines and the end


@pytest.mark.parametrize("reason", ["budget_spent", "policy", "task"])
def test_when_too_few_can_still_take_part_the_run_ends_and_says_why(bench, reason):
    made = bench("central", size=3, quorum=3, devices=3)
    made.gather()
    reply = made.ask(0, Decline("task-1", 1, reason, "the \x1b[31mbudget\x07 is spent"))
    assert reply == Receipt("", "noted")
    assert made.service.finished_because is not None
    assert "after 0 of 3 rounds 2 devices can still take part, 3 are needed" in made.service.finished_because
    assert "the ?[31mbudget? is spent" in made.service.finished_because
    answer = made.ask(1, GetTask(0.0))
    assert answer == Finished("task-1", made.service.finished_because)
    made.restart()
    assert made.ask(1, GetTask(0.0)) == answer


def test_devices_that_have_no_data_yet_are_asked_again_less_and_less_often(bench):
    made = bench("central", size=2, quorum=2, devices=2, gather_s=0.0)
    made.gather()
    opened_at_s = []
    for _ in range(6):
        number = made.service._rounds.number
        opened_at_s.append(made.now_s)
        made.ask(0, Decline("task-1", number, "data", "warming up"))
        made.ask(1, Decline("task-1", number, "data", "warming up"))
        assert made.service.finished_because is None
        assert made.service._rounds.number == number
        while made.service._rounds.number == number:
            made.now_s = made.service.wakeup_at_s(made.now_s) or made.now_s
            made.gather()
    assert np.diff(opened_at_s).tolist() == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_decline_after_a_contribution_changes_nothing(opened):
    opened.ask(0, opened.contribution())
    opened.ask(0, Decline("task-1", 1, "data", "I have changed my mind"))
    assert opened.store.answers("task-1")[1] == (1, 0)


def test_a_decline_by_somebody_who_was_not_asked_is_not_counted(opened):
    opened.ask(3, Decline("task-1", 1, "data", "no"))
    assert opened.store.answers("task-1") == {}


def test_all_rounds_done_ends_the_task(bench):
    made = bench("central", size=2, quorum=2, rounds=2, devices=2)
    for number in (1, 2):
        made.gather()
        for index in (0, 1):
            assert isinstance(made.ask(index, GetTask(0.0)), Offer)
            made.ask(index, made.contribution(release_id=f"release-{number}{index}00"))
    assert made.service.finished_because == "all 2 rounds are done"


def test_round_numbers_are_never_used_again_also_after_restarts_and_given_up_rounds(bench):
    made = bench("central", size=2, quorum=2, devices=2)
    seen = []
    for _ in range(5):
        made.gather()
        seen.append(made.service._rounds.number)
        made.tick(61.0)
        made.restart()
    assert seen == [1, 2, 3, 4, 5]


# Who is asking


def test_a_stranger_gets_the_authority_and_nothing_else(opened):
    stranger = Peer(None, "a stranger")
    for request in (Hello(PROTOCOL, "x", "tcp"), GetTask(0.0), opened.contribution(), Decline("t", 1, "data", "")):
        assert code(opened.ask(stranger, request)) == "not_enrolled"
    assert code(opened.ask(stranger, GetAuthority())) == "closed"


def test_a_removed_device_is_refused_at_once_and_its_round_does_not_wait_for_it(opened):
    opened.ask(0, opened.contribution())
    opened.ask(1, opened.contribution(release_id="release-0002"))
    with opened.store.transaction():
        opened.store.revoke(opened.name(2))
        opened.service.fleet_changed(opened.now_s)
        opened.service.tick(opened.now_s)
    assert opened.service._committed == 1
    assert code(opened.ask(2, GetTask(0.0))) == "unknown_device"
    assert code(opened.ask(Peer(None, "x", removed=True), GetTask(0.0))) == "unknown_device"


@pytest.mark.parametrize(("spoken", "fault"), [(PROTOCOL - 1, "device"), (PROTOCOL + 1, "coordinator")])
def test_a_device_of_another_protocol_is_told_who_has_to_upgrade(opened, spoken, fault):
    reply = opened.ask(0, Hello(spoken, "x", "tcp"))
    assert (code(reply), reply.fault) == ("protocol", fault)


def test_an_enrolled_device_is_welcomed_by_its_name(opened):
    assert opened.ask(0, Hello(PROTOCOL, "x", "serial")) == Welcome(opened.name(0), opened.name(0))


def test_there_is_nothing_to_do_while_too_few_are_there(bench):
    made = bench("central", size=3, quorum=2)
    assert isinstance(made.ask(0, GetTask(5.0)), Wait)
    made.ask(1, GetTask(5.0))
    made.service.left(made.name(1))
    made.tick(11.0)  # enough patience, but one has gone
    assert isinstance(made.ask(0, GetTask(5.0)), Wait)
    made.ask(1, GetTask(5.0))
    assert isinstance(made.ask(0, GetTask(5.0)), Offer)


def test_every_device_of_a_round_gets_the_very_same_offer(opened):
    peers = [Peer(opened.name(index), "x") for index in (0, 1)]
    offers = [opened.service.handle(peer, GetTask(0.0), opened.now_s) for peer in peers]
    assert offers[0] is offers[1]


# Enrolment


@pytest.fixture
def fleet(bench, tmp_path):
    made = bench("central", devices=0, authority=Authority.create(tmp_path / "home"))
    secret, hashed = new_secret()
    with made.store.transaction():
        made.store.add_invitation(hashed, made.now_s + 60)
    return made, secret


def request_for(key, name="board"):
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, None).public_bytes(Encoding.DER)


@pytest.fixture
def key():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


STRANGER = Peer(None, "a stranger")


def test_a_device_with_a_secret_is_enrolled_under_the_hash_of_its_key(fleet, key):
    made, secret = fleet
    reply = made.ask(STRANGER, Enrol(secret, request_for(key), "my\x1b[2J board"))
    assert isinstance(reply, Enrolled)
    assert reply.device == device_id(key.public_key().public_bytes_raw())
    row = made.store.device_of_certificate(reply.certificate)
    assert row is not None
    assert row.name == "my?[2J board"
    assert isinstance(made.ask(Peer(reply.device, row.name), Hello(PROTOCOL, "x", "tcp")), Welcome)


def test_the_same_key_gets_the_same_answer_again_even_when_the_code_has_expired(fleet, key):
    made, secret = fleet
    first = made.ask(STRANGER, Enrol(secret, request_for(key), "board"))
    made.now_s += 1e6
    made.restart()
    assert made.ask(STRANGER, Enrol(secret, request_for(key), "board")) == first
    assert len(made.store.devices()) == 1


def test_a_code_is_for_one_device(fleet, key):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made, secret = fleet
    made.ask(STRANGER, Enrol(secret, request_for(key), "board"))
    other = Enrol(secret, request_for(Ed25519PrivateKey.generate()), "thief")
    assert code(made.ask(STRANGER, other)) == "used_code"
    assert len(made.store.devices()) == 1


def test_a_wrong_or_expired_code_enrols_nobody(fleet, key):
    made, secret = fleet
    assert code(made.ask(STRANGER, Enrol(bytes(16), request_for(key), "board"))) == "bad_code"
    made.now_s += 61
    assert code(made.ask(STRANGER, Enrol(secret, request_for(key), "board"))) == "expired_code"
    assert made.store.devices() == []


def test_a_request_that_is_damaged_or_not_signed_by_its_key_uses_up_no_code(fleet, key):
    from cryptography.hazmat.primitives.asymmetric import ec

    made, secret = fleet
    good = request_for(key)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    for request in (b"x", forged, good + b"x", request_for_curve(ec.generate_private_key(ec.SECP256R1()))):
        assert code(made.ask(STRANGER, Enrol(secret, request, "board"))) == "bad_request"
    assert isinstance(made.ask(STRANGER, Enrol(secret, good, "board")), Enrolled)


def request_for_curve(key):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_the_key_of_a_removed_device_cannot_come_back_with_a_fresh_code(fleet, key):
    made, secret = fleet
    first = made.ask(STRANGER, Enrol(secret, request_for(key), "board"))
    fresh, hashed = new_secret()
    with made.store.transaction():
        made.store.revoke(first.device)
        made.store.add_invitation(hashed, made.now_s + 60)
    assert code(made.ask(STRANGER, Enrol(fresh, request_for(key), "board"))) == "removed"
    assert code(made.ask(STRANGER, Enrol(secret, request_for(key), "board"))) == "removed"
    assert made.store.invitation(hashed) == (made.now_s + 60, None)


# What is shown of it


def test_the_history_says_what_every_device_did_and_what_it_has_spent(opened):
    for index in range(3):
        opened.ask(index, opened.contribution(release_id=f"release-000{index}"))
    opened.gather(3)
    opened.ask(3, Decline("task-1", 2, "data", "not asked"))
    picture = opened.service.history(opened.now_s)
    assert picture.committed == 1
    assert [device.contributions for device in picture.devices] == [1, 1, 1, 0]
    epsilon = opened.task.privacy.noise().event.epsilon
    assert [device.epsilon for device in picture.devices] == [epsilon, epsilon, epsilon, 0.0]
    assert picture.rounds[0].accepted == 3
