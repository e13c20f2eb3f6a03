"""A real fleet on loopback for measurements: the commands a user types, in a temporary folder."""

from __future__ import annotations

import csv
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import numpy as np

FEDGE = (sys.executable, "-m", "edge_runtime.main")
_TASK = """\
name = "benchmark"
rounds = {rounds}
[inputs]
columns = [{columns}]
label = "label"
classes = ["no", "yes"]
[model]
inputs = {inputs}
layers = [{layers}]
[training]
epochs = 1
batch_size = 32
learning_rate = 0.05
[privacy]
place = "central"
clip_norm = 1.0
epsilon = 0.01
log2_scale = 14
[cohort]
size = {devices}
quorum = {devices}
deadline_s = 120.0
gather_s = 600.0
"""


class RealFleet:
    """A coordinator and ``devices`` device processes, each with 200 rows of its own; a context manager.

    The network has ``inputs`` - ``hidden`` - 2 units: (inputs + 1) hidden + 2 (hidden + 1) parameters.
    """

    def __init__(self, folder: Path, *, devices: int, rounds: int, inputs: int = 98, hidden: int = 100) -> None:
        self.folder, self._count, self._rounds = folder, devices, rounds
        self.parameters = (inputs + 1) * hidden + 2 * (hidden + 1)
        self.coordinator: subprocess.Popen[str] | None = None
        self.devices: list[subprocess.Popen[str]] = []
        self._inputs, self._hidden = inputs, hidden

    def __enter__(self) -> RealFleet:
        columns = [f"x{index}" for index in range(self._inputs)]
        task = _TASK.format(
            rounds=self._rounds,
            columns=", ".join(f'"{name}"' for name in columns),
            inputs=self._inputs,
            layers=f'{{ units = {self._hidden}, activation = "tanh" }}, {{ units = 2 }}',
            devices=self._count,
        )
        (self.folder / "task.toml").write_text(task)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        home = str(self.folder / "coordinator")
        self._run(
            "coordinator",
            "init",
            "--home",
            home,
            "--listen",
            f"127.0.0.1:{port}",
            "--task",
            str(self.folder / "task.toml"),
        )
        codes = self._run("coordinator", "invite", "--home", home, "--count", str(self._count)).split()
        self.coordinator = self._start("coordinator", "coordinator", "run", "--home", home)
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        rng = np.random.default_rng(1)
        for index, code in enumerate(codes):
            data = self.folder / f"{index}.csv"
            with data.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow([*columns, "label"])
                for row in rng.normal(size=(200, self._inputs)).round(3).tolist():
                    writer.writerow([*row, "yes" if row[0] > 0 else "no"])
            board = str(self.folder / f"board{index}")
            self._run(
                "device",
                "join",
                code,
                "--home",
                board,
                "--data",
                str(data),
                "--name",
                f"board{index}",
                "--budget",
                "1000",
            )
            policy = Path(board) / "policy.toml"
            policy.write_text(policy.read_text().replace("minimum_cohort = 5", "minimum_cohort = 1"))
        return self

    def start_device(self, index: int) -> subprocess.Popen[str]:
        """``fedge device run`` for board ``index``."""
        process = self._start(f"board{index}", "device", "run", "--home", str(self.folder / f"board{index}"), "-v")
        self.devices.append(process)
        return process

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in filter(None, [*self.devices, self.coordinator]):
            if process.poll() is None:
                process.terminate()
            process.wait(10)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*FEDGE, *arguments], check=True, capture_output=True, text=True).stdout

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        with (self.folder / f"{name}.log").open("w") as log:
            return subprocess.Popen([*FEDGE, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, text=True)


def private_mb(pid: int) -> float:
    """Private (unshared) resident memory of a process, in 10^6 bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = sum(
        int(line.split()[1]) for line in text.splitlines() if line.startswith(("Private_Clean", "Private_Dirty"))
    )
    return kilobytes * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """User and system time a process has used, in seconds."""
    import os

    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
