from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.durable import make_directory, open_database, write_file
from edge_runtime.errors import DeviceFault, LocalError
from edge_runtime.ledger import BudgetSpent, Ledger
from edge_runtime.privacy.accountant import PureSpend
from edge_runtime.privacy.laplace import LaplaceEvent

EVENT = LaplaceEvent(1000, 10, 6)


def charge(ledger: Ledger, round_number: int, *, event: LaplaceEvent | None = EVENT, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "release_id": f"release-{round_number}",
        "task_id": "t1",
        "round_number": round_number,
        "place": "local",
        "message": b"message %d" % round_number,
        "budget": 1e6,
        "now_s": 1000.0 + round_number,
    }
    ledger.charge(event=event, **(arguments | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path):
    ledger = Ledger(path, create=True)
    yield ledger
    ledger.close()


def test_charges_add_up_and_are_there_after_opening_again(ledger, path) -> None:
    for round_number in range(1, 6):
        charge(ledger, round_number)
    charge(ledger, 6, event=None, place="none")
    want = PureSpend().plus(EVENT, 5)
    assert (ledger.spent_epsilon, ledger.spent_delta) == (want.epsilon, want.delta)
    again = Ledger(path, create=False)
    assert (again.spent_epsilon, again.spent_delta) == (want.epsilon, want.delta)
    assert [entry.epsilon for entry in again.entries()] == [EVENT.epsilon] * 5 + [None]
    assert [entry.round for entry in again.entries()] == [1, 2, 3, 4, 5, 6]
    again.close()


def test_a_release_above_the_budget_is_refused_with_the_numbers_and_nothing_is_written(ledger) -> None:
    charge(ledger, 1, budget=1.0)
    with pytest.raises(BudgetSpent, match=r"costs epsilon 0\.6769; 0\.6769 of the owner's 1 are spent"):
        charge(ledger, 2, budget=1.0)
    assert [entry.round for entry in ledger.entries()] == [1]
    assert ledger.spent_epsilon == EVENT.epsilon
    charge(ledger, 2, budget=2 * EVENT.epsilon)  # to the last bit of the budget
    with pytest.raises(BudgetSpent):
        charge(ledger, 3, budget=2 * EVENT.epsilon)


def test_a_budget_that_is_not_a_number_covers_nothing(ledger) -> None:
    with pytest.raises(BudgetSpent):
        charge(ledger, 1, budget=float("nan"))


def test_a_round_of_a_task_is_charged_once(ledger) -> None:
    charge(ledger, 1)
    with pytest.raises(LocalError, match="round 1 of task t1 was charged before"):
        charge(ledger, 1, release_id="another")
    with pytest.raises(LocalError, match="charged before"):
        charge(ledger, 2, release_id="release-1")
    charge(ledger, 1, task_id="t2", release_id="other-task")
    assert ledger.spent_epsilon == PureSpend().plus(EVENT, 2).epsilon


def test_a_release_is_kept_until_acknowledged_and_its_round_for_ever(ledger) -> None:
    assert ledger.unacknowledged() is None
    charge(ledger, 1)
    assert ledger.unacknowledged() == b"message 1"
    ledger.settle("release-1", "accepted")
    assert ledger.unacknowledged() is None
    charge(ledger, 2)
    assert ledger.has_charged("t1", 1)
    assert not ledger.has_charged("t1", 3)
    assert ledger.unacknowledged() == b"message 2"


def test_unacknowledged_releases_come_oldest_first_whatever_the_clock_says(ledger) -> None:
    charge(ledger, 2, now_s=5.0)
    charge(ledger, 1, now_s=5.0)
    assert ledger.unacknowledged() == b"message 2"


def test_two_processes_share_one_budget(ledger, path) -> None:
    other = Ledger(path, create=False)
    budget = 3.5 * EVENT.epsilon
    charge(ledger, 1, budget=budget)
    charge(other, 2, budget=budget)
    charge(ledger, 3, budget=budget)
    with pytest.raises(BudgetSpent, match=r"2\.031 of the owner's"):
        charge(other, 4, budget=budget)
    assert ledger.spent_epsilon == other.spent_epsilon == PureSpend().plus(EVENT, 3).epsilon
    other.close()


def test_the_file_is_its_owners_alone(ledger, path) -> None:
    charge(ledger, 1)
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file


def test_a_ledger_that_is_gone_is_not_begun_anew(path) -> None:
    with pytest.raises(DeviceFault, match="what this device has spent is unknown"):
        Ledger(path, create=False)
    assert not path.exists()


def test_a_ledger_cut_to_nothing_is_not_begun_anew(path) -> None:
    path.touch()
    with pytest.raises(DeviceFault, match="is empty: what it held is lost"):
        Ledger(path, create=False)


def test_a_ledger_of_a_newer_format_is_left_alone(ledger, path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(LocalError, match="written by a newer fedge"):
        Ledger(path, create=True)


@pytest.mark.parametrize("fault", ["levels = 0", "log2_scale = 1000000000", "draws = -1", "draws = NULL"])
def test_an_entry_that_no_mechanism_makes_is_damage(ledger, path, fault: str) -> None:
    charge(ledger, 1)
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE release SET {fault}")
    database.close()
    with pytest.raises(DeviceFault, match="the privacy ledger is damaged"):
        Ledger(path, create=False)


def test_damage_anywhere_is_a_device_fault_or_does_not_matter(path) -> None:
    ledger = Ledger(path, create=True)
    for round_number in range(1, 40):
        charge(ledger, round_number, message=bytes(500))
    spent = ledger.spent_epsilon
    ledger.close()
    whole, rng = path.read_bytes(), random.Random(5)
    faults = 0
    for _ in range(60):
        data = bytearray(whole)
        first = rng.randrange(len(data))
        data[first : first + rng.choice([1, 16, 4096])] = rng.randbytes(
            min(rng.choice([1, 16, 4096]), len(data) - first)
        )
        path.write_bytes(data[: len(whole)])
        try:
            damaged = Ledger(path, create=False)
            assert damaged.spent_epsilon >= 0
            list(damaged.entries())
            damaged.unacknowledged()
            damaged.close()
        except (DeviceFault, LocalError):  # LocalError: the format number was hit
            faults += 1
    assert faults > 20
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DeviceFault):
        Ledger(path, create=False)
    path.write_bytes(whole)
    intact = Ledger(path, create=False)
    assert intact.spent_epsilon == spent
    intact.close()


# A power cut, as far as a process can play it: kill -9, and files as they were at some moment

CHARGE_FOR_EVER = """
    import os, sys
    from edge_runtime.ledger import Ledger
    from edge_runtime.privacy.laplace import LaplaceEvent
    ledger = Ledger(sys.argv[1], create=True)
    number = int(sys.argv[2])
    while True:
        number += 1
        ledger.charge(release_id=f"release-{number}", task_id="t", round_number=number, place="local",
            event=LaplaceEvent(1000, 10, 6), message=bytes(number % 3000), budget=1e6, now_s=float(number))
        os.write(1, b"%d\\n" % number)
        if number % 3 == 0:
            ledger.settle(f"release-{number}", "accepted")
"""


def test_every_charge_that_returned_survives_kill_9(path) -> None:
    rng, last = random.Random(2), 0
    for _ in range(6):
        command = [sys.executable, "-c", textwrap.dedent(CHARGE_FOR_EVER), str(path), str(last + 1000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            time.sleep(rng.uniform(0, 0.15))
            child.send_signal(signal.SIGKILL)
            reported = [int(line) for line in (first + child.stdout.read()).split()]
        ledger = Ledger(path, create=False)
        recorded = [entry.round for entry in ledger.entries()]
        assert set(reported) <= set(recorded)
        assert ledger.spent_epsilon >= PureSpend().plus(EVENT, len(reported)).epsilon
        assert ledger.spent_epsilon == PureSpend().plus(EVENT, len(recorded)).epsilon
        assert ledger.unacknowledged() is not None or len(reported) % 3 == 0
        ledger.close()
        last = max(recorded)


def test_a_commit_waits_for_the_disk(path) -> None:
    """What a process cannot play: the page cache outlives it. NORMAL loses commits when the power goes, FULL none."""
    database = open_database(path, "CREATE TABLE t (x INTEGER)", version=1)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    database.close()


def copy_of(path: Path, folder: Path) -> Path:
    """The files that a power cut at this moment would leave: the shared-memory index is not one of them."""
    folder.mkdir()
    for name in (path.name, path.name + "-wal"):
        if (path.parent / name).exists():
            shutil.copyfile(path.parent / name, folder / name)
    return folder / path.name


def test_every_charge_that_returned_survives_a_power_cut(ledger, path, tmp_path) -> None:
    for round_number in range(1, 80):
        charge(ledger, round_number, message=bytes(round_number * 97 % 9000))
        reopened = Ledger(copy_of(path, tmp_path / f"copy-{round_number}"), create=False)
        assert reopened.spent_epsilon == ledger.spent_epsilon
        assert reopened.has_charged("t1", round_number)
        assert reopened.unacknowledged() is not None
        reopened.close()
        if round_number % 2:
            ledger.settle(f"release-{round_number}", "accepted")


def test_a_torn_log_loses_only_charges_that_had_not_returned(ledger, path, tmp_path) -> None:
    """The log cut at every page and in between: what is left is a prefix of the charges, and no exception."""
    sizes = []
    for round_number in range(1, 9):
        charge(ledger, round_number, message=bytes(3000))
        sizes.append((path.parent / (path.name + "-wal")).stat().st_size)
    cuts = sorted({*range(32, sizes[-1], 24 + 4096), *range(100, sizes[-1], 5000), *sizes})
    for index, cut in enumerate(cuts):
        copy = copy_of(path, tmp_path / f"cut-{index}")
        with (copy.parent / (copy.name + "-wal")).open("r+b") as log:
            log.truncate(cut)
        returned = sum(size <= cut for size in sizes)
        try:
            torn = Ledger(copy, create=False)
        except DeviceFault:
            assert returned == 0  # not even the schema had reached the disk
            continue
        assert [entry.round for entry in torn.entries()] == list(range(1, len(list(torn.entries())) + 1))
        assert len(list(torn.entries())) >= returned
        torn.close()


FILL_THE_DISK = """
    import resource, signal, sys
    from edge_runtime.errors import DeviceFault
    from edge_runtime.ledger import Ledger
    from edge_runtime.privacy.laplace import LaplaceEvent
    ledger = Ledger(sys.argv[1], create=True)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        for number in range(1, 1000):
            ledger.charge(release_id=f"release-{number}", task_id="t", round_number=number, place="local",
                event=LaplaceEvent(1000, 10, 6), message=bytes(20_000), budget=1e6, now_s=float(number))
            print(number)
    except DeviceFault as fault:
        print(fault, file=sys.stderr)
        assert not ledger.has_charged("t", number)
"""


def test_a_full_disk_refuses_the_charge_and_loses_none(path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(FILL_THE_DISK), str(path)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == 0, child.stderr
    assert "the privacy ledger cannot be written" in child.stderr
    assert "nothing was sent" in child.stderr
    reported = [int(line) for line in child.stdout.split()]
    assert len(reported) > 2
    ledger = Ledger(path, create=False)
    assert [entry.round for entry in ledger.entries()] == reported
    charge(ledger, 5000)  # there is room again
    ledger.close()


def test_a_disk_that_fails_while_reading_is_a_device_fault(ledger) -> None:
    charge(ledger, 1)
    ledger.close()
    for ask in (
        ledger.unacknowledged,
        lambda: ledger.has_charged("t1", 1),
        lambda: list(ledger.entries()),
        lambda: charge(ledger, 2),
        lambda: ledger.settle("release-1", "late"),
    ):
        with pytest.raises(DeviceFault, match="the privacy ledger cannot be"):
            ask()


# Small files


def test_a_file_is_replaced_whole_and_for_its_owner_only(tmp_path) -> None:
    path = tmp_path / "key"
    old_umask = os.umask(0)
    try:
        write_file(path, b"old")
        write_file(path, b"new")
    finally:
        os.umask(old_umask)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch) -> None:
    path = tmp_path / "key"
    write_file(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DeviceFault, match=r"cannot write .*key: No space left on device"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(DeviceFault, match="cannot write"):
        write_file(tmp_path / "none" / "key", b"new")


def test_a_folder_is_for_its_owner_only(tmp_path) -> None:
    assert make_directory(tmp_path / "home").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match="cannot make the folder"):
        make_directory(tmp_path / "file" / "home")


def test_what_is_no_database_is_a_device_fault(tmp_path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be read as one" * 100)
    for path in (tmp_path / "text", tmp_path, tmp_path / "none" / "db"):
        with pytest.raises(DeviceFault, match="cannot open"):
            open_database(path, "CREATE TABLE t (x INTEGER)", version=1)
