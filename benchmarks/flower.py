"""fedge beside Flower 1.42, both measured in this run: real deployments on loopback, 10 nodes, 10,102 parameters.

Both sides train the same 98-100-2 network on 200 rows a node for as many rounds, one side after the other. Flower runs
as its documentation starts it (a SuperLink, SuperNodes that start a process per message, FedAvg without evaluation),
in plain text and without differential privacy; fedge keeps its TLS and its central noise. ``make bench-setup`` installs
Flower into ``.bench-venv``; without it only fedge is measured. A node is all of its processes.

A round's time is from one aggregate to the next, with all nodes on this machine's cores: the more CPU a node needs for
it, the more the nodes wait for each other, which nodes with cores of their own do not. A node's CPU per round is what
it used from rest to the last aggregate over the number of rounds, the first round's imports and the polling included.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from benchmarks._fleet import RealFleet, cpu_s, private_mb

_NODES, _ROUNDS, _SAMPLED = 10, 6, 4
_START_S, _RUN_S, _STOP_S = 120.0, 480.0, 10.0
_REST_S, _WATCH_S = 4.0, 10.0
_BIN = Path(__file__).parent.parent / ".bench-venv" / "bin"
_PEER = "Flower 1.42"
_ROUND_TIME = f"round of {_NODES} nodes on {os.cpu_count()} shared cores: wall time, median"
_IDLE = "node, idle: private memory"
_IDLE_CPU = "node, idle: CPU per second"
_PEAK = "node, in rounds: private memory, peak"
_CPU = f"node: CPU per round of {_ROUNDS}, first training included"
_UNITS = {_ROUND_TIME: "s", _IDLE: "MB", _IDLE_CPU: "ms", _PEAK: "MB", _CPU: "s"}

_PROJECT = """\
[project]
name = "benchmark"
version = "1.0.0"
description = "One SGD epoch a round"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "bench_app.server:app"
clientapp = "bench_app.client:app"
[tool.flwr.app.config]
"""
_CLIENT = """\
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    w1, b1, w2, b2 = message.content["arrays"].to_numpy_ndarrays()
    rows = np.random.default_rng(context.node_config["partition-id"]).normal(size=(200, 98)).astype(np.float32)
    wanted = np.eye(2, dtype=np.float32)[(rows[:, 0] > 0).astype(int)]
    for start in range(0, 200, 32):
        x, y = rows[start : start + 32], wanted[start : start + 32]
        hidden = np.tanh(x @ w1 + b1)
        scores = hidden @ w2 + b2
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        slope = (odds / odds.sum(axis=1, keepdims=True) - y) / len(x)
        below = slope @ w2.T * (1 - hidden**2)
        w1, b1 = w1 - 0.05 * x.T @ below, b1 - 0.05 * below.sum(axis=0)
        w2, b2 = w2 - 0.05 * hidden.T @ slope, b2 - 0.05 * slope.sum(axis=0)
    trained = ArrayRecord([w1, b1, w2, b2])
    return Message(RecordDict({"arrays": trained, "metrics": MetricRecord({"num-examples": 200})}), reply_to=message)
"""
_SERVER = """\
import time

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Strict(FedAvg):
    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        faults = [reply.error.reason for reply in replies if reply.has_error()]
        if faults or len(replies) != self.min_train_nodes:
            raise RuntimeError(f"round {server_round}: {len(replies)} replies, faults: {faults}")
        return super().aggregate_train(server_round, replies)


@app.main()
def main(grid, context):
    settings = context.run_config

    def tick(number, arrays):
        with open(settings["clock"], "a") as clock:
            clock.write(f"{time.time()}\\n")

    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(98, 100)) / 10, np.zeros(100), rng.normal(size=(100, 2)) / 10, np.zeros(2)]
    nodes = settings["nodes"]
    strategy = Strict(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    strategy.start(
        grid, ArrayRecord([array.astype(np.float32) for array in arrays]), settings["rounds"], evaluate_fn=tick
    )
"""


def cases() -> Iterator[dict[str, object]]:
    """Time of a round, and the memory and CPU a node takes for it."""
    ours = _measure_fedge()
    theirs: dict[str, float] = {}
    if (_BIN / "flower-superlink").exists():
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing started outlives us
        try:
            _measure_flower(theirs)
        except (NotMeasured, OSError, subprocess.SubprocessError) as fault:
            print(f"flower: no more figures of {_PEER}: {fault}", file=sys.stderr)
        finally:
            signal.signal(signal.SIGTERM, before)
    else:
        print("flower: only fedge is measured; for the peer run `make bench-setup`", file=sys.stderr)
    for name, unit in _UNITS.items():
        peer = theirs.get(name)
        ratio = None if peer is None else ours[name] / peer
        yield {"case": name, "ours": ours[name], "peer": peer, "ratio": ratio, "unit": unit, "peer_name": _PEER}


class NotMeasured(Exception):
    """A fleet did not start, come to rest or finish its rounds in time."""


def _measure_fedge() -> dict[str, float]:
    from coordinator.run_history import latest_run

    with tempfile.TemporaryDirectory() as name, RealFleet(Path(name), devices=_NODES, rounds=_ROUNDS) as fleet:
        for index in range(_NODES - 1):
            fleet.start_device(index)
        measured = [process.pid for process in fleet.devices]
        figures = _at_rest(measured)  # all but one wait in a long poll for the last
        before = [cpu_s(pid) for pid in measured]
        fleet.start_device(_NODES - 1)
        # A process that ended keeps its CPU time until it is waited for, which only the fleet's end does.
        peaks = _peaks(measured[:_SAMPLED], lambda: all(_ended(pid) for pid in measured), _RUN_S, every_s=0.02)
        spent = [cpu_s(pid) - start for pid, start in zip(measured, before, strict=True)]
        history, _ = latest_run(fleet.folder / "coordinator")
        closed = [record.closed_at_s for record in history.rounds if record.accepted == _NODES]
        if len(closed) != _ROUNDS:
            raise RuntimeError(f"fedge finished {len(closed)} of {_ROUNDS} rounds:\n{fleet.log('coordinator')}")
    return figures | _in_rounds(closed, peaks, spent)


def _measure_flower(figures: dict[str, float]) -> None:
    """Fill ``figures`` as they come: what was measured before a fault stays."""
    with tempfile.TemporaryDirectory() as name, FlowerFleet(Path(name)) as fleet:
        nodes = [process.pid for process in fleet.nodes]
        figures |= _at_rest(nodes, fleet.check)
        before = [_tree_cpu_s(pid) for pid in nodes]
        fleet.run()
        peaks = _peaks(nodes[:_SAMPLED], lambda: len(fleet.ticks()) > _ROUNDS, _RUN_S, every_s=0.1, check=fleet.check)
        spent = [_tree_cpu_s(pid) - start for pid, start in zip(nodes, before, strict=True)]
        figures |= _in_rounds(fleet.ticks()[1:], peaks, spent)


def _at_rest(pids: list[int], check: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Wait until no node starts processes or grows, then what they take while nothing happens."""
    deadline_s = time.monotonic() + _START_S
    before: list[tuple[int, float]] = []
    still = 0
    while still < 2:
        if time.monotonic() > deadline_s:
            raise NotMeasured(f"nodes not at rest after {_START_S:g} s")
        check()
        now = [(len(_tree(pid)), _tree_mb(pid)) for pid in pids]
        same = before and all(
            count == count_before and mb < mb_before * 1.01 + 0.1
            for (count_before, mb_before), (count, mb) in zip(before, now, strict=True)
        )
        still = still + 1 if same else 0
        before = now
        time.sleep(_REST_S)
    spent = [_tree_cpu_s(pid) for pid in pids]
    time.sleep(_WATCH_S)
    spent = [_tree_cpu_s(pid) - start for pid, start in zip(pids, spent, strict=True)]
    return {
        _IDLE: statistics.median(_tree_mb(pid) for pid in pids),
        _IDLE_CPU: statistics.mean(spent) / _WATCH_S * 1e3,  # a mean, because a clock tick is 10 ms
    }


def _in_rounds(closed: list[float], peaks: list[float], spent: list[float]) -> dict[str, float]:
    return {
        _ROUND_TIME: statistics.median(after - before for before, after in itertools.pairwise(closed)),
        _PEAK: statistics.median(peaks),
        _CPU: statistics.median(spent) / _ROUNDS,
    }


class FlowerFleet:
    """A SuperLink and SuperNodes with idle client apps, everything they write in ``folder``; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._folder, self._started = folder, list[subprocess.Popen[bytes]]()

    def __enter__(self) -> FlowerFleet:
        try:
            self._link, *ports = _free_ports(_NODES + 1)
            self._start("superlink", "flower-superlink", "--port", str(self._link))
            self._wait(lambda: _listens(self._link))
            for index, port in enumerate(ports):
                node = ["--superlink", f"127.0.0.1:{self._link}", "--port", str(port)]
                config = ["--node-config", f"partition-id={index}"]
                self.nodes.append(self._start(f"node{index}", "flower-supernode", *node, *config))
            self._wait(lambda: all(_listens(port) for port in ports))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(self) -> None:
        """``flwr run`` of the benchmark's app; returns when the SuperLink has it."""
        package = self._folder / "app" / "bench_app"
        package.mkdir(parents=True)
        settings = f'nodes = {_NODES}\nrounds = {_ROUNDS}\nclock = "{self._folder / "clock"}"\n'
        (package.parent / "pyproject.toml").write_text(_PROJECT + settings)
        for name, text in (("__init__.py", ""), ("client.py", _CLIENT), ("server.py", _SERVER)):
            (package / name).write_text(text)
        home = self._folder / "cli"
        home.mkdir()
        address = f'address = "127.0.0.1:{self._link}"\ninsecure = true\n'
        (home / "config.toml").write_text(f'[superlink]\ndefault = "bench"\n[superlink.bench]\n{address}')
        done = subprocess.run(
            [_BIN / "flwr", "run", str(package.parent), "bench"],
            env=self._environment("cli"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_S,
        )
        if done.returncode:
            raise NotMeasured(f"flwr run: {done.stdout}{done.stderr}")

    def ticks(self) -> list[float]:
        """When the ServerApp had the first model and then each aggregate, in seconds since the epoch."""
        clock = self._folder / "clock"
        return [float(line) for line in clock.read_text().splitlines()] if clock.exists() else []

    def check(self) -> None:
        """Raise NotMeasured with the end of a log when the fleet or its app has failed."""
        for name, process in zip(["superlink", *(f"node{i}" for i in range(_NODES))], self._started, strict=False):
            if process.poll() is not None:
                raise NotMeasured(f"{name} ended with {process.returncode}: {self._end_of(name)}")
        ended = "Finished task" in (self._folder / "superlink.log").read_text(errors="replace")
        if ended and len(self.ticks()) <= _ROUNDS:
            raise NotMeasured(f"the app ended early: {self._end_of('superlink')}\nnode0: {self._end_of('node0')}")

    def _environment(self, name: str) -> dict[str, str]:
        """No telemetry, no look for updates, no proxies, no downloads; the client apps' commands on the path."""
        kept = {key: text for key, text in os.environ.items() if not key.lower().endswith("_proxy")}
        kept |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "UV_OFFLINE": "1"}
        return kept | {
            "FLWR_HOME": str(self._folder / name),
            "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }

    def _start(self, name: str, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        if command == "flower-superlink":
            arguments = (*arguments, "--disable-runtime-dependency-installation")
        with (self._folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [_BIN / command, "--insecure", "--host", "127.0.0.1", *arguments],
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        self._started.append(process)
        return process

    def _wait(self, ready: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + _START_S
        while not ready():
            self.check()
            if time.monotonic() > deadline_s:
                raise NotMeasured(f"not ready after {_START_S:g} s: {self._end_of('superlink')}")
            time.sleep(0.2)

    def _end_of(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def _stop(self) -> None:
        """End the started processes and, when they leave some of their own behind, exactly those."""
        family = {(pid, _born(pid)) for process in self._started for pid in _tree(process.pid)}
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        deadline_s = time.monotonic() + _STOP_S
        while left := {(pid, born) for pid, born in family if _born(pid) == born != 0}:
            family |= {(child, _born(child)) for pid, _ in left for child in _tree(pid)}
            if time.monotonic() > deadline_s:
                for pid, _ in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline_s + _STOP_S:
                print(f"flower: still alive: {sorted(pid for pid, _ in left)}", file=sys.stderr)
                return
            time.sleep(0.1)
        for process in self._started:
            process.wait(5)


def _peaks(
    pids: list[int],
    done: Callable[[], bool],
    limit_s: float,
    *,
    every_s: float,
    check: Callable[[], None] = lambda: None,
) -> list[float]:
    """The most private memory each process tree had at one time until ``done``."""
    most = [0.0] * len(pids)
    deadline_s = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline_s:
            raise NotMeasured(f"rounds not finished after {limit_s:g} s")
        check()
        most = [max(before, _tree_mb(pid)) for before, pid in zip(most, pids, strict=True)]
        time.sleep(every_s)
    return most


def _tree_mb(root: int) -> float:
    total = 0.0
    for pid in _tree(root):
        with contextlib.suppress(OSError):
            total += private_mb(pid)
    return total


def _tree_cpu_s(root: int) -> float:
    """User and system time of a process, its living descendants and, with them, all children they waited for."""
    total = 0.0
    for pid in _tree(root):
        with contextlib.suppress(OSError):
            total += sum(map(int, _stat(pid)[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def _tree(root: int) -> list[int]:
    """A process and its descendants, those that ended but were not waited for included."""
    tree, waiting = list[int](), [root]
    while waiting:
        pid = waiting.pop()
        tree.append(pid)
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return tree


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _ended(pid: int) -> bool:
    return _stat(pid)[0] == "Z"


def _born(pid: int) -> int:
    """When a living process started, in ticks since boot; 0 for one that is no more."""
    try:
        fields = _stat(pid)
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
