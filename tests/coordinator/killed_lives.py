"""Lives of a coordinator and its devices in one process that kills itself at a commit; not a test by itself.

``killed_lives.py FOLDER PLACE everywhere`` runs once undisturbed and then once for every commit of that run, killed
right before it (where there is no noise) and right after it. ``... every N`` kills every life at its N-th commit
until one comes through. One JSON line tells what the store and the ledgers say at the end of each.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import traceback
from pathlib import Path

import numpy as np

from coordinator.service import Peer, Service, start_task
from coordinator.store import Store
from edge_runtime import messages
from edge_runtime._kernels import SystemRng
from edge_runtime.architecture import Dense
from edge_runtime.device import Device
from edge_runtime.features import Table
from edge_runtime.ledger import Ledger
from edge_runtime.policy import Policy
from edge_runtime.task import CohortSpec, InputSpec, ModelSpec, PrivacySpec, Task, TrainingSpec

DEVICES = 3
connect = sqlite3.connect


class Commits:
    """Counts the COMMITs of all databases of this process, and ends it at the chosen one."""

    seen = 0
    fatal = 0  # the number of the commit to die at; 0 for none
    after = False


class Connection(sqlite3.Connection):
    def execute(self, statement, *values):
        if statement != "COMMIT":
            return super().execute(statement, *values)
        Commits.seen += 1
        if Commits.seen == Commits.fatal and not Commits.after:
            os.kill(os.getpid(), signal.SIGKILL)
        cursor = super().execute(statement)
        if Commits.seen == Commits.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return cursor


sqlite3.connect = lambda *values, **named: connect(*values, factory=Connection, **named)


class InOrder:
    """A shuffle that is none: the order of examples is no state that a crash could lose."""

    def permutation(self, count):
        return np.arange(count)


class Fixed:
    def __init__(self, table):
        self.table = table

    def read(self, spec):
        return self.table

    def close(self):
        pass


def task(place):
    return Task(
        name="killed",
        rounds=2,
        inputs=InputSpec(("a", "b"), "label", ("no", "yes")),
        model=ModelSpec(2, (Dense(2),)),
        training=TrainingSpec(epochs=2, batch_size=4, learning_rate=0.5),
        privacy=PrivacySpec(place, clip_norm=2.0, epsilon=1.0),
        cohort=CohortSpec(DEVICES, DEVICES, deadline_s=1e4),
    )


def table(index):
    rng = np.random.default_rng(index)
    values = rng.normal(size=(10, 2)).astype(np.float32)
    return Table(values, (values[:, 0] > values[:, 1]).astype(np.int32))


def name(index):
    return f"dev-{index}"


def live(folder, place):
    """From wherever the files are to the end of the task."""
    store = Store(folder / "fleet.sqlite")
    if store.latest_task() is None:
        with store.transaction():
            for index in range(DEVICES):
                store.add_device(name(index), name(index), bytes([index]), bytes([index]), 0.0)
            start_task(store, task(place), params=np.zeros(6, np.float32), now_s=0.0, task_id="task-1")
    service = Service(store, None, rng=random.Random(1), noise=SystemRng(), evaluation=None, now_s=0.0)
    devices = [
        Device(
            policy=Policy(places=("none", "local", "central"), minimum_cohort=1),
            ledger=Ledger(folder / f"ledger-{index}.sqlite", create=True),
            source=Fixed(table(index)),
            shuffle=InOrder(),
        )
        for index in range(DEVICES)
    ]
    check_sums(service)
    for moment in itertools.count():
        if all(device.finished_because is not None for device in devices):
            return
        assert moment < 1000, "the run does not come to its end"
        for index, device in enumerate(devices):
            request = device.request(float(moment))
            if request is None:
                continue
            with store.transaction():
                reply = service.handle(Peer(name(index), name(index)), request, float(moment))
                service.tick(float(moment))
            check_sums(service)
            device.receive(messages.decode(messages.encode(reply), peer="the coordinator"), float(moment))


def check_sums(service):
    """What is summed in memory is what the store has accepted."""
    if service._noised is not None and service._rounds.cohort and service._rounds.phase == "collecting":
        total = np.zeros(6, np.int64)
        for update, _ in service._store.contributions(service.task_id, service._rounds.number):
            total += update.array()
        assert total.tolist() == service._total.tolist()


def lives(folder, place, *, fatal, after, again):
    """Fork a life, and another when it was killed; how many there were, and the commits of the last."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for count in range(1, 100):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                Commits.fatal, Commits.after = (fatal, after) if count == 1 or again else (0, False)
                live(folder, place)
                (folder / "commits").write_text(str(Commits.seen))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return count, int((folder / "commits").read_text())
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError("the lives do not come to an end")


def outcome(folder, count):
    store = Store(folder / "fleet.sqlite")
    row = store.latest_task()
    ledgers, epsilons = {}, {}
    for index in range(DEVICES):
        ledger = Ledger(folder / f"ledger-{index}.sqlite", create=False)
        ledgers[name(index)] = [(entry.round, entry.release_id, entry.outcome) for entry in ledger.entries()]
        epsilons[name(index)] = ledger.spent_epsilon
        ledger.close()
    rounds = store.rounds("task-1")
    contributions = {
        f"{known.number} {device}": store.contribution("task-1", known.number, device)
        for known in rounds
        for device in store.contributors("task-1", known.number)
    }
    store.close()
    return {
        "lives": count,
        "reason": row.finished_because,
        "rounds": [(known.outcome, known.number) for known in rounds],
        "model": hashlib.sha256(row.params).hexdigest(),
        "ledgers": ledgers,
        "epsilons": epsilons,
        "contributions": contributions,
    }


def main():
    folder, place, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    run = folder / "run"
    if how == "every":
        count, _ = lives(run, place, fatal=int(sys.argv[4]), after=True, again=True)
        print(json.dumps(outcome(run, count)))
        return
    count, commits = lives(run, place, fatal=0, after=False, again=False)
    print(json.dumps(outcome(run, count)))
    for fatal in range(1, commits + 1):
        for after in (False, True) if place == "none" else (True,):  # before and after differ little: one does
            count, _ = lives(run, place, fatal=fatal, after=after, again=False)
            print(json.dumps(outcome(run, count)))


if __name__ == "__main__":
    main()
