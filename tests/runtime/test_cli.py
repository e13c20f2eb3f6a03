"""``fedge device``: exit codes, and one line on stderr for a person."""

from __future__ import annotations

import contextlib
import csv
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.identity import Home, load_membership
from edge_runtime.ledger import Ledger
from edge_runtime.main import main
from edge_runtime.policy import Policy, load_policy
from edge_runtime.privacy.laplace import LaplaceEvent
from edge_runtime.task import PrivacySpec

Fedge = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fedge(capsys) -> Fedge:
    """Runs ``fedge ARGUMENTS`` here: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leaving:  # argparse
            code = int(leaving.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "data.csv"
    path.write_text("a,b,label\n" + "".join(f"{i % 7},{i % 3},{'yes' if i % 7 > 3 else 'no'}\n" for i in range(60)))
    return path


@pytest.fixture
def joined(coordinator, new_task, fedge, tmp_path, data):
    """A coordinator and the home of a device that has joined it."""
    running = coordinator(new_task(privacy=PrivacySpec("local", epsilon=1.0)))
    home = Home(tmp_path / "home")
    code, out, err = fedge(
        "device",
        "join",
        running.invite().text(),
        "--home",
        home.path,
        "--name",
        "porch",
        "--data",
        data,
        "--budget",
        "9",
    )
    assert code == 0, err
    assert 'joined as "porch" (dev-' in out
    return running, home


def one_line(err: str) -> str:
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("command", ["status", "ledger", "run"])
def test_an_empty_home_says_how_to_join(fedge, tmp_path, command: str) -> None:
    code, out, err = fedge("device", command, "--home", tmp_path / "none")
    assert (code, out) == (2, "")
    assert one_line(err).startswith("fedge: error:")
    assert "has not joined a fleet; do so with: fedge device join CODE" in err
    assert not (tmp_path / "none").exists()


def test_the_doctor_of_an_empty_home_finds_what_is_missing(fedge, tmp_path) -> None:
    code, out, err = fedge("device", "doctor", "--home", tmp_path)
    assert (code, err) == (1, "")
    assert "FAIL membership" in out
    assert "FAIL policy" in out
    assert "ok   kernels" in out


def test_a_device_is_healthy_after_joining(fedge, joined) -> None:
    _, home = joined
    code, out, _ = fedge("device", "doctor", "--home", home.path)
    assert code == 0, out
    lines = out.splitlines()
    assert [line[:4] for line in lines].count("ok  ") == len(
        lines
    ) - 2  # what the board is, and whether LiteRT is there
    code, out, _ = fedge("device", "status", "--home", home.path)
    assert code == 0
    assert "epsilon      0 spent of 9" in out
    assert "releases     0" in out


def test_the_doctor_names_everything_that_is_wrong(fedge, joined) -> None:
    running, home = joined
    running.stop()
    home.policy.write_text("epsilon_budget = -1\n")
    home.ledger.unlink()
    home.key.write_text("garbage")
    code, out, _ = fedge("device", "doctor", "--home", home.path, "--data", "none.csv")
    assert code == 1
    failed = [line.split()[1] for line in out.splitlines() if line.startswith("FAIL")]
    assert failed == ["policy", "ledger", "identity", "data", "coordinator"]
    home.key.chmod(0o644)
    _, out, _ = fedge("device", "doctor", "--home", home.path)
    assert f"FAIL permissions  {home.key} is open to others: chmod go-rwx" in out
    running.start()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("epsilon_budget = -1", "epsilon_budget: -1.0 is outside 0..1e+06"),
        ("epsilon_budget = nan", "nan is not a finite number"),
        ("epsilon_budge = 8", 'did you mean "epsilon_budget"?'),
        ('places = ["everywhere"]', "want one of none, local, central"),
        ("epsilon_budget = ", "cannot read the policy"),
    ],
)
def test_a_policy_that_does_not_fit_stops_everything(fedge, joined, policy: str, words: str) -> None:
    _, home = joined
    home.policy.write_text(policy)
    for command in ("run", "status", "ledger"):
        code, _, err = fedge("device", command, "--home", home.path)
        assert code == 2
        assert words in one_line(err)


@pytest.mark.parametrize("budget", ["-1", "nan", "inf", "2e6"])
def test_a_budget_that_is_none_is_refused_before_anything_is_written(fedge, tmp_path, coordinator, new_task, budget):
    code, _, err = fedge(
        "device", "join", coordinator(new_task()).invite().text(), "--home", tmp_path / "home", "--budget", budget
    )
    assert code == 2
    assert "is not between 0 and 1000000" in one_line(err)
    assert not (tmp_path / "home").exists()


def test_a_mistyped_code_and_missing_data_are_told(fedge, tmp_path, coordinator, new_task) -> None:
    text = coordinator(new_task()).invite().text()
    code, _, err = fedge("device", "join", text[:-1], "--home", tmp_path / "home")
    assert (code, "copy it whole" in one_line(err)) == (2, True)
    code, _, err = fedge("device", "join", text, "--home", tmp_path / "home", "--data", "none.csv")
    assert (code, "there is no file" in one_line(err)) == (2, True)
    assert not (tmp_path / "home").exists()


def test_a_coordinator_that_is_not_there_is_the_other_sides_fault(fedge, tmp_path, coordinator, new_task) -> None:
    text = coordinator(new_task()).invite().text()
    code, _, err = fedge("device", "join", text, "--home", tmp_path / "home", "--link", "127.0.0.1:1")
    assert code == 3
    assert one_line(err).startswith("fedge: the other side: no coordinator answers at 127.0.0.1:1")


def test_joining_keeps_what_the_owner_wrote_before(fedge, tmp_path, coordinator, new_task) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    home.policy.write_text('epsilon_budget = 0.5\nminimum_cohort = 50\ncolumns = ["a"]\n')
    code, out, _ = fedge(
        "device", "join", coordinator(new_task()).invite().text(), "--home", home.path, "--allow-unprotected"
    )
    assert code == 0
    assert load_policy(home.policy) == Policy(0.5, ("local", "central", "none"), 50, columns=("a",))
    assert home.policy.stat().st_mode & 0o777 == 0o600
    assert "--data FILE.csv" in out


@pytest.mark.parametrize(("option", "value"), [("--wait", "nan"), ("--wait", "-1"), ("--wait", "1e9")])
def test_an_option_that_makes_no_sense_is_refused(fedge, joined, option: str, value: str) -> None:
    code, _, err = fedge("device", "run", "--home", joined[1].path, option, value)
    assert code == 2
    assert "is not between 0 and 300" in one_line(err)


def test_a_lost_ledger_is_a_fault_of_the_device_and_not_a_new_budget(fedge, joined) -> None:
    _, home = joined
    for damage in (home.ledger.unlink, home.ledger.touch, lambda: home.ledger.write_bytes(b"garbage" * 1000)):
        damage()
        for command in ("run", "status", "ledger"):
            code, _, err = fedge("device", command, "--home", home.path)
            assert code == 4
            assert one_line(err).startswith("fedge: hardware or system:")


def test_a_run_ends_with_the_reason_and_the_ledger_shows_every_release(joined, fedge) -> None:
    _, home = joined
    # A process of its own: `run` takes over the signal handlers and the log.
    command = [sys.executable, "-m", "edge_runtime.main", "device", "run", "--home", str(home.path), "--wait", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert "finished: all 3 rounds are done; epsilon spent" in run.stdout
    code, out, _ = fedge("device", "ledger", "--home", home.path)
    assert code == 0
    assert out.count("accepted") == 3
    assert "spent: epsilon 2.99" in out
    assert "of 9 (sequential composition)" in out
    assert "delta: below" in out
    code, out, _ = fedge("device", "ledger", "--home", home.path, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["outcome"] for row in rows] == ["accepted"] * 3
    assert sum(float(row["epsilon"]) for row in rows) == pytest.approx(3, abs=0.01)
    assert all(0 < float(row["delta"]) < 1e-15 for row in rows)


def test_waiting_takes_neither_numpy_nor_cryptography_nor_asyncio() -> None:
    code = """
import sys
from edge_runtime import agent, cli
from edge_runtime.device import Device
from edge_runtime.ledger import Ledger
from edge_runtime.policy import Policy
from edge_runtime.sources import CsvSource
from pathlib import Path
device = Device(policy=Policy(), ledger=Ledger(":memory:", create=True), source=CsvSource(Path("x")))
device.request(0.0)
print([name for name in ("numpy", "cryptography", "asyncio", "serial", "coordinator") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout.strip() == "[]"


def test_a_ledger_of_unprotected_releases_says_so(fedge, joined) -> None:
    _, home = joined
    ledger = Ledger(home.ledger, create=False)
    for number, event in enumerate((None, LaplaceEvent(100, 10, 5)), start=1):
        ledger.charge(
            release_id=f"release-{number}",
            task_id="t\x1b[2J",
            round_number=number,
            place="none" if event is None else "local",
            event=event,
            message=b"",
            budget=9.0,
            now_s=0.0,
        )
    ledger.close()
    code, out, _ = fedge("device", "status", "--home", home.path)
    assert code == 0
    assert "releases     2, 2 not acknowledged yet" in out
    assert "1 releases left without any mechanism" in out
    code, out, _ = fedge("device", "ledger", "--home", home.path)
    assert "1970-01-01 00:00:00" in out
    assert "not acknowledged yet" in out
    assert "\x1b" not in out


def test_commands_that_do_not_exist_are_usage_errors(fedge) -> None:
    assert fedge("devise")[0] == 2
    assert fedge("device", "fly")[0] == 2
    assert fedge()[0] == 0
    assert fedge("--version")[1].startswith("fedge ")


def test_a_membership_keeps_where_the_data_are(joined, data) -> None:
    assert load_membership(joined[1]).data == str(data)


def test_what_a_failed_join_allowed_is_not_allowed_by_the_next(fedge, tmp_path, coordinator, new_task) -> None:
    running = coordinator(new_task())
    home = Home(tmp_path / "home")
    generous = ("--budget", "1000", "--allow-unprotected", "--link", "127.0.0.1:1")
    code, _, _ = fedge("device", "join", running.invite().text(), "--home", home.path, *generous)
    assert code != 0
    assert not home.policy.exists()
    code, out, _ = fedge("device", "join", running.invite().text(), "--home", home.path)
    assert code == 0
    assert load_policy(home.policy) == Policy()
    assert "may spend epsilon 8 in all, under local, central" in out


def test_a_ledger_as_csv_executes_nothing_of_the_coordinators(fedge, joined) -> None:
    _, home = joined
    for number, task_id in enumerate(['=HYPERLINK("http://x")', " +1", "-1", "@x", "a\x1b[2J,b"], start=1):
        with contextlib.closing(Ledger(home.ledger, create=False)) as ledger:
            ledger.charge(
                release_id=f"release-{number}",
                task_id=task_id,
                round_number=number,
                place="none",
                event=None,
                message=b"",
                budget=0.0,
                now_s=float(number),
            )
    _, out, _ = fedge("device", "ledger", "--home", home.path, "--csv")
    cells = [row[1] for row in csv.reader(io.StringIO(out))][1:]
    assert cells == ['\'=HYPERLINK("http://x")', "' +1", "'-1", "'@x", "a?[2J,b"]
