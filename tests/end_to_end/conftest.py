"""The real commands as processes: a coordinator's home, devices' homes, and small files of data."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

TASK = """\
name = "six-and-one"
rounds = {rounds}
[inputs]
columns = ["a", "b", "c"]
label = "label"
classes = ["no", "yes"]
[model]
inputs = 3
layers = [{{ units = {hidden}, activation = "tanh" }}, {{ units = 2 }}]
[training]
epochs = {epochs}
batch_size = 8
learning_rate = 0.02
[privacy]
place = "{place}"
clip_norm = 2.0
epsilon = {epsilon}
[cohort]
size = {size}
quorum = {quorum}
deadline_s = {deadline_s}
gather_s = {gather_s}
"""
DEFAULTS = {
    "rounds": 3,
    "hidden": 8,
    "epochs": 5,
    "place": "central",
    "epsilon": 1.0,
    "size": 5,
    "quorum": 5,
    "deadline_s": 40.0,
    "gather_s": 60.0,
}


def write_data(path: Path, seed: int, rows: int = 200) -> Path:
    """Rows of one device; ``seed`` shifts them, so that no two devices see the same distribution."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.3 * (seed % 5 - 2), 1, (rows, 3))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["note", "a", "b", "c", "label"])
        for row in x:
            writer.writerow(["x", *(f"{value:.4f}" for value in row), "yes" if row[0] + row[1] > row[2] else "no"])
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Fleet:
    """One coordinator and its devices under ``folder``; every process that is left is killed at the end."""

    folder: Path
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "coordinator"

    def fedge(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "edge_runtime.main", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            env=self.environment,
        )
        assert not check or done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, log: str, *arguments: object) -> subprocess.Popen[str]:
        """Start a command whose output goes to the file ``log``."""
        with (self.folder / log).open("a") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.main", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.environment,
            )
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.folder / name).read_text()

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"COLUMNS": "160", "PYTHONWARNINGS": "default"}

    def write_task(self, name: str = "task.toml", **changes: object) -> Path:
        path = self.folder / name
        path.write_text(TASK.format(**(DEFAULTS | changes)))
        return path

    def init(self, **changes: object) -> None:
        self.fedge(
            *("coordinator", "init", "--home", self.home, "--listen", f"127.0.0.1:{self.port}"),
            *("--task", self.write_task(**changes)),
        )

    def run(self, *arguments: object) -> subprocess.Popen[str]:
        """Start the coordinator and wait until it listens."""
        process = self.start("coordinator.log", "coordinator", "run", "-v", "--home", self.home, *arguments)
        self.wait(lambda: process.poll() is not None or self.listens(), 90)
        return process

    def listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def invite(self, *arguments: object) -> list[str]:
        return self.fedge("coordinator", "invite", "--home", self.home, *arguments).stdout.split()

    def join(self, name: str, code: str, *arguments: object, seed: int = 0, check: bool = True, **data: int):
        path = write_data(self.folder / f"{name}.csv", seed, **data)
        return self.fedge(
            *("device", "join", code, "--home", self.folder / name, "--name", name, "--data", path),
            *arguments,
            check=check,
        )

    def run_device(self, name: str, *arguments: object) -> subprocess.Popen[str]:
        return self.start(f"{name}.log", "device", "run", "-v", "--home", self.folder / name, "--wait", 5, *arguments)

    def ledger(self, name: str) -> list[dict[str, str]]:
        text = self.fedge("device", "ledger", "--csv", "--home", self.folder / name).stdout
        return list(csv.DictReader(io.StringIO(text)))

    def query(self, path: Path, statement: str) -> list[tuple[object, ...]]:
        """What a database of somebody else says."""
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
            return database.execute(statement).fetchall()

    def store(self, statement: str) -> list[tuple[object, ...]]:
        return self.query(self.home / "fleet.sqlite", statement)

    def wait(self, condition: Callable[[], object], within_s: float) -> None:
        deadline_s = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline_s, f"waited {within_s} s in vain; " + "\n".join(
                f"{path.name}: {path.read_text()[-600:]}" for path in sorted(self.folder.glob("*.log"))
            )
            time.sleep(0.02)

    def ends(self, process: subprocess.Popen[str], within_s: float) -> int:
        self.wait(lambda: process.poll() is not None, within_s)
        return int(process.returncode)

    def kill(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait(10)

    def agree(self, names: list[str]) -> None:
        """Every ledger has one charge a round at most, and says the same as the store of what was counted."""
        ids = dict(self.store("SELECT name, device FROM device"))
        counted = {
            (device, number): release
            for device, number, release in self.store("SELECT device, round, release_id FROM contribution")
        }
        for name in names:
            entries = self.ledger(name)
            assert len({entry["round"] for entry in entries}) == len(entries)
            for entry in entries:
                stored = counted.pop((ids[name], int(entry["round"])), None)
                if entry["outcome"] == "accepted":
                    assert stored == entry["release_id"]
                elif entry["outcome"] == "late":
                    assert stored is None
        assert not counted, "the store counts what no ledger was charged for"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.close()
