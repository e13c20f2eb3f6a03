"""What the coordinator has acknowledged survives kill -9, a full disk and a damaged file, or is missed aloud."""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from coordinator.service import Service
from coordinator.store import Store
from edge_runtime.errors import DeviceFault
from edge_runtime.ledger import Ledger

HERE = Path(__file__).parent


@pytest.fixture
def folder_without_disk(tmp_path):
    """kill -9 loses nothing that was written, synced or not: memory does, and is quicker."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def run_lives(folder, place, *arguments):
    """Run the driver; what the store and the ledgers say at the end of every schedule."""
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_lives.py"), str(folder), place, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("place", ["none", "central"])
def test_killed_right_before_or_after_any_commit_the_run_ends_as_if_it_had_not_been(folder_without_disk, place):
    outcomes = run_lives(folder_without_disk, place, "everywhere")
    undisturbed, killed = outcomes[0], outcomes[1:]
    assert undisturbed["lives"] == 1
    assert len(killed) >= 20
    assert all(outcome["lives"] == 2 for outcome in killed)
    for outcome in outcomes:
        assert outcome["reason"] == "all 2 rounds are done"
        assert [committed for committed, _ in outcome["rounds"]] == ["committed"] * 2
        if place == "none":  # nothing is random then: the very same model, to the last bit
            assert outcome["model"] == undisturbed["model"]
        for device, entries in outcome["ledgers"].items():
            assert len(entries) == 2, "a release was drawn twice for a round, or one was forgotten"
            for number, release_id, result in entries:
                assert result == "accepted"
                assert outcome["contributions"][f"{number} {device}"] == release_id
        assert len(outcome["contributions"]) == 6
        assert outcome["epsilons"] == undisturbed["epsilons"]


def test_killed_again_and_again_the_run_still_comes_to_its_end(folder_without_disk):
    (outcome,) = run_lives(folder_without_disk, "central", "every", 12)
    assert outcome["lives"] >= 3
    assert outcome["reason"] == "all 2 rounds are done"
    assert all(len(entries) == 2 for entries in outcome["ledgers"].values())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file):
    while file.write(b"x" * 4096):
        pass


def contribute_until_full(made):
    for attempt in range(60):  # there may be room left in the last page
        made.ask(attempt % 2 + 1, made.contribution([0, 1, 0, 0, 0, 0], release_id=f"filler-{attempt:04d}"))
        made.gather(1)


def test_a_full_disk_is_told_and_costs_nothing_that_was_acknowledged(small_disk, new_task, bench_class):
    store = Store(small_disk / "fleet.sqlite")
    made = bench_class(new_task("central", size=3, quorum=3), devices=3, store=store)
    made.gather()
    assert made.ask(0, made.contribution([5, 0, 0, 0, 0, 0])).status == "accepted"
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        fill(file)
    with pytest.raises(DeviceFault, match="store cannot be written: database or disk is full"):
        contribute_until_full(made)
    accepted = made.store.contributors("task-1", 1)
    made.restart()
    assert made.service._rounds.contributed == set(accepted)
    filler.unlink()
    for index in range(3):
        recorded = made.store.contribution("task-1", 1, made.name(index))
        request = made.contribution([0, 1, 0, 0, 0, 0], release_id=recorded or f"release-{index:04d}")
        assert made.ask(index, request).status == "accepted"
    assert made.service._committed == 1
    store.close()


def test_a_transaction_that_fails_leaves_nothing_behind_and_the_next_one_works(tmp_path, new_task):
    store = Store(tmp_path / "fleet.sqlite")

    def fail():
        with store.transaction():
            store.add_invitation(b"hash", 1.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.invitation(b"hash") is None
    with store.transaction():
        store.add_invitation(b"hash", 1.0)
    assert store.invitation(b"hash") == (1.0, None)
    store.close()


def test_what_another_process_writes_is_noticed(tmp_path):
    first, second = Store(tmp_path / "fleet.sqlite"), Store(tmp_path / "fleet.sqlite")
    before = first.data_version
    with first.transaction():
        first.add_invitation(b"one", 1.0)
    assert first.data_version == before
    with second.transaction():
        second.add_invitation(b"two", 1.0)
    assert first.data_version != before
    first.close()
    second.close()


def test_the_latest_task_is_the_one_added_last_whatever_the_clock_said(new_task):
    store = Store(":memory:")
    with store.transaction():
        store.add_task("first", new_task(), bytes(24), 2e9)
        store.add_task("second", new_task(), bytes(24), 5.0)  # a board without a clock
    row = store.latest_task()
    assert row is not None
    assert row.task_id == "second"
    assert store.largest_model_bytes() == 24


# A damaged file


@pytest.fixture
def written(tmp_path, new_task, bench_class):
    path = tmp_path / "fleet.sqlite"
    made = bench_class(new_task("central", size=3, quorum=3), devices=3, store=Store(path))
    made.gather()
    made.ask(0, made.contribution([5, 0, 0, 0, 0, 0]))
    made.store.close()
    return path


def service_on(path):
    import random

    from edge_runtime._kernels import SystemRng

    store = Store(path)
    try:
        return Service(store, None, rng=random.Random(1), noise=SystemRng(), evaluation=None, now_s=0.0)
    finally:
        store.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE task SET params = x'00'",
        "UPDATE task SET spec = x'00'",
        "UPDATE contribution SET data = x'0102'",
        "UPDATE contribution SET dtype = '<c8'",
        "UPDATE contribution SET data = NULL",
    ],
)
def test_a_store_that_makes_no_sense_is_told_as_such(written, damage):
    with sqlite3.connect(written) as database:
        database.execute(damage)
    database.close()
    with pytest.raises(DeviceFault, match="store is damaged"):
        service_on(written)


def test_a_file_that_is_no_database_or_a_torn_one_is_told_as_such(written, tmp_path):
    other = tmp_path / "other.sqlite"
    other.write_bytes(os.urandom(8192))
    with pytest.raises(DeviceFault, match="cannot open"):
        Store(other)
    data = bytearray(written.read_bytes())
    data[4096 : 4096 * 8] = os.urandom(4096 * 7)
    written.write_bytes(data)
    store = Store(written)
    with pytest.raises(DeviceFault, match=r"store is damaged(.|\n)*restore it from a backup"):
        store.check()
    store.close()


def test_a_damaged_update_found_when_a_round_closes_costs_the_round_and_not_the_fleet(bench):
    made = bench("none", size=2, quorum=2, devices=2)
    made.gather()
    import numpy as np

    made.ask(0, made.contribution(np.ones(6, np.float32), examples=1))
    with made.store.transaction():
        made.store._run("UPDATE contribution SET data = x'01020304'")
    made.ask(1, made.contribution(np.ones(6, np.float32), examples=1, release_id="release-0002"))
    assert made.store.rounds("task-1")[0].outcome == "abandoned"
    assert not made.service.params.any()
    assert made.service.finished_because is None


def test_a_ledger_of_another_schema_is_not_a_store(tmp_path):
    Ledger(tmp_path / "ledger.sqlite", create=True).close()
    store = Store(tmp_path / "ledger.sqlite")
    with pytest.raises((DeviceFault, sqlite3.OperationalError), match="no such table"), store.transaction():
        store.add_invitation(b"x", 1.0)
    store.close()
