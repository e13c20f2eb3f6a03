"""The first command a new user types, as a process, on the real recordings and on a table of the user's own."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coordinator.run_history import latest_run
from edge_runtime.ledger import Ledger

WAYS = ("federated", "federated without noise", "each device alone", "all data in one place")


def demo(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "edge_runtime.main", "demo", "-o", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(
    importlib.util.find_spec("seglearn") is None, reason="the recordings are missing: make demo gets them"
)
def test_the_demonstration_runs_twenty_devices_on_real_recordings(tmp_path) -> None:
    out = demo(tmp_path / "out")
    assert "\x1b" not in out
    assert all(way in out for way in WAYS)
    history, params = latest_run(tmp_path / "out" / "coordinator")
    assert (history.committed, len(history.devices), params.size) == (5, 20, 39)
    assert sorted(device.link for device in history.devices) == ["serial"] * 2 + ["tcp"] * 18
    assert min(device.contributions for device in history.devices) >= 4, "the live sensor's device takes part as well"
    assert all(device.bytes_up > 0 and device.bytes_down > 0 for device in history.devices)
    for home in (tmp_path / "out" / "devices").iterdir():
        ledger = Ledger(home / "ledger.sqlite", create=False)
        assert 0 < ledger.spent_epsilon <= 8.0
        ledger.close()
    assert (history.rounds[-1].accuracy or 0) > 0.4, "the least of 200 seeded runs is far above; a guess is 0.33"
    assert "Laplace" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "model" / "model.json").exists()


def test_the_demonstration_takes_a_table_of_the_users_own(tmp_path) -> None:
    rng = np.random.default_rng(3)
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["load", "speed", "town", "state"])
        for label in rng.integers(0, 2, 600):
            writer.writerow([*(rng.normal(2 * label, 1, 2).round(3)), "somewhere", "bad" if label else "good"])
    out = demo(tmp_path / "out", "--data", str(tmp_path / "mine.csv"), "--devices", "6", "--noise", "local")
    assert all(way in out for way in WAYS)
    assert "Left out, not numbers: town" in out
    history, _ = latest_run(tmp_path / "out" / "coordinator")
    assert (history.committed, len(history.devices)) == (5, 6)
    assert history.task.privacy.place == "local"


def test_a_folder_that_is_not_an_earlier_demonstrations_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "mine.csv").write_text("a,b\n" + "1,x\n2,y\n" * 20)
    command = [
        sys.executable,
        "-m",
        "edge_runtime.main",
        "demo",
        "-o",
        str(tmp_path),
        "--data",
        str(tmp_path / "mine.csv"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "choose another --output" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
