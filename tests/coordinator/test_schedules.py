"""Real device cores and the service over a network that drops, repeats, reorders and delays."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime import messages
from edge_runtime._kernels import seeded
from edge_runtime.device import State
from edge_runtime.errors import RemoteError
from edge_runtime.ledger import Ledger

FATES = ("deliver", "deliver", "deliver", "drop", "twice", "hang up", "restart", "die")


class _Fleet:
    """Three devices, one service. Every step lets one device ask; ``fate`` says what the network does with it."""

    def __init__(self, made, new_device):
        self.made, self.new_device = made, new_device
        self.ledgers = [Ledger(":memory:", create=True) for _ in range(3)]
        self.devices = [new_device(index, ledger=self.ledgers[index]) for index in range(3)]
        self.lives = 0
        self.sent = [{}, {}, {}]  # every contribution that ever left, by release id
        self.strays = []  # requests that arrive a second time, later
        self.receipts = []

    def step(self, index, fate):
        self.made.now_s += 1.0
        device = self.devices[index]
        if fate == "restart":
            self.made.restart()
        if fate == "die":  # all but the ledger is lost
            self.lives += 1
            device = self.devices[index] = self.new_device(index, ledger=self.ledgers[index])
            device._new_id = lambda: f"life-{self.lives:04d}-{index:02d}-{len(self.sent[index]):06d}"
        request = device.request(self.made.now_s)
        if request is None:
            return
        if isinstance(request, messages.Contribute):
            known = self.sent[index].setdefault(request.release_id, request)
            assert known == request  # whatever happened, the same bytes: fresh noise would cost a second time
        if fate == "drop":
            device.connected()  # the answer never came: begin again
            return
        reply = self.made.ask(index, request)
        if fate == "twice":
            self.strays.append((index, request))
        if fate == "hang up":
            device.connected()
            return
        if isinstance(reply, messages.Receipt) and reply.status != "noted":
            self.receipts.append((index, reply.release_id, reply.status))
        try:
            device.receive(reply, self.made.now_s)
        except RemoteError:
            device.connected()

    def deliver_stray(self, which):
        if self.strays:
            index, request = self.strays.pop(which % len(self.strays))
            self.made.ask(index, request)


steps = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(FATES), st.integers(0, 7)), min_size=20, max_size=90)


@given(steps, st.sampled_from(["local", "central", "none"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_acknowledged_update_is_lost_or_counted_twice_whatever_the_network_does(
    bench, new_device, monkeypatch, schedule, place
):
    made = bench(place, size=3, quorum=2, rounds=3, devices=3, deadline_s=20.0, gather_s=2.0)
    commits = []
    commit = type(made.store).commit_round

    def watched(store, task_id, number, **members):
        stored = list(store.contributions(task_id, number))
        commits.append((number, sorted(store.contributors(task_id, number)), [update for update, _ in stored]))
        commit(store, task_id, number, **members)

    monkeypatch.setattr(type(made.store), "commit_round", watched)
    fleet = _Fleet(made, new_device)
    for index, fate, when in schedule:
        fleet.step(index, fate)
        if when == 0:
            fleet.deliver_stray(index)
    for _ in range(40):  # then the network behaves
        for index in range(3):
            fleet.step(index, "deliver")
    monkeypatch.undo()
    assert made.service.finished_because == "all 3 rounds are done"
    numbers = [number for number, _, _ in commits]
    assert numbers == sorted(set(numbers))
    sent = [{request.round: request for request in of_one.values()} for of_one in fleet.sent]
    for number, names, updates in commits:
        assert len(names) == len(set(names)) >= 2
        for name, update in zip(names, updates, strict=True):
            assert update == sent[int(name[-1])][number].update
    counted = {(number, name) for number, names, _ in commits for name in names}
    for index, release_id, status in fleet.receipts:
        request = fleet.sent[index][release_id]
        open_round = made.store.rounds("task-1")[request.round - 1]
        inside = (request.round, made.name(index)) in counted
        assert inside == (status == "accepted" and open_round.outcome == "committed")
    for index, ledger in enumerate(fleet.ledgers):
        entries = list(ledger.entries())
        assert {entry.release_id for entry in entries} >= set(fleet.sent[index])
        assert len({entry.round for entry in entries}) == len(entries)  # one charge a round
        assert all(entry.outcome in ("accepted", "late") for entry in entries)
        assert fleet.devices[index].state is State.DONE
        for entry in entries:
            recorded = made.store.contribution("task-1", entry.round, made.name(index))
            assert (recorded == entry.release_id) == (entry.outcome == "accepted")


@given(st.permutations(range(6)), st.integers(0, 2**32))
@settings(max_examples=30)
def test_the_order_of_arrival_does_not_change_a_bit_of_the_model(bench_class, new_task, order, seed):
    rng = np.random.default_rng(seed)
    for place in ("local", "none"):
        models = []
        sent = rng.integers(-300, 300, (6, 6)).astype(np.int32)
        weights = rng.integers(1, 1000, 6)
        for arrival in (range(6), order):
            made = bench_class(new_task(place, size=6, quorum=6), devices=6)
            made.gather()
            for index in arrival:
                values = sent[index] if place == "local" else sent[index].astype(np.float32) / 7
                examples = None if place == "local" else int(weights[index])
                made.ask(index, made.contribution(values, examples=examples, release_id=f"release-{index:04d}"))
            models.append(made.service.params.tobytes())
            made.store.close()
        assert models[0] == models[1]


def test_central_noise_is_added_once_to_the_exact_sum(bench):
    made = bench("central", size=2, quorum=2, devices=2)
    made.gather()
    made.ask(0, made.contribution([1, 2, 3, 4, 5, 6]))
    made.ask(1, made.contribution([1, 1, 1, 1, 1, 1], release_id="release-0002"))
    noise = made.task.privacy.noise()
    again = seeded.SeededRng(b"sum".ljust(32, b"."))
    values = noise.release(np.array([2, 3, 4, 5, 6, 7]), again).values
    expected = noise.mean(values, contributors=2, draws=1)
    assert made.service.params.tobytes() == expected.tobytes()
